"""Laws of mirrored key frames, on what hypothesis draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import randoms, rigs

from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import OCC3D_GRID
from occlift.geometry.transforms import transform_points
from occlift.training.frames import FrameBatch, collate_frames

axes = st.sampled_from(["x", "y"])


def batch_of(rig: CameraRig, random: np.random.Generator) -> FrameBatch:
    volume = (1, *OCC3D_GRID.shape)
    return FrameBatch(
        tokens=("a",),
        images=torch.from_numpy(random.normal(size=(1, rig.num_cameras, 3, rig.height, rig.width))),
        rig=replace(rig, intrinsics_px=rig.intrinsics_px[None], ego_from_camera=rig.ego_from_camera[None]),
        semantics=torch.from_numpy(random.integers(18, size=volume).astype(np.uint8)),
        mask_camera=torch.from_numpy(random.random(volume) < 0.5),
    )


def assert_same(first: FrameBatch, second: FrameBatch) -> None:
    torch.testing.assert_close(first.images, second.images, rtol=0, atol=0)
    torch.testing.assert_close(first.rig.intrinsics_px, second.rig.intrinsics_px)
    torch.testing.assert_close(first.rig.ego_from_camera, second.rig.ego_from_camera, rtol=0, atol=0)
    for one, other in ((first.semantics, second.semantics), (first.mask_camera, second.mask_camera)):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@given(rigs(max_size=8), randoms, axes)
def test_mirroring_twice_changes_nothing(rig: CameraRig, random: np.random.Generator, axis: str) -> None:
    batch = batch_of(rig, random)
    once = batch.mirrored(axis)
    assert_same(once.mirrored(axis), batch)
    assert not torch.equal(once.images, batch.images)


@given(rigs(max_size=8), randoms)
def test_both_mirrors_can_be_exchanged(rig: CameraRig, random: np.random.Generator) -> None:
    batch = batch_of(rig, random)
    assert_same(batch.mirrored("x").mirrored("y"), batch.mirrored("y").mirrored("x"))


@given(rigs(max_size=8), randoms, axes)
def test_a_mirrored_point_is_seen_at_the_mirrored_pixel(rig: CameraRig, random: np.random.Generator, axis: str) -> None:
    points_camera = random.uniform((-5, -5, 1), (5, 5, 20), (20, 3))
    points_ego = torch.from_numpy(transform_points(rig.ego_from_camera[0].numpy(), points_camera))
    mirrored_ego = points_ego.clone()
    mirrored_ego[:, "xy".index(axis)] *= -1
    pixels_uv, depth_m, _ = rig.project(points_ego)
    found_uv, found_m, _ = (part[0] for part in batch_of(rig, random).mirrored(axis).rig.project(mirrored_ego))
    in_front = depth_m > 0.1
    torch.testing.assert_close(found_m, depth_m, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        found_uv[..., 0][in_front], rig.width - pixels_uv[..., 0][in_front], rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(found_uv[..., 1][in_front], pixels_uv[..., 1][in_front], rtol=1e-6, atol=1e-6)


@given(rigs(max_size=8), randoms)
def test_collated_frames_are_the_frames_of_the_batch(rig: CameraRig, random: np.random.Generator) -> None:
    batch, other = batch_of(rig, random), batch_of(rig, random)
    first, second = collate_frames([batch, other]).frames()
    assert_same(first, batch)
    assert_same(second, other)
