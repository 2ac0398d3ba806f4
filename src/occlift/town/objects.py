"""The annotated things of the town: their parts, and the box that an annotator would draw around each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from occlift import label_space as c
from occlift.town.parts import CENTER, CLASS, HALF, Color, Kind, Material, painted, part


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectShape:
    """An annotated kind of thing: its parts, and the box an annotator would draw around it.

    Attributes:
        category: name of a category in the tables.
        parts: in the object's own frame.
        size_lwh_m: length (x), width (y), height (z) of the geometry.
    """

    category: str
    parts: Float[np.ndarray, "n columns"]
    size_lwh_m: tuple[float, float, float]


def _shape(category: str, rows: list[Float[np.ndarray, "columns"]]) -> ObjectShape:
    parts = np.stack(rows)
    parts[:, CLASS] = c.OCC3D.taxonomy.id_of(c.OCC3D.taxonomy.categories[category])
    low = np.min(parts[:, CENTER : CENTER + 3] - parts[:, HALF : HALF + 3], axis=0)
    high = np.max(parts[:, CENTER : CENTER + 3] + parts[:, HALF : HALF + 3], axis=0)
    # Annotation boxes are centred on the object's origin in x and y and stand on the ground.
    reach = np.maximum(np.abs(low), np.abs(high))
    size = (2 * float(reach[0]), 2 * float(reach[1]), float(high[2]))
    return ObjectShape(category=category, parts=parts, size_lwh_m=size)


def _wheels(xs: tuple[float, ...], half_width: float, radius: float) -> list[Float[np.ndarray, "columns"]]:
    return [
        part(
            Kind.WHEEL,
            (x, side * (half_width - 0.12), radius),
            (radius, 0.12, radius),
            material=Material.TYRE,
            class_id=0,
            color=(0.04, 0.04, 0.045),
        )
        for x in xs
        for side in (-1, 1)
    ]


def car(rng: Generator) -> ObjectShape:
    """A hatchback, saloon or van."""
    length, width = rng.uniform(3.9, 5.0), rng.uniform(1.72, 1.98)
    height = rng.uniform(1.42, 1.95)
    belt = 0.55 * height + 0.05
    color, seed = painted(rng), rng.uniform(0, 100)
    cabin = rng.uniform(0.52, 0.72) * length
    shift = rng.uniform(-0.12, -0.02) * length
    rows = [
        part(
            Kind.BOX,
            (0, 0, (0.22 + belt) / 2),
            (length / 2, width / 2, (belt - 0.22) / 2),
            material=Material.BODY_ENDS,
            class_id=0,
            color=color,
            taper=0.96,
            seed=seed,
        ),
        part(
            Kind.BOX,
            (shift, 0, (belt + height) / 2),
            (cabin / 2, width / 2 - 0.07, (height - belt) / 2),
            material=Material.BODY,
            class_id=0,
            color=color,
            taper=rng.uniform(0.62, 0.88),
            seed=seed,
        ),
        *_wheels((-0.3 * length, 0.31 * length), width / 2, 0.33),
    ]
    return _shape("vehicle.car", rows)


def truck(rng: Generator) -> ObjectShape:
    """A cab and a box."""
    length, width, height = rng.uniform(6.0, 9.5), rng.uniform(2.2, 2.55), rng.uniform(2.7, 3.7)
    cab = rng.uniform(1.7, 2.3)
    rows = [
        part(
            Kind.BOX,
            (length / 2 - cab / 2, 0, 0.5 + (height - 0.9) / 2),
            (cab / 2, width / 2 - 0.06, (height - 0.9) / 2),
            material=Material.BODY,
            class_id=0,
            color=painted(rng),
            taper=0.86,
        ),
        part(
            Kind.BOX,
            (-cab / 2, 0, 0.85 + (height - 0.85) / 2),
            ((length - cab) / 2 - 0.1, width / 2, (height - 0.85) / 2),
            material=Material.CARGO,
            class_id=0,
            color=painted(rng),
            seed=rng.uniform(0, 100),
        ),
        part(
            Kind.BOX,
            (0, 0, 0.7),
            (length / 2 - 0.2, 0.45, 0.16),
            material=Material.PLAIN,
            class_id=0,
            color=(0.06, 0.06, 0.06),
        ),
        *_wheels((length / 2 - 1.2, -length / 2 + 1.1, -length / 2 + 2.2), width / 2, 0.48),
    ]
    return _shape("vehicle.truck", rows)


def bus(rng: Generator) -> ObjectShape:
    """A city bus."""
    length, width, height = rng.uniform(10.0, 12.5), rng.uniform(2.5, 2.9), rng.uniform(3.0, 3.5)
    rows = [
        part(
            Kind.BOX,
            (0, 0, 0.32 + (height - 0.32) / 2),
            (length / 2, width / 2, (height - 0.32) / 2),
            material=Material.BUS,
            class_id=0,
            color=painted(rng),
            seed=rng.uniform(0, 100),
        ),
        *_wheels((length / 2 - 2.4, -length / 2 + 3.0), width / 2 + 0.02, 0.5),
    ]
    return _shape("vehicle.bus.rigid", rows)


def trailer(rng: Generator) -> ObjectShape:
    """A box or container on wheels, without a cab."""
    length, width, height = rng.uniform(7.5, 12.0), rng.uniform(2.4, 2.7), rng.uniform(3.1, 3.9)
    color = [(0.75, 0.75, 0.73), (0.5, 0.12, 0.08), (0.1, 0.2, 0.4), (0.45, 0.45, 0.42)][rng.integers(4)]
    rows = [
        part(
            Kind.BOX,
            (0, 0, 1.1 + (height - 1.1) / 2),
            (length / 2, width / 2, (height - 1.1) / 2),
            material=Material.CARGO,
            class_id=0,
            color=color,
            seed=rng.uniform(0, 100),
        ),
        part(
            Kind.BOX,
            (0, 0, 0.95),
            (length / 2, 0.5, 0.14),
            material=Material.PLAIN,
            class_id=0,
            color=(0.07, 0.07, 0.07),
        ),
        part(
            Kind.BOX,
            (length / 2 - 1.2, 0, 0.45),
            (0.08, 0.7, 0.45),
            material=Material.PLAIN,
            class_id=0,
            color=(0.1, 0.1, 0.1),
        ),
        *_wheels((-length / 2 + 1.0, -length / 2 + 2.1, -length / 2 + 3.2), width / 2, 0.48),
    ]
    return _shape("vehicle.trailer", rows)


def construction_vehicle(rng: Generator) -> ObjectShape:
    """An excavator: tracks, house, cab, boom and bucket."""
    color: Color = (0.7 * rng.uniform(0.85, 1.1), 0.42 * rng.uniform(0.8, 1.1), 0.03)
    scale = rng.uniform(0.9, 1.2)
    reach = 2.6 * scale

    def steel(
        center: tuple[float, float, float],
        half: tuple[float, float, float],
        material: Material = Material.PLAIN,
        rgb: Color = color,
    ) -> Float[np.ndarray, "columns"]:
        return part(
            Kind.BOX,
            (center[0] * scale, center[1] * scale, center[2] * scale),
            (half[0] * scale, half[1] * scale, half[2] * scale),
            material=material,
            class_id=0,
            color=rgb,
        )

    rows = [
        steel((-0.4, 0.95, 0.4), (1.7, 0.3, 0.4), Material.TYRE, (0.05, 0.05, 0.05)),
        steel((-0.4, -0.95, 0.4), (1.7, 0.3, 0.4), Material.TYRE, (0.05, 0.05, 0.05)),
        steel((-0.7, 0.0, 1.35), (1.6, 1.2, 0.55)),
        steel((0.0, 0.65, 2.3), (0.75, 0.5, 0.75), Material.BODY),
        steel((0.9, -0.3, 2.2), (0.28, 0.2, 1.2)),
        steel((1.6, -0.3, 3.2), (1.0, 0.18, 0.24)),
        steel((reach / scale, -0.3, 2.3), (0.2, 0.16, 1.0)),
        steel((reach / scale, -0.3, 0.95), (0.45, 0.5, 0.4), Material.PLAIN, (0.12, 0.12, 0.12)),
    ]
    return _shape("vehicle.construction", rows)


def _rider(x: float, seat_m: float, rng: Generator) -> list[Float[np.ndarray, "columns"]]:
    cloth = tuple(float(v) for v in rng.uniform(0.05, 0.6, 3))
    return [
        part(
            Kind.ELLIPSOID,
            (x, 0, seat_m + 0.32),
            (0.2, 0.24, 0.38),
            material=Material.CLOTH,
            class_id=0,
            color=(cloth[0], cloth[1], cloth[2]),
        ),
        part(
            Kind.BOX,
            (x + 0.15, 0, seat_m - 0.15),
            (0.16, 0.2, 0.3),
            material=Material.CLOTH,
            class_id=0,
            color=(0.07, 0.08, 0.12),
        ),
        part(
            Kind.ELLIPSOID,
            (x + 0.05, 0, seat_m + 0.8),
            (0.13, 0.12, 0.15),
            material=Material.PLAIN,
            class_id=0,
            color=(0.6, 0.1, 0.08) if rng.random() < 0.5 else (0.05, 0.05, 0.06),
        ),
    ]


def motorcycle(rng: Generator, *, ridden: bool) -> ObjectShape:
    """A motorcycle, with its rider where it is ridden."""
    rows = [
        part(
            Kind.WHEEL,
            (x, 0, 0.32),
            (0.32, 0.08, 0.32),
            material=Material.TYRE,
            class_id=0,
            color=(0.04, 0.04, 0.04),
        )
        for x in (-0.68, 0.68)
    ]
    rows += [
        part(Kind.BOX, (0, 0, 0.62), (0.55, 0.16, 0.24), material=Material.PLAIN, class_id=0, color=painted(rng)),
        part(
            Kind.BOX,
            (0.5, 0, 1.0),
            (0.08, 0.36, 0.08),
            material=Material.PLAIN,
            class_id=0,
            color=(0.1, 0.1, 0.1),
        ),
        *(_rider(-0.1, 0.9, rng) if ridden else []),
    ]
    return _shape("vehicle.motorcycle", rows)


def bicycle(rng: Generator, *, ridden: bool) -> ObjectShape:
    """A bicycle, with its rider where it is ridden."""
    rows = [
        part(
            Kind.WHEEL,
            (x, 0, 0.34),
            (0.34, 0.035, 0.34),
            material=Material.TYRE,
            class_id=0,
            color=(0.05, 0.05, 0.05),
        )
        for x in (-0.52, 0.52)
    ]
    rows += [
        part(Kind.BOX, (0, 0, 0.6), (0.38, 0.04, 0.2), material=Material.PLAIN, class_id=0, color=painted(rng)),
        part(
            Kind.BOX,
            (0.42, 0, 0.98),
            (0.04, 0.28, 0.04),
            material=Material.PLAIN,
            class_id=0,
            color=(0.1, 0.1, 0.1),
        ),
        *(_rider(-0.12, 0.9, rng) if ridden else []),
    ]
    return _shape("vehicle.bicycle", rows)


def pedestrian(rng: Generator) -> ObjectShape:
    """A standing or walking adult or child."""
    child = rng.random() < 0.12
    height = rng.uniform(1.1, 1.4) if child else rng.uniform(1.58, 1.92)
    top = tuple(float(v) for v in rng.uniform(0.04, 0.65, 3))
    legs = tuple(float(v) for v in rng.uniform(0.03, 0.3) * np.array([0.8, 0.9, 1.2]))
    leg = 0.48 * height
    rows = [
        part(
            Kind.BOX,
            (0.06, 0.09, leg / 2),
            (0.09, 0.08, leg / 2),
            material=Material.CLOTH,
            class_id=0,
            color=(legs[0], legs[1], legs[2]),
        ),
        part(
            Kind.BOX,
            (-0.08, -0.09, leg / 2),
            (0.09, 0.08, leg / 2),
            material=Material.CLOTH,
            class_id=0,
            color=(legs[0], legs[1], legs[2]),
        ),
        part(
            Kind.ELLIPSOID,
            (0, 0, 0.66 * height),
            (0.17, 0.27, 0.22 * height),
            material=Material.CLOTH,
            class_id=0,
            color=(top[0], top[1], top[2]),
        ),
        part(
            Kind.ELLIPSOID,
            (0.02, 0, height - 0.13),
            (0.11, 0.1, 0.135),
            material=Material.PLAIN,
            class_id=0,
            color=(0.5, 0.33, 0.25),
        ),
    ]
    return _shape("human.pedestrian.child" if child else "human.pedestrian.adult", rows)


def barrier(rng: Generator) -> ObjectShape:
    """A plastic or concrete road barrier, long side across its x axis, as the tables have it."""
    width, height = rng.uniform(1.6, 2.4), rng.uniform(0.85, 1.1)
    red = rng.random() < 0.5
    rows = [
        part(
            Kind.BOX,
            (0, 0, height / 2),
            (0.2, width / 2, height / 2),
            taper=0.5,
            material=Material.STRIPES if red else Material.PLAIN,
            class_id=0,
            color=(0.7, 0.16, 0.05) if red else (0.5, 0.5, 0.48),
        ),
    ]
    return _shape("movable_object.barrier", rows)


def traffic_cone(rng: Generator) -> ObjectShape:
    """An orange cone with white bands."""
    height = rng.uniform(0.65, 1.0)
    rows = [
        part(Kind.BOX, (0, 0, 0.03), (0.21, 0.21, 0.03), material=Material.PLAIN, class_id=0, color=(0.06, 0.06, 0.06)),
        part(
            Kind.CONE,
            (0, 0, 0.04 + height / 2),
            (0.18, 0.18, height / 2),
            material=Material.CONE_STRIPES,
            class_id=0,
            color=(0.85, 0.2, 0.02),
        ),
    ]
    return _shape("movable_object.trafficcone", rows)


def pushable(rng: Generator) -> ObjectShape:
    """A rubbish container or a pallet: categories pushable_pullable and debris (class `others`)."""
    if rng.random() < 0.7:
        color = [(0.05, 0.2, 0.09), (0.08, 0.1, 0.14), (0.4, 0.3, 0.05)][rng.integers(3)]
        half = (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.7))
        rows = [part(Kind.BOX, (0, 0, half[2]), half, material=Material.CARGO, class_id=0, color=color)]
        return _shape("movable_object.pushable_pullable", rows)
    half = (rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.6), rng.uniform(0.15, 0.4))
    rows = [part(Kind.BOX, (0, 0, half[2]), half, material=Material.BRICK, class_id=0, color=(0.35, 0.25, 0.14))]
    return _shape("movable_object.debris", rows)
