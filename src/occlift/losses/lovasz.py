"""Lovász losses of class logits per voxel: over all classes, occupied against free, over the occupied classes.

*Lovász-softmax* (Berman et al., CVPR 2018, algorithm 1): for class c with foreground y = c and errors
m_i = |[y_i = c] − p_i(c)|, sort the errors in descending order and sum m_i · (J_i − J_{i−1}), where J_i is the Jaccard
loss of the set of the i first voxels, J_i = 1 − (G − Σ_{k≤i} fg_k) / (G + Σ_{k≤i} (1 − fg_k)), and G counts the
foreground. The loss is the mean over the classes that are present in the labels.

The same function of two other questions that the logits answer:
*geometric*: is the voxel occupied or free? Two classes, p(free) = p of the last class, p(occupied) = the sum of the
others.
*occupied*: which class has a voxel that is occupied? The semantic classes with p_c / (1 − p_free), over the voxels
labelled occupied only.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def lovasz_softmax(logits: Float[Tensor, "n classes"], labels: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """The Lovász extension of the Jaccard loss, mean over the classes present in `labels`; 0 without voxels."""
    probabilities = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    present = labels.bincount(minlength=logits.shape[-1]).nonzero()[:, 0]
    if len(present) == 0:
        return probabilities.sum()
    foreground = labels == present[:, None]
    errors = (foreground.to(probabilities.dtype) - probabilities.T[present]).abs()
    # The extension is linear in the errors as long as their order does not change, so its gradient is the vector of
    # slopes: no need to differentiate through sort, gather and cumulative sums.
    with torch.no_grad():
        order = _descending(errors)
        hits = foreground.gather(1, order).to(errors.dtype).cumsum(1)
        total = hits[:, -1:]
        misses = torch.arange(1, errors.shape[1] + 1, device=errors.device, dtype=errors.dtype) - hits
        jaccard = 1 - (total - hits) / (total + misses)
        slopes = torch.zeros_like(errors).scatter_(1, order, jaccard.diff(dim=1, prepend=torch.zeros_like(total)))
    return (errors * slopes).sum(1).mean()


def _descending(errors: Float[Tensor, "classes n"]) -> Int[Tensor, "classes n"]:
    """The order of the errors of each class, all of which lie in [0, 1], largest first; equal ones as they come."""
    if errors.dtype != torch.float32:
        return errors.argsort(dim=-1, descending=True, stable=True)
    # The bits of floats that are not negative are ordered as the floats are. With the class above them one flat sort of
    # integers (on CPUs a radix sort) does for all classes, in half the time or less.
    class_bits = torch.arange(len(errors), device=errors.device)[:, None] << 32
    keys = class_bits - errors.view(torch.int32)
    first = torch.arange(len(errors), device=errors.device)[:, None] * errors.shape[1]
    return keys.flatten().argsort(stable=True).view_as(errors) - first


def lovasz_geometric(logits: Float[Tensor, "n classes"], labels: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """`lovasz_softmax` over the two classes occupied and free; 0 without voxels."""
    # The logit of a union of classes is the logarithm of the sum of their exponentials.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    two = torch.stack((logits[:, :-1].logsumexp(-1), logits[:, -1]), -1)
    return lovasz_softmax(two, (labels == logits.shape[1] - 1).long())


def lovasz_occupied(logits: Float[Tensor, "n classes"], labels: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """`lovasz_softmax` over the semantic classes among the voxels labelled occupied; 0 without such voxels."""
    occupied = (labels != logits.shape[1] - 1).nonzero()[:, 0]
    return lovasz_softmax(logits[occupied, :-1], labels[occupied])
