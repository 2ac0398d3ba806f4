"""Contracted coordinates: an unbounded world in a bounded grid (OccNeRF, arXiv 2312.09243, section 3.2).

Per axis, with r the distance from the middle of an inner box in units of its half edge and s the share of the grid that
the inner box keeps:

    c(r) = s·r                                        |r| ≤ 1
    c(r) = sign(r)·(1 − (1−s)² / (s·(|r|−1) + 1−s))   |r| > 1

The inner box keeps its proportions; everything beyond it shares the outer 1−s of the grid, infinity lies at ±1. The two
pieces meet with the same slope.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def contracted(inner: Float[Tensor, "*n"], inner_share: float) -> Float[Tensor, "*n"]:
    """From units of the inner box's half edge (±1 at its faces) to grid coordinates in (−1, 1)."""
    size = inner.abs()
    outer_share = 1 - inner_share
    # Clamped, so that the piece that is not taken divides by nothing near zero, forward and backward.
    beyond = 1 - outer_share**2 / (inner_share * (size.clamp(min=1) - 1) + outer_share)
    return (size <= 1) * (inner_share * inner) + (size > 1) * inner.sign() * beyond


def expanded(grid: Float[Tensor, "*n"], inner_share: float) -> Float[Tensor, "*n"]:
    """The inverse of `contracted`; ±1 is infinitely far away."""
    size = grid.abs()
    outer_share = 1 - inner_share
    beyond = 1 + (outer_share**2 / (1 - size.clamp(min=inner_share)) - outer_share) / inner_share
    return (size <= inner_share) * (grid / inner_share) + (size > inner_share) * grid.sign() * beyond
