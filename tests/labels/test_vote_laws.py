"""Laws of votes, on what hypothesis draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import randoms, rigs

from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import FREE, NUM_CLASSES
from occlift.labels.unproject import unproject
from occlift.labels.view import View, strided
from occlift.labels.vote import Tally, Votes

GRID = VoxelGrid(lower_m=(-8.0, -8.0, -8.0), voxel_size_m=(2.0, 1.0, 4.0), shape=(8, 16, 4))
VOTING = np.arange(256) < FREE


def random_view(random: np.random.Generator, stride: int) -> View:
    height, width = random.integers(4, 12, 2)
    class_id = random.integers(NUM_CLASSES, size=(height, width)).astype(np.uint8)
    depth_m = random.uniform(0.5, 12, (height, width)).astype(np.float32)
    depth_m[random.random(depth_m.shape) < 0.2] = np.nan
    return View(
        class_id=np.ascontiguousarray(strided(class_id, stride)),
        depth_m=np.ascontiguousarray(strided(depth_m, stride)),
        stride=stride,
        free_depth_m=depth_m,
        free_class_id=class_id,
        free_stride=1,
        intrinsics_px=np.array([[8.0, 0, width / 2], [0, 8.0, height / 2], [0, 0, 1]]),
        global_from_camera=np.eye(4),
    )


def counts(votes: Votes) -> np.ndarray:
    """[voxel, class]."""
    found = np.zeros((GRID.num_voxels, FREE), np.int64)
    np.add.at(found, (votes.voxel, votes.class_id), votes.count)
    return found


@given(randoms, st.integers(1, 4), st.integers(1, 3))
def test_votes_of_parts_add_up(random: np.random.Generator, number: int, stride: int) -> None:
    """In any order; and what `keep` keeps is what comes next begins with."""
    views = [random_view(random, stride) for _ in range(number)]
    parts = []
    for view in views:
        alone = Tally(GRID)
        alone.add_view(view, view.global_from_camera, VOTING)
        parts.append(alone.votes())
    tally = Tally(GRID)
    for i, view in enumerate(reversed(views)):
        tally.add_view(view, view.global_from_camera, VOTING)
        together = tally.votes(keep=i < number - 1)
    assert np.array_equal(counts(together), sum(counts(part) for part in parts))
    assert np.array_equal(together.points, sum(part.points for part in parts))
    # Nothing was kept at the end.
    assert not tally.votes().count.any()


@given(randoms)
def test_rays_of_parts_add_up_where_nothing_stands_in_their_way(random: np.random.Generator) -> None:
    nothing = {"class_id": np.full((1, 1), FREE, np.uint8), "depth_m": np.full((1, 1), np.nan, np.float32)}
    views = [replace(random_view(random, 1), **nothing) for _ in range(2)]
    parts, tally = [], Tally(GRID)
    for view in views:
        alone = Tally(GRID)
        for one in (alone, tally):
            one.add_view(view, view.global_from_camera, VOTING)
        parts.append(alone.votes())
    together = tally.votes()
    assert together.passed.any()
    assert np.array_equal(together.passed, np.minimum(sum(part.passed.astype(int) for part in parts), 255))
    assert np.array_equal(together.obstruction, np.minimum(*(part.obstruction for part in parts)))


@given(rigs(), randoms)
def test_what_is_unprojected_is_projected_to_its_pixel(rig: CameraRig, random: np.random.Generator) -> None:
    depth_m = random.uniform(0.5, 50, (rig.height, rig.width)).astype(np.float32)
    intrinsics_px, ego_from_camera = rig.intrinsics_px[0].numpy(), rig.ego_from_camera[0].numpy()
    points_ego = unproject(depth_m, intrinsics_px, ego_from_camera).reshape(-1, 3)
    pixels_uv, found_m, visible = (part[0] for part in rig.project(torch.from_numpy(points_ego)))
    rows, columns = np.indices(depth_m.shape)
    expected_uv = np.stack((columns, rows), -1).reshape(-1, 2) + 0.5
    np.testing.assert_allclose(pixels_uv, expected_uv, atol=1e-6)
    np.testing.assert_allclose(found_m, depth_m.ravel(), rtol=1e-6)
    assert visible.all()
    stride = int(random.integers(1, 4))
    fewer = unproject(np.ascontiguousarray(strided(depth_m, stride)), intrinsics_px, ego_from_camera, stride=stride)
    np.testing.assert_allclose(fewer, strided(points_ego.reshape(*depth_m.shape, 3), stride), atol=1e-8)
