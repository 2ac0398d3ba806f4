"""Laws of transforms, cameras, grids and outlines, on what hypothesis draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import quaternions, randoms, rigid_transforms, rigs, voxel_grids

from occlift.geometry.cameras import CameraRig
from occlift.geometry.contraction import contracted, expanded
from occlift.geometry.grids import BevGrid, VoxelGrid
from occlift.geometry.polygons import outlines, polygon_cells
from occlift.geometry.transforms import inverse, quaternion_from_rotation, rotation_from_quaternion, transform_points


@given(rigid_transforms())
def test_the_inverse_undoes_a_transform_and_itself(a_from_b: np.ndarray) -> None:
    np.testing.assert_allclose(inverse(a_from_b) @ a_from_b, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(inverse(inverse(a_from_b)), a_from_b, atol=1e-9)


@given(rigid_transforms(), rigid_transforms(), randoms)
def test_chained_transforms_move_points_one_after_the_other(
    a_from_b: np.ndarray, b_from_c: np.ndarray, random: np.random.Generator
) -> None:
    points_c = random.normal(size=(5, 3)) * 50
    points_a = transform_points(a_from_b, transform_points(b_from_c, points_c))
    np.testing.assert_allclose(transform_points(a_from_b @ b_from_c, points_c), points_a, atol=1e-8)
    np.testing.assert_allclose(inverse(a_from_b @ b_from_c), inverse(b_from_c) @ inverse(a_from_b), atol=1e-8)
    np.testing.assert_allclose(
        np.linalg.norm(points_a[1:] - points_a[:-1], axis=1),
        np.linalg.norm(points_c[1:] - points_c[:-1], axis=1),
        atol=1e-8,
    )


@given(quaternions())
def test_a_quaternion_comes_back_from_its_rotation(quaternion_wxyz: tuple[float, ...]) -> None:
    found = np.array(quaternion_from_rotation(rotation_from_quaternion(quaternion_wxyz)))
    given = np.array(quaternion_wxyz) / np.linalg.norm(quaternion_wxyz)
    assert abs(found @ given) == pytest.approx(1, abs=1e-9)


@given(rigs(), st.floats(0.2, 100.0))
def test_the_point_at_a_depth_on_a_ray_is_projected_to_the_pixel_of_the_ray(rig: CameraRig, depth_m: float) -> None:
    origins, directions = rig.rays(rig.height, rig.width)
    columns, rows = torch.meshgrid(torch.arange(rig.width) + 0.5, torch.arange(rig.height) + 0.5, indexing="xy")
    for camera in range(rig.num_cameras):
        points_ego = origins[camera] + depth_m * directions[camera].reshape(-1, 3)
        pixels_uv, found_m, visible = (part[camera] for part in rig.project(points_ego))
        expected_uv = torch.stack((columns, rows), -1).reshape(-1, 2).double()
        torch.testing.assert_close(pixels_uv, expected_uv, rtol=0, atol=1e-6)
        torch.testing.assert_close(found_m, torch.full_like(found_m, depth_m), rtol=1e-6, atol=1e-8)
        assert visible.all()


def points_before(rig: CameraRig, random: np.random.Generator) -> torch.Tensor:
    """Points around the first camera's axis, some of them outside of its image."""
    points_camera = random.uniform((-5, -5, 1), (5, 5, 20), (20, 3))
    return torch.from_numpy(transform_points(rig.ego_from_camera[0].numpy(), points_camera))


