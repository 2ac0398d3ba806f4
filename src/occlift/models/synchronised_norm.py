"""Batch normalisation over all processes of a training (Ioffe & Szegedy 2015, with the batch that the step means).

With one key frame per process, statistics of one process are statistics of six images; and two processes would not
compute what one process with two key frames does. torch's own `SyncBatchNorm` runs on CUDA only, so elsewhere
(gloo on CPUs) batch norms become `SynchronisedBatchNorm`. Weights and buffers keep their names either way, and both
are ordinary batch norms as soon as they evaluate.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronisedBatchNorm(_BatchNorm):
    """Batch norm of any number of dimensions whose training statistics are those of all processes.

    Every process must call it with the same number of dimensions, and backward through it equally often. The running
    variance is the unbiased one, as torch's. Without a process group it is an ordinary batch norm.
    """

    def forward(self, input: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch channels ..."]:
        synchronised = self.training and distributed.is_available() and distributed.is_initialized()
        if not synchronised or distributed.get_world_size() == 1:
            return super().forward(input)
        others = [dimension for dimension in range(input.ndim) if dimension != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        # Statistics in float32 also where activations are bf16, as in torch's kernels.
        values = input if input.dtype == torch.float64 else input.float()
        count = values.new_full((1,), input.numel() / input.shape[1])
        # Two passes, mean first: a difference of large sums would lose the digits that the variance is made of.
        sums = _sum_over_processes(torch.cat((values.sum(others), count)))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean.view(shape)
        variance = _sum_over_processes(centred.square().sum(others)) / total
        if self.track_running_stats:
            self._update_statistics(mean.detach(), variance.detach() * total / (total - 1).clamp(min=1))
        assert self.weight is not None, "without affine parameters there is nothing to convert"
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: Float[Tensor, "channels"], variance: Float[Tensor, "channels"]) -> None:
        assert self.running_mean is not None, "statistics are tracked"
        assert self.running_var is not None, "statistics are tracked"
        assert self.num_batches_tracked is not None, "statistics are tracked"
        assert self.momentum is not None, "cumulative averages are not used here"
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim >= 2, input.shape


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes. Each process's loss depends on every process's summand, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, summand: Tensor) -> Tensor:
        total = summand.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def _sum_over_processes(summand: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return _SumOverProcesses.apply(summand)  # type: ignore[no-untyped-call]


def synchronise_batch_norms(network: nn.Module, *, device_type: str) -> None:
    """Replaces every batch norm inside `network` by one over all processes; parameters and buffers stay the same.

    Args:
        device_type: where the network will train: `cuda` takes torch's own kernel.
    """
    if device_type == "cuda":
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        assert converted is network, "the network itself must not be a batch norm"
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SynchronisedBatchNorm):
                setattr(parent, name, _synchronised(child))


def _synchronised(norm: _BatchNorm) -> SynchronisedBatchNorm:
    twin = SynchronisedBatchNorm(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    # The tensors themselves, not copies: an optimiser may hold them already.
    twin.weight, twin.bias = norm.weight, norm.bias
    twin.running_mean, twin.running_var = norm.running_mean, norm.running_var
    twin.num_batches_tracked = norm.num_batches_tracked
    return twin.train(norm.training)
