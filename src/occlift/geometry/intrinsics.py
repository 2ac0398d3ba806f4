"""What intrinsics can be."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

_FOCAL_RANGE: Final = (0.05, 50.0)
"""Focal lengths, in longer sides of the image: a pinhole that sees from 169° to 1.1° along that side."""


def fault_of_intrinsics(
    intrinsics_px: Float[np.ndarray, "3 3"], height: int, width: int, *, check_focal: bool = True
) -> str:
    """What is wrong with a matrix of intrinsics for images of this size, as the end of an error; empty if nothing is.

    Converters leave zeros where they know nothing; others write millimetres, or shares of the width, for pixels.

    Args:
        check_focal: whether the focal lengths say anything: not with lenses that have their own (f-theta).

    >>> fault_of_intrinsics(np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), 480, 640)
    ''
    >>> fault_of_intrinsics(np.zeros((3, 3)), 480, 640)[:53]
    'expected a matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1'
    """
    lowest, highest = (share * max(height, width) for share in _FOCAL_RANGE)
    focal_px = np.diagonal(intrinsics_px)[:2]
    is_matrix = np.isfinite(intrinsics_px).all() and intrinsics_px[2].tolist() == [0.0, 0.0, 1.0]
    if is_matrix and (not check_focal or ((focal_px >= lowest) & (focal_px <= highest)).all()):
        return ""
    return (
        "expected a matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] of finite numbers in pixels, with focal lengths from "
        f"{lowest:g} to {highest:g} for an image of {height}×{width} pixels (height × width), got "
        f"{intrinsics_px.tolist()}"
    )
