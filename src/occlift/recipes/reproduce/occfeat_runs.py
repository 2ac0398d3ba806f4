"""The networks of OccFeat's tables, as runs: which pretrainings and fine-tunings there are, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from occlift.models.bev_network import Architecture, BevNetworkConfig
from occlift.recipes.reproduce.plan import Corrupted, Finetuning, Pretraining, Run
from occlift.town.config import TownConfig
from occlift.training.bev import FinetuneConfig
from occlift.training.occfeat import PretrainConfig
from occlift.training.optimizer import OptimizerConfig

Size = Literal["smoke", "small", "full"]
Start = Literal["none", "occupancy", "features", "both", "both-labels"]

FRAMES: Final = 13
"""Key frames fused in the labels that stand in for the lidar."""

SHARES: Final = (0.01, 0.1, 1.0)
"""Of the labels."""


@dataclass(frozen=True, kw_only=True)
class Scale:
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


def scale_of(size: Size) -> Scale:
    """`small` is for two cores, `full` for a GPU; minutes are estimates."""
    pretrain, finetune = PretrainConfig.demo(), FinetuneConfig.demo()
    town = TownConfig(scenes=30, frames=13, seed=0, image_height=96, image_width=176, maps=True)
    if size == "smoke":
        return Scale(
            town=replace(town, scenes=2, frames=2),
            pretrain=replace(pretrain, optimizer=OptimizerConfig(steps=2)),
            finetune=finetune, finetune_steps=dict.fromkeys(SHARES, 2),
            seeds=1, former_seeds=1, longer_seeds=1, label_minutes=0.1, pretrain_minutes=0.2, finetune_minutes=0.2,
            corrupted_minutes=0.2,
        )  # fmt: skip
    if size == "small":
        return Scale(
            town=town, pretrain=pretrain, finetune=finetune, finetune_steps={0.01: 300, 0.1: 400, 1.0: 800}, seeds=3,
            former_seeds=3, longer_seeds=1, label_minutes=2.0, pretrain_minutes=4.0, finetune_minutes=1.4,
            corrupted_minutes=2.0,
        )  # fmt: skip
    network = BevNetworkConfig.paper("simple_bev")
    return Scale(
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


class Networks:
    """Collects the runs that the tables ask for, each once, what is needed before what needs it."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.runs: dict[str, Run] = {}

    def finetuned(
        self, architecture: Architecture, start: Start, share: float, seeds: int, *, rate: float = 1.0, longer: int = 1
    ) -> tuple[str, ...]:
        """Adds fine-tunings and the pretrainings that they go on from, and gives their names.

        Args:
            rate: a factor of the learning rate.
            longer: a factor of the number of steps.
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
