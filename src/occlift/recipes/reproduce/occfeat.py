"""The tables of OccFeat (arXiv 2404.14027), as runs.

(a) SimpleBEV without pretraining, pretrained by occupancy, by features, by both, and by both without any lidar, then
fine-tuned with 1 %, 10 % and 100 % of the labels. (b) BEVFormer without pretraining and pretrained by both. (c) The
networks of (a) with all labels, under corruptions of the images. (d) SimpleBEV with 1 % at other learning rates:
one that suits one start may not suit the other. (e) SimpleBEV with all labels and more steps: a head start is no gain
that lasts.

The paper's gains of both over none for SimpleBEV with EfficientNet-B0, points of vehicle IoU: +10.6 with 1 %, +4.9 with
10 %, +0.3 with 100 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

from occlift.errors import ConfigError
from occlift.labels.config import LabelConfig
from occlift.models.bev_network import Architecture
from occlift.recipes.reproduce.occfeat_runs import FRAMES, SHARES, Networks, Size, Start, scale_of
from occlift.recipes.reproduce.plan import (
    Claim,
    MakeLabels,
    MakeTown,
    Place,
    Plan,
    Row,
    TablePlan,
)
from occlift.recipes.reproduce.scores import ALL_VEHICLES, MEMORY, STEP, VEHICLE, corrupted
from occlift.training.corrupt import CORRUPTIONS

STARTS: Final[dict[Start, str]] = {
    "none": "no pretraining",
    "occupancy": "occupancy",
    "features": "features",
    "both": "both",
    "both-labels": "both, labels instead of lidar",
}

RATES: Final = (2.0, 1.0, 0.5)
"""Learning rates of table (d), parts of the others'."""

LONGER: Final = 3
"""Times as many steps in table (e)."""

PAPER_GAINS: Final = {0.01: "+10.6", 0.1: "+4.9", 1.0: "+0.3"}
"""Points of vehicle IoU, of both over none."""

_READING: Final = (
    "Scores: IoU of vehicles, per cent, intersections and unions summed over the validation split, 200×200 cells of "
    "0.5 m, probability above 0.5; *filtered*: without the cells of vehicles that the images show to less than 40 %. A "
    "paper's figure is the difference in points. A seed decides weights, order and which labels are used, the same for "
    "every start: differences are of pairs of runs, and so is their error."
)


def occfeat_plan(size: Size, place: Place, *, steps: int | None = None) -> Plan:
    """The runs and tables of OccFeat.

    Args:
        size: `small` for two cores, `full` for a GPU, `smoke` to see that everything runs.
        place: where; a data set of one's own is not taken.
        steps: of every schedule, instead of the size's own.

    Raises:
        ConfigError: a data set, labels or truth are given.
    """
    if place.root is not None or place.label_folders is not None or place.truth is not None:
        raise ConfigError(
            "the tables of occfeat are made on a town; on a data set of your own use occlift pretrain and occlift "
            "finetune (docs/occfeat.md)"
        )
    scale = scale_of(size)
    if steps is not None:
        scale = replace(
            scale,
            pretrain=replace(scale.pretrain, optimizer=replace(scale.pretrain.optimizer, steps=steps)),
            finetune_steps=dict.fromkeys(SHARES, steps),
        )
    town = scale.town
    said = (
        f"a town of {town.scenes} scenes of {town.frames} key frames, six images of {town.image_height}×"
        f"{town.image_width}, seed {town.seed}; teacher of features {scale.pretrain.teacher}"
    )
    data = MakeTown(name="data", minutes=town.scenes * town.frames * 0.006, config=town)
    labels = MakeLabels(
        name=f"labels-{FRAMES}", needs=("data",), minutes=scale.label_minutes, config=LabelConfig(frames=FRAMES)
    )
    networks = Networks(scale)
    tables = (
        _simple_bev(networks), _bevformer(networks), _corrupted(networks), _rates(networks), _longer(networks)
    )  # fmt: skip
    return Plan(
        recipe="occfeat", size=size, data=said, reading=_READING, runs=(data, labels, *networks.runs.values()),
        tables=tables,
    )  # fmt: skip


def _label(start: Start, share: float) -> str:
    return f"{round(100 * share)} %: {STARTS[start]}"


def _rows(networks: Networks, architecture: Architecture, starts: tuple[Start, ...], seeds: int) -> tuple[Row, ...]:
    return tuple(
        Row(label=_label(start, share), runs=networks.finetuned(architecture, start, share, seeds))
        for share in SHARES
        for start in starts
    )


