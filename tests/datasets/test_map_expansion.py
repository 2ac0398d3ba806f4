"""Polygons, lines and outlines on a grid; the map expansion's format; the maps of the town."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.datasets.nuscenes.map_expansion import (
    DIVIDER_WIDTH_M,
    MAP_CLASSES,
    map_expansion_path,
    read_map_expansion,
)
from occlift.errors import DataError
from occlift.geometry.grids import BEV_GRID, BevGrid
from occlift.geometry.polygons import Polygon, line_cells, outlines, polygon_cells
from occlift.geometry.transforms import inverse, rigid_transform, rotation_about_z, transform_points
from occlift.label_space import DRIVEABLE_SURFACE
from occlift.town.config import TownConfig
from occlift.town.layout import TownScene, build_scene
from occlift.town.map_expansion import write_map_expansion
from occlift.town.roads import Paint
from occlift.town.write import write_town

UNEVEN = BevGrid(lower_m=(-3.0, -4.0), cell_size_m=(0.3, 0.5), shape=(22, 17))


def _inside(ring: np.ndarray, x: float, y: float) -> bool:
    """The slow twin: how often a ray in the direction of y crosses the ring."""
    crossings = 0
    for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if (ax <= x) != (bx <= x) and ay + (x - ax) / (bx - ax) * (by - ay) > y:
            crossings += 1
    return crossings % 2 == 1


def _star(rng: np.random.Generator, center: tuple[float, float], reach: float) -> np.ndarray:
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radii = rng.uniform(0.4, 1.0, 9) * reach
    return np.stack((center[0] + radii * np.cos(angles), center[1] + radii * np.sin(angles)), axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_cells_of_polygons_are_those_whose_centre_is_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygon = Polygon(exterior=_star(rng, (0.5, 0.3), 6.0), holes=(_star(rng, (0, 0), 2.0), _star(rng, (1, 2), 1.5)))
    expected = np.zeros(UNEVEN.shape, dtype=bool)
    for cell in np.ndindex(UNEVEN.shape):
        x, y = UNEVEN.centers()[cell]
        expected[cell] = _inside(polygon.exterior, x, y) and not any(_inside(hole, x, y) for hole in polygon.holes)
    assert 40 < expected.sum() < expected.size
    np.testing.assert_array_equal(polygon_cells(polygon, UNEVEN), expected)
    # Neither where a ring begins nor which way it runs matters.
    turned = Polygon(exterior=np.roll(polygon.exterior[::-1], 3, axis=0), holes=polygon.holes[::-1])
    np.testing.assert_array_equal(polygon_cells(turned, UNEVEN), expected)


def test_neighbours_share_no_cell_and_leave_none_out() -> None:
    """Borders through the centres of cells: every cell belongs to one of the four quarters."""
    corners = [np.array([[x, y], [x + 50, y], [x + 50, y + 50], [x, y + 50]]) for x in (-50, 0) for y in (-50, 0)]
    shifted = [corner + 0.25 for corner in corners]
    total = sum(polygon_cells(Polygon(exterior=ring), BEV_GRID).astype(int) for ring in shifted)
    np.testing.assert_array_equal(total[1:, 1:], 1)


def test_what_covers_nothing() -> None:
    for points in (np.zeros((0, 2)), np.zeros((1, 2)), np.array([[-9.0, 0.0], [9.0, 0.1]])):
        assert not polygon_cells(Polygon(exterior=points), UNEVEN).any()
    assert not line_cells(np.zeros((0, 2)), 1.0, UNEVEN).any()
    assert not line_cells(np.zeros((1, 2)), 1.0, UNEVEN).any()
    far = np.array([[1e12, 1e12], [1e12, 2e12], [3e12, 0.0]])
    assert not polygon_cells(Polygon(exterior=far), UNEVEN).any()
    assert not line_cells(far, 1.0, UNEVEN).any()
    assert polygon_cells(Polygon(exterior=1e9 * np.array([[-1.0, -1], [3, -1], [-1, 3]])), UNEVEN).all()


def test_cells_of_lines_are_those_whose_centre_is_near() -> None:
    rng = np.random.default_rng(5)
    line = np.concatenate((rng.uniform(-5, 5, (5, 2)), [[1.0, 1.0], [1.0, 1.0], [1.0, 3.0]]))
    centers = UNEVEN.centers()
    distance = np.full(UNEVEN.shape, np.inf)
    for a, b in pairwise(line):
        for t in np.linspace(0, 1, 4001):
            distance = np.minimum(distance, np.linalg.norm(centers - (a + t * (b - a)), axis=-1))
    for width_m in (0.5, 1.3):
        clear = np.abs(distance - width_m / 2) > 1e-3  # how finely the twin walks along the line
        cells = line_cells(line, width_m, UNEVEN)
        assert cells.any()
        np.testing.assert_array_equal(cells[clear], (distance < width_m / 2)[clear])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_outlines_cover_the_cells_they_came_from(share: float) -> None:
    cells = np.random.default_rng(int(10 * share)).random((23, 31)) < share
    polygons = outlines(cells)
    unit = BevGrid(lower_m=(0.0, 0.0), cell_size_m=(1.0, 1.0), shape=(23, 31))
    total = sum(polygon_cells(polygon, unit).astype(int) for polygon in polygons)
    np.testing.assert_array_equal(total, cells)
    area = 0.0
    for polygon in polygons:
        assert _signed_area(polygon.exterior) > 0
        assert all(_signed_area(hole) < 0 for hole in polygon.holes)
        area += sum(_signed_area(ring) for ring in (polygon.exterior, *polygon.holes))
        for ring in (polygon.exterior, *polygon.holes):
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps == 0).sum(axis=1) == 1).all()
            assert ((steps * np.roll(steps, 1, axis=0)).sum(axis=1) == 0).all(), "a point where nothing bends"
    assert area == cells.sum()


def _signed_area(ring: np.ndarray) -> float:
    following = np.roll(ring, -1, axis=0)
    return float(0.5 * (ring[:, 0] * following[:, 1] - ring[:, 1] * following[:, 0]).sum())


def test_outlines_of_a_frame_by_hand() -> None:
    cells = np.ones((4, 5), dtype=bool)
    cells[1:3, 1:3] = False
    cells[3, 4] = False
    (polygon,) = outlines(cells)
    assert {tuple(p) for p in polygon.exterior.tolist()} == {(0, 0), (4, 0), (4, 4), (3, 4), (3, 5), (0, 5)}
    assert [{tuple(p) for p in hole.tolist()} for hole in polygon.holes] == [{(1, 1), (3, 1), (3, 3), (1, 3)}]


def _map(**changes: Any) -> dict[str, Any]:
    """A square of 20 m with a square hole of 4 m, a crossing, and three lines, one of them without nodes."""
    corners = {"a": (100, 200), "b": (120, 200), "c": (120, 220), "d": (100, 220)}
    hole = {"e": (108, 208), "f": (112, 208), "g": (112, 212), "h": (108, 212)}
    crossing = {"i": (100, 214), "j": (120, 214), "k": (120, 217), "l": (100, 217)}
    nodes = {**corners, **hole, **crossing, "m": (110.25, 200), "n": (110.25, 219.9), "o": (100, 205)}
    return {
        "version": "1.3",
        "canvas_edge": [300.0, 400.0],
        "node": [{"token": name, "x": x, "y": float(y)} for name, (x, y) in nodes.items()],
        "polygon": [
            {"token": "square", "exterior_node_tokens": list(corners),
             "holes": [{"node_tokens": list(hole)}, {"node_tokens": []}]},
            {"token": "stripes", "exterior_node_tokens": list(crossing), "holes": []},
        ],
        "line": [
            {"token": "middle", "node_tokens": ["m", "n"]},
            {"token": "lane", "node_tokens": ["o", "b"]},
            {"token": "none", "node_tokens": []},
        ],
        "drivable_area": [{"token": "area", "polygon_tokens": ["square"]}],
        "ped_crossing": [{"token": "zebra", "polygon_token": "stripes", "road_segment_token": None}],
        "lane_divider": [{"token": "dashes", "line_token": "lane", "lane_divider_segments": []}],
        "road_divider": [{"token": "yellow", "line_token": "middle", "road_segment_token": "r"},
                         {"token": "empty", "line_token": "none", "road_segment_token": None}],
        "traffic_light": [{"token": "light", "pose": {"tx": 0.0}}],
        **changes,
    }  # fmt: skip


def _written(path: Path, layers: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(layers))
    return path


def test_a_map_by_hand(tmp_path: Path) -> None:
    expansion = read_map_expansion(_written(tmp_path / "m.json", _map()))
    # The ego stands in the middle of the square and looks along the global y axis: x_ego = y − 210, y_ego = 110 − x.
    global_from_ego = rigid_transform(rotation_about_z(math.pi / 2), (110.0, 210.0, 3.0))
    cells = {name: expansion.cells(name, global_from_ego, BEV_GRID) for name in MAP_CLASSES}
    expected = np.zeros((200, 200), dtype=bool)
    expected[80:120, 80:120] = True
    expected[96:104, 96:104] = False
    np.testing.assert_array_equal(cells["drivable_area"], expected)
    expected[:] = False
    expected[108:114, 80:120] = True  # x_ego in [4, 7]
    np.testing.assert_array_equal(cells["crossing"], expected)
    # The road's divider runs along x at y = −0.25, through the centres of cells.
    assert DIVIDER_WIDTH_M == 0.5
    expected = np.zeros((14, 5), dtype=bool)
    expected[:12, 2] = True
    np.testing.assert_array_equal(cells["lane_divider"][108:122, 97:102], expected)
    # The lane's: from (−5, 10) to (−10, −10).
    along = np.linspace(0, 1, 50)
    index, _ = BEV_GRID.indices(np.stack((-5 - 5 * along, 10 - 20 * along), axis=1))
    assert cells["lane_divider"][tuple(index.T)].mean() > 0.7
    assert cells["lane_divider"].sum() == pytest.approx((20 + math.hypot(5, 20)) * 0.5 / 0.25, rel=0.6)


@pytest.mark.parametrize("yaw", [0.3, 2.0, -1.1])
def test_a_cell_is_looked_up_where_it_lies_on_the_map(tmp_path: Path, yaw: float) -> None:
    expansion = read_map_expansion(_written(tmp_path / "m.json", _map()))
    global_from_ego = rigid_transform(rotation_about_z(yaw), (131.3, 204.1, -1.0))
    centers_ego = np.concatenate((BEV_GRID.centers(), np.zeros((200, 200, 1))), axis=-1)
    x, y, _ = np.moveaxis(transform_points(global_from_ego, centers_ego), -1, 0)
    hole = (x > 108) & (x < 112) & (y > 208) & (y < 212)
    square = (x > 100) & (x < 120) & (y > 200) & (y < 220)
    np.testing.assert_array_equal(expansion.cells("drivable_area", global_from_ego, BEV_GRID), square & ~hole)
    crossing = (x > 100) & (x < 120) & (y > 214) & (y < 217)
    np.testing.assert_array_equal(expansion.cells("crossing", global_from_ego, BEV_GRID), crossing)
    middle = (np.abs(x - 110.25) < 0.25) & (y > 200) & (y < 219.9)
    assert not (middle & ~expansion.cells("lane_divider", global_from_ego, BEV_GRID)).any()


def test_a_tilted_vehicle_sees_the_level_map_foreshortened(tmp_path: Path) -> None:
    expansion = read_map_expansion(_written(tmp_path / "m.json", _map()))
    pitch = 0.3
    c, s = math.cos(pitch), math.sin(pitch)
    rotation = rotation_about_z(0.7) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    global_from_ego = rigid_transform(rotation, (104.0, 207.0, 5.0))
    cells = expansion.cells("drivable_area", global_from_ego, BEV_GRID)
    # Points of the map in the plane of the ego frame's origin, projected along the ego frame's z axis.
    x, y = np.meshgrid(np.arange(100.1, 120, 0.2), np.arange(200.1, 220, 0.2))
    level = np.stack((x, y, np.full_like(x, 5.0)), axis=-1).reshape(-1, 3)
    points = transform_points(inverse(global_from_ego), level)[:, :2]
    hole = (np.abs(level[:, :2] - (110, 210)) < 2).all(axis=1)
    index, _ = BEV_GRID.indices(points)
    assert cells[tuple(index[~hole].T)].mean() > 0.97  # the rest: cells that the border cuts
    assert cells.sum() * 0.25 == pytest.approx((400 - 16) * c, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"node": []}, r"row square of polygon names the node 'a', but there is none"),
        ({"polygon": []}, r"row area of drivable_area names the polygon 'square'"),
        ({"line": []}, r"row dashes of lane_divider names the line 'lane'"),
        ({"node": [{"token": "a", "x": 1.0}]}, r"required field `y` - at `\$.node\[0\]`.*v1\.3\.zip again"),
        ({"ped_crossing": {}}, r"ped_crossing"),
    ],
)
def test_what_is_wrong_with_a_map_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_map_expansion(_written(tmp_path / "m.json", _map(**changes)))


def test_a_map_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(_map())[:500])
    with pytest.raises(DataError, match=r"m\.json: not a map expansion of version 1\.3"):
        read_map_expansion(path)


def test_the_map_of_a_scene_is_found_by_its_log_and_read_once(real_frame: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in ("samples", "v1.0-mini"):
        (root / name).symlink_to(real_frame / name)
    data = NuScenes.open(root)
    scene = data.scenes()[0]
    assert data.location(scene) == "singapore-onenorth"
    with pytest.raises(DataError, match=r"singapore-onenorth\.json.*nuScenes-map-expansion-v1\.3\.zip"):
        data.scene_map(scene)
    with pytest.raises(DataError, match="has no scene 'elsewhere'"):
        data.location("elsewhere")
    path = _written(map_expansion_path(root, "singapore-onenorth"), _map())
    first = data.scene_map(scene)
    path.unlink()
    assert data.scene_map(scene) is first
    small = pickle.dumps(data)
    assert len(small) < 1000
    with pytest.raises(DataError, match="no such file"):
        pickle.loads(small).scene_map(scene)


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[TownScene, Path]]:
    """Scenes with and without median and crossing, and their maps."""
    root = tmp_path_factory.mktemp("maps")
    scenes = [build_scene((11, number), frames=2) for number in range(4)]
    for number, scene in enumerate(scenes):
        write_map_expansion(root, f"quarter-{number}", scene)
    return [(scene, map_expansion_path(root, f"quarter-{number}")) for number, scene in enumerate(scenes)]


def test_the_maps_of_the_town_are_what_its_ground_shows(quarters: list[tuple[TownScene, Path]]) -> None:
    seen = 0
    for scene, path in quarters:
        expansion, ground = read_map_expansion(path), scene.ground
        grid = BevGrid(lower_m=(0.0, 0.0), cell_size_m=(ground.cell_m,) * 2, shape=ground.paint.shape)
        drivable = expansion.cells("drivable_area", np.eye(4), grid)
        np.testing.assert_array_equal(drivable, ground.class_id == DRIVEABLE_SURFACE)
        crossing = expansion.cells("crossing", np.eye(4), grid)
        assert not ((ground.paint == Paint.CROSSING) & ~crossing).any()
        assert not (crossing & ~drivable).any()
        seen += len(expansion.crossings)
        if crossing.any():
            # As much stripe as gap.
            assert (ground.paint[crossing] == Paint.CROSSING).mean() == pytest.approx(0.5, abs=0.05)
        assert json.loads(path.read_text())["canvas_edge"] == [n * 0.125 for n in ground.paint.shape]
    assert seen >= 4


def test_the_dividers_of_the_town_are_where_its_paint_is(quarters: list[tuple[TownScene, Path]]) -> None:
    """Paint near a divider lies where the town paints it, and there is as much of it as the divider is long."""
    between = {
        "road_divider": (Paint.YELLOW, 0.08, 0.2, 2 * 0.12),  # a double line, each 0.08 to 0.2 m from the middle
        "lane_divider": (Paint.WHITE, 0.0, 0.07, 0.14 / 3),  # dashes of 3 m every 9 m
    }
    for name, (colour, nearest_m, farthest_m, width_m) in between.items():
        length_m = area_m2 = 0.0
        near, inside = 0, 0
        for scene, path in quarters:
            layers, ground = json.loads(path.read_text()), scene.ground
            nodes = {node["token"]: (node["x"], node["y"]) for node in layers["node"]}
            lines = {line["token"]: np.array([nodes[n] for n in line["node_tokens"]]) for line in layers["line"]}
            points = (np.argwhere(ground.paint == colour) + 0.5) * ground.cell_m
            distance_m = np.full(len(points), np.inf)
            for row in layers[name]:
                line = lines[row["line_token"]]
                length_m += np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
                for a, b in pairwise(line):
                    t = np.clip((points - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
                    distance_m = np.minimum(distance_m, np.linalg.norm(points - a - t[:, None] * (b - a), axis=1))
            if name == "road_divider":
                assert np.isfinite(distance_m).all()
                assert distance_m.max(initial=0.1) < 0.25, "yellow paint without a divider"
            near += int((distance_m < 0.5).sum())
            on_line = (distance_m > nearest_m - 0.02) & (distance_m < farthest_m + 0.02)
            inside += int(on_line.sum())
            area_m2 += float(on_line.sum()) * ground.cell_m**2
        # What is near and not on a line lies about its end; there, stop lines are white too.
        assert inside > (0.999 if name == "road_divider" else 0.95) * near, name
        assert length_m > 300
        assert area_m2 == pytest.approx(width_m * length_m, rel=0.05), name


def test_a_town_without_maps_gets_them_when_it_is_built_again(tmp_path: Path) -> None:
    config = TownConfig(scenes=1, frames=1, seed=3, image_height=32, image_width=64)
    root = tmp_path / "town"
    write_town(root, config)
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}
    data = NuScenes.open(root)
    (scene,) = data.scenes()
    path = map_expansion_path(root, data.location(scene))
    assert path in before
    path.unlink()
    with pytest.raises(DataError, match="run `occlift town` on it again, with the same options"):
        data.scene_map(scene)
    assert write_town(root, config).reused == 1
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before[path]
    for other, digest in before.items():
        assert hashlib.sha256(other.read_bytes()).hexdigest() == digest
    assert data.scene_map(scene).drivable_area
