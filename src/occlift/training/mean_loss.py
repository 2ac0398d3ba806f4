"""The loss of a step: the mean over the key frames of all processes, logged, and refused where it is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from occlift.errors import OccliftError
from occlift.runtime.extras import needs_extra

with needs_extra("train", "training"):
    import lightning


class TrainingDiverged(OccliftError):
    """A term of the loss, or the gradient, is not finite."""


def logged_mean(
    task: lightning.LightningModule, terms: Sequence[Mapping[str, Float[Tensor, ""]]], tokens: Sequence[str]
) -> Float[Tensor, ""]:
    """The mean over this process's key frames of the sum of the terms; logs `loss` and every term as `loss_<name>`.

    What is logged is the mean over the key frames of all processes. The gradients that DistributedDataParallel
    averages are then those of the logged loss, because every process takes equally many key frames.

    Args:
        task: what is trained; its step is named in the error.
        terms: per key frame the terms by name, the same names in every process.
        tokens: of the samples, in the order of `terms`.

    Raises:
        TrainingDiverged: a term of some key frame is not finite; in every process, whichever it came from, so that
            none is left waiting for the others.
    """
    names = tuple(terms[0])
    matrix = torch.stack([torch.stack([term[name] for name in names]) for term in terms])
    everywhere = of_all_processes(matrix.detach())
    if not bool(everywhere.isfinite().all()):
        raise _diverged(task, everywhere, names, tokens)
    means = everywhere.mean((0, 1))
    for name, mean in zip(names, means, strict=True):
        task.log(f"loss_{name}", mean)
    task.log("loss", means.sum())
    return matrix.mean(0).sum()


def of_all_processes(matrix: Float[Tensor, "frames *terms"]) -> Float[Tensor, "processes frames *terms"]:
    """What each of the processes that train together has; the same shape everywhere."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return matrix[None]
    gathered = [torch.empty_like(matrix) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, matrix.contiguous())
    return torch.stack(gathered)


def _diverged(
    task: lightning.LightningModule,
    everywhere: Float[Tensor, "processes frames terms"],
    names: Sequence[str],
    tokens: Sequence[str],
) -> TrainingDiverged:
    all_tokens = [list(tokens)]
    if distributed.is_available() and distributed.is_initialized():
        all_tokens = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(all_tokens, list(tokens))
    values = everywhere.cpu()
    bad = [(p, f, t) for p, f, t in product(*map(range, values.shape)) if not bool(values[p, f, t].isfinite())]
    process, frame, term = bad[0]
    samples = ", ".join(dict.fromkeys(all_tokens[p][f] for p, f, _ in bad))
    return TrainingDiverged(
        f"step {task.global_step}: the term {names[term]} of the loss is {values[process, frame, term].item()} "
        f"(samples {samples}); lower the learning rate, or train with precision fp32"
    )
