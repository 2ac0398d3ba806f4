"""Surfaces fused in tensors: what the compiled pass finds, on the CPU and on a device that is not the CPU."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from sim_device import SUPPORTED, SimTensor, simulated_device
from test_from_views import CAR, GROUND, SPACE, WALKER, view
from test_surface import cleaned

from occlift import OCC3D, open_dataset
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import inverse
from occlift.label_space import UNKNOWN, Taxonomy
from occlift.labels.decide import decide_surface
from occlift.labels.device_views import DeviceView
from occlift.labels.surface import PosedView, Surface, fuse_surface
from occlift.labels.surface_torch import fuse_surface_on_device
from occlift.labels.view import view_of
from occlift.teachers.registry import depth_teacher, semantics_teacher

CARRIED = [(np.array([[2.1, 2.1, 0.5], [2.1, 2.1, 0.5], [np.nan, 0, 0]]), np.array([CAR, CAR, CAR], np.uint8))]


def random_views(stride: int) -> list[PosedView]:
    """Noisy images of different sizes, with patches that are unknown, of thin classes, and without depth."""
    rng = np.random.default_rng(stride)
    views = [view(60 - 2 * n, 90 - n, forward_m=0.3 * n, current=n in (0, 3)) for n in range(6)]
    for n, one in enumerate(views):
        noise = np.exp(0.03 * rng.standard_normal() + 0.03 * rng.standard_normal(one.depth_m.shape))
        one.depth_m[:] = one.depth_m * noise
        one.depth_m[rng.random(one.depth_m.shape) < 0.05] = np.nan
        one.class_id[10 + n : 14 + n, 20:40] = UNKNOWN
        one.class_id[30:34, 50 + n : 54 + n] = WALKER
        one.class_id[rng.random(one.depth_m.shape) < 0.05] = GROUND
    return cleaned(views, stride)


def on_device(posed: list[PosedView], device: str) -> list[tuple[DeviceView, np.ndarray, bool]]:
    return [(DeviceView.of(one, device), pose, moves) for one, pose, moves in posed]


def check_same(found: Surface, expected: Surface) -> None:
    """Numbers to 1e-3; counts and classes but for a voxel in ten thousand, where rounding may decide."""
    np.testing.assert_allclose(found.scale, expected.scale, atol=1e-6)
    assert found.error.samples == expected.error.samples
    np.testing.assert_allclose(found.error.by_metre(), expected.error.by_metre(), atol=1e-6)
    for name in ("distance_m", "extent_m", "near", "sigma_m", "class_share"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_allclose(a, b, atol=1e-3, err_msg=name)
    for name in ("views", "class_id", "points", "thin"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype, name
        assert (a != b).mean() <= 1e-4, name


@pytest.mark.parametrize("stride", [1, 2])
def test_views_are_fused_as_by_the_compiled_pass(stride: int) -> None:
    posed = random_views(stride)
    expected = fuse_surface(posed, SPACE.grid, SPACE.taxonomy, carried=CARRIED)
    found = fuse_surface_on_device(on_device(posed, "cpu"), SPACE.grid, SPACE.taxonomy, carried=CARRIED)
    check_same(found, expected)
    assert (expected.points > 0).sum() > 500
    assert (expected.thin != UNKNOWN).sum() > 5
    assert np.abs(expected.scale - 1).max() > 0.01


def test_little_at_a_time_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    posed = on_device(random_views(1), "cpu")
    whole = fuse_surface_on_device(posed, SPACE.grid, SPACE.taxonomy)
    monkeypatch.setattr("occlift.labels.device_views._VOXELS_AT_ONCE", 1000)
    parts = fuse_surface_on_device(posed, SPACE.grid, SPACE.taxonomy)
    for name in ("distance_m", "extent_m", "near", "sigma_m", "class_share", "views", "class_id", "points", "thin"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_views_of_a_town_are_fused_as_by_the_compiled_pass(small_town: Path) -> None:
    data = open_dataset(small_town)
    semantics, depth = semantics_teacher("oracle:foundation", data), depth_teacher("oracle:foundation", data)
    frames = [data.key_frame(token) for token in data.key_frame_tokens(data.scenes("val")[0])]
    ego_from_global = inverse(frames[0].global_from_ego)
    posed = [
        (view_of(image, class_map, depth_map), ego_from_global @ image.global_from_camera, frame is frames[0])
        for frame in frames
        for image, class_map, depth_map in zip(
            frame.cameras[:2], semantics.semantics(frame), depth.depth(frame), strict=False
        )
    ]
    expected = fuse_surface(posed, OCC3D.grid)
    found = fuse_surface_on_device(on_device(posed, "cpu"), OCC3D.grid)
    check_same(found, expected)
    a, b = (decide_surface(surface).semantics for surface in (found, expected))
    assert (a != b).mean() < 1e-4
    assert (b < OCC3D.taxonomy.free).sum() > 2000


def check_device(posed: list[PosedView], grid: VoxelGrid, taxonomy: Taxonomy) -> Surface:
    with simulated_device():
        views = on_device(posed, "sim")
        assert isinstance(views[0][0].depth_m, SimTensor)
        return fuse_surface_on_device(views, grid, taxonomy, carried=CARRIED)


@pytest.mark.skipif(not SUPPORTED, reason="this torch has no devices written in Python")
def test_nothing_stays_behind_on_the_cpu() -> None:
    posed = random_views(1)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(check_device, posed, SPACE.grid, SPACE.taxonomy).result()
    check_same(found, fuse_surface(posed, SPACE.grid, SPACE.taxonomy, carried=CARRIED))


def test_views_that_see_nothing_leave_everything_unknown() -> None:
    ((one, pose, _),) = cleaned([view()])
    empty = replace(one, class_id=np.full_like(one.class_id, UNKNOWN), depth_m=np.full_like(one.depth_m, np.nan))
    found = fuse_surface_on_device(on_device([(empty, pose, True)], "cpu"), SPACE.grid, SPACE.taxonomy)
    check_same(found, fuse_surface([(empty, pose, True)], SPACE.grid, SPACE.taxonomy))
    assert not found.views.any()
