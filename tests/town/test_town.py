"""The town: exact geometry, truth that agrees with the pictures, a data set without loose ends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError
from occlift.geometry.grids import OCC3D_GRID
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import FREE, NUM_CLASSES
from occlift.labels.files import label_path, read_label
from occlift.scenes.truth_maps import read_truth_maps, truth_maps_path
from occlift.town import parts as p
from occlift.town.config import TownConfig
from occlift.town.layout import build_scene
from occlift.town.trace import Ground, index_parts, trace_rays
from occlift.town.truth import surface_samples
from occlift.town.write import write_town

SMALL = TownConfig(scenes=2, frames=3, seed=7, image_height=96, image_width=176, maps=True)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("town") / "data"
    write_town(root, SMALL)
    return root


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".occlift" not in path.name
    }


def _inside(row: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The slow twin: whether points lie in a solid, from the definition of the shape."""
    x, y, z = (points - row[p.CENTER : p.CENTER + 3]).T
    x, y = row[p.COS] * x + row[p.SIN] * y, -row[p.SIN] * x + row[p.COS] * y
    hx, hy, hz = row[p.HALF : p.HALF + 3]
    match p.Kind(int(row[p.KIND])):
        case p.Kind.BOX:
            reach = hx * (1 - (1 - row[p.TAPER]) * (z + hz) / (2 * hz))
            return (abs(x) <= reach) & (abs(y) <= hy) & (abs(z) <= hz)
        case p.Kind.CYLINDER:
            return (x**2 + y**2 <= hx**2) & (abs(z) <= hz)
        case p.Kind.CONE:
            return (x**2 + y**2 <= (hx * (hz - z) / (2 * hz)) ** 2) & (abs(z) <= hz)
        case p.Kind.ELLIPSOID:
            return (x / hx) ** 2 + (y / hy) ** 2 + (z / hz) ** 2 <= 1
        case p.Kind.WHEEL:
            return (x**2 + z**2 <= hx**2) & (abs(y) <= hy)


def _flat(height: float = 0.0, cells: int = 400) -> Ground:
    raster = np.full((cells, cells), height, np.float32)
    return Ground(0.0, 0.0, 0.125, raster, np.full(raster.shape, 11, np.uint8), np.zeros(raster.shape, np.uint8),
                  height + 1e-3, height)  # fmt: skip


@pytest.mark.parametrize("kind", list(p.Kind))
def test_rays_meet_solids_where_a_march_in_small_steps_does(kind: p.Kind) -> None:
    rng = np.random.default_rng(int(kind))
    row = p.part(kind, (25, 25, 20), (1.3, 0.7, 0.9), material=p.Material.PLAIN, class_id=4, color=(0.5, 0.5, 0.5),
                 yaw_rad=0.7, taper=0.6)  # fmt: skip
    ground = _flat()
    index, nothing = index_parts(row[None], ground), index_parts(np.zeros((0, p.NUM_COLUMNS)), ground)
    targets = row[p.CENTER : p.CENTER + 3] + rng.normal(0, 0.8, (300, 3))
    origins = row[p.CENTER : p.CENTER + 3] + 5 * _unit(rng.normal(size=(300, 3)))
    directions = _unit(targets - origins)
    range_m, class_id, _ = trace_rays(ground, index, nothing, origins, directions, 12.0)
    step = 0.002
    steps = np.arange(0, 12, step)
    march = _inside(row, (origins[:, None] + steps[None, :, None] * directions[:, None]).reshape(-1, 3))
    march = march.reshape(300, -1)
    first = np.where(march.any(1), steps[march.argmax(1)], np.inf)
    touched = np.isfinite(first)
    assert touched.sum() > 60
    # A ray that only grazes the solid may slip between two steps of the march, never the other way round.
    assert np.all(class_id[touched] == 4)
    np.testing.assert_allclose(range_m[touched], first[touched], atol=step)
    grazing = (class_id == 4) & ~touched
    assert grazing.sum() <= 3


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def test_rays_meet_level_ground_and_kerbs_exactly() -> None:
    ground = _flat()
    ground.height_m[200:, :] = 0.15
    ground = ground._replace(top_m=0.151)
    nothing = index_parts(np.zeros((0, p.NUM_COLUMNS)), ground)
    origin = np.array([20.0, 25.0, 1.5])
    down = _unit(np.array([[1.0, 0.0, -1.0], [1.0, 0.0, -0.28], [1.0, 0.0, -0.1]]))
    range_m, _, _ = trace_rays(ground, nothing, nothing, np.tile(origin, (3, 1)), down)
    hits = origin + range_m[:, None] * down
    np.testing.assert_allclose(hits[0], (21.5, 25, 0), atol=2e-3)
    np.testing.assert_allclose(hits[1, 0], 25.0, atol=2e-3)  # the face of the kerb, which stands at x = 25
    assert 0.0 < hits[1, 2] < 0.15
    np.testing.assert_allclose(hits[2], (33.5, 25, 0.15), atol=3e-3)


