"""The tables of EasyOcc (arXiv 2509.26087).

(a) A network trained by rendering, the same with the 3-D pseudo-loss, and EasyOcc, which is trained on the labels
alone. (b) Labels of 1, 5 and 13 key frames. (c) The balance of the classes, and the forms of Lovász. (d) The loss in
2-D, on rendered class and depth maps, against 3-D. (e) Unknown voxels ignored, or taken as free.

The paper's ratios: mIoU 9.73 → 14.09 with the pseudo-loss (1.45; RayIoU +49 %), EasyOcc 13.86 (1.42), and without the
camera mask 7.71, 31 % more than the best method before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import calls
from occlift.errors import ConfigError
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.town.config import TownConfig
from occlift.training.occupancy import TrainConfig
from occlift.training.optimizer import OptimizerConfig
from occlift.training.rendering import RenderingTrainConfig
from occlift.training.rendering_task import RenderingLossConfig
from runner import Plan, make_parser, run_experiment
from runs import CHECKPOINT, Runs, describe_town
from tables import IOU, MASKED, MEMORY, RAYS, STEP, UNMASKED, UNMASKED_IOU, Claim, Row, Table

FRAMES: Final = 13
"""Number of key frames fused in the labels of everything but table (b): that of the paper."""

_FUSED: Final = (1, 5, FRAMES)
_COLUMNS: Final = (IOU, MASKED, UNMASKED_IOU, UNMASKED, RAYS)


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """What a size means: configurations, and numbers of seeds.

    Attributes:
        town: data set that is built where none is given.
        first_seeds: number of seeds of table (a); its network trained on grey images has `blind_seeds`.
    """

    town: TownConfig
    train: TrainConfig
    rendering: RenderingTrainConfig
    first_seeds: int = 3
    blind_seeds: int
    other_seeds: int


def _scale(size: str, *, on_town: bool) -> _Scale:
    town = TownConfig(scenes=20, frames=13, seed=0, image_height=96, image_width=176, maps=True)
    train = TrainConfig(optimizer=OptimizerConfig(steps=500), validation_every=125)
    rendering = RenderingTrainConfig.demo()
    if size == "small":
        return _Scale(town=town, train=train, rendering=rendering, blind_seeds=1, other_seeds=1)
    if size == "smoke":
        train = replace(train, optimizer=OptimizerConfig(steps=2), validation_every=2, checkpoint_every=1)
        rendering = replace(rendering, optimizer=replace(rendering.optimizer, steps=2))
        town = replace(town, scenes=2, frames=2)
        return _Scale(town=town, train=train, rendering=rendering, first_seeds=1, blind_seeds=1, other_seeds=1)
    train = replace(TrainConfig.full(), checkpoint_every=200, workers=4)
    rendering = replace(RenderingTrainConfig.full(), checkpoint_every=200, workers=4)
    if on_town:
        # A town is smaller than nuScenes, and everything starts from random weights: three passes at a higher rate.
        train = replace(train, optimizer=replace(train.optimizer, steps=3000, learning_rate=1e-3))
        rendering = replace(rendering, optimizer=replace(rendering.optimizer, steps=3000, learning_rate=1e-3))
    town = TownConfig(scenes=60, frames=20, seed=0, image_height=336, image_width=672, maps=True)
    return _Scale(town=town, train=train, rendering=rendering, blind_seeds=3, other_seeds=3)


class _Runs(Runs):
    """The runs that the tables ask for, each once.

    Args:
        root: a data set; None: a town is built.
        labels: folder of its labels, `{frames}` for the number of key frames fused; None: the oracle's are made.
        truth: folder of its truth; None: that of the data set.
    """

    def __init__(self, scale: _Scale, out: Path, root: Path | None, labels: str | None, truth: Path | None) -> None:
        super().__init__(out)
        self.scale, self._given_labels = scale, labels
        self.root = root or self.add_town(scale.town)
        self._truth = truth or self.root / "gts"
        self._data_needs = () if root else ("data",)
        for n in () if labels else _FUSED:
            self.add_labels(LabelConfig(frames=n, decision=DecisionConfig(fusion="votes")), self.root, self._data_needs)

    def scored(self, name: str, score: Callable[..., dict[str, float]], frames: int = FRAMES) -> tuple[str, ...]:
        """Adds the scores of labels, or of what follows from them, and gives the run's name."""
        labels, needs = self._labels(frames)
        predictions = self.out / name / "predictions"
        call = partial(score, root=self.root, truth=self._truth, labels=labels, predictions=predictions)
        return (self.add(name, needs, call=call),)

    def trained(
        self, name: str, config: TrainConfig | RenderingTrainConfig, seeds: int = 0, *, frames: int | None = FRAMES
    ) -> tuple[str, ...]:
        """Adds networks and their scores, one per seed, and gives their names.

        Args:
            config: configuration of an EasyOcc or of a rendering model.
            seeds: number of seeds; 0: that of most tables.
            frames: number of key frames fused in the labels; None: trained without labels.
        """
        labels, needs = (None, self._data_needs) if frames is None else self._labels(frames)
        easyocc = isinstance(config, TrainConfig)
        function: Callable[..., None] = calls.train_easyocc if easyocc else calls.train_rendering
        names = [f"{name}-s{seed}" for seed in range(seeds or self.scale.other_seeds)]
        for seed, run in enumerate(names):
            train = partial(function, root=self.root, labels=labels, config=replace(config, seed=seed))
            checkpoint, predictions = self.out / run / CHECKPOINT, self.out / run / "predictions"
            score = partial(
                calls.score_network, root=self.root, truth=self._truth, checkpoint=checkpoint, predictions=predictions
            )
            self.add(run, needs, train, score)
        return tuple(names)

    def with_loss(self, variant: str, **changes: Any) -> tuple[str, ...]:
        """Adds EasyOcc networks trained with another loss, and gives their names."""
        train = self.scale.train
        return self.trained(f"easyocc-{variant}", replace(train, loss=replace(train.loss, **changes)))

    def _labels(self, frames: int) -> tuple[Path, tuple[str, ...]]:
        """Folder of labels, and the run that makes it."""
        if self._given_labels:
            return Path(self._given_labels.replace("{frames}", str(frames))), ()
        return self.labels_folder(frames), (f"labels-{frames}",)


