"""Images that change, and the rig with them: what projects onto a place still does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.models.lift import lift, visible_pairs
from occlift.training.augment import AugmentConfig, augment, image_map, jitter_colours, warp
from occlift.training.frames import IMAGE_DEVIATION, IMAGE_MEAN, FrameBatch, collate_frames

HEIGHT, WIDTH = 48, 80

MOVES = {
    "resize": AugmentConfig(resize=0.3),
    "shift": AugmentConfig(shift=0.2),
    "rotation": AugmentConfig(rotation_rad=0.5),
    "flip": AugmentConfig(flip=0.5),
    "all": AugmentConfig(resize=0.3, shift=0.2, rotation_rad=0.5, flip=0.5),
}


def rig_of(batch: int = 2) -> CameraRig:
    """Six cameras around; every one with intrinsics of its own."""
    generator = torch.Generator().manual_seed(7)
    yaw_rad = torch.arange(6) * math.pi / 3 + torch.rand(batch, 6, generator=generator)
    zero, one = torch.zeros_like(yaw_rad), torch.ones_like(yaw_rad)
    columns = (
        torch.stack((yaw_rad.sin(), -yaw_rad.cos(), zero), -1),
        torch.stack((zero, zero, -one), -1),
        torch.stack((yaw_rad.cos(), yaw_rad.sin(), zero), -1),
    )
    ego_from_camera = torch.eye(4).repeat(batch, 6, 1, 1)
    ego_from_camera[..., :3, :3] = torch.stack(columns, -1)
    ego_from_camera[..., :3, 3] = torch.tensor([0.5, 0.2, 1.5])
    focal_px = 50 + 10 * torch.rand(batch, 6, generator=generator)
    intrinsics_px = torch.eye(3).repeat(batch, 6, 1, 1)
    intrinsics_px[..., 0, 0], intrinsics_px[..., 1, 1] = focal_px, focal_px
    intrinsics_px[..., 0, 2], intrinsics_px[..., 1, 2] = WIDTH / 2 + 3, HEIGHT / 2 - 2
    return CameraRig(intrinsics_px=intrinsics_px, ego_from_camera=ego_from_camera, height=HEIGHT, width=WIDTH)


def coded(rig: CameraRig) -> Tensor:
    """Images that say where on them one looks: u, v and u + v, all linear, so that bilinear sampling is exact."""
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    image = torch.stack((u, v, u + v))
    return image.expand(*rig.intrinsics_px.shape[:2], 3, HEIGHT, WIDTH).contiguous()


def points_around(count: int = 4000) -> Tensor:
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) - 0.5) * torch.tensor([40.0, 40.0, 8.0])


@pytest.mark.parametrize("name", MOVES)
def test_points_land_on_the_same_content(name: str) -> None:
    rig, points_ego = rig_of(), points_around()
    images, new_rig = augment(coded(rig), rig, MOVES[name], torch.Generator().manual_seed(3))
    old_px, old_depth_m, seen = rig.project(points_ego)
    new_px, depth_m, still_seen = new_rig.project(points_ego)
    torch.testing.assert_close(depth_m, old_depth_m, rtol=0, atol=1e-4)
    # Away from the borders, where a sample mixes with what lies outside the old or the new image.
    size_px = torch.tensor([WIDTH, HEIGHT])
    inner = torch.stack([((px > 2) & (px < size_px - 2)).all(-1) for px in (old_px, new_px)]).all(0) & seen & still_seen
    assert int(inner.sum()) > 500
    assert float((new_px - old_px)[inner].abs().max()) > 1, "nothing moved"
    for batch, camera, point in inner.nonzero()[::7].tolist():
        u, v = new_px[batch, camera, point].tolist()
        # The bilinear sample by hand.
        column, row = math.floor(u - 0.5), math.floor(v - 0.5)
        right, down = u - 0.5 - column, v - 0.5 - row
        window = images[batch, camera, :2, row : row + 2, column : column + 2]
        rows = torch.tensor([1 - down, down])
        found = (window * rows[:, None] * torch.tensor([1 - right, right])).sum((-2, -1))
        torch.testing.assert_close(found, old_px[batch, camera, point], rtol=0, atol=2e-2)


@pytest.mark.parametrize("name", MOVES)
def test_lifted_features_stay_where_they_were(name: str) -> None:
    """Straight through the network's own sampling: a position-coded image says the same at every voxel."""
    rig, points_ego = rig_of(), points_around()
    plain = coded(rig)
    images, new_rig = augment(plain, rig, MOVES[name], torch.Generator().manual_seed(3))
    inside = torch.ones_like(plain[:, :, :1])
    covered, _ = augment(inside.expand_as(plain), rig, MOVES[name], torch.Generator().manual_seed(3))
    old, new = visible_pairs(rig, points_ego), visible_pairs(new_rig, points_ego)
    before = lift(torch.cat((plain, inside), 2), old)
    after = lift(torch.cat((images, covered[:, :, :1]), 2), new)
    # The same one camera sees the point before and after, and no sample mixes with what lies outside.
    one = (old.views == 1) & (new.views == 1) & (after[..., 3] > 0.9999)
    number = torch.arange(6.0)[:, None, None, None].expand(2, 6, 1, HEIGHT, WIDTH).contiguous()
    one &= (lift(number, old) - lift(number, new))[..., 0].abs() < 1e-3
    # Neither lies at the border of the old image or of the new one, where a sample is clamped.
    places_px = torch.cat((before[..., :2], lift(plain, new)[..., :2]), -1)
    chosen = one & (places_px > 2).all(-1) & (places_px < torch.tensor([WIDTH - 2, HEIGHT - 2] * 2)).all(-1)
    assert int(chosen.sum()) > 300
    torch.testing.assert_close(after[chosen][:, :3], before[chosen][:, :3], rtol=0, atol=2e-2)


