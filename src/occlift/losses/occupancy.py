"""Losses of class logits per voxel: class-weighted cross-entropy and Lovász-softmax.

*Cross-entropy*: the weighted mean over the voxels, Σ w_y · (−log p_y) / Σ w_y. The weights of the classes come from
their frequency f in the training labels: 1, 1/√f or 1/log f (the two forms in use in this field).

*Lovász-softmax* (Berman et al., CVPR 2018, algorithm 1): for class c with foreground y = c and errors
m_i = |[y_i = c] − p_i(c)|, sort the errors in descending order and sum m_i · (J_i − J_{i−1}), where J_i is the Jaccard
loss of the set of the i first voxels, J_i = 1 − (G − Σ_{k≤i} fg_k) / (G + Σ_{k≤i} (1 − fg_k)), and G counts the
foreground. The loss is the mean over the classes that are present in the labels.

Voxels labelled unknown (255) take no part in either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from occlift.classes import NUM_CLASSES, UNKNOWN
from occlift.errors import ConfigError

ClassWeighting = Literal["none", "inverse_sqrt", "inverse_log"]


@dataclass(frozen=True, kw_only=True)
class OccupancyLossConfig:
    """Which terms, and over how many voxels.

    Attributes:
        class_weighting: of the cross-entropy.
        cross_entropy: factor of the term.
        lovasz: factor of the term; 0 leaves it out.
        max_voxels: at most so many known voxels, drawn at random at every step, enter the cross-entropy; None: all.
        max_lovasz_voxels: at most so many of those enter the Lovász term, whose sort dominates the loss's cost
            (18 × 640,000 errors take longer than a small network); None: all.
    """

    class_weighting: ClassWeighting = "inverse_sqrt"
    cross_entropy: float = 1.0
    lovasz: float = 1.0
    max_voxels: int | None = None
    max_lovasz_voxels: int | None = 60_000

    def __post_init__(self) -> None:
        if self.cross_entropy < 0 or self.lovasz < 0:
            raise ConfigError(f"loss factors must not be negative: {self.cross_entropy}, {self.lovasz}")
        if any(limit is not None and limit < 1 for limit in (self.max_voxels, self.max_lovasz_voxels)):
            raise ConfigError("a loss needs at least one voxel: max_voxels and max_lovasz_voxels must be positive")


def class_weights(counts: Int[Tensor, "classes"], weighting: ClassWeighting) -> Float[Tensor, "classes"]:
    """Weights of the classes from their voxel counts in the training labels, with mean 1 over the classes that occur.

    Classes that never occur get weight 0; they cannot be a target. For 1/log f, f is the count itself (not below
    2), as usual in this field.
    """
    occurs = counts > 0
    frequency = counts.double()
    if weighting == "none":
        weights = torch.ones_like(frequency)
    elif weighting == "inverse_sqrt":
        weights = frequency.clamp(min=1).rsqrt()
    elif weighting == "inverse_log":
        weights = 1 / frequency.clamp(min=2).log()
    else:
        raise ConfigError(f"class weighting {weighting!r} is not none, inverse_sqrt or inverse_log")
    weights = torch.where(occurs, weights, 0.0)
    return (weights / (weights.sum() / occurs.sum().clamp(min=1)).clamp(min=1e-300)).float()


def known_voxels(
    labels: UInt8[Tensor, "*volume"], *, limit: int | None = None, generator: torch.Generator | None = None
) -> Int[Tensor, "n"]:
    """Indices into the flattened labels of the voxels that are known; of more than `limit` a random subset.

    Args:
        generator: on the CPU, so that the choice is the same on every device.
    """
    index = (labels.flatten() != UNKNOWN).nonzero()[:, 0]
    if limit is None or len(index) <= limit:
        return index
    return index[_random_subset(len(index), limit, generator).to(index.device)]


def cross_entropy(
    logits: Float[Tensor, "n classes"], labels: Int[Tensor, "n"], weights: Float[Tensor, "classes"] | None = None
) -> Float[Tensor, ""]:
    """The class-weighted mean of −log p(label); 0 without voxels or where all weights of the labels are 0."""
    if weights is None:
        return F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
    total = F.cross_entropy(logits, labels, weights, reduction="sum")
    return total / weights[labels].sum().clamp(min=torch.finfo(weights.dtype).tiny)


def lovasz_softmax(logits: Float[Tensor, "n classes"], labels: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """The Lovász extension of the Jaccard loss, mean over the classes present in `labels`; 0 without voxels."""
    probabilities = logits.softmax(-1, dtype=logits.dtype if logits.dtype == torch.float64 else torch.float32)
    present = labels.bincount(minlength=logits.shape[-1]).nonzero()[:, 0]
    if len(present) == 0:
        return probabilities.sum()
    foreground = labels == present[:, None]
    errors = (foreground.to(probabilities.dtype) - probabilities.T[present]).abs()
    # The extension is linear in the errors as long as their order does not change, so its gradient is the vector of
    # slopes: no need to differentiate through sort, gather and cumulative sums.
    with torch.no_grad():
        order = errors.argsort(dim=-1, descending=True)
        hits = foreground.gather(1, order).to(errors.dtype).cumsum(1)
        total = hits[:, -1:]
        misses = torch.arange(1, errors.shape[1] + 1, device=errors.device, dtype=errors.dtype) - hits
        jaccard = 1 - (total - hits) / (total + misses)
        slopes = torch.zeros_like(errors).scatter_(1, order, jaccard.diff(dim=1, prepend=torch.zeros_like(total)))
    return (errors * slopes).sum(1).mean()


def occupancy_loss(
    logits: Float[Tensor, "batch classes x y z"],
    labels: UInt8[Tensor, "batch x y z"],
    *,
    weights: Float[Tensor, "classes"],
    config: OccupancyLossConfig,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The terms of the loss by name, each with its factor applied; their sum is the loss.

    Args:
        labels: 0..17, 255 unknown.
        weights: of the classes, as `class_weights` gives them.
        generator: draws the voxels where a limit applies; on the CPU.
    """
    assert logits.shape[1] == NUM_CLASSES, logits.shape
    assert labels.shape == (logits.shape[0], *logits.shape[2:]), (logits.shape, labels.shape)
    index = known_voxels(labels, limit=config.max_voxels, generator=generator)
    target = labels.flatten()[index].long()
    # An embedding look-up is a gather whose backward pass is parallel; that of indexing is not.
    rows = F.embedding(index, logits.movedim(1, -1).reshape(-1, NUM_CLASSES)).float()
    terms = {"cross_entropy": config.cross_entropy * cross_entropy(rows, target, weights)}
    if config.lovasz > 0:
        limit = config.max_lovasz_voxels
        if limit is not None and len(index) > limit:
            chosen = _random_subset(len(index), limit, generator).to(index.device)
            rows, target = F.embedding(chosen, rows), target[chosen]
        terms["lovasz"] = config.lovasz * lovasz_softmax(rows, target)
    return terms


def _random_subset(count: int, size: int, generator: torch.Generator | None) -> Int[Tensor, "size"]:
    """`size` different numbers below `count`, ascending."""
    return torch.randperm(count, generator=generator)[:size].sort().values
