"""Writes a town as a data set with Occ3D truth.

    OUT/v1.0-town/*.json                         the thirteen tables
    OUT/samples/<channel>/*.jpg, *.pcd.bin       sensor data
    OUT/samples/<channel>/*.truth.npz            class, depth and instance per pixel, if asked for
    OUT/sweeps/<channel>/*.jpg                   images beside those of the key frames, if asked for
    OUT/maps/<token>.png                         driveable surface and sidewalks, 0.1 m per pixel
    OUT/maps/expansion/<scene>.json              drivable area, crossings and dividers as polygons and lines
    OUT/gts/<scene>/<token>/labels.npz           occupancy and both masks
    OUT/town.json                                the configuration

The same configuration gives the same bytes. A scene that is finished is not written again, but gets its map expansion
if it was written before there were any.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from occlift.datasets import table_writer
from occlift.runtime.files import sweep
from occlift.runtime.folder_lock import sole_writer
from occlift.runtime.folders import check_same, is_claimed, read_record
from occlift.runtime.interrupts import going_on
from occlift.runtime.processes import in_processes
from occlift.runtime.progress import track
from occlift.runtime.threads import usable_cores
from occlift.town.config import TownConfig
from occlift.town.map_expansion import write_map_expansion
from occlift.town.scene_writer import TABLES, SceneWriter, finished_mark, scene_of_town

_FORMAT: Final = 1
"""Raised when the same configuration starts to give other bytes."""

_RECORD_NAME: Final = "town.json"


@dataclass(frozen=True, kw_only=True)
class TownRun:
    """What `write_town` did.

    Attributes:
        root: of the data set.
        scenes: number of scenes in it.
        key_frames: number of key frames in it.
        reused: scenes that stood there already.
    """

    root: Path
    scenes: int
    key_frames: int
    reused: int


def write_town(out: Path, config: TownConfig, *, workers: int | None = None) -> TownRun:
    """Writes the town, or what is missing of it.

    Args:
        workers: processes, each of which writes one scene at a time; None for one per core. The bytes are the same.

    Raises:
        ConfigError: `out` holds something else, or a town of another configuration.
        DataError: `town.json` is damaged.
        AnotherRun: another run is writing into `out`.
        DiskFull: the disk is full.
        ProcessFailed: a process died.
    """
    is_claimed(out, _RECORD_NAME, contents="town")
    with going_on(), sole_writer(out):
        _claim(out, config)
        return _write(out, config, workers)


def _write(out: Path, config: TownConfig, workers: int | None) -> TownRun:
    marks = [finished_mark(out, config.scene_name(number)) for number in range(config.scenes)]
    marks[0].parent.mkdir(parents=True, exist_ok=True)
    missing = [number for number, mark in enumerate(marks) if not mark.exists()]
    if missing:
        for folder in {path.parent for path in out.rglob(".*.tmp")}:
            sweep(folder)
    for number in sorted(set(range(config.scenes)) - set(missing)):
        name = config.scene_name(number)
        if not table_writer.map_expansion_path(out, name).exists():
            write_map_expansion(out, name, scene_of_town(config, number))
    cores = usable_cores()
    workers = min(workers or cores, len(missing))
    if workers > 1:
        scenes = in_processes(
            _write_scene,
            [(out, config, number) for number in missing],
            workers=workers,
            threads=max(1, cores // workers),
        )
        for _ in track(scenes, "Building the town", total=len(missing)):
            pass
    else:
        steps = (step for number in missing for step in SceneWriter(out, config, number).steps())
        for step in track(steps, "Building the town", total=len(missing) * config.frames):
            step()
    if missing or not (out / TABLES / "scene.json").exists():
        table_writer.write_tables(out / TABLES, (json.loads(mark.read_text(encoding="utf-8")) for mark in marks))
    return TownRun(
        root=out, scenes=config.scenes, key_frames=config.scenes * config.frames, reused=config.scenes - len(missing)
    )


def _write_scene(out: Path, config: TownConfig, number: int) -> None:
    for step in SceneWriter(out, config, number).steps():
        step()


def _claim(out: Path, config: TownConfig) -> None:
    """Makes `out` the folder of this town, or finds that it is."""
    settings = asdict(config)
    if not config.sweeps:
        del settings["sweeps"]  # towns from before there was this choice stay the same towns
    # As JSON gives it back.
    wanted = json.loads(json.dumps({"format": _FORMAT, **settings}))
    path = out / _RECORD_NAME
    if is_claimed(out, path.name, contents="town"):
        check_same(out, read_record(path), wanted, contents="a town")
        return
    out.mkdir(parents=True, exist_ok=True)
    table_writer.write_json(path, wanted)