def _gains(*, paper: bool) -> list[Claim]:
    return [
        Claim(
            text=f"pretraining by both adds with {round(100 * share)} %", score=VEHICLE, row=_label("both", share),
            than=_label("none", share), paper=PAPER_GAINS[share] if paper else "", paired=True,
        )
        for share in SHARES
    ] + [
        Claim(
            text=f"it adds more with {round(100 * few)} % than with {round(100 * many)} %", score=VEHICLE,
            row=_label("both", few), than=_label("none", few), over=(_label("both", many), _label("none", many)),
            paper=f"{float(PAPER_GAINS[few]) - float(PAPER_GAINS[many]):+.1f}" if paper else "", paired=True,
        )
        for few, many in combinations(SHARES, 2)
    ]  # fmt: skip


def _simple_bev(networks: Networks) -> TablePlan:
    alone: tuple[tuple[Start, str], ...] = (
        ("occupancy", "occupancy alone adds"),
        ("features", "features alone add"),
        ("both-labels", "both without lidar add"),
    )
    return TablePlan(
        letter="a",
        title="SimpleBEV, fine-tuned with 1 %, 10 % and 100 % of the labels",
        scores=(VEHICLE, ALL_VEHICLES),
        rows=(
            Row(label="100 %: blind (grey images)", runs=networks.blind("simple_bev"), context=True),
            *_rows(networks, "simple_bev", tuple(STARTS), networks.scale.seeds),
        ),
        claims=(
            *_gains(paper=True),
            *(
                Claim(
                    text=f"{text} with 1 %",
                    score=VEHICLE,
                    row=_label(start, 0.01),
                    than=_label("none", 0.01),
                    paired=True,
                )
                for start, text in alone
            ),
            Claim(
                text="features add to occupancy with 1 %",
                score=VEHICLE,
                row=_label("both", 0.01),
                than=_label("occupancy", 0.01),
                paired=True,
            ),
        ),
    )


def _bevformer(networks: Networks) -> TablePlan:
    return TablePlan(
        letter="b",
        title="BEVFormer, the same",
        scores=(VEHICLE, ALL_VEHICLES, STEP, MEMORY),
        rows=_rows(networks, "bevformer", ("none", "both"), networks.scale.former_seeds),
        claims=tuple(_gains(paper=False)),
    )


def _corrupted(networks: Networks) -> TablePlan:
    seeds = networks.scale.seeds
    starts: tuple[Start, ...] = ("none", "both")
    rows = tuple(
        Row(
            label=STARTS[start],
            runs=networks.corrupted(networks.finetuned("simple_bev", start, 1.0, seeds)),
        )
        for start in starts
    )
    scores = tuple(corrupted(name) for name in CORRUPTIONS)
    return TablePlan(
        letter="c",
        title="SimpleBEV with all labels, on corrupted images",
        scores=(VEHICLE, *scores),
        rows=rows,
        claims=tuple(
            Claim(text="pretraining by both adds", score=score, row=STARTS["both"], than=STARTS["none"], paired=True)
            for score in scores
        ),
        notes=("Of each corruption the mean over five strengths (`occlift.training.corrupt`).",),
    )


def _rates(networks: Networks) -> TablePlan:
    base = networks.scale.finetune.optimizer.learning_rate
    variants = tuple(_Variant(name=f"learning rate {rate * base:g}", rate=rate) for rate in RATES)
    return _pairs(networks, "d", "SimpleBEV with 1 % of the labels, by learning rate", 0.01, variants)


def _longer(networks: Networks) -> TablePlan:
    steps, seeds = networks.scale.finetune_steps[1.0], networks.scale.longer_seeds
    variants = tuple(_Variant(name=f"{longer * steps} steps", longer=longer) for longer in (1, LONGER))
    return _pairs(networks, "e", "SimpleBEV with all labels, by steps", 1.0, variants, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """A way to fine-tune.

    Attributes:
        name: as rows and claims say it.
        rate: a factor of the learning rate.
        longer: a factor of the number of steps.
    """

    name: str
    rate: float = 1.0
    longer: int = 1


def _pairs(
    networks: Networks, letter: str, title: str, share: float, variants: tuple[_Variant, ...], seeds: int | None = None
) -> TablePlan:
    """No pretraining beside both, SimpleBEV, fine-tuned in several ways."""
    starts: tuple[Start, ...] = ("none", "both")
    rows = {
        (variant, start): Row(
            label=f"{variant.name}: {STARTS[start]}",
            runs=networks.finetuned(
                "simple_bev", start, share, seeds or networks.scale.seeds, rate=variant.rate, longer=variant.longer
            ),
        )
        for variant in variants
        for start in starts
    }
    return TablePlan(
        letter=letter,
        title=title,
        scores=(VEHICLE, ALL_VEHICLES),
        rows=tuple(rows.values()),
        claims=tuple(
            Claim(
                text=f"pretraining by both adds with {variant.name}", score=VEHICLE,
                row=rows[variant, "both"].label, than=rows[variant, "none"].label, paired=True,
            )
            for variant in variants
        ),
    )  # fmt: skip
