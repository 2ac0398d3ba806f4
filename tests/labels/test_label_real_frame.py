"""The label road on one real nuScenes key frame: class maps from files, depth from its lidar."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.geometry.grids import OCC3D_GRID
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import BARRIER, CAR, DRIVEABLE_SURFACE, FREE, MANMADE, OCC3D, TRUCK, UNKNOWN
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.labels.files import label_path, read_label
from occlift.labels.generate import generate_labels
from occlift.labels.unproject import unproject
from occlift.runtime.npz import write_npz
from occlift.teachers.registry import depth_teacher

_log = logging.getLogger(__name__)


def write_class_maps(data: NuScenes, token: str, folder: Path) -> None:
    """Class maps that need no network: what is in a box, what lies on the ground, what stands elsewhere."""
    frame = data.key_frame(token)
    for image, depth in zip(frame.cameras, depth_teacher("lidar").depth(frame), strict=True):
        points_ego = unproject(depth.depth_m, image.intrinsics_px, frame.ego_from_camera(image))
        known = np.isfinite(points_ego[..., 2])
        class_id = np.where(known, np.where(points_ego[..., 2] < 0.35, DRIVEABLE_SURFACE, MANMADE), UNKNOWN)
        points_global = transform_points(frame.global_from_ego, points_ego)
        for box in data.boxes(token):
            points_box = transform_points(inverse(box.global_from_box), points_global)
            length_m, width_m, height_m = box.size_lwh_m
            half_m = np.array([length_m, width_m, height_m]) / 2 + 0.1
            with np.errstate(invalid="ignore"):
                class_id[(np.abs(points_box) <= half_m).all(axis=-1)] = OCC3D.taxonomy.class_of_category(box.category)
        path = folder / image.camera / f"{image.stem}.npz"
        write_npz(path, {"semantics": class_id.astype(np.uint8)}, level=1)


@pytest.fixture(scope="module")
def real_label(real_frame: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[NuScenes, str, np.ndarray]:
    folder = tmp_path_factory.mktemp("real")
    data = NuScenes.open(real_frame)
    token = data.key_frame_tokens(data.scenes()[0])[0]
    write_class_maps(data, token, folder / "maps")
    config = LabelConfig(
        semantics=f"files:{folder / 'maps'}",
        depth="lidar",
        stride=2,
        decision=DecisionConfig(fusion="votes", min_points=2),
    )
    run = generate_labels(data, folder / "labels", config)
    assert (run.done, run.failed) == (1, {})
    label = read_label(label_path(folder / "labels", data.scenes()[0], token), allow_unknown=True)
    return data, token, label.semantics


def test_the_label_holds_what_the_lidar_hit(real_label: tuple[NuScenes, str, np.ndarray]) -> None:
    data, token, semantics = real_label
    frame = data.key_frame(token)
    points_ego = transform_points(
        frame.lidar.ego_from_lidar, frame.lidar_sweep().source.read()[:, :3].astype(np.float64)
    )
    # Nearer than 10 m the cameras do not see the ground all around, and the lowest rays pass above what they miss.
    range_m = np.linalg.norm(points_ego[:, :2], axis=1)
    for low, high in ((4, 10), (10, 25), (25, 40)):
        index, inside_grid = OCC3D_GRID.indices(points_ego[(range_m > low) & (range_m < high)])
        found = semantics[tuple(index[inside_grid].T)]
        shares = [100 * float(part.mean()) for part in (found < FREE, found == FREE, found == UNKNOWN)]
        _log.info("%d to %d m: %.1f %% occupied, %.1f %% free, %.1f %% unknown", low, high, *shares)
    beyond = (range_m > 10) & (range_m < 25)
    index, inside_grid = OCC3D_GRID.indices(points_ego[beyond])
    found = semantics[tuple(index[inside_grid].T)]
    # A point is in a voxel that is occupied, or in one that the label knows nothing about; rarely in a free one.
    assert (found < FREE).mean() > 0.75
    assert (found == FREE).mean() < 0.03


def test_road_and_objects_are_where_they_should_be(real_label: tuple[NuScenes, str, np.ndarray]) -> None:
    data, token, semantics = real_label
    frame = data.key_frame(token)
    road = np.argwhere(semantics == DRIVEABLE_SURFACE)
    # The ground is in the layer around z = 0, [−0.2, 0.2).
    assert np.median(road[:, 2]) == 2
    assert len(road) > 3_000
    objects = [box for box in data.boxes(token) if box.num_lidar_points > 40]
    assert {OCC3D.taxonomy.class_of_category(box.category) for box in objects} == {CAR, TRUCK, BARRIER}
    for box in objects:
        ego_from_box = inverse(frame.global_from_ego) @ box.global_from_box
        points_box = transform_points(inverse(ego_from_box), OCC3D_GRID.centers())
        length_m, width_m, height_m = box.size_lwh_m
        inside = (np.abs(points_box) <= np.array([length_m, width_m, height_m]) / 2 + 0.4).all(axis=-1)
        found = semantics[inside]
        assert (found == OCC3D.taxonomy.class_of_category(box.category)).sum() >= 4, box.instance
        # Beside the object itself a box holds a little of the ground below it, and what is behind its surface.
        assert (
            np.isin(found[found < FREE], (OCC3D.taxonomy.class_of_category(box.category), DRIVEABLE_SURFACE)).mean()
            > 0.7
        )


def test_unknown_is_not_free(real_label: tuple[NuScenes, str, np.ndarray]) -> None:
    """One key frame sees the front of things: what lies behind them stays unknown."""
    _, _, semantics = real_label
    assert 0.3 < (semantics == UNKNOWN).mean() < 0.95
    assert (semantics == FREE).mean() > 0.03
