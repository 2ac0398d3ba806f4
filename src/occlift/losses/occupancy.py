"""The loss of class logits per voxel: which voxels enter it, and which terms it has.

*Cross-entropy*: the weighted mean over the voxels, Σ w (1 − p_y)^γ (−log p_y) / Σ w, with w the weight of the class y
times the confidence of the label. The weights of the classes come from their frequency f in the training labels: 1,
1/√f or 1/log f (the two forms in use in this field). γ = 0 is the cross-entropy, γ > 0 the focal loss (Lin et al., ICCV
2017, eq. 4), here divided by the same Σ w.

*Lovász*: `occlift.losses.lovasz`. *Scene-class affinity*: `occlift.losses.scal`.

Voxels labelled unknown (255) take no part in any term, unless the configuration counts them as free.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from occlift.errors import ConfigError, DataError
from occlift.label_space import FREE, UNKNOWN
from occlift.losses.lovasz import lovasz_geometric, lovasz_occupied, lovasz_softmax
from occlift.losses.scal import geo_scal, sem_scal

ClassWeighting = Literal["none", "inverse_sqrt", "inverse_log"]
LovaszForm = Literal["classes", "geometric", "both", "split"]
UnknownVoxels = Literal["ignore", "free"]


@dataclass(frozen=True, kw_only=True)
class OccupancyLossConfig:
    """Which terms, and over how many voxels.

    Attributes:
        class_weighting: class weights of the cross-entropy, from the labels' frequencies f.
        cross_entropy: weight of the cross-entropy.
        focal_gamma: exponent γ of the focal loss; 0: cross-entropy.
        lovasz: weight of the Lovász terms; 0 leaves them out.
        lovasz_form: choice of Lovász terms. `classes`: over all classes, free among them. `geometric`: occupied against
            free. `both`: their sum. `split`: `geometric`, plus the semantic classes among the occupied voxels.
        geo_scal: weight of the affinity loss of occupied and free; 0 leaves it out.
        sem_scal: weight of the affinity loss of the classes; 0 leaves it out.
        unknown: treatment of unknown voxels: left out (ignore), or free.
        max_voxels: at most so many of the voxels that take part, drawn at random at every step, enter the cross-entropy
            and the affinity losses; None: all.
        max_lovasz_voxels: at most so many of those enter the Lovász terms, whose sort dominates the loss's cost
            (18 × 640,000 errors take longer than a small network); None: all.
    """

    class_weighting: ClassWeighting = "inverse_sqrt"
    cross_entropy: float = 1.0
    focal_gamma: float = 0.0
    lovasz: float = 1.0
    lovasz_form: LovaszForm = "classes"
    geo_scal: float = 0.0
    sem_scal: float = 0.0
    unknown: UnknownVoxels = "ignore"
    max_voxels: int | None = None
    max_lovasz_voxels: int | None = 60_000

    def __post_init__(self) -> None:
        factors = {name: getattr(self, name) for name in ("cross_entropy", "lovasz", "geo_scal", "sem_scal")}
        # Not `factor < 0`: that would let through what is not a number.
        if not all(0 <= factor < math.inf for factor in factors.values()) or not any(factors.values()):
            raise ConfigError(f"loss factors must be finite and not negative, and one must be positive: {factors}")
        if not self.focal_gamma >= 0:
            raise ConfigError(f"focal_gamma is {self.focal_gamma}; expected 0 (plain cross-entropy) or more")
        for name, value, allowed in (
            ("class_weighting", self.class_weighting, get_args(ClassWeighting)),
            ("lovasz_form", self.lovasz_form, get_args(LovaszForm)),
            ("unknown", self.unknown, get_args(UnknownVoxels)),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
        if any(limit is not None and limit < 1 for limit in (self.max_voxels, self.max_lovasz_voxels)):
            raise ConfigError("a loss needs at least one voxel: max_voxels and max_lovasz_voxels must be positive")


def class_weights(counts: Int[Tensor, "classes"], weighting: ClassWeighting) -> Float[Tensor, "classes"]:
    """Weights of the classes from their voxel counts in the training labels, with mean 1 over the classes that occur.

    Classes that never occur get weight 0; they cannot be a target. For 1/log f, f is the count itself (not below
    2), as usual in this field. Where unknown voxels count as free, they belong to the count of free
    (`occlift.labels.folder.count_classes` counts either way).
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
    labels: UInt8[Tensor, "*volume"],
    *,
    confidence: Shaped[Tensor, "*volume"] | None = None,
    limit: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "n"]:
    """Indices into the flattened labels of the voxels that are known; of more than `limit` a random subset.

    Args:
        confidence: voxels in which it is 0 are left out like unknown ones.
        generator: on the CPU, so that the choice is the same on every device.
    """
    known = labels != UNKNOWN
    if confidence is not None:
        known = known & (confidence > 0)
    index = known.flatten().nonzero()[:, 0]
    if limit is None or len(index) <= limit:
        return index
    return index[_random_subset(len(index), limit, generator).to(index.device)]


