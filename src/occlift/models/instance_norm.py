"""Instance norm whose gradient is right in every memory layout."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class InstanceNorm2d(nn.InstanceNorm2d):
    """torch's instance norm (Ulyanov et al., arXiv 1607.08022), same names, same numbers forward.

    Backward, torch 2.13 on a CPU answers with something unrelated to the gradient when the batch is one map and the
    gradient that arrives has its channels last. So the gradient is laid out channels first before it gets there.
    """

    def forward(self, input: Float[Tensor, "batch channels x y"]) -> Float[Tensor, "batch channels x y"]:
        normed: Tensor = super().forward(input)
        if normed.requires_grad:
            normed.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        return normed
