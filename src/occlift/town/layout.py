"""One scene of the town: streets, what stands beside them, what moves on them, the light, and the ego's drive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator

from occlift.label_space import OTHER_FLAT, TERRAIN
from occlift.town import parts as p
from occlift.town.furnish import Builder, TownObject, roadside, traffic, works
from occlift.town.roads import Polyline, Road, paint_ground
from occlift.town.shade import Light
from occlift.town.styles import STYLES, Style
from occlift.town.trace import Ground, PartIndex, index_parts

MARGIN_M: Final = 76.0
"""How far the world reaches beyond the ego's drive; the grid's corner is 57 m away."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drive:
    """The ego's motion: along a curve with a slowly varying speed, rocking a little."""

    path: Polyline
    speed_m_s: float
    phase: float

    def along_m(self, time_s: float) -> float:
        return self.speed_m_s * time_s + 0.6 * (np.sin(0.5 * time_s + self.phase) - np.sin(self.phase))

    def global_from_ego(self, time_s: float) -> Float[np.ndarray, "4 4"]:
        """Ego frame: below the rear axle on the ground, x forward, y left, z up."""
        x, y, yaw = self.path.pose(self.along_m(time_s))
        # Braking dips the nose: pitch follows the acceleration; the rest is the suspension on an uneven road.
        pitch = 0.0022 * np.sin(0.5 * time_s + self.phase) + 0.0018 * np.sin(3.1 * time_s + 2 * self.phase)
        roll = 0.0015 * np.sin(2.3 * time_s + self.phase)
        cy, sy, cp, sp, cr, sr = (
            np.cos(yaw),
            np.sin(yaw),
            np.cos(pitch),
            np.sin(pitch),
            np.cos(roll),
            np.sin(roll),
        )
        matrix = np.eye(4)
        matrix[:3, :3] = (
            np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
            @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
            @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
        )
        matrix[:2, 3] = x, y
        return matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class TownScene:
    """Everything that exists in a scene."""

    style: Style
    roads: tuple[Road, ...]
    ground: Ground
    static: PartIndex
    objects: tuple[TownObject, ...]
    drive: Drive
    light: Light

    @cached_property
    def _object_parts(self) -> tuple[Float[np.ndarray, "n columns"], Int[np.ndarray, "n"]]:
        """Parts of all objects in their own frames, and which object each belongs to."""
        rows = [thing.shape.parts for thing in self.objects]
        owner = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        return np.concatenate([np.zeros((0, p.NUM_COLUMNS)), *rows]), owner

    def poses(self, time_s: float) -> Float[np.ndarray, "objects 4"]:
        """(x, y, z of the ground below it, yaw) of every object in the global frame, metres and radians."""
        return np.array([thing.pose(time_s) for thing in self.objects]).reshape(-1, 4)

    def moving(self, time_s: float) -> PartIndex:
        """All annotated objects (standing ones too) at a time."""
        parts, owner = self._object_parts
        instances = np.array([thing.instance for thing in self.objects])
        if len(owner):
            x, y, z, yaw = self.poses(time_s)[owner].T
            parts = p.placed(parts, x, y, z, yaw, instances[owner])
        return index_parts(parts, self.ground)


def _curve(rng: Generator, length: float, heading: float) -> Polyline:
    """A road that bends gently: piecewise constant curvature, metres."""
    step, points = 3.0, [np.zeros(2)]
    curvature, left = 0.0, 0.0
    while len(points) * step < length:
        if left <= 0:
            curvature, left = float(rng.choice([0.0, 1.0, -1.0])) / rng.uniform(70, 220), rng.uniform(25, 70)
        heading += curvature * step
        left -= step
        points.append(points[-1] + step * np.array([np.cos(heading), np.sin(heading)]))
    return Polyline(np.array(points))


def _straight(center: Float[np.ndarray, "2"], heading: float, reach: float) -> Polyline:
    unit = np.array([np.cos(heading), np.sin(heading)])
    return Polyline(np.stack([center - reach * unit, center + reach * unit]))


