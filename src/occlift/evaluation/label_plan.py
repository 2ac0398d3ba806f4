"""What a run of `occlift label` would cost, from a probe of a few key frames, before anything is written.

The first key frames of the first scene are labelled with the run's own configuration in a temporary folder, so that the
teachers, the fusion and the size of a label are those of the run; what a window of more key frames adds is counted up
in proportion. The first key frame, in which networks are loaded and kernels compiled, is not counted in the seconds
where there are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from occlift.errors import DataError
from occlift.evaluation.timed_teachers import TeacherTime, TimedDepth, TimedSemantics
from occlift.label_space import OCC3D, LabelSpace
from occlift.labels.config import LabelConfig
from occlift.labels.engine import make_teachers
from occlift.labels.files import label_path
from occlift.labels.fuse import window
from occlift.labels.scene import SceneLabeller
from occlift.runtime.progress import track
from occlift.runtime.threads import usable_cores
from occlift.scenes.dataset import DrivingDataset
from occlift.teachers.teacher import DepthTeacher, SemanticsTeacher
from occlift.training.run_folder import peak_memory_bytes

_PROBED = 3
"""Key frames that go through the teachers."""

_BYTES_PER_PIXEL = 5.0
"""A class and a depth: what waits of every map in a window (`occlift.labels.view.View`), besides its rays."""


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """What is to be made, and what one of each costs.

    Attributes:
        labels: to be made; those that are there already are not among them.
        there: number of labels that are there already.
        images: that go through the teachers, each once.
        semantics, depth: seconds of the teachers.
        probed: number of key frames of the probe.
        fuse_s: seconds of a label without teachers: fusing, deciding, masks and writing.
        label_bytes: what a label takes on the disk, with all that lies beside it.
        maps_bytes: memory of the views of a whole window beyond that of the probe.
        probe_bytes: the largest size that this process had in the probe.
        cores: that this process may use.
    """

    labels: int
    there: int
    images: int
    semantics: TeacherTime
    depth: TeacherTime
    probed: int
    fuse_s: float
    label_bytes: float
    maps_bytes: float
    probe_bytes: float
    cores: int

    @property
    def seconds(self) -> float:
        """Of the whole run in one process, as fast as this one."""
        per_image_s = self.semantics.per_image_s + self.depth.per_image_s
        return self.images * per_image_s + self.labels * self.fuse_s

    def hours(self, workers: int) -> float:
        """Of the run with some processes, of which each has a core of its own, as far as this machine has them.

        >>> took = TeacherTime(first_s=9.0, per_image_s=1.0, images=12, only_first=False)
        >>> plan = LabelPlan(
        ...     labels=600, there=0, images=3600, semantics=took, depth=took, probed=3, fuse_s=0.0,
        ...     label_bytes=1e5, maps_bytes=0.0, probe_bytes=1e9, cores=2,
        ... )
        >>> plan.hours(1), plan.hours(2), plan.hours(8)
        (2.0, 1.0, 1.0)
        """
        return self.seconds / 3600 / max(1, min(workers, self.cores))

    def peak_bytes(self, workers: int) -> float:
        """Memory of all processes together; on the processor alone."""
        return workers * (self.probe_bytes + self.maps_bytes)


def plan_labels(
    data: DrivingDataset,
    out: Path,
    config: LabelConfig,
    *,
    scenes: Sequence[str],
    keep_votes: bool = False,
    semantics: SemanticsTeacher | None = None,
    depth: DepthTeacher | None = None,
    space: LabelSpace = OCC3D,
) -> LabelPlan:
    """Probes up to three key frames; writes nothing that stays.

    Args:
        out: folder that the labels would go to, for what is there already; need not exist.
        semantics: a teacher of your own, instead of the one that the configuration names.
        depth: likewise.

    Raises:
        ConfigError: a setting is out of range, or a teacher does not exist or lacks something.
        DataError: no key frame of the first scene has a label.
    """
    config.check(space.taxonomy)
    made = make_teachers(data, config, space, semantics=semantics, depth=depth)
    timed_semantics, timed_depth = TimedSemantics(made[0]), TimedDepth(made[1])
    tokens = {scene: data.key_frame_tokens(scene) for scene in scenes}
    missing = {
        scene: [p for p, token in enumerate(found) if not label_path(out, scene, token).exists()]
        for scene, found in tokens.items()
    }
    asked = {
        scene: {p for at in todo for p in window(at, len(tokens[scene]), config.frames, config.window)}
        for scene, todo in missing.items()
    }
    first = next(scene for scene in scenes if tokens[scene])
    probed = tokens[first][:_PROBED]
    cameras = data.key_frame(probed[0]).cameras
    # Every label needs the maps of one key frame more; the window of the last one holds all of them.
    probe = replace(config, frames=min(config.frames, len(probed)), window="past")
    with TemporaryDirectory() as folder:
        labeller = SceneLabeller(
            data, Path(folder), probe, timed_semantics, timed_depth, space=space, keep_votes=keep_votes
        )
        for position in track(range(len(probed)), "probe"):
            outcome = labeller.label(first, position)
        if outcome.failed:
            raise DataError(f"the probe made no label of {outcome.token}: {outcome.failed}")
        label = label_path(Path(folder), first, outcome.token).parent
        label_bytes = float(sum(path.stat().st_size for path in label.iterdir()))
    everything = sum(map(len, tokens.values()))
    labels = sum(map(len, missing.values()))
    # How many key frames are fused into a label, on average: windows are cut off where scenes end.
    fused = [
        len(window(at, len(tokens[s]), config.frames, config.window)) for s, todo in missing.items() for at in todo
    ]
    in_window = max(fused, default=probe.frames)
    maps_bytes = sum(camera.height * camera.width for camera in cameras) * _BYTES_PER_PIXEL / config.stride**2
    return LabelPlan(
        labels=labels,
        there=everything - labels,
        images=sum(map(len, asked.values())) * len(cameras),
        semantics=timed_semantics.time,
        depth=timed_depth.time,
        probed=len(probed),
        fuse_s=outcome.fuse_s * (sum(fused) / max(1, len(fused))) / probe.frames + outcome.write_s,
        label_bytes=label_bytes,
        maps_bytes=max(0, in_window - probe.frames) * maps_bytes,
        probe_bytes=peak_memory_bytes(),
        cores=usable_cores(),
    )
