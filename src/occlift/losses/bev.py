"""The loss of bird's-eye-view segmentation with centres and offsets of objects, after SimpleBEV (arXiv 2206.07959).

*Segmentation*: binary cross-entropy per class and cell, cells of the class weighted by `positive_weight` (2.13 is
SimpleBEV's for vehicles). Cells that the visibility filter leaves out take no part.

*Centre*: balanced squared error of the heat map, ½ (mean over cells whose target is above ½ + mean over the others).

*Offset*: |Δx| + |Δy| in metres, the mean over the cells of objects.

Cells that are ignored in any class take no part in the centre term either: there, an object may be seen or not. Every
term is a mean per key frame (and class), and then over key frames; what has no cell counts as 0.

*Learned balance* (Kendall, Gal and Cipolla, CVPR 2018, equation 7 and below): with a learned s = log σ² per term, a
term L, its factor applied, becomes e⁻ˢ L + ½ s. The equation's ½ before regressions is part of their factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from occlift.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BevLossConfig:
    """Factors of the terms; 0 leaves a term out.

    The defaults weigh the terms as SimpleBEV does before it learns the balance, 10 : ½ : ½ with offsets in cells of
    half a metre: a learned balance starts there, too.

    Attributes:
        positive_weight: how much more a cell of the class counts than another one.
        segmentation: of the cross-entropy.
        centre: of the heat map of centres.
        offset: of the offsets, per metre.
    """

    positive_weight: float = 2.13
    segmentation: float = 1.0
    centre: float = 0.05
    offset: float = 0.1

    def __post_init__(self) -> None:
        if min(self.segmentation, self.centre, self.offset) < 0 or self.segmentation <= 0 or self.positive_weight <= 0:
            raise ConfigError(
                "factors of the loss must not be negative, and those of the segmentation and of its positive cells "
                f"must be positive: {self}"
            )


def bev_loss(
    segmentation: Float[Tensor, "batch classes x y"],
    centre: Float[Tensor, "batch 1 x y"],
    offset_m: Float[Tensor, "batch 2 x y"],
    *,
    truth: Bool[Tensor, "batch classes x y"],
    ignored: Bool[Tensor, "batch classes x y"] | None,
    true_centre: Float[Tensor, "batch 1 x y"],
    true_offset_m: Float[Tensor, "batch 2 x y"],
    inside_object: Bool[Tensor, "batch 1 x y"],
    config: BevLossConfig,
) -> dict[str, Float[Tensor, ""]]:
    """The terms `segmentation`, `centre` and `offset`, each times its factor; their sum is the loss.

    Args:
        segmentation: logits.
        centre: logits of the heat map.
        offset_m: from a cell's centre to that of its object, along x and y.
        truth: which cells a class covers.
        ignored: which cells take no part; None: all do.
        true_centre: 0..1.
        true_offset_m: as `offset_m`.
        inside_object: where there is an offset.
    """
    counted = torch.ones_like(truth) if ignored is None else ~ignored
    terms = {
        "segmentation": config.segmentation
        * segmentation_loss(segmentation, truth, counted, positive_weight=config.positive_weight)
    }
    if config.centre > 0:
        terms["centre"] = config.centre * centre_loss(centre, true_centre, counted.all(1, keepdim=True))
    if config.offset > 0:
        terms["offset"] = config.offset * offset_loss(offset_m, true_offset_m, inside_object)
    return terms


def segmentation_loss(
    logits: Float[Tensor, "batch classes x y"],
    truth: Bool[Tensor, "batch classes x y"],
    counted: Bool[Tensor, "batch classes x y"],
    *,
    positive_weight: float,
) -> Float[Tensor, ""]:
    """Weighted binary cross-entropy: the mean over the counted cells, then over classes and key frames."""
    logits = logits.float()
    entropy = F.binary_cross_entropy_with_logits(
        logits, truth.float(), reduction="none", pos_weight=logits.new_tensor(positive_weight)
    )
    return _mean_where(entropy, counted).mean()


def centre_loss(
    logits: Float[Tensor, "batch 1 x y"], heat: Float[Tensor, "batch 1 x y"], counted: Bool[Tensor, "batch 1 x y"]
) -> Float[Tensor, ""]:
    """Balanced squared error of the heat map: cells above ½ and the others count the same, however few they are."""
    error = (logits.float().sigmoid() - heat).square()
    near = heat > 0.5
    return 0.5 * (_mean_where(error, near & counted) + _mean_where(error, ~near & counted)).mean()


def offset_loss(
    offset_m: Float[Tensor, "batch 2 x y"],
    true_offset_m: Float[Tensor, "batch 2 x y"],
    inside_object: Bool[Tensor, "batch 1 x y"],
) -> Float[Tensor, ""]:
    """|Δx| + |Δy|, metres: the mean over the cells of objects, then over key frames."""
    error = (offset_m.float() - true_offset_m).abs().sum(1, keepdim=True)
    return _mean_where(error, inside_object).mean()


def _mean_where(
    values: Float[Tensor, "batch channels x y"], where: Bool[Tensor, "batch channels x y"]
) -> Float[Tensor, "batch channels"]:
    """The mean over the cells that count; 0 without any."""
    return (values * where).sum((2, 3)) / where.sum((2, 3)).clamp(min=1)


class LearnedBalance(nn.Module):
    """Learns how much every term of a loss counts, from the factors that the terms come with.

    Its parameters are optimised with the network's, without weight decay; the sum of what it returns may be negative.

    Args:
        terms: their names.
    """

    def __init__(self, terms: Sequence[str] = ("segmentation", "centre", "offset")) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.log_variance = nn.Parameter(torch.zeros(len(self.terms)))

    def forward(self, losses: Mapping[str, Float[Tensor, ""]]) -> dict[str, Float[Tensor, ""]]:
        """The terms, balanced: e⁻ˢ L + ½ s each; at first s = 0, and they are what they were."""
        assert losses.keys() == set(self.terms), (list(losses), self.terms)
        weights, shifts = (-self.log_variance).exp(), 0.5 * self.log_variance
        return {term: weights[i] * losses[term] + shifts[i] for i, term in enumerate(self.terms)}
