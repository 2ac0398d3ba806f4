"""What a run leaves about itself: its configuration, versions, seed and labels; and what it cost in memory."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import occlift
from occlift.errors import ConfigError
from occlift.runtime.differences import differences
from occlift.runtime.files import write_text
from occlift.runtime.folders import check_same, read_record

LAST_CHECKPOINT: Final = "last.ckpt"
_RECORD_NAME: Final = "run.json"


def checkpoint_in(path: Path) -> Path:
    """The checkpoint that is meant: of a run folder its last one, and a file itself."""
    return path / LAST_CHECKPOINT if path.is_dir() else path


def run_identity(config: Mapping[str, Any], labels: Path | None, cameras: Sequence[str]) -> dict[str, Any]:
    """What makes a run the one that it is.

    Args:
        config: of the training, in plain JSON types, with its `seed`.
        labels: the digest of their manifest is part of what the run is; None: it reads none.
        cameras: names of the data set's cameras, in order.
    """
    manifest = None if labels is None else labels / "manifest.json"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest and manifest.exists() else None
    return {"config": config, "labels_sha256": digest, "cameras": list(cameras)}


def check_run_folder(out: Path, identity: Mapping[str, Any], *, resume: Path | None) -> None:
    """Refuses a folder in which another run lives; writes nothing.

    Args:
        identity: as `run_identity` gives it.

    Raises:
        ConfigError: `out` holds another run, or this one and nothing says to resume it; or `resume` lies in the folder
            of another run.
        DataError: a record is not readable.
    """
    record = out / _RECORD_NAME
    # A record alone is that of a run that failed before its first step: there is nothing that could be mixed up.
    if record.exists() and _has_steps(out):
        check_same(out, _record(record, identity), identity, contents="a run")
        if resume is None and (out / LAST_CHECKPOINT).exists():
            raise ConfigError(
                f"{out} holds a run with this configuration: resume from {out / LAST_CHECKPOINT}, choose another "
                "folder, or remove this one"
            )
    source = None if resume is None else resume.with_name(_RECORD_NAME)
    if source is not None and source.exists() and (unlike := differences(_record(source, identity), identity)):
        raise ConfigError(
            f"{resume}: belongs to a run with another configuration, other labels or other cameras ({unlike}); resume "
            "it with those that are there, or start a training of its own"
        )


def claim_run_folder(
    out: Path, identity: Mapping[str, Any], *, resume: Path | None, remarks: Mapping[str, str] | None = None
) -> None:
    """Makes the run folder and writes what the run is, unless another run lives there; see `check_run_folder`.

    Args:
        remarks: what else readers should know; it follows from the data, and decides nothing.
    """
    check_run_folder(out, identity, resume=resume)
    packages = ("torch", "lightning", "transformers", "numpy")
    versions = {"occlift": occlift.__version__, "python": platform.python_version()}
    versions |= {package: version(package) for package in packages}
    said = {"remarks": dict(remarks)} if remarks else {}
    record = {**identity, **said, "seed": identity["config"]["seed"], "versions": versions}
    write_text(out / _RECORD_NAME, json.dumps(record, indent=1))


def _has_steps(out: Path) -> bool:
    """Whether something was trained in a run folder."""
    return any(path.suffix in (".ckpt", ".csv") for path in out.iterdir())


def _record(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a recorded run the one that it is."""
    found = read_record(path)
    # Runs from before cameras were recorded say nothing about them.
    return {key: found.get(key, identity["cameras"] if key == "cameras" else None) for key in identity}


def peak_memory_bytes() -> float:
    """The largest resident size that this process, or one that it waited for, ever had; NaN on Windows."""
    try:
        import resource
    except ImportError:
        return math.nan
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak if sys.platform == "darwin" else peak * 1024
