"""The solids of which everything above the ground is made.

A *part* is one row of a float64 array (columns `KIND` .. `RADIUS`): a box, cylinder, cone, ellipsoid or wheel with
a vertical axis and a yaw. Objects are arrays of parts in their own frame: origin on the ground below the centre,
x forward, y left, z up, metres.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator

KIND: Final = 0
CENTER: Final = 1  # three columns
HALF: Final = 4  # three columns: half extents
COS: Final = 7
SIN: Final = 8
TAPER: Final = 9  # boxes: length at the top / length at the bottom
MATERIAL: Final = 10
CLASS: Final = 11
INSTANCE: Final = 12  # 0 = part of the background
COLOR: Final = 13  # three columns, linear albedo
SEED: Final = 16
RADIUS: Final = 17  # of the bounding sphere
NUM_COLUMNS: Final = 18


class Kind(IntEnum):
    """The shape of a part; half extents are along its own axes."""

    BOX = 0
    CYLINDER = 1  # vertical; radius = half extent x
    CONE = 2  # vertical, apex on top
    ELLIPSOID = 3
    WHEEL = 4  # cylinder along the part's y axis; radius = half extent x


class Material(IntEnum):
    """How a part is painted (town/shade.py)."""

    PLAIN = 0
    FACADE = 1
    BODY = 2
    GLASS = 3
    TYRE = 4
    FOLIAGE = 5
    BARK = 6
    STRIPES = 7
    CONE_STRIPES = 8
    BUS = 9
    CARGO = 10
    CLOTH = 11
    BRICK = 12
    SIGN = 13
    BODY_ENDS = 14


Color = tuple[float, float, float]
Scalars = float | Float[np.ndarray, "n"] | Int[np.ndarray, "n"]


def part(
    kind: Kind,
    center: tuple[float, float, float],
    half: tuple[float, float, float],
    *,
    material: Material,
    class_id: int,
    color: Color,
    yaw_rad: float = 0.0,
    taper: float = 1.0,
    seed: float = 0.0,
) -> Float[np.ndarray, "columns"]:
    """One row; metres and radians."""
    row = np.zeros(NUM_COLUMNS)
    row[KIND] = kind
    row[CENTER : CENTER + 3] = center
    row[HALF : HALF + 3] = half
    row[COS], row[SIN] = np.cos(yaw_rad), np.sin(yaw_rad)
    row[TAPER] = taper
    row[MATERIAL], row[CLASS] = material, class_id
    row[COLOR : COLOR + 3] = color
    row[SEED] = seed
    if kind in (Kind.CYLINDER, Kind.CONE):
        row[HALF + 1] = half[0]
    if kind is Kind.WHEEL:
        row[HALF + 2] = half[0]
    row[RADIUS] = np.linalg.norm(row[HALF : HALF + 3])
    return row


def placed(
    parts: Float[np.ndarray, "n columns"],
    x: Scalars,
    y: Scalars,
    z: Scalars,
    yaw_rad: Scalars,
    instance: Scalars = 0,
) -> Float[np.ndarray, "n columns"]:
    """Parts moved from their object's frame to its pose in the global frame; one pose for all, or one per part."""
    out = parts.copy()
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    px, py = parts[:, CENTER], parts[:, CENTER + 1]
    out[:, CENTER] = x + cos * px - sin * py
    out[:, CENTER + 1] = y + sin * px + cos * py
    out[:, CENTER + 2] += z
    out[:, COS] = cos * parts[:, COS] - sin * parts[:, SIN]
    out[:, SIN] = sin * parts[:, COS] + cos * parts[:, SIN]
    out[:, INSTANCE] = instance
    return out


def painted(rng: Generator) -> Color:
    """A car colour: mostly white, grey, black; some red, blue, green, yellow."""
    palette = (
        (0.75, 0.75, 0.75), (0.45, 0.46, 0.48), (0.06, 0.06, 0.07), (0.25, 0.26, 0.28), (0.55, 0.05, 0.05),
        (0.06, 0.13, 0.42), (0.05, 0.22, 0.12), (0.62, 0.48, 0.07), (0.35, 0.22, 0.12), (0.8, 0.78, 0.7),
    )  # fmt: skip
    weights = np.array([5, 4, 4, 3, 2, 2, 1, 1, 1, 2], dtype=float)
    base = np.array(palette[rng.choice(len(palette), p=weights / weights.sum())])
    r, g, b = np.clip(base * rng.uniform(0.8, 1.2) + rng.normal(0, 0.015, 3), 0.02, 0.9)
    return float(r), float(g), float(b)
