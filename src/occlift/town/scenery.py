"""What stands in the town and is not annotated: vegetation and everything manmade."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from occlift import label_space as c
from occlift.town.parts import Color, Kind, Material, painted, part


def tree(rng: Generator, height: float) -> Float[np.ndarray, "n columns"]:
    """A trunk and a crown of one to four ellipsoids, or a conifer; class vegetation."""
    green = np.array([0.09, 0.2, 0.05]) * rng.uniform(0.6, 1.5) + rng.normal(0, 0.012, 3)
    if rng.random() < 0.12:
        green = np.array([0.35, 0.2, 0.05]) * rng.uniform(0.7, 1.2)
    leaf = tuple(float(v) for v in np.clip(green, 0.02, 0.6))
    trunk_r = 0.04 + 0.024 * height
    stem = height * rng.uniform(0.28, 0.42)
    rows = [
        part(
            Kind.CYLINDER,
            (0, 0, (stem + 0.5) / 2 - 0.1),
            (trunk_r, trunk_r, (stem + 0.5) / 2 + 0.1),
            material=Material.BARK,
            class_id=c.VEGETATION,
            color=(0.16, 0.11, 0.07),
            seed=rng.uniform(0, 100),
        ),
    ]
    if rng.random() < 0.2:
        r = height * rng.uniform(0.2, 0.28)
        rows.append(
            part(
                Kind.CONE,
                (0, 0, (height + stem * 0.6) / 2),
                (r, r, (height - stem * 0.6) / 2),
                material=Material.FOLIAGE,
                class_id=c.VEGETATION,
                color=(leaf[0] * 0.7, leaf[1] * 0.8, leaf[2]),
                seed=rng.uniform(0, 100),
            )
        )
        return np.stack(rows)
    crown = height - stem
    for _ in range(int(rng.integers(1, 5))):
        r = crown * rng.uniform(0.33, 0.5)
        offset = rng.normal(0, 0.16 * crown, 2)
        rows.append(
            part(
                Kind.ELLIPSOID,
                (float(offset[0]), float(offset[1]), stem + crown * rng.uniform(0.42, 0.6)),
                (r, r * rng.uniform(0.85, 1.15), crown * rng.uniform(0.38, 0.5)),
                material=Material.FOLIAGE,
                class_id=c.VEGETATION,
                color=(leaf[0], leaf[1], leaf[2]),
                seed=rng.uniform(0, 100),
            )
        )
    return np.stack(rows)


def bush(rng: Generator) -> Float[np.ndarray, "n columns"]:
    """A low shrub; class vegetation."""
    green = np.clip(np.array([0.1, 0.2, 0.05]) * rng.uniform(0.6, 1.4) + rng.normal(0, 0.012, 3), 0.02, 0.6)
    r = rng.uniform(0.45, 1.1)
    return part(
        Kind.ELLIPSOID,
        (0, 0, 0.35 * r),
        (r, r * rng.uniform(0.7, 1.3), r * rng.uniform(0.8, 1.3)),
        material=Material.FOLIAGE,
        class_id=c.VEGETATION,
        color=(float(green[0]), float(green[1]), float(green[2])),
        seed=rng.uniform(0, 100),
    )[None]


def hedge(rng: Generator, length: float) -> Float[np.ndarray, "n columns"]:
    """A cut hedge along x; class vegetation."""
    return part(
        Kind.BOX,
        (0, 0, 0.6),
        (length / 2, 0.4, rng.uniform(0.55, 0.9)),
        material=Material.FOLIAGE,
        class_id=c.VEGETATION,
        color=(0.07, 0.16, 0.05),
        seed=rng.uniform(0, 100),
    )[None]


def lamp_post(rng: Generator) -> Float[np.ndarray, "n columns"]:
    """A pole with an arm towards +y; class manmade."""
    height = rng.uniform(5.5, 8.0)
    grey: Color = (0.3, 0.31, 0.32)
    return np.stack(
        [
            part(
                Kind.CYLINDER,
                (0, 0, height / 2),
                (0.1, 0.1, height / 2),
                material=Material.PLAIN,
                class_id=c.MANMADE,
                color=grey,
            ),
            part(
                Kind.BOX,
                (0, 0.8, height - 0.1),
                (0.06, 0.85, 0.06),
                material=Material.PLAIN,
                class_id=c.MANMADE,
                color=grey,
            ),
            part(
                Kind.BOX,
                (0, 1.5, height - 0.16),
                (0.14, 0.3, 0.06),
                material=Material.PLAIN,
                class_id=c.MANMADE,
                color=(0.7, 0.7, 0.65),
            ),
        ]
    )


def sign(rng: Generator) -> Float[np.ndarray, "n columns"]:
    """A traffic sign facing along −x; class manmade."""
    color: Color = [(0.6, 0.05, 0.05), (0.05, 0.12, 0.5), (0.75, 0.75, 0.75), (0.7, 0.5, 0.05)][rng.integers(4)]
    return np.stack(
        [
            part(
                Kind.CYLINDER,
                (0, 0, 1.2),
                (0.05, 0.05, 1.2),
                material=Material.PLAIN,
                class_id=c.MANMADE,
                color=(0.4, 0.4, 0.4),
            ),
            part(
                Kind.BOX, (-0.07, 0, 2.4), (0.03, 0.36, 0.36), material=Material.SIGN, class_id=c.MANMADE, color=color
            ),
        ]
    )


def traffic_light(rng: Generator) -> Float[np.ndarray, "n columns"]:
    """A pole with a light facing along −x; class manmade."""
    return np.stack(
        [
            part(
                Kind.CYLINDER,
                (0, 0, 1.9),
                (0.09, 0.09, 1.9),
                material=Material.PLAIN,
                class_id=c.MANMADE,
                color=(0.1, 0.11, 0.1),
            ),
            part(
                Kind.BOX,
                (-0.1, 0, 3.3),
                (0.14, 0.16, 0.48),
                material=Material.SIGN,
                class_id=c.MANMADE,
                color=(0.5, 0.38, 0.02),
                seed=rng.uniform(0, 100),
            ),
        ]
    )


def wall(rng: Generator, length: float) -> Float[np.ndarray, "n columns"]:
    """A garden wall or fence along x; class manmade."""
    tint = rng.uniform(0.25, 0.5)
    return part(
        Kind.BOX,
        (0, 0, 0.6),
        (length / 2, 0.12, rng.uniform(0.5, 0.9)),
        material=Material.BRICK,
        class_id=c.MANMADE,
        color=(tint, tint * 0.85, tint * 0.75),
        seed=rng.uniform(0, 100),
    )[None]


def building(rng: Generator, length: float, depth: float, height: float) -> Float[np.ndarray, "n columns"]:
    """A block with windows, sometimes with an awning or a lower wing; front along x at y = −depth/2; class manmade."""
    palette = (
        (0.5, 0.42, 0.34),
        (0.42, 0.2, 0.14),
        (0.6, 0.58, 0.54),
        (0.32, 0.34, 0.37),
        (0.55, 0.47, 0.3),
        (0.36, 0.28, 0.25),
        (0.62, 0.62, 0.66),
    )
    base = np.clip(
        np.array(palette[rng.integers(len(palette))]) * rng.uniform(0.75, 1.2) + rng.normal(0, 0.02, 3),
        0.05,
        0.85,
    )
    color: Color = (float(base[0]), float(base[1]), float(base[2]))
    rows = [
        part(
            Kind.BOX,
            (0, 0, height / 2 - 0.1),
            (length / 2, depth / 2, height / 2 + 0.1),
            material=Material.FACADE,
            class_id=c.MANMADE,
            color=color,
            seed=rng.uniform(0, 100),
        )
    ]
    if rng.random() < 0.4:
        rows.append(
            part(
                Kind.BOX,
                (0, -depth / 2 - 0.5, 2.9),
                (0.4 * length, 0.6, 0.12),
                material=Material.PLAIN,
                class_id=c.MANMADE,
                color=painted(rng),
            )
        )
    if rng.random() < 0.3:
        rows.append(
            part(
                Kind.BOX,
                (rng.uniform(-0.2, 0.2) * length, 0, height + 0.8),
                (0.2 * length, 0.25 * depth, 0.9),
                material=Material.PLAIN,
                class_id=c.MANMADE,
                color=(0.35, 0.35, 0.36),
            )
        )
    return np.stack(rows)