def _road(rng: Generator, style: Style, line: Polyline, *, minor: bool = False) -> Road:
    lanes = 1 if minor else int(rng.integers(style.lanes[0], style.lanes[1] + 1))
    verge = rng.uniform(1.0, 2.5) if rng.random() < 0.5 else 0.0
    return Road(
        line=line,
        lanes=lanes,
        lane_m=rng.uniform(3.1, 3.7),
        parking_m=2.5 if rng.random() < 0.65 else 0.6,
        median_m=rng.uniform(0.6, 1.6) if not minor and rng.random() < (0.35 if lanes > 1 else 0.1) else 0.0,
        verge_m=verge,
        verge_class=OTHER_FLAT if rng.random() < 0.2 else TERRAIN,
        sidewalk_m=rng.uniform(*style.sidewalk_m),
    )


def _route(rng: Generator, style: Style, length: float) -> tuple[list[Road], Polyline, float]:
    """Roads, the ego's path, and where on it the drive begins (metres)."""
    before, after = 90.0, 110.0
    if rng.random() < 0.3 and length < 260:
        # A right-angled turn at a crossing of two roads.
        heading, side = rng.uniform(0, 2 * np.pi), float(rng.choice([-1.0, 1.0]))
        angle = side * rng.uniform(1.35, 1.75)
        reach = length + before + after
        first = _road(rng, style, _straight(np.zeros(2), heading, reach))
        second = _road(rng, style, _straight(np.zeros(2), heading + angle, reach))
        lane_in, lane_out = -first.lane_offset_m(0), -second.lane_offset_m(0)
        u, v = (np.array([np.cos(h), np.sin(h)]) for h in (heading, heading + angle))
        n_in, n_out = np.array([-u[1], u[0]]), np.array([-v[1], v[0]])
        # Where the two lanes' centre lines meet, and an arc tangent to both.
        a = np.linalg.solve(np.stack([u, -v], axis=1), n_out * lane_out - n_in * lane_in)[0]
        corner = u * a + n_in * lane_in
        radius = rng.uniform(9.0, 14.0)
        cut = radius * np.tan(abs(angle) / 2)
        center = corner - u * cut + n_in * side * radius
        arc = [
            center + radius * np.array([np.sin(heading + side * t) * side, -np.cos(heading + side * t) * side])
            for t in np.linspace(0, abs(angle), 14)
        ]
        turn_at = rng.uniform(0.3, 0.6) * length
        start = corner - u * (cut + turn_at + before)
        path = Polyline(np.array([start, *arc, corner + v * (cut + length - turn_at + after)]))
        return [first, second], path, before
    main = _road(rng, style, _curve(rng, length + before + after, rng.uniform(0, 2 * np.pi)))
    lane = int(rng.integers(main.lanes))
    total = main.line.length
    path = Polyline(np.array([main.line.pose(s, -main.lane_offset_m(lane))[:2] for s in np.arange(0, total, 3.0)]))
    roads = [main]
    if rng.random() < 0.75:
        s = before + rng.uniform(0.0, 1.0) * length + rng.uniform(0, 20)
        x, y, heading = main.line.pose(s)
        angle = heading + np.pi / 2 + rng.normal(0, 0.12)
        roads.append(_road(rng, style, _straight(np.array([x, y]), angle, 220.0), minor=True))
    return roads, path, before


def _light(rng: Generator) -> Light:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(25, 68))
    clouds = float(rng.beta(0.8, 1.1))
    warm = float(np.clip(1.3 - elevation, 0, 0.6))
    sun = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    strength = 2.4 * (1 - 0.85 * clouds)
    grey = 0.75
    sky = np.array([0.32, 0.5, 0.85]) * (1 - clouds) + grey * clouds
    return Light(
        sun=sun,
        sun_color=strength * np.array([1.0, 0.95 - 0.12 * warm, 0.88 - 0.35 * warm]),
        sky_color=sky * (0.8 + 0.35 * clouds),
        horizon_color=np.array([0.72, 0.78, 0.85]) * (0.9 + 0.2 * rng.random()),
        haze_per_m=float(rng.uniform(0.0008, 0.005)),
        clouds=clouds,
        exposure=float(rng.uniform(0.85, 1.2)) * (0.85 + 0.35 * clouds),
        noise=float(rng.uniform(0.006, 0.02)),
        grass=np.array([0.13, 0.2, 0.06]) * rng.uniform(0.7, 1.3) + rng.uniform(0, 0.08) * np.array([1.0, 0.6, 0.1]),
        asphalt=float(rng.uniform(0.13, 0.3)),
        paving=rng.uniform(0.3, 0.58) * np.array([1.0, rng.uniform(0.88, 1.0), rng.uniform(0.78, 1.0)]),
        flat=np.array([[0.42, 0.3, 0.24], [0.36, 0.36, 0.37], [0.3, 0.34, 0.26]][rng.integers(3)]),
        seed=int(rng.integers(1 << 30)),
    )