def test_the_map_by_hand() -> None:
    """A quarter turn moves the middle of the right edge to the bottom; a flip exchanges the corners; and so on."""
    none: dict[str, Any] = {
        "height": 40, "width": 60, "scale": torch.tensor(1.0), "shift": torch.zeros(2),
        "rotation_rad": torch.tensor(0.0), "flip": torch.tensor(False),
    }  # fmt: skip

    def moved(point: tuple[float, float], **changes: Any) -> list[float]:
        return (image_map(**{**none, **changes}) @ torch.tensor([*point, 1.0]))[:2].tolist()

    assert moved((10, 10)) == pytest.approx([10, 10])
    assert moved((10, 10), flip=torch.tensor(True)) == pytest.approx([50, 10])
    assert moved((10, 10), scale=torch.tensor(2.0)) == pytest.approx([-10, 0])
    assert moved((10, 10), shift=torch.tensor([0.1, -0.1])) == pytest.approx([16, 6])
    assert moved((50, 20), rotation_rad=torch.tensor(math.pi / 2)) == pytest.approx([30, 40], abs=1e-4)
    # Flipped first, then turned.
    both = moved((10, 20), flip=torch.tensor(True), rotation_rad=torch.tensor(math.pi / 2))
    assert both == pytest.approx([30, 40], abs=1e-4)


def test_a_flipped_image_is_the_flipped_image_and_outside_is_zero() -> None:
    images = torch.randn(1, 1, 3, 6, 10)
    size = {"height": 6, "width": 10, "rotation_rad": torch.zeros(1, 1)}
    flip = image_map(**size, scale=torch.ones(1, 1), shift=torch.zeros(1, 1, 2), flip=torch.ones(1, 1).bool())
    torch.testing.assert_close(warp(images, flip), images.flip(-1), rtol=0, atol=1e-5)
    aside = image_map(
        **size, scale=torch.ones(1, 1), shift=torch.tensor([[[0.5, 0.0]]]), flip=torch.zeros(1, 1).bool()
    )  # fmt: skip
    shifted = warp(images, aside)
    torch.testing.assert_close(shifted[..., 5:], images[..., :5], rtol=0, atol=1e-5)
    assert float(shifted[..., :5].abs().max()) < 1e-5


def test_colours_by_hand() -> None:
    mean, deviation = torch.tensor(IMAGE_MEAN)[:, None, None], torch.tensor(IMAGE_DEVIATION)[:, None, None]
    rgb = torch.tensor([[0.2, 0.4], [0.5, 0.1], [0.3, 0.3]])[:, None, :]
    images = ((rgb - mean) / deviation)[None, None]
    one = torch.ones(1, 1)

    def changed(**factors: Tensor) -> Tensor:
        every = {"brightness": one, "contrast": one, "saturation": one, **factors}
        return (jitter_colours(images, **every)[0, 0] * deviation + mean)[:, 0]

    torch.testing.assert_close(changed(), rgb[:, 0])
    torch.testing.assert_close(changed(brightness=2 * one), torch.tensor([[0.4, 0.8], [1.0, 0.2], [0.6, 0.6]]))
    grey = [0.299 * 0.2 + 0.587 * 0.5 + 0.114 * 0.3, 0.299 * 0.4 + 0.587 * 0.1 + 0.114 * 0.3]
    torch.testing.assert_close(changed(saturation=0 * one), torch.tensor([grey] * 3))
    torch.testing.assert_close(changed(contrast=0 * one), torch.full((3, 2), sum(grey) / 2))


