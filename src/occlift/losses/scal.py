"""Scene-class affinity losses: precision, recall and specificity of soft predictions.

Source: MonoScene (Cao and de Charette, CVPR 2022).

For one class with probabilities p_i and truth t_i ∈ {0, 1} over the voxels:
precision P = Σ p t / Σ p, recall R = Σ p t / Σ t, specificity S = Σ (1 − p)(1 − t) / Σ (1 − t),
L = −log P − log R − log S.

*geo_scal* has one class, occupied: p = 1 − p_free, t = [y ≠ free]. *sem_scal* is the mean of L over the classes that
are present in the labels, free among them. What labels cannot ask for is left out: P and R where no voxel has t = 1, S
where none has t = 0.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_SMALLEST: Final = 1e-30
"""Sums of probabilities are not taken to be smaller: a logarithm of 0, and a slope that a loss scaler could carry
beyond float32, become impossible."""


def geo_scal(logits: Float[Tensor, "n classes"], labels: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """The affinity loss of occupied against free; 0 without voxels."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Both probabilities from the difference of the logits: 1 − p would round small probabilities away.
    occupied_over_free = logits[:, :-1].logsumexp(-1) - logits[:, -1]
    p, not_p = occupied_over_free.sigmoid(), (-occupied_over_free).sigmoid()
    return _affinity(p[None], not_p[None], (labels != logits.shape[1] - 1)[None]).sum()


def sem_scal(logits: Float[Tensor, "n classes"], labels: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """The affinity loss per class, mean over the classes present in `labels`; 0 without voxels."""
    p = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).T
    present = labels.bincount(minlength=logits.shape[-1]).nonzero()[:, 0]
    if len(present) == 0:
        return p.sum()
    return _affinity(p[present], 1 - p[present], labels == present[:, None]).mean()


def _affinity(
    p: Float[Tensor, "classes n"], not_p: Float[Tensor, "classes n"], truth: Bool[Tensor, "classes n"]
) -> Float[Tensor, "classes"]:
    """−log P − log R − log S per class."""
    inside, outside = truth.sum(1), (~truth).sum(1)
    hits, rejections = (p * truth).sum(1), (not_p * ~truth).sum(1)
    precision_and_recall = _log(p.sum(1)) + _log(inside.to(p.dtype)) - 2 * _log(hits)
    specificity = _log(outside.to(p.dtype)) - _log(rejections)
    # A product instead of `where`: both factors are finite, and with no voxel at all the sum keeps its graph.
    return precision_and_recall * (inside > 0) + specificity * (outside > 0)


def _log(sums: Float[Tensor, "classes"]) -> Float[Tensor, "classes"]:
    return sums.clamp(min=_SMALLEST).log()
