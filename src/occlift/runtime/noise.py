"""Randomness that depends on names alone, and noise that is smooth over an image."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float


def generator_of(*names: int | str) -> np.random.Generator:
    """A generator that depends on these names (a seed, a purpose, a token, ...) and on nothing else.

    So what is drawn for an image is the same in whatever order, and in whatever process, images come.
    """
    digest = hashlib.sha256("/".join(map(str, names)).encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cell_px: float) -> Float[np.ndarray, "height width"]:
    """Gaussian noise of mean 0 and variance 1 at every pixel, correlated over about `cell_px` pixels.

    Independent values on a lattice of that spacing, blended with cubic B-spline weights that are scaled to unit length.
    """
    height, width = shape
    rows, columns = _spline_weights(height, cell_px), _spline_weights(width, cell_px)
    lattice = rng.standard_normal((rows.shape[1], columns.shape[1]))
    # Not `@`: BLAS may sum in another order on another machine, and labels should have the same bytes there.
    return np.einsum("wj,hj->hw", columns, np.einsum("hi,ij->hj", rows, lattice))


def _spline_weights(count: int, cell_px: float) -> Float[np.ndarray, "pixels lattice"]:
    position = (np.arange(count) + 0.5) / cell_px
    cell = position.astype(int)
    u = position - cell
    weights = np.stack(((1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3), axis=1)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    matrix = np.zeros((count, cell[-1] + 4))
    np.put_along_axis(matrix, cell[:, None] + np.arange(4), weights, axis=1)
    return matrix
