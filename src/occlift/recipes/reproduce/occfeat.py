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

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal

from occlift.data.corrupt import CORRUPTIONS
from occlift.errors import ConfigError
from occlift.labels.config import LabelConfig
from occlift.models.bev_network import Architecture, BevNetworkConfig
from occlift.recipes.bev import FinetuneConfig
from occlift.recipes.occfeat import PretrainConfig
from occlift.recipes.reproduce.plan import (
    Claim,
    Corrupted,
    Finetuning,
    MakeLabels,
    MakeTown,
    Place,
    Plan,
    Pretraining,
    Row,
    Run,
    TablePlan,
)
from occlift.recipes.reproduce.scores import ALL_VEHICLES, MEMORY, STEP, VEHICLE, corrupted
from occlift.tasks.optimizer import OptimizerConfig
from occlift.town.config import TownConfig

Size = Literal["smoke", "small", "full"]
Start = Literal["none", "occupancy", "features", "both", "both-labels"]

FRAMES: Final = 13
"""Key frames fused in the labels that stand in for the lidar."""

STARTS: Final[dict[Start, str]] = {
    "none": "no pretraining",
    "occupancy": "occupancy",
    "features": "features",
    "both": "both",
    "both-labels": "both, labels instead of lidar",
}

SHARES: Final = (0.01, 0.1, 1.0)

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


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """What a size means.

    Attributes:
        pretrain: of both terms, from the lidar.
        finetune: with all labels; its number of steps is that of `finetune_steps`.
        finetune_steps: by share of the labels: few are soon learned by heart, many take longer.
        seeds: of every row.
        former_seeds: of BEVFormer's.
        longer_seeds: of table (e).
        label_minutes: of the labels.
        pretrain_minutes: of one pretraining.
        finetune_minutes: of one fine-tuning and its scores.
        corrupted_minutes: of the scores of one network under all corruptions.
    """

    town: TownConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    finetune_steps: Mapping[float, int]
    seeds: int
    former_seeds: int
    longer_seeds: int
    label_minutes: float
    pretrain_minutes: float
    finetune_minutes: float
    corrupted_minutes: float


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
    scale = _scale(size)
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
    networks = _Networks(scale)
    tables = (
        _simple_bev(networks), _bevformer(networks), _corrupted(networks), _rates(networks), _longer(networks)
    )  # fmt: skip
    return Plan(
        recipe="occfeat", size=size, data=said, reading=_READING, runs=(data, labels, *networks.runs.values()),
        tables=tables,
    )  # fmt: skip


def _scale(size: Size) -> _Scale:
    pretrain, finetune = PretrainConfig.demo(), FinetuneConfig.demo()
    town = TownConfig(scenes=30, frames=13, seed=0, image_height=96, image_width=176, maps=True)
    if size == "smoke":
        return _Scale(
            town=replace(town, scenes=2, frames=2),
            pretrain=replace(pretrain, optimizer=OptimizerConfig(steps=2)),
            finetune=finetune, finetune_steps=dict.fromkeys(SHARES, 2),
            seeds=1, former_seeds=1, longer_seeds=1, label_minutes=0.1, pretrain_minutes=0.2, finetune_minutes=0.2,
            corrupted_minutes=0.2,
        )  # fmt: skip
    if size == "small":
        return _Scale(
            town=town, pretrain=pretrain, finetune=finetune, finetune_steps={0.01: 300, 0.1: 400, 1.0: 800}, seeds=3,
            former_seeds=3, longer_seeds=1, label_minutes=2.0, pretrain_minutes=4.0, finetune_minutes=1.4,
            corrupted_minutes=2.0,
        )  # fmt: skip
    network = BevNetworkConfig.paper("simple_bev")
    return _Scale(
        town=TownConfig(scenes=60, frames=20, seed=0, image_height=224, image_width=400, maps=True),
        pretrain=replace(
            pretrain, model=network, head=replace(pretrain.head, channels=32, blocks=2, horizontal_stride=1),
            optimizer=OptimizerConfig(steps=3000, learning_rate=3e-4), workers=4,
        ),
        finetune=replace(
            finetune, model=network, optimizer=OptimizerConfig(steps=1500, learning_rate=3e-4), workers=4
        ),
        finetune_steps={0.01: 500, 0.1: 1000, 1.0: 1500},
        seeds=3, former_seeds=3, longer_seeds=3, label_minutes=4.0, pretrain_minutes=5.0, finetune_minutes=1.6,
        corrupted_minutes=5.0,
    )  # fmt: skip