@given(rigs(), st.integers(1, 50), st.integers(1, 50), randoms)
def test_resizing_the_rig_resizes_the_pixels(
    rig: CameraRig, height: int, width: int, random: np.random.Generator
) -> None:
    points_ego = points_before(rig, random)
    pixels_uv, depth_m, visible = rig.project(points_ego)
    resized_uv, same_depth_m, still_visible = rig.resized(height, width).project(points_ego)
    in_front = depth_m > 0.1
    scale = torch.tensor([width / rig.width, height / rig.height], dtype=torch.float64)
    torch.testing.assert_close(resized_uv[in_front], (pixels_uv * scale)[in_front], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(same_depth_m, depth_m)
    assert torch.equal(visible, still_visible)
    again = rig.resized(height, width).resized(rig.height, rig.width)
    torch.testing.assert_close(again.intrinsics_px, rig.intrinsics_px)


@given(rigs(), st.data(), randoms)
def test_cropping_the_rig_moves_the_pixels(rig: CameraRig, data: st.DataObject, random: np.random.Generator) -> None:
    top, left = data.draw(st.integers(0, rig.height - 1)), data.draw(st.integers(0, rig.width - 1))
    height, width = data.draw(st.integers(1, rig.height - top)), data.draw(st.integers(1, rig.width - left))
    points_ego = points_before(rig, random)
    pixels_uv, _, visible = rig.project(points_ego)
    cropped_uv, _, still_visible = rig.cropped(top=top, left=left, height=height, width=width).project(points_ego)
    moved_uv = pixels_uv - torch.tensor([left, top])
    torch.testing.assert_close(cropped_uv[visible], moved_uv[visible], rtol=1e-6, atol=1e-6)
    inside = ((moved_uv >= 0) & (moved_uv < torch.tensor([width, height]))).all(-1)
    assert torch.equal(still_visible, visible & inside)


@given(voxel_grids())
def test_the_centre_of_every_voxel_is_found_in_it(grid: VoxelGrid) -> None:
    index, inside_grid = grid.indices(grid.centers())
    assert inside_grid.all()
    assert np.array_equal(index, np.moveaxis(np.indices(grid.shape), 0, -1))
    seen_from_above = BevGrid(lower_m=grid.lower_m[:2], cell_size_m=grid.voxel_size_m[:2], shape=grid.shape[:2])
    cell, inside_grid = seen_from_above.indices(seen_from_above.centers())
    assert inside_grid.all()
    assert np.array_equal(cell, index[:, :, 0, :2])


@given(voxel_grids(), randoms)
def test_a_point_lies_within_half_a_voxel_of_the_centre_of_its_voxel(
    grid: VoxelGrid, random: np.random.Generator
) -> None:
    lower_m, upper_m = np.array(grid.lower_m), np.array(grid.upper_m)
    points = random.uniform(lower_m - (upper_m - lower_m), upper_m + (upper_m - lower_m), (50, 3))
    index, inside_grid = grid.indices(points)
    between = ((points > lower_m + 1e-9) & (points < upper_m - 1e-9)).all(-1)
    outside = ((points < lower_m - 1e-9) | (points > upper_m + 1e-9)).any(-1)
    assert inside_grid[between].all()
    assert not inside_grid[outside].any()
    centers = grid.centers()[tuple(index[inside_grid].T)]
    assert (np.abs(points[inside_grid] - centers) <= 0.5 * np.array(grid.voxel_size_m) + 1e-9).all()


@given(st.floats(0.1, 0.9), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_contraction_can_be_undone_and_keeps_the_order(inner_share: float, first: float, second: float) -> None:
    inner = torch.tensor([first, second], dtype=torch.float64)
    grid = contracted(inner, inner_share)
    assert (grid.abs() < 1).all()
    torch.testing.assert_close(expanded(grid, inner_share), inner, rtol=1e-8, atol=1e-8)
    assert (grid[0] <= grid[1]) == (first <= second) or torch.isclose(grid[0], grid[1])


@given(st.integers(1, 8), st.integers(1, 8), randoms)
def test_outlines_cover_the_cells_they_were_made_of(rows: int, columns: int, random: np.random.Generator) -> None:
    cells = random.random((rows, columns)) < 0.5
    grid = BevGrid(lower_m=(0.0, 0.0), cell_size_m=(1.0, 1.0), shape=cells.shape)
    covered = [polygon_cells(polygon, grid) for polygon in outlines(cells)]
    # No cell twice.
    assert np.array_equal(np.sum(covered, axis=0, dtype=int) if covered else np.zeros_like(cells, int), cells)