def _shifted(road: Road, by: Float[np.ndarray, "2"]) -> Road:
    return replace(road, line=Polyline(road.line.points - by))


def _from(path: Polyline, along_m: float) -> Polyline:
    """The rest of a curve from an arc length on."""
    rest = path.points[path.lengths > along_m + 0.01]
    return Polyline(np.concatenate([np.array([path.pose(along_m)[:2]]), rest]))


def _meets_ego(thing: TownObject, ego_poses: list[tuple[float, Float[np.ndarray, "4 4"]]]) -> bool:
    """Whether an object comes closer than 0.3 m to the ego's body (4.1 m long, 1.8 m wide) during the drive."""
    half = np.array(thing.shape.size_lwh_m[:2]) / 2
    for time_s, ego in ego_poses:
        x, y, _, yaw = thing.pose(time_s)
        for ahead in (-0.6, 1.0, 2.6):
            dx, dy = ego[:2, 3] + ahead * ego[:2, 0] - (x, y)
            local = np.abs([np.cos(yaw) * dx + np.sin(yaw) * dy, -np.sin(yaw) * dx + np.cos(yaw) * dy])
            if np.linalg.norm(np.maximum(local - half, 0)) < 1.25:
                return True
    return False


def _stopped(thing: TownObject) -> TownObject:
    attribute = {"vehicle.moving": "vehicle.stopped", "pedestrian.moving": "pedestrian.standing"}
    backwards = np.pi if thing.speed_m_s < 0 else 0.0
    return replace(
        thing,
        speed_m_s=0.0,
        turn_rad=thing.turn_rad + backwards,
        attribute=attribute.get(thing.attribute, thing.attribute),
    )


def build_scene(seed: tuple[int, ...], *, frames: int, static: bool = False) -> TownScene:
    """Builds a scene; the same seed gives the same scene.

    Args:
        seed: entropy for numpy's generator.
        frames: key frames at 2 Hz that the drive lasts.
        static: nothing but the ego moves: everything that would move stands where it was at the start.
    """
    rng = np.random.default_rng(seed)
    style = STYLES[int(rng.integers(len(STYLES)))]
    duration_s = 0.5 * max(frames - 1, 1)
    speed = rng.uniform(4.0, 8.5)
    length = speed * duration_s + 1.5
    roads, path, start_m = _route(rng, style, length)
    # The drive's own curve begins at the drive, so that the ego's arc length is zero at time zero.
    stations = np.arange(start_m - 3.0, start_m + length + 9.0, 1.0)
    xy = np.array([path.pose(s)[:2] for s in stations])
    lower = np.floor(xy.min(axis=0) - MARGIN_M)
    size = np.ceil(xy.max(axis=0) + MARGIN_M) - lower
    # The global frame starts at the corner of the map, as those of the map expansion do.
    path = Polyline(path.points - lower)
    roads = [_shifted(road, lower) for road in roads]
    ground = paint_ground(
        roads,
        lower=(0.0, 0.0),
        upper=(float(size[0]), float(size[1])),
        plaza=style.plaza,
        seed=float(rng.uniform(0, 50)),
    )
    drive = Drive(path=_from(path, start_m), speed_m_s=speed, phase=float(rng.uniform(0, 6.28)))
    builder = Builder(rng=rng, roads=roads, ego_path=path, ground=ground, drive_length_m=length)
    if rng.random() < style.works:
        works(builder, style, start_m)
    for road in roads:
        roadside(builder, style, road)
    traffic(builder, style, speed, start_m)
    light = _light(rng)
    objects = [_stopped(o) for o in builder.things] if static else builder.things
    ego_poses = [(t, drive.global_from_ego(t)) for t in np.arange(-0.1, duration_s + 0.2, 0.2)]
    objects = [o for o in objects if not _meets_ego(o, ego_poses)]
    return TownScene(
        style=style,
        roads=tuple(roads),
        ground=ground,
        static=index_parts(np.concatenate(builder.static_parts), ground),
        objects=tuple(objects),
        drive=drive,
        light=light,
    )
