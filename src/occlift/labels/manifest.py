"""What a folder of labels says about itself: the configuration they were made with, and what went wrong.

`manifest.json` has `config` (every setting that labels depend on, as JSON values), its `digest`, `failed` (sample token
→ why it has no label) and `incomplete` (sample token → sample tokens that its label had to do without).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from occlift.errors import ConfigError, DataError

MANIFEST_NAME: Final = "manifest.json"


@dataclass(kw_only=True)
class Manifest:
    """The manifest of a folder; see the module's docstring."""

    config: Mapping[str, Any]
    failed: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, list[str]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits; equal configurations have equal digests."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Writes the manifest, atomically; equal manifests give equal bytes."""
        content = {
            "config": dict(self.config),
            "digest": self.digest,
            "failed": dict(sorted(self.failed.items())),
            "incomplete": dict(sorted(self.incomplete.items())),
        }
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{MANIFEST_NAME}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.replace(folder / MANIFEST_NAME)


def open_manifest(folder: Path, config: Mapping[str, Any]) -> Manifest:
    """The manifest of a folder of labels, or a new one where there is none yet.

    Raises:
        ConfigError: the folder holds labels of another configuration; says what differs.
        DataError: the manifest is damaged.
    """
    path = folder / MANIFEST_NAME
    wanted = Manifest(config=json.loads(json.dumps(config)))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Manifest(config=content["config"], failed=content["failed"], incomplete=content["incomplete"])
    except FileNotFoundError:
        return wanted
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a readable manifest ({error!r}); remove the folder and make it again") from error
    if found.digest != wanted.digest:
        before, now = _flat(found.config), _flat(wanted.config)
        differences = [
            f"{key}: {before.get(key, 'not set')} there, {now.get(key, 'not set')} now"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        raise ConfigError(
            f"{folder}: holds labels of another configuration ({'; '.join(differences)}); "
            "choose another folder, or call with the settings that are there"
        )
    return found


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
