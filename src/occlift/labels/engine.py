"""What an engine is: whatever makes the labels of many scenes, in this process or in many.

An engine is given a `LabelJob`, which says everything about the labels and travels between machines, and what is still
to be made. It says label by label what became of it. Which labels there are to make, and what is noted about them, is
`occlift.labels.generate`'s business.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from occlift.errors import ConfigError
from occlift.label_space import OCC3D, LabelSpace
from occlift.labels.config import LabelConfig
from occlift.labels.files import label_path
from occlift.labels.keep_maps import MapFolder
from occlift.labels.scene import Outcome, SceneLabeller
from occlift.runtime.files import disk_full_said, sweep
from occlift.runtime.folder_lock import worker_of
from occlift.scenes.dataset import DrivingDataset
from occlift.teachers.registry import depth_teacher, semantics_teacher
from occlift.teachers.teacher import DepthTeacher, SemanticsTeacher


def make_teachers(
    data: DrivingDataset,
    config: LabelConfig,
    space: LabelSpace,
    *,
    semantics: SemanticsTeacher | None = None,
    depth: DepthTeacher | None = None,
) -> tuple[SemanticsTeacher, DepthTeacher]:
    """The teachers that are given, or else those that the configuration names.

    Raises:
        ConfigError: there is no such teacher, or it has not such a setting.
    """
    return (
        semantics
        or semantics_teacher(
            config.semantics, data, seed=config.seed, options=config.semantics_options, taxonomy=space.taxonomy
        ),
        depth or depth_teacher(config.depth, data, seed=config.seed, options=config.depth_options),
    )


@dataclass(frozen=True, kw_only=True)
class LabelTask:
    """A label that is to be made.

    Attributes:
        position: of its key frame in the scene.
        token: of the sample.
    """

    scene: str
    position: int
    token: str


@dataclass(frozen=True, kw_only=True)
class LabelJob:
    """Everything that a worker needs to make labels, on whatever machine sees the folders.

    Attributes:
        data: the data set; or, on the way to another process, pickled (`packed`).
        run: name of the run that holds `out` (`occlift.runtime.folder_lock`).
        keep_votes: write the votes beside every label.
        keep_maps: folder for the teachers' maps; None: they are deleted after fusion.
        semantics, depth: teachers instead of those that the configuration names; None: those.
        space: grid and classes of the labels.
    """

    data: DrivingDataset | bytes
    out: Path
    config: LabelConfig
    run: str
    keep_votes: bool = False
    keep_maps: Path | None = None
    semantics: SemanticsTeacher | None = None
    depth: DepthTeacher | None = None
    space: LabelSpace = OCC3D

    def packed(self) -> LabelJob:
        """The job for another process, where a data set that cannot be opened must be an error of the job itself.

        Raises:
            ConfigError: the data set cannot be pickled.
        """
        try:
            return replace(self, data=pickle.dumps(self.data))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(f"the data set cannot be sent to workers ({error}); use workers=1") from error

    def labeller(self) -> SceneLabeller:
        """Loads the teachers, and opens the data set if it came from another process."""
        data = pickle.loads(self.data) if isinstance(self.data, bytes) else self.data
        semantics, depth = make_teachers(data, self.config, self.space, semantics=self.semantics, depth=self.depth)
        return SceneLabeller(
            data,
            self.out,
            self.config,
            semantics,
            depth,
            space=self.space,
            keep_votes=self.keep_votes,
            keep_maps=MapFolder(self.keep_maps) if self.keep_maps else None,
        )

    @contextmanager
    def worker(self) -> Iterator[Callable[[LabelTask], Outcome]]:
        """What makes labels in a process other than that of the run. While it is open, no other run begins.

        Raises:
            AnotherRun: the run is over.
            OccliftError: the data set cannot be opened, a teacher cannot be made, or the disk is full.
        """
        with worker_of(self.out, self.run):
            labeller = self.labeller()

            def make(task: LabelTask) -> Outcome:
                with disk_full_said(self.out, self.keep_maps):
                    return labeller.label(task.scene, task.position)

            yield make

    def sweep(self, task: LabelTask) -> None:
        """Removes what a worker left behind that died over a label."""
        sweep(label_path(self.out, task.scene, task.token).parent)


Engine = Callable[[LabelJob, Sequence[Sequence[LabelTask]]], Generator[Outcome, None, None]]
"""Makes the labels of all tasks and says, in whatever order, what became of each.

It is given the labels scene by scene, those of a scene in time order: windows of neighbours overlap, so a scene is best
made by one worker. When the generator is closed or ends, nobody writes any more.
"""


def in_process(job: LabelJob, scenes: Sequence[Sequence[LabelTask]]) -> Generator[Outcome, None, None]:
    """An `Engine`: labels one after the other, in this process."""
    if scenes:
        labeller = job.labeller()
        for tasks in scenes:
            for task in tasks:
                yield labeller.label(task.scene, task.position)
