"""The whole road once, small: town → labels → training → baselines → scores → report.

The network sees images and pseudo-labels of the training scenes only. The truth of the town is opened for scores and
pictures of the validation scenes, which come from other seeds than the training scenes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from occlift.errors import ConfigError, DataError
from occlift.evaluation.baselines import write_labels_as_predictions, write_prior
from occlift.evaluation.occupancy import Evaluation, evaluate
from occlift.labels.config import LabelConfig
from occlift.labels.files import label_path, prediction_path, read_label, read_prediction
from occlift.labels.generate import generate_labels
from occlift.metrics.occupancy import class_sets
from occlift.runtime.extras import missing_extra
from occlift.runtime.files import replacing, write_text
from occlift.runtime.folder_lock import sole_writer
from occlift.runtime.folders import check_same, read_record
from occlift.runtime.interrupts import going_on
from occlift.runtime.progress import track
from occlift.runtime.threads import usable_cores
from occlift.scenes.dataset import DrivingDataset, open_dataset, split_tokens
from occlift.town.config import TownConfig
from occlift.town.scene_writer import GTS
from occlift.town.write import write_town
from occlift.training.occupancy import OccupancyTraining, TrainConfig
from occlift.training.optimizer import OptimizerConfig
from occlift.training.predict import predict
from occlift.training.run import run_training
from occlift.training.run_folder import LAST_CHECKPOINT, peak_memory_bytes
from occlift.viz.curves import Curve, Series
from occlift.viz.frame_report import environment_facts, overview_image, report_frame, write_frame_scene
from occlift.viz.report import Comparison, Report, Role, ScoreRow, Scores, Stage, compare_with_baselines, write_report

ROWS: Final[tuple[tuple[str, Role], ...]] = (
    ("prior", "baseline"),
    ("blind", "baseline"),
    ("labels", "reference"),
    ("EasyOcc", "model"),
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The configurations of all stages.

    Attributes:
        blind_steps: the blind network may be trained shorter; the table says so.
        pictures: validation frames in the report.
    """

    town: TownConfig
    label: LabelConfig = field(default_factory=LabelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    blind_steps: int
    pictures: int = 4

    @classmethod
    def standard(cls) -> DemoConfig:
        """Ten minutes on two cores."""
        return cls(
            town=TownConfig(scenes=20, frames=13, seed=0, image_height=96, image_width=176, maps=True),
            train=TrainConfig(optimizer=OptimizerConfig(steps=500), validation_every=125),
            blind_steps=250,
        )

    @classmethod
    def smoke(cls) -> DemoConfig:
        """Every stage in its smallest form: shows that it runs, not what it can."""
        return cls(
            town=TownConfig(scenes=2, frames=2, seed=0, image_height=96, image_width=176, maps=True),
            label=LabelConfig(frames=3),
            train=TrainConfig(optimizer=OptimizerConfig(steps=4), validation_every=2),
            blind_steps=2,
            pictures=1,
        )


@dataclass(frozen=True, kw_only=True)
class DemoRun:
    """What the demo showed.

    Attributes:
        rows: of the score table, per cent.
        comparison: EasyOcc beside prior and blind (17 classes, camera mask, absent classes skipped).
        seconds: all stages together, those of an earlier run whose results were reused included.
        peak_memory_gb: the largest resident size of the process.
    """

    report: Path
    scene: Path
    rows: tuple[ScoreRow, ...]
    comparison: Comparison
    seconds: float
    peak_memory_gb: float


def run_demo(out: Path, config: DemoConfig, *, command: str) -> DemoRun:
    """Runs all stages in the folder `out`, or what is missing of them.

    Args:
        command: what the report says it was made by.

    Raises:
        ConfigError: `out` holds a demo of another configuration, or a package of the extra demo is missing.
    """
    # Said now, not after ten minutes.
    if missing := missing_extra("demo", "the demo", "lightning", "transformers", "viser"):
        raise ConfigError(missing)
    with going_on(), sole_writer(out):
        return _run(out, config, command)


def _run(out: Path, config: DemoConfig, command: str) -> DemoRun:
    stages = _Stages(out, config)
    town, labels = out / "town", out / "labels"
    runs = {"EasyOcc": out / "easyocc", "blind": out / "blind"}

    with stages.timed("town", f"{config.town.scenes} scenes of {config.town.frames} key frames") as clock:
        written = write_town(town, config.town)
        clock.reused = written.reused == written.scenes
    data = open_dataset(town)
    tokens = split_tokens(data, "val")
    with stages.timed("labels", f"{config.label.frames} frames fused, {config.label.semantics}") as clock:
        made = generate_labels(data, labels, config.label, workers=usable_cores())
        if made.failed:
            raise DataError(f"{len(made.failed)} labels could not be made; {labels / 'manifest.json'} says why")
        clock.reused = made.done == 0
    blind = replace(config.train, blind=True, optimizer=replace(config.train.optimizer, steps=config.blind_steps))
    fresh = False
    for name, training in (("EasyOcc", config.train), ("blind", blind)):
        steps = training.optimizer.steps
        with stages.timed(f"train {name}", f"{steps} steps of {training.batch_size} key frames") as clock:
            spec = OccupancyTraining(data=data, labels=labels, config=training, validation_labels=town / GTS)
            clock.reused = _trained(spec, runs[name])
        fresh |= not clock.reused
    predictions = {name: out / "predictions" / name.lower() for name, _ in ROWS}
    with stages.timed("predictions", f"{len(tokens)} unseen key frames") as clock:
        clock.reused = not fresh and all(prediction_path(p, t).exists() for p in predictions.values() for t in tokens)
        if not clock.reused:
            write_prior(data, labels, predictions["prior"])
            write_labels_as_predictions(data, labels, predictions["labels"])
            for name, run in runs.items():
                predict(data, predictions[name], checkpoint=run / LAST_CHECKPOINT)
    with stages.timed("scores", "camera mask, lidar mask, no mask, rays"):
        evaluations = {name: evaluate(path, town / GTS, tokens=tokens, rays=data) for name, path in predictions.items()}
        for name, evaluation in evaluations.items():
            write_text(out / "scores" / f"{name.lower()}.json", evaluation.to_json())
    rows = tuple(_row(name, role, evaluations[name], _note(name, config)) for name, role in ROWS)
    comparison = compare_with_baselines(rows)
    assert comparison is not None, rows
    chosen = [tokens[i] for i in np.linspace(0, len(tokens) - 1, config.pictures + 2).round().astype(int)[1:-1]]
    report, scene = out / "report.html", out / "scene.html"
    with stages.timed("pictures", f"{len(chosen)} key frames"):
        volumes = {token: _volumes(data, town, token, labels, predictions["EasyOcc"]) for token in chosen}
        write_frame_scene(scene, data, chosen[0], volumes[chosen[0]])
        frames = tuple(report_frame(data, token, volumes[token]) for token in track(chosen, "pictures"))
        with replacing(out / "overview.png") as file:
            overview_image(frames[len(frames) // 2]).save(file, "PNG", optimize=True)
    write_report(
        report,
        Report(
            title="occlift demo",
            summary=_summary(config, comparison, len(tokens)),
            command=command,
            rows=rows,
            frames=frames,
            curves=_curves(runs["EasyOcc"], runs["blind"]),
            stages=stages.done,
            facts=(("seed", str(config.town.seed)), *environment_facts()),
            links=((scene.name, "Open one validation frame in 3-D"),),
        ),
    )
    return DemoRun(
        report=report, scene=scene, rows=rows, comparison=comparison, seconds=sum(s.seconds for s in stages.done),
        peak_memory_gb=peak_memory_bytes() / 1e9,
    )  # fmt: skip


@dataclass
class _Clock:
    reused: bool = False


class _Stages:
    """Times the stages and remembers, across runs, how long those took that are now reused."""

    def __init__(self, out: Path, config: DemoConfig) -> None:
        self._path = out / "demo.json"
        self.done: tuple[Stage, ...] = ()
        wanted = json.loads(json.dumps({**asdict(config), "train": config.train.to_dict()}))
        self._record: dict[str, Any] = {"config": wanted, "stages": {}}
        if self._path.exists():
            found = read_record(self._path)
            check_same(out, found.get("config", {}), wanted, contents="a demo")
            self._record = found
        write_text(self._path, json.dumps(self._record, indent=1))

    @contextmanager
    def timed(self, name: str, what: str) -> Iterator[_Clock]:
        """A stage; the caller says on the yielded clock if it found the stage done."""
        clock = _Clock()
        started = time.monotonic()
        yield clock
        measured = {"seconds": time.monotonic() - started, "peak_memory_gb": peak_memory_bytes() / 1e9}
        if not clock.reused or name not in self._record["stages"]:
            self._record["stages"][name] = measured
            write_text(self._path, json.dumps(self._record, indent=1))
        self.done += (Stage(name=name, note=what, **self._record["stages"][name]),)


def _trained(spec: OccupancyTraining, run: Path) -> bool:
    """Trains, or goes on where an interrupted run stopped; true if nothing was left to do."""
    from occlift.training.checkpoint import checkpoint_parts
    from occlift.training.loop import TrainingInterrupted

    checkpoint = run / LAST_CHECKPOINT
    resume = checkpoint if checkpoint.exists() else None
    if resume is not None and checkpoint_parts(resume)["global_step"] >= spec.config.optimizer.steps:
        return True
    try:
        run_training(spec, run, resume=resume)
    except TrainingInterrupted as interrupt:
        raise KeyboardInterrupt from interrupt
    return False


def _volumes(data: DrivingDataset, town: Path, token: str, labels: Path, predictions: Path) -> dict[str, np.ndarray]:
    scene = data.key_frame(token).scene
    return {
        "truth": read_label(label_path(town / GTS, scene, token)).semantics,
        "pseudo-label": read_label(label_path(labels, scene, token), allow_unknown=True).semantics,
        "prediction": read_prediction(prediction_path(predictions, token)),
    }


def _note(name: str, config: DemoConfig) -> str:
    steps, blind = config.train.optimizer.steps, config.blind_steps
    shorter = f", trained for {blind} steps instead of {steps}" if blind < steps else ""
    return {
        "prior": "most frequent class per voxel, no image",
        "blind": f"grey images{shorter}",
        "labels": "the pseudo-labels of these frames, unknown taken as free",
        "EasyOcc": f"trained on pseudo-labels, {steps} steps",
    }[name]


def _row(name: str, role: Role, evaluation: Evaluation, note: str) -> ScoreRow:
    scores = evaluation.counts
    means = {
        mask: Scores(
            iou=scores.geometric_iou(mask),
            miou=tuple(scores.mean_iou(mask, classes=classes) for classes in class_sets(scores.taxonomy)),
        )
        for mask in ("camera", "none")
    }
    per_class = scores.class_iou("camera")
    assert evaluation.rays is not None, evaluation.predictions
    return ScoreRow(
        name=name, role=role, with_camera_mask=means["camera"], without_mask=means["none"], note=note,
        ray_iou=evaluation.rays.named()["ray_iou_17"],
        class_iou=tuple(None if np.isnan(per_class[c]) else per_class[c] for c in scores.taxonomy.names),
    )  # fmt: skip


def _summary(config: DemoConfig, comparison: Comparison, frames: int) -> str:
    return (
        f"EasyOcc, trained from scratch on pseudo-labels alone, beside two baselines that see no image, scored on "
        f"{frames} key frames of unseen scenes on the full Occ3D grid. {comparison} Teachers: "
        f"{config.label.semantics} (classes) and {config.label.depth} (depth), which corrupt the town's truth the way "
        f"foundation models err."
    )


def _curves(model: Path, blind: Path) -> tuple[Curve, ...]:
    from occlift.training.callbacks import read_scalars

    scalars = {"EasyOcc": read_scalars(model / "losses.csv"), "blind": read_scalars(blind / "losses.csv")}

    def series(run: str, name: str, label: str, *, dashed: bool = False) -> Series:
        points = [(step, value) for step, found, value in scalars[run] if found == name]
        return Series(name=label, x=tuple(p[0] for p in points), y=tuple(p[1] for p in points), dashed=dashed)

    terms = sorted({name for _, name, _ in scalars["EasyOcc"] if name.startswith("loss_")})
    return (
        Curve(
            title="Training loss", x_label="step", y_label="loss",
            series=tuple(series("EasyOcc", name, name.removeprefix("loss_").replace("_", " ")) for name in terms),
        ),
        Curve(
            title="mIoU on unseen scenes while training", x_label="step", y_label="mIoU 17, camera mask (%)",
            series=(
                series("EasyOcc", "val_miou_17_camera", "EasyOcc"),
                series("blind", "val_miou_17_camera", "blind", dashed=True),
            ),
        ),
    )  # fmt: skip
