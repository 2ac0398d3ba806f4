"""The nuScenes map expansion: drivable area, pedestrian crossings and dividers as polygons and lines.

One file per location, `maps/expansion/<location>.json`, an object of layers. Geometry stands in three of them: `node`
(x, y in metres, the global frame), `line` and `polygon`, which name nodes; the other layers name lines and polygons.
Format: https://github.com/nutonomy/nuscenes-devkit, tutorial *map expansion*, version 1.3 (the devkit's
`map_expansion/map_api.py` reads the same files). Of its layers this project uses `drivable_area`, `ped_crossing`,
`lane_divider` and `road_divider`; others are not decoded. Towns write the same format for their own streets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np
from jaxtyping import Bool, Float

from occlift.datasets.nuscenes.tables import Row
from occlift.errors import DataError
from occlift.geometry.grids import BevGrid
from occlift.geometry.polygons import Polygon, line_cells, polygon_cells
from occlift.geometry.transforms import inverse
from occlift.labels.files import checked_name
from occlift.scenes.dataset import MAP_CLASSES, MapClass

DIVIDER_WIDTH_M: Final = 0.5
"""How wide a divider is drawn, whatever its paint: one cell of `BEV_GRID`, as public codes draw it."""

_AGAIN: Final = "unpack nuScenes-map-expansion-v1.3.zip again (or, in a town, delete the file and build the town again)"

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, eq=False)
class MapExpansion:
    """What a map says about the ground; coordinates are x, y of the global frame, metres.

    Attributes:
        drivable_area: may overlap.
        crossings: of pedestrians.
        dividers: between lanes of one direction (`lane_divider`) and between directions (`road_divider`), painted or
            not.
    """

    drivable_area: tuple[Polygon, ...]
    crossings: tuple[Polygon, ...]
    dividers: tuple[Float[np.ndarray, "_ 2"], ...]

    def cells(
        self, map_class: MapClass, global_from_ego: Float[np.ndarray, "4 4"], grid: BevGrid
    ) -> Bool[np.ndarray, "x y"]:
        """Which cells' centres a class covers: inside of a polygon, or within half of `DIVIDER_WIDTH_M` of a divider.

        The map is a plane through the ego frame's origin, level in the global frame, seen along the ego frame's z axis,
        as boxes are (`geometry.footprints`). Outside of the map nothing is covered.

        Args:
            grid: of the ego frame.
        """
        assert map_class in MAP_CLASSES, map_class
        origin = global_from_ego[:2, 3]
        # On the plane of the ego frame's origin a point's z is zero, so its column of the rotation does not matter.
        turn = inverse(global_from_ego)[:2, :2]
        # A tilted ego frame sees the map foreshortened; half as far again is more than any vehicle tilts.
        reach_m = 1.5 * float(np.hypot(*np.abs(grid.centers()[[0, -1], [0, -1]]).max(axis=0)))

        def place(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
            return (points - origin) @ turn.T

        covered = np.zeros(grid.shape, dtype=np.bool_)
        for number in _near(self._bounds[map_class], origin, reach_m):
            if map_class == "lane_divider":
                covered |= line_cells(place(self.dividers[number]), DIVIDER_WIDTH_M, grid)
                continue
            polygon = (self.drivable_area if map_class == "drivable_area" else self.crossings)[number]
            holes = [polygon.holes[hole] for hole in _near(_extents(polygon.holes), origin, reach_m)]
            placed = Polygon(exterior=place(polygon.exterior), holes=tuple(place(hole) for hole in holes))
            covered |= polygon_cells(placed, grid)
        return covered

    @cached_property
    def _bounds(self) -> dict[MapClass, Float[np.ndarray, "shapes 2 2"]]:
        return {
            "drivable_area": _extents([polygon.exterior for polygon in self.drivable_area]),
            "crossing": _extents([polygon.exterior for polygon in self.crossings]),
            "lane_divider": _extents(self.dividers),
        }


def _extents(shapes: Sequence[Float[np.ndarray, "_ 2"]]) -> Float[np.ndarray, "shapes 2 2"]:
    """Smallest and largest coordinates of every shape; of an empty one, infinities that nothing lies between."""
    bounds = np.empty((len(shapes), 2, 2))
    for number, points in enumerate(shapes):
        bounds[number] = points.min(axis=0, initial=np.inf), points.max(axis=0, initial=-np.inf)
    return bounds


def _near(bounds: Float[np.ndarray, "shapes 2 2"], origin: Float[np.ndarray, "2"], reach_m: float) -> list[int]:
    """Which shapes may meet a square around `origin`."""
    meets = (bounds[:, 0] < origin + reach_m) & (bounds[:, 1] > origin - reach_m)
    return np.flatnonzero(meets.all(axis=1)).tolist()


def map_expansion_path(root: Path, location: str) -> Path:
    """Where the map expansion of a location lies: `<root>/maps/expansion/<location>.json`.

    Raises:
        DataError: the location is no safe path component.
    """
    return root / "maps/expansion" / f"{checked_name(location, 'location')}.json"


def missing_map(path: Path, root: Path, scene: str) -> DataError:
    """The error for a scene whose location has no map expansion."""
    start = f"{path}: no such file, so the map classes of {scene} are unknown; "
    if (root / "town.json").exists():
        return DataError(
            start + "this town was built before towns had maps: run `occlift town` on it again, with the same options "
            "(what stands there is kept, and the maps are added)"
        )
    return DataError(
        start + "the map expansion is a download of its own: get nuScenes-map-expansion-v1.3.zip from "
        f"https://www.nuscenes.org/nuscenes#download and unpack it into {root / 'maps'}, or train without "
        f"{', '.join(MAP_CLASSES)}"
    )


class _NodeRow(Row, frozen=True, gc=False):
    x: float
    y: float


class _Ring(msgspec.Struct, frozen=True, gc=False):
    node_tokens: list[str]


class _PolygonRow(Row, frozen=True, gc=False):
    exterior_node_tokens: list[str]
    holes: list[_Ring] | None = None


class _LineRow(Row, frozen=True, gc=False):
    node_tokens: list[str]


class _AreaRow(Row, frozen=True, gc=False):
    polygon_tokens: list[str]


class _CrossingRow(Row, frozen=True, gc=False):
    polygon_token: str


class _DividerRow(Row, frozen=True, gc=False):
    line_token: str


class _Layers(msgspec.Struct, frozen=True, gc=False):
    node: list[_NodeRow]
    polygon: list[_PolygonRow]
    line: list[_LineRow]
    drivable_area: list[_AreaRow]
    ped_crossing: list[_CrossingRow]
    lane_divider: list[_DividerRow]
    road_divider: list[_DividerRow]


def read_map_expansion(path: Path) -> MapExpansion:
    """Reads the map expansion of a location.

    Lines of fewer than two nodes (the published maps have some) and rings of fewer than three cover nothing.

    Raises:
        DataError: the file is missing or damaged, lacks a layer or a field, or a row names a node, a line or a polygon
            that is not there.
    """
    try:
        layers = msgspec.json.decode(path.read_bytes(), type=_Layers)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {_AGAIN}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a map expansion of version 1.3: {error}; {_AGAIN}") from error
    nodes = {node.token: (node.x, node.y) for node in layers.node}
    lines = {line.token: line for line in layers.line}
    polygons = {polygon.token: polygon for polygon in layers.polygon}

    def points(tokens: Sequence[str], layer: str, owner: str) -> Float[np.ndarray, "n 2"]:
        found = [_named(nodes, token, "node", path, layer, owner) for token in tokens]
        return np.array(found, dtype=np.float64).reshape(-1, 2)

    def area(token: str, layer: str, owner: str) -> Polygon:
        row = _named(polygons, token, "polygon", path, layer, owner)
        return Polygon(
            exterior=points(row.exterior_node_tokens, "polygon", row.token),
            holes=tuple(points(hole.node_tokens, "polygon", row.token) for hole in row.holes or ()),
        )

    return MapExpansion(
        drivable_area=tuple(
            area(token, "drivable_area", row.token) for row in layers.drivable_area for token in row.polygon_tokens
        ),
        crossings=tuple(area(row.polygon_token, "ped_crossing", row.token) for row in layers.ped_crossing),
        dividers=tuple(
            points(_named(lines, row.line_token, "line", path, layer, row.token).node_tokens, "line", row.line_token)
            for layer in ("lane_divider", "road_divider")
            for row in getattr(layers, layer)
        ),
    )


def _named(table: Mapping[str, _Value], token: str, what: str, path: Path, layer: str, owner: str) -> _Value:
    """The row of the layer `what` that the row `owner` of `layer` names."""
    found = table.get(token)
    if found is None:
        raise DataError(
            f"{path}: row {owner} of {layer} names the {what} {token!r}, but there is none; the file is incomplete: "
            f"{_AGAIN}"
        )
    return found