def test_colours_do_not_move_and_moves_do_not_colour() -> None:
    rig = rig_of(1)
    images = torch.rand(1, 6, 3, HEIGHT, WIDTH) - 0.5
    coloured, same = augment(
        images, rig, AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.3), torch.Generator().manual_seed(0)
    )  # fmt: skip
    assert same is rig
    assert not torch.equal(coloured, images)
    untouched, rig_too = augment(images, rig, AugmentConfig(), torch.Generator().manual_seed(0))
    assert untouched is images
    assert rig_too is rig
    # Where pixels go does not depend on whether colours change.
    move = AugmentConfig(resize=0.3, flip=0.5)
    _, one = augment(images, rig, move, torch.Generator().manual_seed(0))
    _, other = augment(images, rig, replace(move, contrast=0.5), torch.Generator().manual_seed(0))
    assert torch.equal(one.intrinsics_px, other.intrinsics_px)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_changed_rig_is_mirrored_too(axis: str) -> None:
    """Intrinsics with rotation and shear in them: the mirrored camera sees the mirrored point at the mirrored pixel."""
    rig = rig_of()
    images, turned = augment(coded(rig), rig, MOVES["all"], torch.Generator().manual_seed(3))
    frame = FrameBatch(
        tokens=("a", "b"), images=images, rig=turned, mask_camera=None,
        semantics=torch.randint(0, 18, (2, 200, 200, 16), dtype=torch.uint8),
        confidence=torch.randint(0, 256, (2, 200, 200, 16), dtype=torch.uint8),
    )  # fmt: skip
    mirrored = frame.mirrored(axis)  # type: ignore[arg-type]
    points_ego = points_around()
    sign = torch.tensor([-1.0, 1, 1] if axis == "x" else [1.0, -1, 1])
    old_px, old_depth_m, seen = turned.project(points_ego)
    new_px, new_depth_m, still_seen = mirrored.rig.project(points_ego * sign)
    torch.testing.assert_close(new_depth_m, old_depth_m, rtol=1e-4, atol=1e-4)
    assert int(seen.sum()) > 1000
    assert int((seen != still_seen).sum()) <= 2
    both = seen & still_seen
    expected = torch.stack((WIDTH - old_px[..., 0], old_px[..., 1]), -1)
    torch.testing.assert_close(new_px[both], expected[both], rtol=0, atol=1e-2)
    dimension = 1 if axis == "x" else 2
    assert mirrored.semantics is not None
    assert mirrored.confidence is not None
    assert torch.equal(mirrored.semantics, frame.semantics.flip(dimension))
    assert torch.equal(mirrored.confidence, frame.confidence.flip(dimension))
    again = mirrored.mirrored(axis)  # type: ignore[arg-type]
    assert torch.equal(again.images, images)
    torch.testing.assert_close(again.rig.intrinsics_px, turned.intrinsics_px)
    torch.testing.assert_close(again.rig.ego_from_camera, turned.ego_from_camera)
    determinant = torch.linalg.det(mirrored.rig.ego_from_camera[..., :3, :3])
    torch.testing.assert_close(determinant, torch.ones_like(determinant))


def test_a_batch_is_taken_apart_and_put_together() -> None:
    rig = rig_of()
    frame = FrameBatch(
        tokens=("a", "b"), images=coded(rig), rig=rig, semantics=torch.zeros(2, 200, 200, 16, dtype=torch.uint8),
        mask_camera=None,
    )  # fmt: skip
    parts = frame.frames()
    assert [part.tokens for part in parts] == [("a",), ("b",)]
    again = collate_frames(parts)
    assert torch.equal(again.images, frame.images)
    assert torch.equal(again.rig.ego_from_camera, rig.ego_from_camera)
    assert torch.equal(again.rig.intrinsics_px, rig.intrinsics_px)
    assert again.mask_camera is None


def test_amounts_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="flip must lie in"):
        AugmentConfig(flip=1.5)
    with pytest.raises(ConfigError, match="shrink to nothing"):
        AugmentConfig(resize=1.0)


def test_images_change_in_full_precision_under_autocast() -> None:
    """Training augments inside of autocast; a map of pixels in bf16 would be off by a pixel."""
    rig = rig_of()
    images = torch.rand(2, rig.num_cameras, 3, rig.height, rig.width, generator=torch.Generator().manual_seed(0))
    config = AugmentConfig.usual()
    exact, exact_rig = augment(images, rig, config, torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under, under_rig = augment(images, rig, config, torch.Generator().manual_seed(1))
    assert torch.equal(exact, under)
    assert torch.equal(exact_rig.intrinsics_px, under_rig.intrinsics_px)
