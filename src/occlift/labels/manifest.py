"""What a folder of labels says about itself: the configuration they were made with, and what became of each.

`manifest.json` has `space` (grid and classes of the labels), `config` (every setting that labels depend on, the
teachers' names and revisions included, as JSON values), its `digest`, and per sample token under `labels` a `state`:
`done`, `failed` (with a `reason`) or `incomplete` (with the tokens its label had to do `without`). Nothing in it
depends on when, where or in how many pieces labels were made; how long they took is in `timings.csv`.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from occlift.errors import ConfigError, DataError
from occlift.label_space import OCC3D, LabelSpace
from occlift.labels.scene import Outcome
from occlift.runtime.files import replacing
from occlift.runtime.folders import check_same

MANIFEST_NAME: Final = "manifest.json"
TIMINGS_NAME: Final = "timings.csv"


@dataclass(kw_only=True)
class Manifest:
    """The manifest of a folder; see the module's docstring.

    Attributes:
        labels: sample token → what became of its label.
        space: grid and classes of the labels.
    """

    config: Mapping[str, Any]
    space: LabelSpace = OCC3D
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits; equal configurations have equal digests."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def failed(self) -> dict[str, str]:
        """Sample token → why it has no label."""
        return {token: entry["reason"] for token, entry in self.labels.items() if entry["state"] == "failed"}

    @property
    def incomplete(self) -> dict[str, list[str]]:
        """Sample token → sample tokens that its label had to do without."""
        return {token: entry["without"] for token, entry in self.labels.items() if entry["state"] == "incomplete"}

    def record(self, outcome: Outcome) -> None:
        """Notes what became of a label."""
        if outcome.failed:
            entry: dict[str, Any] = {"state": "failed", "reason": outcome.failed}
        elif outcome.without:
            entry = {"state": "incomplete", "without": list(outcome.without)}
        else:
            entry = {"state": "done"}
        self.labels[outcome.token] = entry

    def write(self, folder: Path) -> None:
        """Writes the manifest, atomically; equal manifests give equal bytes."""
        entries = ",\n".join(
            f"  {json.dumps(token)}: {json.dumps(entry)}" for token, entry in sorted(self.labels.items())
        )
        space, config = (json.dumps(part, sort_keys=True) for part in (self.space.to_dict(), self.config))
        content = (
            f'{{\n "digest": {json.dumps(self.digest)},\n "space": {space},\n "config": {config},\n'
            f' "labels": {{\n{entries}\n }}\n}}\n'
        )
        with replacing(folder / MANIFEST_NAME) as file:
            file.write(content.encode())


def open_manifest(folder: Path, config: Mapping[str, Any], space: LabelSpace = OCC3D) -> Manifest:
    """The manifest of a folder of labels, or a new one where there is none yet.

    Raises:
        ConfigError: the folder holds labels of another configuration, grid or class list; says what differs.
        DataError: the manifest is damaged.
    """
    wanted = Manifest(config=json.loads(json.dumps(config)), space=space)
    if (folder / MANIFEST_NAME).exists():
        found = read_manifest(folder)
        check_label_space(folder, space)
        check_same(folder, found.config, wanted.config, contents="labels")
        # As it was recorded: a path may be spelt in another way now.
        return found
    return wanted


def recorded_space(folder: Path) -> LabelSpace | None:
    """Grid and classes of the labels of a folder, by its manifest; None: it has none.

    Raises:
        DataError: the manifest is damaged.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8")).get("space")
        # Folders from before labels had a choice are Occ3D's.
        return OCC3D if plain is None else LabelSpace.from_dict(plain)
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise DataError(f"{path}: not a readable manifest ({error!r}); remove the folder and make it again") from error


def check_label_space(folder: Path, space: LabelSpace) -> None:
    """Checks that the labels of a folder, if its manifest says what they are about, are about this grid and classes.

    Raises:
        ConfigError: they are not.
        DataError: there is no such folder, or the manifest is damaged.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; expected labels, <scene>/<token>/labels.npz (`occlift label --out`)"
        )
    if there := recorded_space(folder):
        there.check_same(space, f"the labels in {folder}", "what is asked for")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of labels.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(
            config=dict(content["config"]),
            labels=dict(content["labels"]),
            # Folders from before labels had a choice are Occ3D's.
            space=LabelSpace.from_dict(content["space"]) if "space" in content else OCC3D,
        )
        # Looked at now, so that a damaged file is noticed here and not at the end of a night.
        _ = manifest.failed, manifest.incomplete
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; is this a folder of labels made by `occlift label`?") from None
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise DataError(f"{path}: not a readable manifest ({error!r}); remove the folder and make it again") from error
    return manifest


def append_timings(folder: Path, outcome: Outcome) -> None:
    """Adds what a label took: seconds of the teachers, of fusing, of writing."""
    with (folder / TIMINGS_NAME).open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        # Not whether it is there: on a full disk a file may be made and stay empty.
        if file.tell() == 0:
            writer.writerow(("token", "teacher_s", "fuse_s", "write_s"))
        seconds = (outcome.teacher_s, outcome.fuse_s, outcome.write_s)
        writer.writerow((outcome.token, *(f"{value:.4f}" for value in seconds)))