def cross_entropy(
    logits: Float[Tensor, "n classes"],
    labels: Int[Tensor, "n"],
    weights: Float[Tensor, "classes"] | None = None,
    *,
    confidence: Float[Tensor, "n"] | None = None,
    focal_gamma: float = 0.0,
) -> Float[Tensor, ""]:
    """The weighted mean of (1 − p(label))^γ · (−log p(label)); 0 without voxels or where all weights are 0.

    Args:
        weights: of the classes; None: all 1.
        confidence: of the labels, not negative; it multiplies the class weight, in the mean's denominator too. None:
            all 1.
        focal_gamma: γ, not negative.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if confidence is None and focal_gamma == 0:
        if weights is None:
            return F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
        total = F.cross_entropy(logits, labels, weights, reduction="sum")
        return total / weights[labels].sum().clamp(min=torch.finfo(weights.dtype).tiny)
    terms = F.cross_entropy(logits, labels, reduction="none")
    if focal_gamma > 0:
        # 1 − p from log p. Not 0: for γ < 1 the power would have an infinite slope there.
        terms = terms * (-(-terms).expm1()).clamp(min=1e-30) ** focal_gamma
    weight = torch.ones_like(terms) if weights is None else weights[labels]
    if confidence is not None:
        weight = weight * confidence
    return (weight * terms).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def with_unknown_as(
    unknown: UnknownVoxels,
    labels: UInt8[Tensor, "*volume"],
    confidence: Shaped[Tensor, "*volume"] | None,
    *,
    free: int = FREE,
) -> tuple[UInt8[Tensor, "*volume"], Float[Tensor, "*volume"] | None]:
    """Labels and confidence 0..1 after unknown voxels became what the configuration says.

    Args:
        confidence: bool, integers 0..255 for 0..1 (as in label files), or floats 0..1. Unknown voxels that count as
            free get confidence 1: nothing was seen there, so whatever a file says about them is 0. A bool is a mask,
            not a file's word about the label: where it is false, they stay out.
    """
    is_mask = confidence is not None and confidence.dtype == torch.bool
    if confidence is not None:
        scale = 1.0 if is_mask or confidence.is_floating_point() else 255.0
        confidence = confidence.float() / scale
    if unknown == "ignore":
        return labels, confidence
    is_unknown = labels == UNKNOWN
    labels = labels.masked_fill(is_unknown, free)
    return labels, confidence if confidence is None or is_mask else confidence.masked_fill(is_unknown, 1.0)


def occupancy_loss(
    logits: Float[Tensor, "batch classes x y z"],
    labels: UInt8[Tensor, "batch x y z"],
    *,
    weights: Float[Tensor, "classes"],
    config: OccupancyLossConfig,
    confidence: Shaped[Tensor, "batch x y z"] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The terms of the loss by name, each with its factor applied; their sum is the loss.

    Args:
        labels: class ids, the last class is free; 255 unknown.
        weights: of the classes, as `class_weights` gives them.
        confidence: of the labels: bool, integers 0..255 for 0..1, or floats 0..1. It weighs the voxels of the
            cross-entropy; voxels in which it is 0 take no part in any term. None: 1 everywhere.
        generator: draws the voxels where a limit applies; on the CPU.

    Returns:
        `cross_entropy` always; `lovasz`, `lovasz_geometric`, `lovasz_occupied`, `geo_scal`, `sem_scal` where the
        configuration asks for them. All are 0 where no voxel takes part.

    Raises:
        DataError: logits, labels and weights do not fit one another.
    """
    if labels.shape != (logits.shape[0], *logits.shape[2:]) or logits.shape[1] != len(weights):
        raise DataError(
            f"logits of shape {list(logits.shape)} [batch, classes, x, y, z] do not fit labels of shape "
            f"{list(labels.shape)} and {len(weights)} weights of classes; are the labels of another grid or class list?"
        )
    return drawn_occupancy_loss(
        lambda index: voxel_rows(logits, index),
        labels,
        weights=weights,
        config=config,
        confidence=confidence,
        generator=generator,
    )


