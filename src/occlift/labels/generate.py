"""Labels for whole data sets: which are still to be made, who makes them, and what is noted about it.

For every key frame `<out>/<scene>/<token>/labels.npz` in Occ3D's layout, and beside it, if asked for, `votes.npz`: what
the label rests on. Every file is written under a temporary name and renamed, and whether a label is there says whether
it was made, so that a run may be killed at any moment: the next one goes on, and ends with the same bytes. One run at a
time per folder.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from occlift.data.nuscenes import NuScenes
from occlift.data.occ3d import label_path
from occlift.errors import ConfigError, OccliftError
from occlift.labels.config import LabelConfig
from occlift.labels.keep_maps import MapFolder
from occlift.labels.manifest import Manifest, append_timings, open_manifest
from occlift.labels.scene import INCOMPLETE_NAME, VOTES_NAME, LabelSource, Outcome, SceneLabeller
from occlift.progress import track
from occlift.teachers.registry import depth_teacher, semantics_teacher


@dataclass(frozen=True, kw_only=True)
class LabelRun:
    """What `generate_labels` did.

    Attributes:
        done: labels written.
        reused: labels that were there already.
        failed: sample token → why it has no label.
        incomplete: sample token → sample tokens that its label had to do without, because they failed.
        seconds_per_label: wall clock, over those written; 0 if none was.
    """

    out: Path
    done: int
    reused: int
    failed: Mapping[str, str] = field(default_factory=dict)
    incomplete: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds_per_label: float


@dataclass(frozen=True, kw_only=True)
class SceneTask:
    """The labels of a scene that are still to be made; what a worker is given.

    Attributes:
        positions: of the key frames in the scene.
    """

    scene: str
    positions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LabelJob:
    """Everything that a worker needs to make labels, on whatever machine sees the folders.

    Attributes:
        root: of the data set.
        version: of its tables.
        keep_votes: write the votes beside every label.
        keep_maps: folder for the teachers' maps; None: they are thrown away.
    """

    root: Path
    version: str
    out: Path
    config: LabelConfig
    keep_votes: bool = False
    keep_maps: Path | None = None

    def labeller(self, data: LabelSource | None = None) -> SceneLabeller:
        """Loads the teachers; `data` spares opening the data set again."""
        config = self.config
        return SceneLabeller(
            data or NuScenes.open(self.root, self.version),
            self.out,
            config,
            semantics_teacher(config.semantics, seed=config.seed, options=config.semantics_options),
            depth_teacher(config.depth, seed=config.seed, options=config.depth_options),
            keep_votes=self.keep_votes,
            keep_maps=MapFolder(self.keep_maps) if self.keep_maps else None,
        )


Engine = Callable[[LabelJob, Sequence[SceneTask]], Iterator[Outcome]]
"""Makes the labels of all tasks and says, in whatever order, what became of each."""


def generate_labels(
    data: NuScenes,
    out: Path,
    config: LabelConfig,
    *,
    scenes: Sequence[str] | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    keep_votes: bool = False,
    keep_maps: Path | None = None,
) -> LabelRun:
    """Makes the labels of all key frames of some scenes, without those that `out` holds already.

    A key frame whose maps are missing or damaged has no label and is left out of its neighbours'; the manifest says
    so, the rest goes on, and a later run tries these labels again.

    Args:
        scenes: names; by default all.
        workers: processes on this machine, each with teachers of its own; 1: this process.
        engine: who makes the labels instead, such as `occlift.labels.ray_engine.ray_engine`.
        keep_votes: write the votes beside every label.
        keep_maps: folder for the teachers' maps, for the teacher `files`; by default they are thrown away.

    Raises:
        ConfigError: a setting is out of range or names no teacher, a scene does not exist, or `out` holds labels of
            another configuration.
        DataError: the manifest in `out` is damaged, or a table of the data set is.
        OccliftError: the disk is full, or a worker died.
    """
    config.check()
    if workers < 1:
        raise ConfigError(f"workers is {workers}; expected 1 or more")
    scenes = data.scenes if scenes is None else scenes
    if missing := [scene for scene in scenes if scene not in data.scenes]:
        raise ConfigError(f"{data.root}: has no scene {', '.join(missing)}; it has {', '.join(data.scenes)}")
    job = LabelJob(
        root=data.root, version=data.version, out=out, config=config, keep_votes=keep_votes, keep_maps=keep_maps
    )
    # Teachers are made here even if workers make their own: what is wrong with them is said before anything starts.
    semantics = semantics_teacher(config.semantics, seed=config.seed, options=config.semantics_options)
    depth = depth_teacher(config.depth, seed=config.seed, options=config.depth_options)
    manifest = open_manifest(out, config.identity(semantics.settings, depth.settings))
    manifest.write(out)
    tasks, reused = _unfinished(data, job, scenes, manifest)
    todo = sum(len(task.positions) for task in tasks)

    if engine is None:
        engine = local_engine(workers) if workers > 1 else _in_process(data)
    started = time.monotonic()
    done = 0
    try:
        for outcome in track(engine(job, tasks), "labels", total=todo):
            done += not outcome.failed
            manifest.record(outcome)
            append_timings(out, outcome)
            if outcome.failed or outcome.without:
                manifest.write(out)
        manifest.write(out)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OccliftError(
            f"{out}: the disk is full ({error.strerror}); what is finished is kept. Make room, or choose another disk, "
            "and run the same command again"
        ) from error
    return LabelRun(
        out=out,
        done=done,
        reused=reused,
        failed=manifest.failed,
        incomplete=manifest.incomplete,
        seconds_per_label=(time.monotonic() - started) / done if done else 0.0,
    )


def local_engine(workers: int) -> Engine:
    """Worker processes on this machine; a scene goes to one of them as a whole, because its windows overlap."""

    def run(job: LabelJob, tasks: Sequence[SceneTask]) -> Iterator[Outcome]:
        # Not forked: the libraries that run kernels in parallel do not survive it.
        with ProcessPoolExecutor(
            min(workers, max(1, len(tasks))),
            mp_context=get_context("spawn"),
            initializer=_start_worker,
            initargs=(job,),
        ) as pool:
            futures = [pool.submit(_work, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    yield from future.result()
            except BrokenProcessPool as error:
                raise OccliftError(
                    f"{job.out}: a worker process died (out of memory, or killed); what is finished is kept. Run the "
                    "same command again, with fewer --workers if memory ran out"
                ) from error
            finally:
                for future in futures:
                    future.cancel()

    return run


def _in_process(data: LabelSource) -> Engine:
    def run(job: LabelJob, tasks: Sequence[SceneTask]) -> Iterator[Outcome]:
        if tasks:
            labeller = job.labeller(data)
            for task in tasks:
                yield from labeller.labels(task.scene, task.positions)

    return run


_labeller: SceneLabeller | None = None
"""Of a worker process: teachers are loaded once."""


def _start_worker(job: LabelJob) -> None:
    global _labeller
    _labeller = job.labeller()


def _work(task: SceneTask) -> list[Outcome]:
    assert _labeller is not None, "the worker was not started"
    return list(_labeller.labels(task.scene, task.positions))


def _unfinished(
    data: NuScenes, job: LabelJob, scenes: Sequence[str], manifest: Manifest
) -> tuple[list[SceneTask], int]:
    """(what is to be made, how many labels are there); sweeps away what a killed run left behind."""
    tasks, reused = [], 0
    _sweep(job.out)
    for scene in scenes:
        positions = []
        for position, token in enumerate(data.key_frame_tokens(scene)):
            path = label_path(job.out, scene, token)
            _sweep(path.parent)
            there = path.exists() and (path.with_name(VOTES_NAME).exists() or not job.keep_votes)
            if there and not path.with_name(INCOMPLETE_NAME).exists():
                reused += 1
                manifest.record(Outcome(scene=scene, token=token))
            else:
                positions.append(position)
        if positions:
            tasks.append(SceneTask(scene=scene, positions=tuple(positions)))
    return tasks, reused


def _sweep(folder: Path) -> None:
    """Removes temporary files; nobody else writes here while this runs."""
    if folder.is_dir():
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