class _Networks:
    """Collects the runs that the tables ask for, each once, what is needed before what needs it."""

    def __init__(self, scale: _Scale) -> None:
        self.scale = scale
        self.runs: dict[str, Run] = {}

    def finetuned(
        self, architecture: Architecture, start: Start, share: float, seeds: int, *, rate: float = 1.0, longer: int = 1
    ) -> tuple[str, ...]:
        """Adds fine-tunings and the pretrainings that they go on from, and gives their names.

        Args:
            rate: of learning, `_Variant.rate`.
            longer: `_Variant.longer`.
        """
        other = ("" if rate == 1 else f"-rate{rate:g}") + ("" if longer == 1 else f"-x{longer}")
        return tuple(
            self._finetuned(
                f"{architecture}-{start}-{round(100 * share)}{other}-s{seed}", architecture, share, seed, rate=rate,
                longer=longer,
                origin=None if start == "none" else self._pretrained(architecture, start, seed),
            )
            for seed in range(seeds)
        )  # fmt: skip

    def blind(self, architecture: Architecture) -> tuple[str, ...]:
        """Adds a network that never sees, trained on all labels, and gives its name."""
        return (self._finetuned(f"{architecture}-blind-100-s0", architecture, 1.0, 0, blind=True),)

    def _finetuned(
        self, name: str, architecture: Architecture, share: float, seed: int, *, origin: str | None = None,
        blind: bool = False, rate: float = 1.0, longer: int = 1,
    ) -> str:  # fmt: skip
        scale = self.scale
        optimizer = replace(
            scale.finetune.optimizer, steps=longer * scale.finetune_steps[share],
            learning_rate=rate * scale.finetune.optimizer.learning_rate,
        )  # fmt: skip
        config = replace(
            scale.finetune, model=_sized(scale.finetune.model, architecture), labels=share, label_seed=seed, seed=seed,
            blind=blind, optimizer=optimizer,
        )  # fmt: skip
        needs = ("data",) if origin is None else (origin,)
        return self._add(
            Finetuning(name=name, needs=needs, minutes=longer * scale.finetune_minutes, start=origin, config=config)
        )

    def corrupted(self, networks: tuple[str, ...]) -> tuple[str, ...]:
        """Adds the scores of fine-tuned networks under corruptions, and gives their names."""
        return tuple(
            self._add(
                Corrupted(
                    name=f"{network}-corrupted", needs=(network,), minutes=self.scale.corrupted_minutes, network=network
                )
            )
            for network in networks
        )

    def _pretrained(self, architecture: Architecture, start: Start, seed: int) -> str:
        config = self.scale.pretrain
        # Alone, the feature term needs no factor beside another one.
        occupancy, features = {"occupancy": (1.0, 0.0), "features": (0.0, 1.0)}.get(start, (1.0, config.loss.features))
        without_lidar = start == "both-labels"
        run = Pretraining(
            name=f"{architecture}-pretrain-{start}-s{seed}", minutes=self.scale.pretrain_minutes,
            needs=(f"labels-{FRAMES}",) if without_lidar else ("data",), frames=FRAMES if without_lidar else None,
            config=replace(
                config, model=_sized(config.model, architecture), seed=seed,
                loss=replace(config.loss, occupancy=occupancy, features=features),
                occupancy="labels" if without_lidar else "lidar",
            ),
        )  # fmt: skip
        return self._add(run)

    def _add(self, run: Run) -> str:
        assert self.runs.setdefault(run.name, run) == run, run.name
        return run.name


def _sized(model: BevNetworkConfig, architecture: Architecture) -> BevNetworkConfig:
    """The network of another architecture, small where `model` is small."""
    if model.architecture == architecture:
        return model
    demo = model == BevNetworkConfig.demo(model.architecture)
    return BevNetworkConfig.demo(architecture) if demo else BevNetworkConfig.paper(architecture)


def _label(start: Start, share: float) -> str:
    return f"{round(100 * share)} %: {STARTS[start]}"


def _rows(networks: _Networks, architecture: Architecture, starts: tuple[Start, ...], seeds: int) -> tuple[Row, ...]:
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


def _simple_bev(networks: _Networks) -> TablePlan:
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


def _bevformer(networks: _Networks) -> TablePlan:
    return TablePlan(
        letter="b",
        title="BEVFormer, the same",
        scores=(VEHICLE, ALL_VEHICLES, STEP, MEMORY),
        rows=_rows(networks, "bevformer", ("none", "both"), networks.scale.former_seeds),
        claims=tuple(_gains(paper=False)),
    )


def _corrupted(networks: _Networks) -> TablePlan:
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
        notes=("Of each corruption the mean over five strengths (`occlift.data.corrupt`).",),
    )


def _rates(networks: _Networks) -> TablePlan:
    base = networks.scale.finetune.optimizer.learning_rate
    variants = tuple(_Variant(name=f"learning rate {rate * base:g}", rate=rate) for rate in RATES)
    return _pairs(networks, "d", "SimpleBEV with 1 % of the labels, by learning rate", 0.01, variants)


def _longer(networks: _Networks) -> TablePlan:
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
    networks: _Networks, letter: str, title: str, share: float, variants: tuple[_Variant, ...], seeds: int | None = None
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