@pytest.mark.parametrize("kind", list(p.Kind))
def test_surface_samples_lie_on_the_surface_and_cover_it_evenly(kind: p.Kind) -> None:
    row = p.part(kind, (1, 2, 3), (1.4, 0.9, 1.1), material=p.Material.PLAIN, class_id=9, color=(0.5, 0.5, 0.5),
                 yaw_rad=0.4, taper=0.8)  # fmt: skip
    points, class_ids = surface_samples(row[None])
    center = row[p.CENTER : p.CENTER + 3]
    assert _inside(row, center + 0.995 * (points - center)).all()
    assert not _inside(row, center + 1.005 * (points - center)).any()
    assert (class_ids == 9).all()
    disc = np.pi * 1.4**2
    area = {p.Kind.CYLINDER: 2 * np.pi * 1.4 * 2.2 + 2 * disc, p.Kind.CONE: np.pi * 1.4 * np.hypot(1.4, 2.2) + disc}
    if kind in area:
        assert len(points) * 0.125**2 == pytest.approx(area[kind], rel=0.15)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(town: Path, tmp_path: Path) -> None:
    write_town(tmp_path / "again", SMALL)
    first, again = _digests(town), _digests(tmp_path / "again")
    assert first == again
    # Tables, town.json, scenes, maps, map expansions, frames.
    assert len(first) == 13 + 1 + 2 + 2 + 2 + 2 * 3 * (1 + 6 * 2 + 1)
    write_town(tmp_path / "other", TownConfig(scenes=1, frames=1, seed=8, image_height=32, image_width=64))
    other = {digest for name, digest in _digests(tmp_path / "other").items() if not name.endswith(".json")}
    assert not other & set(first.values())


def test_what_is_finished_is_kept_and_another_configuration_is_refused(tmp_path: Path) -> None:
    config = TownConfig(scenes=2, frames=1, seed=3, image_height=32, image_width=64)
    write_town(tmp_path / "t", config)
    whole = _digests(tmp_path / "t")
    # As after an interruption during the second scene: no tables yet, the scene's mark missing, half a file.
    (tmp_path / "t/v1.0-town/scene.json").unlink()
    (tmp_path / "t/v1.0-town/.scenes" / f"{config.scene_name(1)}.json").unlink()
    next((tmp_path / "t/samples/CAM_BACK").glob("town-0003-0001*")).write_bytes(b"half")
    assert write_town(tmp_path / "t", config).reused == 1
    assert _digests(tmp_path / "t") == whole
    with pytest.raises(ConfigError, match=r"town of another configuration \(frames: 1 there, 2 now\)"):
        write_town(tmp_path / "t", TownConfig(scenes=2, frames=2, seed=3, image_height=32, image_width=64))
    assert _digests(tmp_path / "t") == whole
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="something else"):
        write_town(tmp_path / "mine", config)


def test_tables_have_no_loose_ends(town: Path) -> None:
    tables = {path.stem: json.loads(path.read_text()) for path in (town / "v1.0-town").glob("*.json")}
    assert len(tables) == 13
    tokens = {name: {row["token"] for row in rows} for name, rows in tables.items()}
    assert all(len(tokens[name]) == len(rows) for name, rows in tables.items())
    refers = {
        "sample": {"scene_token": "scene"},
        "sample_data": {"sample_token": "sample", "ego_pose_token": "ego_pose",
                        "calibrated_sensor_token": "calibrated_sensor"},
        "sample_annotation": {"sample_token": "sample", "instance_token": "instance", "visibility_token": "visibility"},
        "instance": {"category_token": "category", "first_annotation_token": "sample_annotation"},
        "scene": {"log_token": "log", "first_sample_token": "sample", "last_sample_token": "sample"},
        "calibrated_sensor": {"sensor_token": "sensor"},
    }  # fmt: skip
    for name, fields in refers.items():
        for field, other in fields.items():
            assert {row[field] for row in tables[name]} <= tokens[other], (name, field)
    for name in ("sample", "sample_data", "sample_annotation"):
        by_token = {row["token"]: row for row in tables[name]}
        for row in tables[name]:
            assert not row["next"] or by_token[row["next"]]["prev"] == row["token"]
    assert all((town / row["filename"]).exists() for row in tables["sample_data"] + tables["map"])


