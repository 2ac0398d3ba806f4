"""What stands and moves along the roads: buildings, trees, street furniture, parked and moving vehicles, people."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from occlift.town import objects, scenery
from occlift.town import parts as p
from occlift.town.roads import Polyline, Road, distance_to
from occlift.town.styles import Style
from occlift.town.trace import Ground, ground_height


@dataclass(frozen=True, kw_only=True, eq=False)
class TownObject:
    """An annotated object: a shape that stands, or moves along a curve at constant speed.

    Attributes:
        instance: number within the scene, from 1.
        path: the curve; a standing object uses its pose at `start_m`.
        speed_m_s: signed along the curve; negative drives it backwards, facing backwards.
        attribute: name of an attribute in the tables, "" for none.
    """

    instance: int
    shape: objects.ObjectShape
    path: Polyline
    start_m: float
    offset_m: float
    height_m: float
    speed_m_s: float
    turn_rad: float
    attribute: str

    def pose(self, time_s: float) -> tuple[float, float, float, float]:
        """(x, y, z of the ground below it, yaw) in the global frame."""
        x, y, heading = self.path.pose(self.start_m + self.speed_m_s * time_s, self.offset_m)
        return x, y, self.height_m, heading + self.turn_rad + (np.pi if self.speed_m_s < 0 else 0.0)


@dataclass
class Builder:
    """Collects what has found a place; nothing is put where something stands already."""

    rng: Generator
    roads: list[Road]
    ego_path: Polyline
    ground: Ground
    drive_length_m: float
    static_parts: list[Float[np.ndarray, "_ columns"]] = field(default_factory=list)
    things: list[TownObject] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def is_inside(self, x: float, y: float) -> bool:
        """Whether the world reaches to a point."""
        cell = self.ground.cell_m
        nx, ny = self.ground.height_m.shape
        return 2 < (x - self.ground.lower_x) / cell < nx - 2 and 2 < (y - self.ground.lower_y) / cell < ny - 2

    def is_free(self, x: float, y: float, radius: float) -> bool:
        """Whether a disc (metres) lies in the world and touches nothing that stands."""
        if not self.is_inside(x, y):
            return False
        if not self.taken:
            return True
        t = np.array(self.taken)
        return bool(np.all((t[:, 0] - x) ** 2 + (t[:, 1] - y) ** 2 > (t[:, 2] + radius) ** 2))

    def off_road(self, x: float, y: float, radius: float, *, kerb_only: bool = True) -> bool:
        """Whether a disc touches no road (with `kerb_only` false: no sidewalk either)."""
        return all(
            distance_to(r.line, x, y) - radius > (r.half_width_m if kerb_only else r.half_corridor_m)
            for r in self.roads
        )

    def height(self, x: float, y: float) -> float:
        """Of the ground, metres."""
        return float(ground_height(self.ground, x, y))

    def put(self, parts: Float[np.ndarray, "n columns"], x: float, y: float, yaw: float, radius: float) -> bool:
        """Puts scenery on the ground, facing `yaw` (radians), unless its disc is taken."""
        if not self.is_free(x, y, radius):
            return False
        self.taken.append((x, y, radius))
        self.static_parts.append(p.placed(parts, x, y, self.height(x, y), yaw))
        return True

    def add(
        self,
        shape: objects.ObjectShape,
        path: Polyline,
        along: float,
        offset: float,
        *,
        speed: float = 0.0,
        turn: float = 0.0,
        attribute: str = "",
        radius: float | None = None,
    ) -> bool:
        """Adds an annotated object unless its place is taken; `radius` of a mover is not reserved."""
        x, y, _ = path.pose(along, offset)
        if speed == 0.0:
            r = 0.5 * float(np.hypot(*shape.size_lwh_m[:2])) if radius is None else radius
            if not self.is_free(x, y, r):
                return False
            self.taken.append((x, y, r))
        self.things.append(
            TownObject(
                instance=len(self.things) + 1,
                shape=shape,
                path=path,
                start_m=along,
                offset_m=offset,
                height_m=self.height(x, y),
                speed_m_s=speed,
                turn_rad=turn,
                attribute=attribute,
            )
        )
        return True


def roadside(b: Builder, style: Style, road: Road) -> None:
    """Buildings, walls, trees, street furniture, parked vehicles and people along both sides of a road."""
    rng = b.rng
    for side in (-1.0, 1.0):
        s = rng.uniform(0, 8)
        while s < road.line.length:
            lot = rng.uniform(9.0, 24.0)
            x0, y0, heading = road.line.pose(s + lot / 2)
            if not b.is_inside(x0, y0):
                s += lot
                continue
            facing = heading if side > 0 else heading + np.pi
            if rng.random() < style.building_share:
                depth = rng.uniform(8.0, 15.0)
                height = float(np.exp(rng.uniform(*np.log(style.building_height_m))))
                width = lot * rng.uniform(0.75, 0.98)
                offset = side * (road.half_corridor_m + rng.uniform(*style.setback_m) + depth / 2)
                x, y, _ = road.line.pose(s + lot / 2, offset)
                if all(
                    distance_to(r.line, x, y)
                    > r.half_corridor_m + (np.hypot(width, depth) / 2 if r is not road else depth / 2)
                    for r in b.roads
                ):
                    b.put(scenery.building(rng, width, depth, height), x, y, facing, 0.5 * max(width, depth))
            elif rng.random() < 0.45:
                offset = side * (road.half_corridor_m + rng.uniform(0.4, 1.5))
                x, y, _ = road.line.pose(s + lot / 2, offset)
                if (
                    b.off_road(x, y, lot / 2.2, kerb_only=False)
                    or distance_to(road.line, x, y) < road.half_corridor_m + 2
                ):
                    make = scenery.wall if rng.random() < 0.5 else scenery.hedge
                    if all(r is road or distance_to(r.line, x, y) > r.half_corridor_m + lot / 2 for r in b.roads):
                        b.put(make(rng, lot * 0.9), x, y, facing, 0.9)
            if rng.random() < style.yard * lot / 10:
                shape = objects.trailer(rng) if rng.random() < 0.6 else objects.truck(rng)
                offset = side * (road.half_corridor_m + rng.uniform(2.5, 6.0))
                x, y, _ = road.line.pose(s, offset)
                if b.off_road(x, y, 5.0):
                    b.add(
                        shape,
                        road.line,
                        s,
                        offset,
                        turn=rng.normal(0, 0.2) + rng.choice([0, np.pi / 2]),
                        attribute="vehicle.parked" if "trailer" not in shape.category else "",
                    )
            s += lot
        _greenery(b, style, road, side)
        _furniture(b, style, road, side)
        _standing(b, style, road, side)


def _greenery(b: Builder, style: Style, road: Road, side: float) -> None:
    rng, length = b.rng, road.line.length
    for _ in range(rng.poisson(style.trees * length / 10)):
        along = rng.uniform(0, length)
        offset = road.half_width_m + 0.9 if rng.random() < 0.4 else road.half_corridor_m + rng.uniform(1.0, 28.0)
        height = rng.uniform(4.0, 11.0)
        x, y, _ = road.line.pose(along, side * offset)
        if b.off_road(x, y, 0.5):
            b.put(scenery.tree(rng, height), x, y, rng.uniform(0, 6.28), 0.13 * height)
    for _ in range(rng.poisson(style.bushes * length / 10)):
        along, offset = rng.uniform(0, length), road.half_corridor_m + rng.uniform(0.6, 20.0)
        x, y, _ = road.line.pose(along, side * offset)
        if b.off_road(x, y, 1.0, kerb_only=False):
            b.put(scenery.bush(rng), x, y, rng.uniform(0, 6.28), 0.9)


def _furniture(b: Builder, style: Style, road: Road, side: float) -> None:
    rng, length = b.rng, road.line.length
    spacing = rng.uniform(22, 38)
    for along in np.arange(rng.uniform(0, spacing), length, spacing):
        x, y, heading = road.line.pose(along, side * (road.half_width_m + 0.5))
        if b.off_road(x, y, 0.2):
            b.put(scenery.lamp_post(rng), x, y, heading + (np.pi if side > 0 else 0.0), 0.3)
    for _ in range(rng.poisson(0.25 * length / 10)):
        x, y, heading = road.line.pose(rng.uniform(0, length), side * (road.half_width_m + 0.6))
        if b.off_road(x, y, 0.2):
            make = scenery.sign if rng.random() < 0.7 else scenery.traffic_light
            b.put(make(rng), x, y, heading + (np.pi if side > 0 else 0.0), 0.4)
    for _ in range(rng.poisson(0.12 * length / 10)):
        along, offset = rng.uniform(0, length), side * (road.half_corridor_m - rng.uniform(0.3, 0.8))
        x, y, _ = road.line.pose(along, offset)
        if b.off_road(x, y, 0.8):
            b.add(objects.pushable(rng), road.line, along, offset, turn=rng.normal(0, 0.2))


def _standing(b: Builder, style: Style, road: Road, side: float) -> None:
    """Parked vehicles, bicycles at the wall, people who stand or walk."""
    rng, length = b.rng, road.line.length
    if road.parking_m > 2:
        along = rng.uniform(0, 8)
        while along < length:
            shape = objects.truck(rng) if rng.random() < 0.4 * style.truck_share else objects.car(rng)
            offset = side * (road.half_width_m - 1.2)
            x, y, _ = road.line.pose(along, offset)
            clear = all(r is road or distance_to(r.line, x, y) > r.half_corridor_m + 6 for r in b.roads)
            if clear and rng.random() < style.parked and distance_to(b.ego_path, x, y) > 2.6:
                b.add(
                    shape,
                    road.line,
                    along,
                    offset,
                    turn=0.0 if side < 0 else np.pi,
                    attribute="vehicle.parked",
                    radius=1.0,
                )
            along += shape.size_lwh_m[0] + rng.uniform(0.8, 2.5)
    for _ in range(rng.poisson(0.5 * style.cyclists * length / 10)):
        along, offset = (
            rng.uniform(0, length),
            side * (road.half_width_m + road.verge_m + rng.uniform(0.4, 1.0)),
        )
        x, y, _ = road.line.pose(along, offset)
        if b.off_road(x, y, 0.6):
            shape = objects.bicycle(rng, ridden=False) if rng.random() < 0.65 else objects.motorcycle(rng, ridden=False)
            b.add(shape, road.line, along, offset, turn=rng.normal(0, 0.5), attribute="cycle.without_rider")
    for _ in range(rng.poisson(style.pedestrians * length / 10)):
        along = rng.uniform(0, length)
        offset = side * (road.half_width_m + road.verge_m + rng.uniform(0.3, max(road.sidewalk_m - 0.3, 0.4)))
        speed = float(rng.choice([-1, 1])) * rng.uniform(0.8, 1.6) if rng.random() < 0.7 else 0.0
        x, y, _ = road.line.pose(along, offset)
        # Walkers keep to the sidewalk of one block, so that nobody walks through a car on the road across.
        if all(r is road or distance_to(r.line, x, y) > r.half_corridor_m + 22 for r in b.roads):
            b.add(
                objects.pedestrian(rng),
                road.line,
                along,
                offset,
                speed=speed,
                turn=0.0 if speed else rng.uniform(0, 6.28),
                attribute="pedestrian.moving" if speed else "pedestrian.standing",
            )


def _vehicle(rng: Generator, style: Style) -> objects.ObjectShape:
    roll = rng.random()
    if roll < style.truck_share * 0.5:
        return objects.truck(rng)
    if roll < style.truck_share * 0.5 + 0.05:
        return objects.bus(rng)
    if roll < style.truck_share * 0.5 + 0.05 + 0.6 * style.cyclists:
        return objects.bicycle(rng, ridden=True)
    if roll < style.truck_share * 0.5 + 0.05 + 1.3 * style.cyclists:
        return objects.motorcycle(rng, ridden=True)
    return objects.car(rng)


def _attribute(shape: objects.ObjectShape, *, moving: bool) -> str:
    if shape.category in ("vehicle.bicycle", "vehicle.motorcycle"):
        return "cycle.with_rider"
    return "vehicle.moving" if moving else "vehicle.stopped"


def traffic(b: Builder, style: Style, speed_m_s: float, start_m: float) -> None:
    """Vehicles before and behind the ego, oncoming ones, and those that wait at the crossing."""
    rng = b.rng
    for direction in (1, -1):
        along = start_m + direction * rng.uniform(11, 24)
        while abs(along - start_m) < 75:
            shape = _vehicle(rng, style)
            half = shape.size_lwh_m[0] / 2
            along += direction * half
            b.add(
                shape,
                b.ego_path,
                along,
                rng.normal(0, 0.15),
                speed=speed_m_s,
                attribute=_attribute(shape, moving=True),
            )
            along += direction * (half + rng.uniform(9, 35))
            if shape.category == "vehicle.truck" and direction < 0 and rng.random() < 0.5:
                break
    main = b.roads[0]
    crossing = b.roads[1].line if len(b.roads) > 1 else None
    is_cruise = distance_to(main.line, *b.ego_path.points[-1]) < main.half_width_m
    if is_cruise:
        for lane in range(main.lanes):
            speed, along = rng.uniform(4, 11), rng.uniform(0, 30)
            while along < main.line.length + 60:
                shape = _vehicle(rng, style)
                b.add(
                    shape,
                    main.line,
                    along,
                    main.lane_offset_m(lane),
                    speed=-speed,
                    attribute=_attribute(shape, moving=True),
                )
                along += shape.size_lwh_m[0] + rng.uniform(9, 45)
    for road in b.roads[1:] if is_cruise else b.roads:
        # Waiting at the line, one queue per side of the crossing.
        other = main.line if road is not main else crossing
        assert other is not None
        for along in np.arange(0.0, road.line.length, 2.0):
            for side in (-1.0, 1.0):
                x, y, _ = road.line.pose(along, side * road.lane_offset_m(0))
                gap = distance_to(other, x, y) - (main if road is not main else b.roads[1]).half_width_m
                mid = road.line.length / 2
                approaching = (along < mid) == (side < 0)
                if approaching and 8.5 < gap < 45 and distance_to(b.ego_path, x, y) > 4 and rng.random() < 0.25:
                    shape = _vehicle(rng, style)
                    b.add(
                        shape,
                        road.line,
                        along,
                        side * road.lane_offset_m(0),
                        turn=0.0 if side < 0 else np.pi,
                        attribute=_attribute(shape, moving=False),
                        radius=shape.size_lwh_m[0] / 2 + 0.6,
                    )


def works(b: Builder, style: Style, start_m: float) -> None:
    """Road works beside the ego's lane: a row of cones or barriers, behind it an excavator."""
    rng = b.rng
    road = b.roads[0]
    for _ in range(int(rng.integers(1, 4))):
        at, side = start_m + rng.uniform(8, b.drive_length_m + 30), float(rng.choice([-1.0, 1.0]))
        behind = road.half_width_m + road.verge_m
        length = rng.uniform(12, 32)
        cones = rng.random() < 0.4
        for along in np.arange(at, at + length, 1.5 if cones else 2.2):
            shape = objects.traffic_cone(rng) if cones else objects.barrier(rng)
            offset = side * (behind + rng.uniform(0.35, 0.5))
            x, y, _ = road.line.pose(along, offset)
            if b.off_road(x, y, 0.2):
                b.add(shape, road.line, along, offset, turn=np.pi / 2, radius=0.3)
        if rng.random() < 0.45:
            offset = side * (behind + rng.uniform(4.0, 7.0))
            along = at + rng.uniform(0, length)
            x, y, _ = road.line.pose(along, offset)
            if b.off_road(x, y, 2.0):
                b.add(
                    objects.construction_vehicle(rng),
                    road.line,
                    along,
                    offset,
                    turn=rng.uniform(0, 6.28),
                    radius=2.2,
                    attribute="vehicle.stopped",
                )
