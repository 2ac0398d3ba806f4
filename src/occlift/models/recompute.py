"""Activations that are computed again instead of kept (Chen et al., *Training Deep Nets with Sublinear Memory Cost*,
2016): a training step keeps the input of a block, and runs the block a second time when its gradient is due.

The second run sees the same batch, so a batch norm inside must not count it in its running statistics again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, inputs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`block(inputs)` with the same gradients and running statistics, keeping only `inputs` until the backward pass.

    Args:
        block: draws no random numbers.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(block)

    if not (block.training and torch.is_grad_enabled()):
        return block(inputs)
    return checkpoint(block, inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Inside, batch norms that train normalise by their batch and leave their running statistics as they are."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    # Not `track_running_stats = False`: the backward pass expects every tensor that the first run saved.
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms if norm.num_batches_tracked is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            assert norm.num_batches_tracked is not None, "counted before"
            norm.num_batches_tracked.copy_(count)