def drawn_occupancy_loss(
    rows: Callable[[Int[Tensor, "n"]], Float[Tensor, "n classes"]],
    labels: UInt8[Tensor, "batch x y z"],
    *,
    weights: Float[Tensor, "classes"],
    config: OccupancyLossConfig,
    confidence: Shaped[Tensor, "batch x y z"] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """`occupancy_loss` of a network that is asked for the logits of the drawn voxels only; the same draws.

    Args:
        rows: gives the logits of the voxels whose indices, into the flattened labels and ascending, it is called with.
        labels: and everything else as for `occupancy_loss`.
    """
    labels, confidence = with_unknown_as(config.unknown, labels, confidence, free=len(weights) - 1)
    index = known_voxels(labels, confidence=confidence, limit=config.max_voxels, generator=generator)
    return voxel_terms(
        rows(index).float(),
        labels.flatten()[index].long(),
        confidence=None if confidence is None else confidence.flatten()[index],
        weights=weights,
        config=config,
        generator=generator,
    )


def voxel_rows(logits: Float[Tensor, "batch classes x y z"], index: Int[Tensor, "n"]) -> Float[Tensor, "n classes"]:
    """The logits of some voxels, float32; `index` is into the flattened [batch, x, y, z]."""
    # Its backward pass is a third of that of indexing or of an embedding look-up.
    return logits.movedim(1, -1).reshape(-1, logits.shape[1]).index_select(0, index).float()


def voxel_terms(
    logits: Float[Tensor, "n classes"],
    labels: Int[Tensor, "n"],
    *,
    confidence: Float[Tensor, "n"] | None,
    weights: Float[Tensor, "classes"],
    config: OccupancyLossConfig,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The terms of `occupancy_loss` over voxels that were chosen already: class ids, confidence 0..1."""
    entropy = cross_entropy(logits, labels, weights, confidence=confidence, focal_gamma=config.focal_gamma)
    terms = {"cross_entropy": config.cross_entropy * entropy}
    if config.geo_scal > 0:
        terms["geo_scal"] = config.geo_scal * geo_scal(logits, labels)
    if config.sem_scal > 0:
        terms["sem_scal"] = config.sem_scal * sem_scal(logits, labels)
    if config.lovasz > 0:
        limit = config.max_lovasz_voxels
        if limit is not None and len(labels) > limit:
            chosen = _random_subset(len(labels), limit, generator).to(labels.device)
            logits, labels = logits.index_select(0, chosen), labels[chosen]
        if config.lovasz_form in ("classes", "both"):
            terms["lovasz"] = config.lovasz * lovasz_softmax(logits, labels)
        if config.lovasz_form in ("geometric", "both", "split"):
            terms["lovasz_geometric"] = config.lovasz * lovasz_geometric(logits, labels)
        if config.lovasz_form == "split":
            terms["lovasz_occupied"] = config.lovasz * lovasz_occupied(logits, labels)
    return terms


def _random_subset(count: int, size: int, generator: torch.Generator | None) -> Int[Tensor, "size"]:
    """`size` different numbers below `count`, ascending."""
    chosen = torch.zeros(count, dtype=torch.bool)
    return chosen.index_fill_(0, torch.randperm(count, generator=generator)[:size], True).nonzero()[:, 0]