def easyocc_plan(
    size: str, out: Path, *, root: Path | None = None, labels: str | None = None, truth: Path | None = None
) -> Plan:
    """The runs and tables of EasyOcc; `root`, `labels` and `truth` as for `_Runs`."""
    if root is None and (labels or truth):
        raise ConfigError("--labels and --truth need --root: of which data set?")
    runs = _Runs(_scale(size, on_town=root is None), out, root, labels, truth)
    return Plan(
        name="easyocc", size=size, runs=runs, data="the data set ROOT" if root else describe_town(runs.scale.town),
        reading="Scores: per cent, one histogram of the validation split, absent classes skipped.",
        tables=(_approaches(runs), _fused(runs), _losses(runs), *_others(runs)),
    )  # fmt: skip


def _approaches(runs: _Runs) -> Table:
    scale, seeds = runs.scale, runs.scale.first_seeds
    steps, rendering_steps = scale.train.optimizer.steps, scale.rendering.optimizer.steps
    pseudo = replace(scale.rendering, pseudo=scale.train.loss)
    blind = runs.trained("blind", replace(scale.train, blind=True), scale.blind_seeds)
    rendering, both, easyocc = "rendering", "rendering + pseudo-loss", "EasyOcc"
    return Table(
        letter="a",
        title="Rendering, rendering + pseudo-loss, EasyOcc",
        scores=(*_COLUMNS, STEP, MEMORY),
        rows=(
            Row("prior (no image)", runs.scored("prior", calls.score_prior), context=True),
            Row(f"blind (grey images, {steps} steps)", blind, context=True),
            Row(
                "labels (of these frames, unknown as free)",
                runs.scored(f"labels-{FRAMES}-score", calls.score_labels),
                context=True,
            ),
            Row(rendering, runs.trained("rendering", scale.rendering, seeds, frames=None)),
            Row(both, runs.trained("rendering-pseudo", pseudo, seeds)),
            Row(easyocc, runs.trained("easyocc", scale.train, seeds)),
        ),
        claims=(
            Claim("the pseudo-loss adds", MASKED, both, rendering, paper="1.45"),
            Claim("the pseudo-loss adds", RAYS, both, rendering, paper="1.49"),
            Claim("EasyOcc beats rendering", MASKED, easyocc, rendering, paper="1.42"),
            Claim("EasyOcc reaches rendering + pseudo-loss", MASKED, easyocc, both, paper="0.98", share=0.95),
            Claim("EasyOcc beats rendering", UNMASKED, easyocc, rendering, paper="1.31"),
            Claim("a step of EasyOcc takes less time", STEP, easyocc, rendering),
            Claim("training EasyOcc takes less memory", MEMORY, easyocc, rendering),
        ),
        notes=(
            f"Rendering was trained for {rendering_steps} steps, EasyOcc for {steps}, each step of "
            f"{scale.train.batch_size} key frame. The paper's 1.31 is a lead over the best method before it, not over "
            "its own rendering baseline.",
        ),
    )


