"""Pictures of five classes on an asymmetric grid of 0.2 m, and of images of different sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from other_space import FLOOR, FREE, ROBOT, ROBOT_XY, SHELF, SPACE, WALL, WALL_X, HallDataset, hall, write_truth
from PIL import Image

from occlift.errors import DataError
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import OCC3D, UNKNOWN
from occlift.scenes.rigs import single_rigs
from occlift.viz.bev_pictures import Targets, show_targets
from occlift.viz.birds_eye import birds_eye_image, pixel_in_birds_eye
from occlift.viz.canvas import UNKNOWN_COLOR, legend
from occlift.viz.frame_report import overview_image, report_frame, write_frame_scene
from occlift.viz.mesh import visible_rectangles, volume_glb
from occlift.viz.occupancy import (
    chase_view,
    height_levels,
    perspective_image,
    pixel_from_above,
    top_view,
    top_view_with_ruler,
)
from occlift.viz.overlay import SKY_COLOR, draw_classes, draw_occupancy
from occlift.viz.report import Report, ScoreRow, Scores, report_html
from occlift.viz.show import box_in_ego, show

COLORS = np.array(SPACE.taxonomy.palette[:-1])
TOKEN = "evening-0"


def nearest_class(color: np.ndarray) -> int:
    """The class whose colour has the hue of a shaded one; free where it is paper."""
    if np.asarray(color).min() > 245:
        return FREE
    unit = color / np.linalg.norm(color)
    return int(np.argmax(COLORS / np.linalg.norm(COLORS, axis=1, keepdims=True) @ unit))


def test_the_grid_is_seen_from_above_in_its_own_extents_and_colours() -> None:
    semantics = hall(0)
    semantics[5:9, 30:] = UNKNOWN
    picture = np.asarray(top_view(semantics, space=SPACE, pixels_per_voxel=4, ego=False)).astype(float)
    assert picture.shape == (200, 140, 3)
    for x, y, expected in ((*ROBOT_XY, ROBOT), (WALL_X, 5, WALL), (20, 3, FLOOR), (45, 20, FLOOR)):
        x_m, y_m, _ = SPACE.grid.centers()[x, y, 0]
        u, v = pixel_from_above((x_m, y_m), SPACE.grid, 4)
        assert nearest_class(picture[int(v), int(u)]) == expected, (x, y)
    corner = picture[(50 - 9) * 4 + 1 : (50 - 5) * 4 - 1, 2 : 5 * 4 - 1].reshape(-1, 3)
    assert (corner == UNKNOWN_COLOR).all(1).any(), "hatched, since it is unknown"
    assert top_view_with_ruler(semantics, space=SPACE).size == (35 * 12, 50 * 12)


def test_long_voxels_are_long_in_pictures_from_above() -> None:
    grid = VoxelGrid(lower_m=(0.0, -4.0, 0.0), voxel_size_m=(0.2, 0.4, 0.2), shape=(10, 20, 2))
    semantics = np.full(grid.shape, FREE, np.uint8)
    semantics[7, 2, 0] = SHELF
    picture = np.asarray(top_view(semantics, space=replace(SPACE, grid=grid), pixels_per_voxel=3, ego=False))
    assert picture.shape == (30, 120, 3)
    drawn = np.argwhere((picture != 255).any(2) & (picture != (205, 208, 214)).any(2))
    assert drawn.min(0).tolist() == [2 * 3, 17 * 6]
    assert drawn.max(0).tolist() == [3 * 3 - 1, 18 * 6 - 1]
    x_m, y_m, _ = grid.centers()[7, 2, 0]
    assert pixel_from_above((x_m, y_m), grid, 3) == pytest.approx((17.5 * 6, 2.5 * 3))


def test_the_chase_view_sees_the_whole_front_of_the_grid_and_its_top() -> None:
    semantics = np.full(SPACE.grid.shape, FREE, np.uint8)
    corners = {(49, 0, 9): WALL, (49, 34, 0): SHELF, (25, 17, 0): ROBOT}
    for voxel, class_id in corners.items():
        semantics[voxel] = class_id
    picture = np.asarray(perspective_image(semantics, space=SPACE, height=270, width=480, ego=False)).astype(float)
    view = chase_view(SPACE.grid)
    for voxel, class_id in corners.items():
        u, v = view.project(SPACE.grid.centers()[voxel][None], 270, 480)[0][0]
        assert 0 < u < 480
        assert 0 < v < 270
        assert nearest_class(picture[int(v), int(u)]) == class_id
    u, _ = view.project(SPACE.grid.centers()[25, 17, 0][None], 270, 480)[0][0]
    assert u == pytest.approx(240), "the middle of the grid is in the middle of the picture"
    spread = np.argwhere(picture.min(2) < 245)[:, 1]
    assert spread.max() - spread.min() > 480 / 3, "the grid fills the picture"


def test_classes_are_drawn_on_images_of_different_sizes() -> None:
    frame = HallDataset().key_frame(TOKEN)
    for image, rig in zip(frame.cameras, single_rigs(frame), strict=True):
        drawn = draw_occupancy(image.read(), rig, hall(0), space=SPACE, opacity=1.0)
        assert drawn.shape == (image.height, image.width, 3)
        # Straight ahead is the wall; the floor is below.
        assert nearest_class(drawn[image.height // 2 - 2, image.width // 2].astype(float)) == WALL
        assert nearest_class(drawn[-1, 0].astype(float)) == FLOOR
    class_map = np.array([[SHELF, FREE, UNKNOWN]], np.uint8)
    painted = draw_classes(np.full((1, 3, 3), 7, np.uint8), class_map, taxonomy=SPACE.taxonomy, opacity=1.0)
    assert painted[0].tolist() == [list(SPACE.taxonomy.palette[SHELF]), list(SKY_COLOR), [7, 7, 7]]


def robot_edge(birds_eye: np.ndarray) -> np.ndarray:
    """Pixels about the right edge of the robot's box."""
    x, y = ROBOT_XY
    u, v = pixel_in_birds_eye(SPACE.grid.lower_m[0] + 0.2 * (x + 2.5), SPACE.grid.lower_m[1] + 0.2 * y)
    return birds_eye[int(v) - 1 : int(v) + 2, int(u) - 2 : int(u) + 3].reshape(-1, 3)


