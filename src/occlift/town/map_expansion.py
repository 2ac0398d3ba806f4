"""The map of a scene of the town, in the format of the map expansion that its data-set adapter reads.

*Drivable area* and *crossings* are the outlines of what the ground's raster shows, exact to its cells of 1/8 m; the
stripes of a crossing are joined. *Dividers* are lines: `road_divider` between the directions of a road that has no
median, `lane_divider` between two lanes of one direction, running through the gaps of dashed paint. The line along the
kerb or the parking lane is none. Dividers end where the paint does, before crossings, to 1/8 m.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from occlift.datasets import table_writer
from occlift.geometry.polygons import Polygon, outlines
from occlift.label_space import DRIVEABLE_SURFACE
from occlift.runtime.files import replacing
from occlift.town.layout import TownScene
from occlift.town.roads import GROUND_CELL_M, MARKED_BEYOND_M, Paint, Polyline, Road, distance_to
from occlift.town.trace import Ground


def write_map_expansion(root: Path, name: str, scene: TownScene) -> None:
    """Writes the map of the scene `name` of the town in `root`; equal scenes give equal bytes."""
    with replacing(table_writer.map_expansion_path(root, name)) as file:
        file.write(json.dumps(_layers(scene), separators=(",", ":")).encode())


def _layers(scene: TownScene) -> dict[str, Any]:
    ground = scene.ground
    paint = ground.paint
    layers = _Layers()
    drivable = [layers.polygon(area) for area in _areas(ground.class_id == DRIVEABLE_SURFACE, ground)]
    crossings = [
        layers.polygon(area) for area in _areas((paint == Paint.CROSSING) | (paint == Paint.BETWEEN_STRIPES), ground)
    ]
    between_directions, between_lanes = [], []
    for road in scene.roads:
        others = [other for other in scene.roads if other is not road]
        if road.median_m == 0:
            between_directions += [layers.line(part) for part in _marked(road, 0.0, others, ground)]
        for lane in range(1, road.lanes):
            offset_m = road.median_m + lane * road.lane_m
            for side in (-offset_m, offset_m):
                between_lanes += [layers.line(part) for part in _marked(road, side, others, ground)]
    return {
        "version": "1.3",
        "canvas_edge": [count * ground.cell_m for count in ground.class_id.shape],
        "node": layers.nodes,
        "line": layers.lines,
        "polygon": layers.polygons,
        "drivable_area": [{"token": "drivable-area", "polygon_tokens": drivable}],
        "ped_crossing": [
            {"token": f"crossing-{number}", "polygon_token": token, "road_segment_token": None}
            for number, token in enumerate(crossings)
        ],
        "road_divider": [
            {"token": f"road-divider-{number}", "line_token": token, "road_segment_token": None}
            for number, token in enumerate(between_directions)
        ],
        "lane_divider": [
            {"token": f"lane-divider-{number}", "line_token": token, "lane_divider_segments": []}
            for number, token in enumerate(between_lanes)
        ],
    }


class _Layers:
    """The layers that hold geometry, as they grow."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self.polygons: list[dict[str, Any]] = []

    def line(self, points: Float[np.ndarray, "n 2"]) -> str:
        """Adds a line; returns its token."""
        self.lines.append({"token": f"line-{len(self.lines)}", "node_tokens": self._nodes(points)})
        return self.lines[-1]["token"]

    def polygon(self, area: Polygon) -> str:
        """Adds a polygon; returns its token."""
        self.polygons.append(
            {
                "token": f"polygon-{len(self.polygons)}",
                "exterior_node_tokens": self._nodes(area.exterior),
                "holes": [{"node_tokens": self._nodes(hole)} for hole in area.holes],
            }
        )
        return self.polygons[-1]["token"]

    def _nodes(self, points: Float[np.ndarray, "n 2"]) -> list[str]:
        first = len(self.nodes)
        for x, y in points.round(6).tolist():
            self.nodes.append({"token": f"node-{len(self.nodes)}", "x": x, "y": y})
        return [f"node-{number}" for number in range(first, len(self.nodes))]


def _areas(cells: Bool[np.ndarray, "x y"], ground: Ground) -> list[Polygon]:
    lower = np.array([ground.lower_x, ground.lower_y])
    return [
        Polygon(
            exterior=lower + ground.cell_m * area.exterior,
            holes=tuple(lower + ground.cell_m * hole for hole in area.holes),
        )
        for area in outlines(cells)
    ]


def _marked(road: Road, offset_m: float, others: list[Road], ground: Ground) -> list[NDArray[np.float64]]:
    """The parts of a line along a road (`offset_m` to the left of its centre line) that are on the map and marked."""
    lower = np.array([ground.lower_x, ground.lower_y])
    size_m = ground.cell_m * np.array(ground.class_id.shape)
    upper = lower + size_m
    line = Polyline(_beside(road.line, offset_m, beyond_m=float(np.hypot(*size_m))))
    stations = np.arange(0.0, line.length, GROUND_CELL_M)
    stations = np.unique(np.concatenate((stations, line.lengths)))
    points = np.stack([np.interp(stations, line.lengths, line.points[:, k]) for k in range(2)], axis=-1)
    marked: NDArray[np.bool_] = np.all((points >= lower) & (points <= upper), axis=1)
    for other in others:
        marked[marked] &= [
            distance_to(other.line, x, y) - other.half_width_m > MARKED_BEYOND_M for x, y in points[marked]
        ]
    bends = np.isin(stations, line.lengths)
    # Where a run of marked points begins, and where one has ended.
    changes = np.flatnonzero(np.diff(np.concatenate(([False], marked, [False])).astype(np.int8)))
    parts = []
    for first, end in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
        kept = bends[first:end].copy()
        kept[[0, -1]] = True
        if kept.sum() >= 2:
            parts.append(points[first:end][kept])
    return parts


def _beside(line: Polyline, offset_m: float, *, beyond_m: float) -> Float[np.ndarray, "n 2"]:
    """A curve `offset_m` to the left of another, with mitred bends, that goes straight on at both ends as roads do."""
    steps = np.diff(line.points, axis=0)
    along = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    points = line.points.copy()
    points[0] -= beyond_m * along[0]
    points[-1] += beyond_m * along[-1]
    left = np.stack((-along[:, 1], along[:, 0]), axis=1)
    before, after = np.concatenate((left[:1], left)), np.concatenate((left, left[-1:]))
    return points + offset_m * (before + after) / (1 + (before * after).sum(axis=1, keepdims=True))
