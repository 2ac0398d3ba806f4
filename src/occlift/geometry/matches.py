"""Corners of two images that look alike, and how well a relative pose of the cameras explains them.

For checking poses, not for estimating them: the matches know nothing of poses, so that wrong ones are found out.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float

_PATCH_PX: Final = 13
"""Edge of the patch around a corner that is compared."""

_RATIO: Final = 0.75
"""A match is kept if the distance of its patches is this much smaller than to the second-best patch (Lowe 2004)."""


def find_corners(grey: Float[np.ndarray, "height width"], *, count: int = 1000) -> Float[np.ndarray, "corners 2"]:
    """Corners (u, v) of an image in pixels, pixel centres at + 0.5, strongest first (Shi and Tomasi 1994).

    They are spread over the image: at most a few of any neighbourhood.
    """
    from scipy.ndimage import gaussian_filter, maximum_filter

    smooth = gaussian_filter(grey, 1.0)
    by_row, by_column = np.gradient(smooth)
    rr, cc, rc = (gaussian_filter(a, 2.0) for a in (by_row * by_row, by_column * by_column, by_row * by_column))
    # The smaller eigenvalue of the structure tensor.
    strength = (rr + cc) / 2 - np.sqrt(((rr - cc) / 2) ** 2 + rc * rc)
    margin = _PATCH_PX // 2 + 2
    peaks = strength == maximum_filter(strength, size=9)
    inner = np.zeros_like(peaks)
    inner[margin:-margin, margin:-margin] = True
    rows, columns = np.nonzero(peaks & inner & (strength > 1e-3 * max(float(strength.max()), 1e-12)))
    order = np.argsort(-strength[rows, columns], kind="stable")[:count]
    return np.stack((columns[order] + 0.5, rows[order] + 0.5), axis=1)


def match_corners(
    first: Float[np.ndarray, "h1 w1"], second: Float[np.ndarray, "h2 w2"], *, count: int = 1000
) -> tuple[Float[np.ndarray, "matches 2"], Float[np.ndarray, "matches 2"]]:
    """Corners of two grey images (0..1) whose surroundings look alike: (u, v) in the first and in the second.

    Each is the other's best by normalised correlation, and clearly better than the second best. Some are wrong.
    """
    corners = [find_corners(image, count=count) for image in (first, second)]
    patches = [_describe(image, found) for image, found in zip((first, second), corners, strict=True)]
    if min(map(len, patches)) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    alike = patches[0] @ patches[1].T
    best = alike.argmax(axis=1)
    mutual = alike.argmax(axis=0)[best] == np.arange(len(best))
    # Unit vectors: the squared distance is 2 − 2 · correlation.
    two = np.sqrt(np.maximum(2 - 2 * np.partition(alike, -2, axis=1)[:, -2:], 0.0))
    kept = mutual & (two[:, 1] < _RATIO * two[:, 0])
    return corners[0][kept], corners[1][best[kept]]


def epipolar_errors_px(
    pixels1: Float[np.ndarray, "matches 2"],
    pixels2: Float[np.ndarray, "matches 2"],
    intrinsics1_px: Float[np.ndarray, "3 3"],
    intrinsics2_px: Float[np.ndarray, "3 3"],
    camera2_from_camera1: Float[np.ndarray, "4 4"],
) -> tuple[Float[np.ndarray, "matches"], Bool[np.ndarray, "matches"]]:
    """How far matched pixels are from where a relative pose lets them be.

    Returns:
        distance of each pair to its epipolar lines (the mean over both images), pixels; and whether the point that the
        pair shows lies in front of both cameras. The lines alone do not tell a motion from its opposite.

    >>> k = np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]])
    >>> sideways = np.eye(4)
    >>> sideways[0, 3] = -1.0  # the second camera stands one metre further right
    >>> errors, ahead = epipolar_errors_px(np.array([[60.0, 50]]), np.array([[50.0, 53]]), k, k, sideways)
    >>> errors.tolist(), ahead.tolist()
    ([3.0], [True])
    """
    ones = np.ones((len(pixels1), 1))
    homogeneous1, homogeneous2 = np.hstack((pixels1, ones)), np.hstack((pixels2, ones))
    rotation, translation = camera2_from_camera1[:3, :3], camera2_from_camera1[:3, 3]
    x, y, z = translation
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    inverse1, inverse2 = np.linalg.inv(intrinsics1_px), np.linalg.inv(intrinsics2_px)
    fundamental = inverse2.T @ essential @ inverse1
    lines2, lines1 = homogeneous1 @ fundamental.T, homogeneous2 @ fundamental
    residual = np.abs(np.sum(homogeneous2 * lines2, axis=1))
    lengths = [np.maximum(np.hypot(lines[:, 0], lines[:, 1]), 1e-12) for lines in (lines1, lines2)]
    errors = residual * (1 / lengths[0] + 1 / lengths[1]) / 2
    # Depths along both rays that bring them closest: a·R·d1 + t ≈ b·d2.
    turned1, rays2 = homogeneous1 @ inverse1.T @ rotation.T, homogeneous2 @ inverse2.T
    a11, a12, a22 = (np.sum(p * q, axis=1) for p, q in ((turned1, turned1), (turned1, rays2), (rays2, rays2)))
    b1, b2 = turned1 @ translation, rays2 @ translation
    determinant = a11 * a22 - a12 * a12
    depth1, depth2 = a12 * b2 - a22 * b1, a11 * b2 - a12 * b1
    # Rays that are almost parallel meet far away, before or behind: they decide nothing.
    parallel = determinant < 1e-9 * a11 * a22
    return errors, parallel | ((depth1 > 0) & (depth2 > 0))


def _describe(
    grey: Float[np.ndarray, "height width"], corners: Float[np.ndarray, "corners 2"]
) -> Float[np.ndarray, "corners values"]:
    """Patches around corners as unit vectors without their mean."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(grey, 0.8)
    half = _PATCH_PX // 2
    steps = np.arange(-half, half + 1)
    columns, rows = np.floor(corners).astype(np.int64).T
    patches = smooth[rows[:, None, None] + steps[:, None], columns[:, None, None] + steps]
    values = patches.reshape(len(corners), _PATCH_PX * _PATCH_PX)
    values = values - values.mean(axis=1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