def test_boxes_and_legend_have_the_colours_of_the_classes() -> None:
    data = HallDataset()
    frame = data.key_frame(TOKEN)
    boxes = [box_in_ego(box, frame, taxonomy=SPACE.taxonomy) for box in data.boxes(TOKEN)]
    assert [box.class_id for box in boxes] == [ROBOT]
    cameras = single_rigs(frame)
    picture = np.asarray(
        birds_eye_image(
            np.zeros((0, 3)), boxes=boxes, cameras=cameras, camera_names=data.cameras, taxonomy=SPACE.taxonomy
        )
    ).astype(int)
    assert (robot_edge(picture)[:, 2] - robot_edge(picture)[:, 0]).max() > 80, "blue, as robots are"
    drawn = {tuple(color) for color in np.asarray(legend(600, taxonomy=SPACE.taxonomy)).reshape(-1, 3).tolist()}
    assert set(map(tuple, COLORS.tolist())) <= drawn


def test_the_mesh_leaves_out_under_sides_of_the_ground_alone() -> None:
    semantics = np.full((2, 1, 3), FREE, np.uint8)
    semantics[0, 0, 1], semantics[1, 0, 1] = FLOOR, WALL
    faces = visible_rectangles(semantics, taxonomy=SPACE.taxonomy)
    below = (faces.axis == 2) & (faces.side == 0)
    assert faces.class_id[below].tolist() == [WALL]
    blob = volume_glb(hall(0), space=SPACE)
    document = json.loads(blob[20 : 20 + int.from_bytes(blob[12:16], "little")])
    assert document["nodes"][0]["scale"] == [0.2, 0.2, 0.2]
    assert np.array(document["accessors"][0]["max"]).tolist() == [50, 35, 10]


def test_show_draws_labels_without_lidar_and_lidar_without_labels(tmp_path: Path) -> None:
    truth, dark = write_truth(tmp_path / "gts"), HallDataset(lidar=False)
    run = show(dark, TOKEN, tmp_path / "labels", labels=truth, space=SPACE)
    assert (run.num_lidar_points, run.num_boxes) == (0, 1)
    on_images, occupancy = (np.asarray(Image.open(run.paths[i]).convert("RGB")) for i in (1, 3))
    colors = {nearest_class(color.astype(float)) for color in on_images[::40, ::40].reshape(-1, 3)}
    assert {WALL, FLOOR} <= colors
    assert (occupancy == SPACE.taxonomy.palette[SHELF]).all(2).any(), "in the legend alone"
    birds_eye = np.asarray(Image.open(run.paths[2]).convert("RGB")).astype(int)
    assert (robot_edge(birds_eye)[:, 2] - robot_edge(birds_eye)[:, 0]).max() > 80, "blue, as robots are"
    assert [path.name for path in run.paths][:1] == ["images.png"]
    run = show(dark, TOKEN, tmp_path / "bare", space=SPACE)
    assert [path.name for path in run.paths] == ["images.png", "birds_eye.png"]
    assert run.occupancy_from is None
    run = show(HallDataset(), TOKEN, tmp_path / "lidar", space=SPACE)
    assert run.num_lidar_points == int((hall(0) < FREE).sum())
    assert run.ground_height_m == pytest.approx(0.0, abs=0.11)
    ids, levels = height_levels(hall(0) < FREE)
    assert ids.max() == UNKNOWN
    assert len(levels.names) == 17