def test_every_camera_has_its_own_time_and_pose(town: Path) -> None:
    data = NuScenes.open(town)
    frame = data.key_frame(data.key_frame_tokens(data.scenes()[0])[1])
    ages_us = {frame.timestamp_us - camera.timestamp_us for camera in frame.cameras}
    assert len(ages_us) == 6
    assert min(ages_us) > 0
    moved = [
        np.linalg.norm((inverse(frame.global_from_ego) @ c.global_from_ego_at_image)[:3, 3]) for c in frame.cameras
    ]
    assert max(moved) > 0.1  # 43 ms at 4 m/s and more
    assert frame.cameras[0].read().shape == (96, 176, 3)


def test_pictures_and_truth_show_the_same_world(town: Path) -> None:
    """Depth maps, unprojected through all frames, land in occupied voxels of their class; sky does not."""
    data = NuScenes.open(town)
    agree, near, total = 0, 0, 0
    for scene in data.scenes():
        for token in data.key_frame_tokens(scene):
            frame = data.key_frame(token)
            truth = read_label(label_path(town / "gts", scene, token)).semantics
            for camera in frame.cameras:
                if frame.timestamp_us - camera.timestamp_us > 11_000:
                    continue  # moving things have moved on; the cameras at the back fire with the lidar
                maps = read_truth_maps(truth_maps_path(Path(camera.source.name)))
                assert np.array_equal(np.isinf(maps.depth_m), maps.semantics == FREE)
                v, u = np.nonzero(np.isfinite(maps.depth_m))
                depth = maps.depth_m[v, u].astype(np.float64)
                k = camera.intrinsics_px
                rays = np.stack([(u + 0.5 - k[0, 2]) / k[0, 0], (v + 0.5 - k[1, 2]) / k[1, 1], np.ones(len(u))], -1)
                points = transform_points(frame.ego_from_camera(camera), rays * depth[:, None])
                index, inside = OCC3D_GRID.indices(points)
                index, class_id = index[inside], maps.semantics[v, u][inside]
                agree += int((truth[tuple(index.T)] == class_id).sum())
                padded = np.pad(truth, 1, constant_values=FREE)
                around = [padded[tuple((index + offset).T)] for offset in np.ndindex(3, 3, 3)]
                near += int((np.stack(around) == class_id).any(0).sum())
                total += len(index)
    assert total > 50_000
    assert agree / total > 0.93  # the rest are voxels that two classes share
    assert near / total > 0.998


def test_lidar_returns_end_in_occupied_voxels_and_masks_are_nested(town: Path) -> None:
    data = NuScenes.open(town)
    token = data.key_frame_tokens(data.scenes()[1])[1]
    frame = data.key_frame(token)
    label = read_label(label_path(town / "gts", data.scenes()[1], token))
    points = frame.lidar_sweep().source.read()
    assert set(np.unique(points[:, 4])) <= set(range(32))
    index, inside = OCC3D_GRID.indices(transform_points(frame.lidar.ego_from_lidar, points[:, :3].astype(np.float64)))
    at = tuple(index[inside].T)
    assert (label.semantics[at] < FREE).mean() > 0.95  # the noise of the range carries some over a voxel's border
    assert label.mask_lidar[at].mean() > 0.999
    assert not (label.mask_camera & ~label.mask_lidar).any()
    assert 0.05 < label.mask_camera.mean() < label.mask_lidar.mean() < 0.8


def test_boxes_hold_the_lidar_points_that_they_claim(town: Path) -> None:
    data = NuScenes.open(town)
    for scene in data.scenes():
        for token in data.key_frame_tokens(scene):
            frame = data.key_frame(token)
            points = frame.lidar_sweep().source.read()[:, :3].astype(np.float64)
            points_global = transform_points(frame.global_from_ego @ frame.lidar.ego_from_lidar, points)
            for box in data.boxes(token):
                local = np.abs(transform_points(inverse(box.global_from_box), points_global))
                count = int(np.all(local <= np.array(box.size_lwh_m) / 2, axis=1).sum())
                assert count == box.num_lidar_points > 0


def test_a_handful_of_scenes_holds_every_class() -> None:
    found = set()
    for number in range(14):
        scene = build_scene((5, number), frames=13)
        found |= set(scene.static.parts[:, p.CLASS].astype(int)) | set(np.unique(scene.ground.class_id).tolist())
        found |= {int(thing.shape.parts[0, p.CLASS]) for thing in scene.objects}
    assert found == set(range(NUM_CLASSES - 1))


def test_nothing_but_the_ego_moves_in_a_static_scene() -> None:
    scene = build_scene((5, 1), frames=13, static=True)
    assert np.array_equal(scene.moving(0.0).parts, scene.moving(6.0).parts)
    assert not np.allclose(scene.drive.global_from_ego(0.0), scene.drive.global_from_ego(6.0))
    moving = build_scene((5, 1), frames=13)
    assert not np.array_equal(moving.moving(0.0).parts, moving.moving(6.0).parts)
