"""The tables of OccFeat (arXiv 2404.14027).

(a) SimpleBEV without pretraining, pretrained by occupancy, by features, by both, and by both without any lidar, then
fine-tuned with 1 %, 10 % and 100 % of the labels. (b) BEVFormer without pretraining and pretrained by both. (c) The
networks of (a) with all labels, under corruptions of the images. (d) SimpleBEV with 1 % at other learning rates:
one that suits one start may not suit the other. (e) SimpleBEV with all labels and more steps: a head start is no gain
that lasts.

The paper's gains of both over none for SimpleBEV with EfficientNet-B0, points of vehicle IoU: +10.6 with 1 %, +4.9 with
10 %, +0.3 with 100 % (from secondary sources).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal

import calls
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.models.bev_network import Architecture, BevNetworkConfig
from occlift.town.config import TownConfig
from occlift.training.bev import FinetuneConfig
from occlift.training.corrupt import CORRUPTIONS
from occlift.training.occfeat import PretrainConfig
from occlift.training.optimizer import OptimizerConfig
from runner import Plan, make_parser, run_experiment
from runs import CHECKPOINT, Runs, describe_town
from tables import ALL_VEHICLES, MEMORY, STEP, VEHICLE, Claim, Row, Table

Start = Literal["none", "occupancy", "features", "both", "both-labels"]

STARTS: Final[dict[Start, str]] = {
    "none": "no pretraining",
    "occupancy": "occupancy",
    "features": "features",
    "both": "both",
    "both-labels": "both, labels instead of lidar",
}

FRAMES: Final = 13
"""Number of key frames fused in the labels that stand in for the lidar."""

SHARES: Final = (0.01, 0.1, 1.0)
"""Shares of the labels."""

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
    """What a size means: configurations, and numbers of seeds.

    Attributes:
        pretrain: pretraining of both terms, from the lidar.
        finetune: fine-tuning; its numbers of steps are `finetune_steps`.
        finetune_steps: number of steps by share of the labels: few are soon learned by heart, many take longer.
        longer_seeds: number of seeds of table (e).
    """

    town: TownConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    finetune_steps: dict[float, int]
    seeds: int = 3
    longer_seeds: int


def _scale(size: str) -> _Scale:
    town = TownConfig(scenes=30, frames=13, seed=0, image_height=96, image_width=176, maps=True)
    pretrain, finetune = PretrainConfig.demo(), FinetuneConfig.demo()
    if size == "small":
        steps = {0.01: 300, 0.1: 400, 1.0: 800}
        return _Scale(town=town, pretrain=pretrain, finetune=finetune, finetune_steps=steps, seeds=5, longer_seeds=5)
    if size == "smoke":
        return _Scale(
            town=replace(town, scenes=2, frames=2), pretrain=replace(pretrain, optimizer=OptimizerConfig(steps=2)),
            finetune=finetune, finetune_steps=dict.fromkeys(SHARES, 2), seeds=1, longer_seeds=1,
        )  # fmt: skip
    network, optimizer = BevNetworkConfig.full("simple_bev"), OptimizerConfig(steps=3000, learning_rate=3e-4)
    head = replace(pretrain.head, channels=32, blocks=2, horizontal_stride=1)
    return _Scale(
        town=TownConfig(scenes=60, frames=20, seed=0, image_height=224, image_width=400, maps=True),
        pretrain=replace(pretrain, model=network, head=head, optimizer=optimizer, workers=4),
        finetune=replace(finetune, model=network, optimizer=optimizer, workers=4),
        finetune_steps={0.01: 500, 0.1: 1000, 1.0: 1500},
        longer_seeds=3,
    )


class _Runs(Runs):
    """The runs that the tables ask for, each once, what is needed before what needs it."""

    def __init__(self, scale: _Scale, out: Path) -> None:
        super().__init__(out)
        self.scale, self.root = scale, self.add_town(scale.town)
        config = LabelConfig(frames=FRAMES, decision=DecisionConfig(fusion="votes"))
        self.add_labels(str(FRAMES), config, self.root, ("data",))

    def finetuned(
        self, network: Architecture, start: Start, share: float, *, rate: float = 1.0, longer: int = 1, seeds: int = 0
    ) -> tuple[str, ...]:
        """Adds fine-tunings and the pretrainings that they go on from, and gives their names.

        Args:
            rate: factor of the learning rate.
            longer: factor of the number of steps.
            seeds: number of seeds; 0: that of most tables.
        """
        other = ("" if rate == 1 else f"-rate{rate:g}") + ("" if longer == 1 else f"-x{longer}")
        name = f"{network}-{start}-{round(100 * share)}{other}"
        return tuple(
            self._finetuned(
                f"{name}-s{seed}", self._pretrained(network, start, seed), network, share, seed, rate, longer
            )
            for seed in range(seeds or self.scale.seeds)
        )

    def blind(self) -> tuple[str, ...]:
        """Adds a network that is trained on grey images and all labels, and gives its name."""
        return (self._finetuned("simple_bev-blind-100-s0", None, "simple_bev", 1.0, blind=True),)

    def corrupted(self, networks: tuple[str, ...]) -> tuple[str, ...]:
        """Adds the scores of fine-tuned networks under corruptions, and gives their names."""
        score = partial(calls.score_corrupted, root=self.root, score=VEHICLE)
        return tuple(
            self.add(f"{name}-corrupted", (name,), call=partial(score, checkpoint=self.out / name / CHECKPOINT))
            for name in networks
        )

    def _finetuned(
        self, name: str, origin: str | None, network: Architecture, share: float, seed: int = 0, rate: float = 1.0,
        longer: int = 1, *, blind: bool = False,
    ) -> str:  # fmt: skip
        base, steps = self.scale.finetune, longer * self.scale.finetune_steps[share]
        optimizer = replace(base.optimizer, steps=steps, learning_rate=rate * base.optimizer.learning_rate)
        config = replace(
            base, model=_sized(base.model, network), optimizer=optimizer, labels=share, label_seed=seed, seed=seed,
            blind=blind,
        )  # fmt: skip
        pretrained = self.out / origin / CHECKPOINT if origin else None
        train = partial(calls.finetune, root=self.root, pretrained=pretrained, config=config)
        score = partial(calls.score_bev, root=self.root, checkpoint=self.out / name / CHECKPOINT)
        return self.add(name, (origin or "data",), train, score)

    def _pretrained(self, network: Architecture, start: Start, seed: int) -> str | None:
        if start == "none":
            return None
        base, labels = self.scale.pretrain, start == "both-labels"
        # Alone, the feature term needs no factor beside another one.
        occupancy, features = {"occupancy": (1.0, 0.0), "features": (0.0, 1.0)}.get(start, (1.0, base.loss.features))
        config = replace(
            base, model=_sized(base.model, network), seed=seed, occupancy="labels" if labels else "lidar",
            loss=replace(base.loss, occupancy=occupancy, features=features),
        )  # fmt: skip
        train = partial(
            calls.pretrain, root=self.root, labels=self.labels_folder(str(FRAMES)) if labels else None,
            features=self.out / "features", config=config,
        )  # fmt: skip
        needs = (f"labels-{FRAMES}" if labels else "data",)
        return self.add(f"{network}-pretrain-{start}-s{seed}", needs, train)


def _sized(model: BevNetworkConfig, architecture: Architecture) -> BevNetworkConfig:
    """The network of another architecture, small where `model` is small."""
    if model.architecture == architecture:
        return model
    demo = model == BevNetworkConfig.demo(model.architecture)
    return BevNetworkConfig.demo(architecture) if demo else BevNetworkConfig.full(architecture)


def occfeat_plan(size: str, out: Path) -> Plan:
    """The runs and tables of OccFeat."""
    scale = _scale(size)
    runs, steps, rate = _Runs(scale, out), scale.finetune_steps[1.0], scale.finetune.optimizer.learning_rate
    rates = {f"learning rate {factor * rate:g}": {"rate": factor} for factor in (2.0, 1.0, 0.5)}
    lengths = {f"{factor * steps} steps": {"longer": factor, "seeds": scale.longer_seeds} for factor in (1, 3)}
    tables = (
        _simple_bev(runs),
        _bevformer(runs),
        _corrupted(runs),
        _variants(runs, "d", "SimpleBEV with 1 % of the labels, by learning rate", 0.01, rates),
        _variants(runs, "e", "SimpleBEV with all labels, by steps", 1.0, lengths),
    )
    data = f"{describe_town(scale.town)}; teacher of features {scale.pretrain.teacher}"
    return Plan(name="occfeat", size=size, runs=runs, data=data, reading=_READING, tables=tables)


def _label(start: Start, share: float) -> str:
    return f"{round(100 * share)} %: {STARTS[start]}"


def _rows(runs: _Runs, network: Architecture, starts: Iterable[Start]) -> list[Row]:
    return [Row(_label(start, share), runs.finetuned(network, start, share)) for share in SHARES for start in starts]


def _gains(paper: Mapping[float, str]) -> list[Claim]:
    """What pretraining by both adds with every share, and that it adds more with the smaller of two.

    Args:
        paper: the paper's gains by share; empty: it has none.
    """
    both = {share: _label("both", share) for share in SHARES}
    none = {share: _label("none", share) for share in SHARES}
    percent = {share: f"{round(100 * share)} %" for share in SHARES}
    alone = [
        Claim(f"pretraining by both adds with {percent[share]}", VEHICLE, both[share], none[share],
              paper=paper.get(share, ""), paired=True)
        for share in SHARES
    ]  # fmt: skip
    return alone + [
        Claim(f"it adds more with {percent[few]} than with {percent[many]}", VEHICLE, both[few], none[few],
              over=(both[many], none[many]), paired=True,
              paper=f"{float(paper[few]) - float(paper[many]):+.1f}" if paper else "")
        for few, many in combinations(SHARES, 2)
    ]  # fmt: skip


def _simple_bev(runs: _Runs) -> Table:
    added: tuple[tuple[str, Start, Start], ...] = (
        ("occupancy alone adds with 1 %", "occupancy", "none"),
        ("features alone add with 1 %", "features", "none"),
        ("both without lidar add with 1 %", "both-labels", "none"),
        ("features add to occupancy with 1 %", "both", "occupancy"),
    )
    return Table(
        letter="a",
        title="SimpleBEV, fine-tuned with 1 %, 10 % and 100 % of the labels",
        scores=(VEHICLE, ALL_VEHICLES),
        rows=(Row("100 %: blind (grey images)", runs.blind(), context=True), *_rows(runs, "simple_bev", STARTS)),
        claims=(
            *_gains(PAPER_GAINS),
            *(Claim(text, VEHICLE, _label(row, 0.01), _label(than, 0.01), paired=True) for text, row, than in added),
        ),
    )


def _bevformer(runs: _Runs) -> Table:
    return Table(
        letter="b", title="BEVFormer, the same", scores=(VEHICLE, ALL_VEHICLES, STEP, MEMORY),
        rows=tuple(_rows(runs, "bevformer", ("none", "both"))), claims=tuple(_gains({})),
    )  # fmt: skip


def _corrupted(runs: _Runs) -> Table:
    scores = tuple(f"{VEHICLE}_{name}" for name in CORRUPTIONS)
    both, none = STARTS["both"], STARTS["none"]
    starts: tuple[Start, ...] = ("none", "both")
    return Table(
        letter="c",
        title="SimpleBEV with all labels, on corrupted images",
        scores=(VEHICLE, *scores),
        rows=tuple(Row(STARTS[start], runs.corrupted(runs.finetuned("simple_bev", start, 1.0))) for start in starts),
        claims=tuple(Claim("pretraining by both adds", score, both, none, paired=True) for score in scores),
        notes=("Of each corruption the mean over five strengths (`occlift.training.corrupt`).",),
    )


def _variants(runs: _Runs, letter: str, title: str, share: float, variants: Mapping[str, Mapping[str, Any]]) -> Table:
    """No pretraining beside both, SimpleBEV, fine-tuned in several ways."""
    rows, claims = [], []
    for name, options in variants.items():
        none, both = (
            Row(f"{name}: {STARTS[start]}", runs.finetuned("simple_bev", start, share, **options))
            for start in ("none", "both")
        )
        rows += [none, both]
        claims.append(Claim(f"pretraining by both adds with {name}", VEHICLE, both.label, none.label, paired=True))
    scores = (VEHICLE, ALL_VEHICLES)
    return Table(letter=letter, title=title, scores=scores, rows=tuple(rows), claims=tuple(claims))


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    tables = "a SimpleBEV, b BEVFormer, c corrupted images, d learning rates, e more steps"
    options = make_parser("occfeat", f"Make the tables of OccFeat, on a town: {tables}.").parse_args(arguments)
    return run_experiment(options, lambda out: occfeat_plan(options.size, out))


if __name__ == "__main__":
    sys.exit(main())