def test_targets_are_drawn_on_images_of_two_sizes(tmp_path: Path) -> None:
    grid = VoxelGrid(lower_m=SPACE.grid.lower_m, voxel_size_m=(0.4, 0.4, 0.4), shape=(25, 17, 5))
    run = show_targets(HallDataset(), TOKEN, tmp_path, Targets(grid=grid))
    assert 0 < run.occupied < run.occupied + run.open == grid.num_voxels
    picture = np.asarray(Image.open(run.paths[0]).convert("RGB")).astype(int)
    is_paper = (picture > 250).all(2)
    # Side by side, as wide as one another, 48×64 higher than 40×80; neither is squeezed.
    heights = [int((~is_paper[30:, column]).sum()) for column in (8 + 400, 16 + 800 + 400)]
    assert heights == pytest.approx([600, 400], abs=4)
    # The wall's highest level stands before both cameras.
    for half in (picture[:, :800], picture[:, 820:]):
        assert ((half[..., 0] > 140) & (half[..., 2] < 90)).mean() > 0.02


def test_volumes_of_another_grid_are_not_drawn() -> None:
    volume, frame = hall(0), HallDataset().key_frame(TOKEN)
    rig = single_rigs(frame)[0]
    for draw in (
        lambda: perspective_image(volume, height=20, width=30),
        lambda: top_view(volume),
        lambda: volume_glb(volume),
        lambda: draw_occupancy(frame.cameras[0].read(), rig, volume),
    ):
        with pytest.raises(
            DataError, match=r"\(200, 200, 16\) \[x, y, z\], but has \(50, 35, 10\); is it of another grid"
        ):
            draw()
    with pytest.raises(DataError, match=r"images of 10×10 pixels .* intrinsics are for 48×64: resize or crop both"):
        draw_occupancy(np.zeros((10, 10, 3), np.uint8), rig, volume, space=SPACE)


def test_a_key_frame_becomes_a_report_and_a_scene(tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="the 3-D scene needs viser: pip install 'occlift[view]'")
    data, volumes = HallDataset(lidar=False), {"truth": hall(0), "label": hall(1)}
    frame = report_frame(data, TOKEN, volumes, space=SPACE)
    assert [picture.size for _, picture in frame.images] == [(480, 360), (480, 240)]
    overview = np.asarray(overview_image(frame, space=SPACE))
    assert (overview == SPACE.taxonomy.palette[SHELF]).all(2).any()
    write_frame_scene(tmp_path / "scene.html", data, TOKEN, volumes, space=SPACE)
    page = (tmp_path / "scene.html").read_text(encoding="utf-8")
    assert "</i>shelf</span>" in page
    assert "pedestrian" not in page
    scores = Scores(iou=50.0, miou=(20.0, 25.0))
    row = ScoreRow(
        name="run", role="model", with_camera_mask=scores, without_mask=scores, ray_iou=10.0,
        class_iou=(20.0, 20.0, 20.0, None, 20.0),
    )  # fmt: skip
    baseline = replace(row, name="prior", role="baseline", with_camera_mask=replace(scores, miou=(10.0, 9.0)))
    report = report_html(
        Report(title="hall", summary="", command="", rows=(row, baseline), frames=(frame,), taxonomy=SPACE.taxonomy)
    )
    assert report.count(">mIoU 5</th>") == report.count(">mIoU 4</th>") == 2
    assert "mIoU over 5 classes" in report
    assert "2.00 times the mIoU of the better baseline, prior" in report
    assert "shelf" in report
    assert "pedestrian" not in report
    assert f"rgb{SPACE.taxonomy.palette[SHELF]}" in report
    assert f"rgb{OCC3D.taxonomy.palette[0]}" not in report
