"""OccFeat's loss (arXiv 2404.14027): L = L_occ + λ·L_feat, and a term of classes of our own."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Integer, UInt8
from torch import Tensor
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.label_space import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class OccFeatLossConfig:
    """Factors of the terms; 0 leaves a term out.

    Attributes:
        occupancy: weight of the occupancy loss, a binary cross-entropy over the voxels that are known; 0: features
            only.
        features: weight λ of the feature loss, one minus the cosine similarity, over the voxels that have a target;
            0: occupancy only. Its default is ours.
        classes: weight of the class loss, a cross-entropy over the occupied voxels of known class; needs occupancy from
            labels.
        positive_weight: weight of an occupied voxel against an open one; that none is heavier is our choice.
    """

    occupancy: float = 1.0
    features: float = 0.01
    classes: float = 0.0
    positive_weight: float = 1.0

    def __post_init__(self) -> None:
        factors = (self.occupancy, self.features, self.classes)
        if min(factors) < 0 or max(factors) <= 0 or self.positive_weight <= 0:
            raise ConfigError(f"loss factors must not be negative, and one must be positive: {self}")


def occupancy_term(
    logits: Float[Tensor, "*voxels"], occupancy: UInt8[Tensor, "*voxels"], *, positive_weight: float = 1.0
) -> Float[Tensor, ""]:
    """Binary cross-entropy, the mean over known voxels; zero without any.

    Args:
        occupancy: 0 open, 1 occupied, 255 unknown.
    """
    known = occupancy != UNKNOWN
    per_voxel = F.binary_cross_entropy_with_logits(
        logits.float(),
        (occupancy == 1).float(),
        reduction="none",
        pos_weight=logits.new_tensor(positive_weight).float(),
    )
    return (per_voxel * known).sum() / known.sum().clamp(min=1)


def feature_term(
    predicted: Float[Tensor, "voxels channels"], target: Float[Tensor, "voxels channels"]
) -> Float[Tensor, ""]:
    """One minus the cosine similarity, the mean over voxels; zero without any."""
    similarity = F.cosine_similarity(predicted.float(), target.float(), dim=1)
    return (1 - similarity).sum() / max(len(similarity), 1)


def class_term(logits: Float[Tensor, "voxels classes"], classes: Integer[Tensor, "voxels"]) -> Float[Tensor, ""]:
    """Cross-entropy, the mean over voxels; zero without any."""
    return F.cross_entropy(logits.float(), classes.long(), reduction="sum") / max(len(classes), 1)
