"""Labels for whole data sets: which are still to be made, who makes them, and what is noted about it.

For every key frame `<out>/<scene>/<token>/labels.npz` in Occ3D's layout, and beside it, if asked for, `votes.npz`: what
the label rests on. Every file is written under a temporary name and renamed, and whether a label is there says whether
it was made, so that a run may be killed at any moment: the next one goes on, and ends with the same bytes. One run at a
time per folder (`occlift.runtime.folder_lock`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from occlift.errors import ConfigError
from occlift.label_space import OCC3D, LabelSpace
from occlift.labels.config import LabelConfig
from occlift.labels.engine import Engine, LabelJob, LabelTask, in_process, make_teachers
from occlift.labels.files import label_path
from occlift.labels.keep_maps import MapFolder
from occlift.labels.local_engine import local_engine
from occlift.labels.manifest import MANIFEST_NAME, Manifest, append_timings, open_manifest
from occlift.labels.scene import INCOMPLETE_NAME, VOTES_NAME, Outcome
from occlift.runtime.files import disk_full_said, sweep
from occlift.runtime.folder_lock import sole_run
from occlift.runtime.folders import is_claimed
from occlift.runtime.interrupts import going_on
from occlift.runtime.progress import track
from occlift.runtime.words import alike
from occlift.scenes.dataset import DrivingDataset, HasBoxes, require
from occlift.teachers.files import warn_of_strange_maps
from occlift.teachers.teacher import DepthTeacher, SemanticsTeacher

_MANIFEST_EVERY_S: Final = 10.0

_SCENES_TRIED: Final = 3
_LABELS_TRIED: Final = 10
"""Where no label of so many scenes, and so many labels, could be made for one reason, the rest is not tried."""


@dataclass(frozen=True, kw_only=True)
class LabelRun:
    """What `generate_labels` did.

    Attributes:
        done: labels written.
        reused: labels that were there already.
        failed: sample token → why it has no label.
        incomplete: sample token → sample tokens that its label had to do without, because they failed.
        untried: number of labels that were not tried, because all before them failed for one reason.
        seconds_per_label: wall clock, over those written; 0 if none was.
    """

    out: Path
    done: int
    reused: int
    failed: Mapping[str, str] = field(default_factory=dict)
    incomplete: Mapping[str, Sequence[str]] = field(default_factory=dict)
    untried: int = 0
    seconds_per_label: float


def generate_labels(
    data: DrivingDataset,
    out: Path,
    config: LabelConfig,
    *,
    scenes: Sequence[str] | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    keep_votes: bool = False,
    keep_maps: Path | None = None,
    semantics: SemanticsTeacher | None = None,
    depth: DepthTeacher | None = None,
    space: LabelSpace = OCC3D,
) -> LabelRun:
    """Makes the labels of all key frames of some scenes, without those that `out` holds already.

    A key frame whose maps are missing or damaged has no label and is left out of its neighbours'; the manifest says
    so, the rest goes on, and a later run tries these labels again. Only where there is no label at all, and those of
    three scenes failed for one reason, the rest is not tried.

    Args:
        scenes: names; by default all.
        workers: processes on this machine, each with teachers of its own; 1: this process.
        engine: who makes the labels instead, such as `occlift.labels.ray_engine.ray_engine`.
        keep_votes: write the votes beside every label; only with `DecisionConfig.fusion="votes"`.
        keep_maps: folder for the teachers' maps, for the teacher `files`; by default they are deleted after fusion.
        semantics: a teacher of your own, instead of the one that the configuration names; its `settings` go into the
            manifest, and with several workers it is pickled.
        depth: likewise.
        space: grid and classes of the labels; the teachers answer in its classes.

    Raises:
        ConfigError: a setting is out of range or names no teacher, a scene does not exist, or `out` holds labels of
            another configuration, grid or class list, or something else.
        DataError: the manifest in `out` is damaged, or a table of the data set is.
        AnotherRun: another run is writing into `out` or `keep_maps`.
        OccliftError: the disk is full, or workers die again and again.

    >>> from occlift.scenes import open_dataset
    >>> config = LabelConfig(semantics="oracle:perfect", depth="oracle:perfect", frames=1)
    >>> data = open_dataset(town)
    >>> generate_labels(data, out, config, scenes=data.scenes("val")).done
    4
    """
    config.check(space.taxonomy)
    if keep_votes and config.decision.fusion != "votes":
        raise ConfigError(
            f"keep_votes: labels of fusion={config.decision.fusion} rest on no votes; leave it out, or choose "
            "fusion=votes"
        )
    is_claimed(out, MANIFEST_NAME, contents="labels made by `occlift label`")
    if workers < 1:
        raise ConfigError(f"workers is {workers}; expected 1 or more")
    known = data.scenes()
    scenes = known if scenes is None else tuple(dict.fromkeys(scenes))
    if missing := [scene for scene in scenes if scene not in known]:
        raise ConfigError(f"{data.spec}: has no scene {', '.join(missing)}; it has {', '.join(known)}")
    if config.moving == "boxes":
        require(data, HasBoxes, "moving objects carried by boxes")
    # Teachers are made here even if workers make their own: what is wrong with them is said before anything starts.
    teachers = make_teachers(data, config, space, semantics=semantics, depth=depth)
    warn_of_strange_maps(teachers[0], data, space.taxonomy)
    identity = config.identity(*(teacher.settings for teacher in teachers))
    if engine is None:
        engine = local_engine(workers) if workers > 1 else in_process
    with going_on(), disk_full_said(out, keep_maps), sole_run(out) as name, _sole_keeper(keep_maps, out):
        job = LabelJob(
            data=data, out=out, config=config, run=name, keep_votes=keep_votes,
            keep_maps=keep_maps, semantics=semantics, depth=depth, space=space,
        )  # fmt: skip
        return _run(data, job, scenes, open_manifest(out, identity, space), engine)


def _run(data: DrivingDataset, job: LabelJob, scenes: Sequence[str], manifest: Manifest, engine: Engine) -> LabelRun:
    out = job.out
    manifest.write(out)
    todo, reused = _unfinished(data, job, scenes, manifest)
    unfinished = {task.token: task for tasks in todo for task in tasks}
    started = written = time.monotonic()
    done = 0
    failed: dict[str, Outcome] = {}
    try:
        with closing(engine(job, todo)) as outcomes:
            for outcome in track(outcomes, "labels", total=len(unfinished)):
                done += not outcome.failed
                if outcome.failed:
                    failed[outcome.token] = outcome
                del unfinished[outcome.token]
                manifest.record(outcome)
                append_timings(out, outcome)
                # For whoever looks at it meanwhile; what a killed run did not note is found or made again.
                if time.monotonic() > written + _MANIFEST_EVERY_S:
                    manifest.write(out)
                    written = time.monotonic()
                if failed and not done and not reused and _all_will_fail(failed):
                    break
    finally:
        for task in unfinished.values():
            job.sweep(task)
        if job.keep_maps:
            MapFolder(job.keep_maps).sweep()
        manifest.write(out)
    asked = {token for scene in scenes for token in data.key_frame_tokens(scene)}
    return LabelRun(
        out=out,
        done=done,
        reused=reused,
        failed={token: reason for token, reason in manifest.failed.items() if token in asked},
        incomplete={token: without for token, without in manifest.incomplete.items() if token in asked},
        untried=len(unfinished),
        seconds_per_label=(time.monotonic() - started) / done if done else 0.0,
    )


def _all_will_fail(failed: Mapping[str, Outcome]) -> bool:
    """Whether what failed so far, while nothing succeeded, is enough to give the rest up."""
    if len(failed) < _LABELS_TRIED or len({outcome.scene for outcome in failed.values()}) < _SCENES_TRIED:
        return False
    return len(alike({token: outcome.failed for token, outcome in failed.items()})) == 1


@contextmanager
def _sole_keeper(keep_maps: Path | None, out: Path) -> Iterator[None]:
    """Holds the folder of maps too: what is swept away there must be nobody's."""
    with nullcontext() if keep_maps is None or keep_maps.resolve() == out.resolve() else sole_run(keep_maps):
        yield


def _unfinished(
    data: DrivingDataset, job: LabelJob, scenes: Sequence[str], manifest: Manifest
) -> tuple[list[list[LabelTask]], int]:
    """(what is to be made, scene by scene; how many labels are there); sweeps away what a killed run left behind."""
    unfinished, reused = [], 0
    sweep(job.out)
    if job.keep_maps:
        MapFolder(job.keep_maps).sweep()
    for scene in scenes:
        tasks = []
        for position, token in enumerate(data.key_frame_tokens(scene)):
            path = label_path(job.out, scene, token)
            sweep(path.parent)
            there = path.exists() and (path.with_name(VOTES_NAME).exists() or not job.keep_votes)
            if there and not path.with_name(INCOMPLETE_NAME).exists():
                reused += 1
                manifest.record(Outcome(scene=scene, token=token))
            else:
                tasks.append(LabelTask(scene=scene, position=position, token=token))
        if tasks:
            unfinished.append(tasks)
    return unfinished, reused