def _fused(runs: _Runs) -> Table:
    train = runs.scale.train
    labels = [
        Row(f"labels of {n} (unknown as free)", runs.scored(f"labels-{n}-score", calls.score_labels, n), context=True)
        for n in _FUSED
    ]
    few = [Row(f"EasyOcc, labels of {n}", runs.trained(f"easyocc-frames{n}", train, frames=n)) for n in _FUSED[:-1]]
    rows = (*few, Row(f"EasyOcc, labels of {FRAMES}", runs.trained("easyocc", train)))
    first, middle, last = (row.label for row in rows)
    return Table(
        letter="b",
        title="Key frames fused into a label",
        scores=_COLUMNS,
        rows=(*labels, *rows),
        claims=(
            Claim("5 key frames beat 1", MASKED, middle, first),
            Claim("13 key frames beat 5", MASKED, last, middle),
            Claim("13 key frames beat 1", MASKED, last, first),
            Claim("13 key frames beat 1", RAYS, last, first),
        ),
    )


def _losses(runs: _Runs) -> Table:
    base, without = "1/log f, Lovász over the classes", "1/log f, no Lovász"
    return Table(
        letter="c",
        title="Balance of the classes, and forms of Lovász",
        scores=_COLUMNS,
        rows=(
            Row("no balance", runs.with_loss("unbalanced", class_weighting="none")),
            Row("1/√f", runs.with_loss("inverse-sqrt", class_weighting="inverse_sqrt")),
            Row(base, runs.trained("easyocc", runs.scale.train)),
            Row(without, runs.with_loss("no-lovasz", lovasz=0.0)),
            Row("1/log f, geometric Lovász", runs.with_loss("lovasz-geometric", lovasz_form="geometric")),
            Row("1/log f, both", runs.with_loss("lovasz-both", lovasz_form="both")),
            Row("1/log f, split", runs.with_loss("lovasz-split", lovasz_form="split")),
        ),
        claims=(
            Claim("1/log f beats no balance", MASKED, base, "no balance"),
            Claim("1/√f beats no balance", MASKED, "1/√f", "no balance"),
            Claim("Lovász over the classes adds", MASKED, base, without),
            Claim("geometric Lovász adds", MASKED, "1/log f, geometric Lovász", without),
            Claim("both together add", MASKED, "1/log f, both", without),
            Claim("the split form adds", MASKED, "1/log f, split", without),
        ),
        notes=("No balance and 1/√f are with Lovász over the classes.",),
    )


def _others(runs: _Runs) -> tuple[Table, Table]:
    """Tables (d) and (e)."""
    base = runs.trained("easyocc", runs.scale.train)
    maps = replace(runs.scale.rendering, loss=RenderingLossConfig.of_maps())
    flat = Row("2-D: class and depth maps, rendered", runs.trained("rendering-2d", maps, frames=None))
    solid = Row("3-D: the same maps, fused to labels", base)
    ignored = Row("unknown ignored", base)
    free = Row("unknown as free (the paper)", runs.with_loss("unknown-free", unknown="free"))
    text, compared = (
        ("the loss in 3-D beats that in 2-D", "ignoring unknown voxels is better"),
        (MASKED, UNMASKED, RAYS),
    )
    return (
        Table(
            letter="d", title="The loss in 2-D or in 3-D", scores=_COLUMNS, rows=(flat, solid),
            claims=tuple(Claim(text[0], score, solid.label, flat.label) for score in compared),
        ),
        Table(
            letter="e", title="Voxels that the label does not know", scores=_COLUMNS, rows=(ignored, free),
            claims=tuple(Claim(text[1], score, ignored.label, free.label) for score in compared),
        ),
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = make_parser(
        "easyocc",
        "Make the tables of EasyOcc: a approaches, b frames fused, c losses, d 2-D or 3-D, e unknown voxels. Tables a "
        "and d render, and take the class maps of the oracle: they are for towns.",
    )
    parser.add_argument("--root", type=Path, help="a nuScenes-format data set (default: a town is built)")
    parser.add_argument("--labels", help="labels of ROOT, {frames} for the number of key frames fused (default: made)")
    parser.add_argument("--truth", type=Path, help="folder gts/<scene>/<token>/labels.npz (default: ROOT/gts)")
    options = parser.parse_args(arguments)
    return run_experiment(
        options,
        lambda out: easyocc_plan(options.size, out, root=options.root, labels=options.labels, truth=options.truth),
    )


if __name__ == "__main__":
    sys.exit(main())
