"""Scores of bird's-eye-view networks, also on corrupted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from occlift.evaluation.by_scene import SceneCounts, added
from occlift.metrics.bev import BevCounts
from occlift.runtime.devices import Precision, default_device, lightning_precision, torch_device
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, split_tokens
from occlift.training.corrupt import Corruption


@dataclass(frozen=True, kw_only=True)
class BevEvaluation:
    """Scores of a network on a split.

    Attributes:
        checkpoint: what was scored.
        tokens: the key frames, sorted.
        corruption: what was done to the images; None: nothing.
        counts: of the object classes, and of the map classes if the network knows any.
        scenes: the same, by scene (`by_scene.scene_draws`).
    """

    checkpoint: Path
    tokens: tuple[str, ...]
    corruption: Corruption | None
    counts: tuple[BevCounts, ...]
    scenes: SceneCounts = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Number of key frames."""
        return len(self.tokens)

    def named(self) -> dict[str, float]:
        """Every IoU by its full name, per cent (`occlift.metrics.bev`)."""
        return {name: iou for counts in self.counts for name, iou in counts.named().items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; IoUs that have no cells are None."""
        named: Mapping[str, float] = self.named()
        return {
            "checkpoint": str(self.checkpoint),
            "frames": self.frames,
            "corruption": None if self.corruption is None else asdict(self.corruption),
            "scores": {name: None if np.isnan(iou) else iou for name, iou in named.items()},
            "tokens": list(self.tokens),
        }


def evaluate_bev(
    data: DrivingDataset,
    checkpoint: Path,
    *,
    split: str = "val",
    corruptions: Sequence[Corruption | None] = (None,),
    precision: Precision = "auto",
    device: str | None = None,
) -> list[BevEvaluation]:
    """Scores a network on a split, once for every way in which its images are corrupted.

    Args:
        checkpoint: of a `BevFinetuning`; a network that was trained blind is given grey images.
        corruptions: None among them: the images as they are.
        device: as torch names it; None: an accelerator where there is one, else the CPU.

    Raises:
        ConfigError: the network is blind: there is nothing to corrupt; or it was trained on other cameras.
        DataError: checkpoint, data or maps are missing or damaged.
    """
    import torch

    from occlift.training.bev_frames import BevFrames
    from occlift.training.bev_task import BevScores
    from occlift.training.checkpoint import check_cameras, load_bev_network, trained_blind

    network, blind = load_bev_network(checkpoint), trained_blind(checkpoint)
    check_cameras(checkpoint, data)
    config = network.config
    tokens = split_tokens(data, split)
    scene_of = {token: scene for scene in data.scenes(split) for token in data.key_frame_tokens(scene)}
    target = torch_device(device or default_device())
    network.to(target)
    bf16 = lightning_precision(precision, target.type) == "bf16-mixed"
    found = []
    for corruption in corruptions:
        frames = BevFrames(
            data, tokens, height=config.image_height, width=config.image_width, classes=config.classes,
            blind=blind, corruption=corruption,
        )  # fmt: skip
        scores: dict[str, BevScores] = {}
        what = "evaluate" if corruption is None else f"{corruption.name} {corruption.strength}"
        for index in track(range(len(frames)), what):
            batch = frames[index].to(target)
            with torch.inference_mode(), torch.autocast(target.type, dtype=torch.bfloat16, enabled=bf16):
                probability = network(batch.frame.images, batch.frame.rig).segmentation.float().sigmoid()
            scores.setdefault(scene_of[tokens[index]], BevScores(config.classes)).update(probability, batch)
        scenes = {scene: tuple(score.counts for score in counted) for scene, counted in scores.items()}
        found.append(
            BevEvaluation(
                checkpoint=checkpoint, tokens=tuple(sorted(tokens)), corruption=corruption,
                counts=added(scenes.values()), scenes=scenes,
            )
        )  # fmt: skip
    return found
