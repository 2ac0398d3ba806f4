"""What a rendering model predicts is what its losses train: no change of the logits goes unseen by every loss and
changes a prediction."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import tiny_easyocc
from torch import Tensor

from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import OCC3D_GRID
from occlift.label_space import FREE, NUM_CLASSES
from occlift.losses.rendering import rendered_class_loss
from occlift.models.rendering import RenderingConfig, RenderingModel

# Contracted, so that the volume is small: nothing here depends on it.
GRID = (40, 40, 8)
CONFIG = RenderingConfig(
    network=replace(tiny_easyocc(image=(48, 88)), grid_shape=GRID), ray_height=4, ray_width=7, samples=24,
    reach_m=48.0, inner_share=0.6,
)  # fmt: skip
SHIFTS = (-6.0, -3.0, 3.0, 6.0)


def rig() -> CameraRig:
    """Two cameras 1.5 m above the ground, that look ahead and to the left."""
    transforms = np.tile(np.eye(4), (2, 1, 1))
    for transform, yaw in zip(transforms, (0.1, math.pi / 2), strict=True):
        forward, left = np.array([math.cos(yaw), math.sin(yaw), 0]), np.array([-math.sin(yaw), math.cos(yaw), 0])
        transform[:3, :3] = np.stack((-left, [0, 0, -1], forward), 1)
        transform[:3, 3] = [0.5, 0.0, 1.5]
    intrinsics_px = torch.tensor([[60.0, 0, 44], [0, 60.0, 24], [0, 0, 1]]).expand(1, 2, 3, 3)
    return CameraRig(
        intrinsics_px=intrinsics_px, ego_from_camera=torch.from_numpy(transforms).float()[None], height=48, width=88
    )


@pytest.fixture(scope="module")
def model() -> RenderingModel:
    model = RenderingModel(CONFIG)
    model.decide_by(torch.tensor([-1.5, -0.5]))
    return model


@pytest.fixture(scope="module")
def volume() -> Tensor:
    """Of a network that has learned a little: mostly free, with classes here and there."""
    volume = 2 * torch.randn(1, NUM_CLASSES, *GRID, generator=torch.Generator().manual_seed(0))
    volume[:, FREE] += 8.0
    return volume


def losses_of(model: RenderingModel, volume: Tensor, classes: Tensor) -> Tensor:
    """Everything that a loss sees: depth and opacity of every ray, and the loss of its class."""
    rendering = model.render(volume, rig())
    logits, opacity = rendering.class_logits.flatten(0, 3), rendering.opacity.flatten()
    weights = torch.ones(NUM_CLASSES)
    of_rays = [
        rendered_class_loss(logits[i : i + 1], opacity[i : i + 1], classes[i : i + 1], weights)
        for i in range(len(classes))
    ]
    return torch.cat((rendering.depth_m.flatten().log(), opacity, torch.stack(of_rays)))


def prediction_of(model: RenderingModel, volume: Tensor) -> Tensor:
    return model.decided(volume)[0].argmax(0)


def everywhere(volume: Tensor) -> Tensor:
    return torch.ones_like(volume[:, :1])


def in_front(volume: Tensor) -> Tensor:
    """A block of voxels that rays of the first camera pass."""
    where = torch.zeros_like(volume[:, :1])
    where[:, :, 22:30, 16:24] = 1
    return where


@pytest.mark.parametrize("where", [everywhere, in_front])
def test_what_no_loss_sees_changes_no_prediction(
    model: RenderingModel, volume: Tensor, where: Callable[[Tensor], Tensor]
) -> None:
    """Directions in the 18 logits along which the gradients of all losses vanish, and finite steps along them."""
    place = where(volume)
    classes = torch.randint(0, NUM_CLASSES, (2 * 4 * 7,), generator=torch.Generator().manual_seed(1))
    step = torch.zeros(NUM_CLASSES, requires_grad=True)

    def moved(by: Tensor) -> Tensor:
        return volume + by[None, :, None, None, None] * place

    losses = losses_of(model, moved(step), classes)
    seen = losses[torch.isfinite(losses)]
    jacobian = torch.stack([torch.autograd.grad(loss, step, retain_graph=True)[0] for loss in seen])
    _, sizes, directions = torch.linalg.svd(jacobian.double(), full_matrices=True)
    unseen = directions[sizes < 1e-5 * sizes[0]].float()
    before, predicted = losses.detach(), prediction_of(model, volume)
    with torch.no_grad():
        for direction in unseen:
            for shift in SHIFTS:
                by = direction * shift * math.sqrt(NUM_CLASSES)
                if torch.allclose(losses_of(model, moved(by), classes), before, atol=1e-4):
                    changed = (prediction_of(model, moved(by)) != predicted).float().mean()
                    assert changed < 1e-3, (shift, direction, changed)
    # Only what softmax does not see is left unseen: the same amount on all logits of a voxel.
    assert len(unseen) <= 1


@pytest.mark.parametrize("shift", SHIFTS)
def test_classes_against_free_are_seen_by_the_losses(model: RenderingModel, volume: Tensor, shift: float) -> None:
    """Added to all classes but free, a number decides what is occupied; so it has to cost something."""
    moved = volume.clone()
    moved[:, :FREE] += shift
    changed = (prediction_of(model, moved) != prediction_of(model, volume)).float().mean()
    assert changed > 1e-4
    before, after = model.render(volume, rig()), model.render(moved, rig())
    nearer_m = float((before.depth_m - after.depth_m).mean())
    assert nearer_m * shift > 0


def test_free_is_told_from_occupied_where_rays_end() -> None:
    """A wall that is no denser than fog stops rays only together: its voxels count as occupied all the same."""
    model = RenderingModel(replace(CONFIG, inner_share=None, samples=96, network=tiny_easyocc(image=(48, 88))))
    volume = torch.zeros(1, NUM_CLASSES, *OCC3D_GRID.shape)
    volume[:, FREE] = 9.0
    wall = torch.zeros(OCC3D_GRID.shape, dtype=torch.bool)
    wall[:, 125:130] = True  # to the left, from 10.0 to 12.0 m
    volume[0, 15, wall] = 8.0
    left = replace(rig(), intrinsics_px=rig().intrinsics_px[:, 1:], ego_from_camera=rig().ego_from_camera[:, 1:])
    # Four samples, each with p of about 0.27.
    rendering = model.render(volume, left)
    assert rendering.opacity.median() > 0.9
    assert 9 < rendering.depth_m.median() < 12
    assert not (prediction_of(model, volume) != FREE).any(), "no voxel is more likely occupied than free"
    margin = model.ending_margin(volume, left, rendering)
    assert -9 < margin < -1
    model.decide_by(margin[None])
    assert torch.equal(prediction_of(model, volume) != FREE, wall)
    assert torch.equal(prediction_of(model, volume)[wall].unique(), torch.tensor([15]))


def test_the_offset_is_a_running_mean_over_key_frames_whose_rays_end() -> None:
    model = RenderingModel(CONFIG)
    model.decide_by(torch.tensor([-2.0, torch.nan, -4.0]))
    assert model.free_offset == -3
    for _ in range(200):
        model.decide_by(torch.tensor([1.0]))
    assert 0.8 < model.free_offset < 1
    empty = torch.zeros(1, NUM_CLASSES, *GRID)
    empty[:, FREE] = 30.0
    assert model.ending_margin(empty, rig(), model.render(empty, rig())).isnan()


def test_the_offset_is_part_of_what_predicts_and_of_no_loss(model: RenderingModel, volume: Tensor) -> None:
    assert torch.equal(model.decided(volume)[:, :FREE], model.occ3d_logits(volume)[:, :FREE])
    assert torch.allclose(model.decided(volume)[:, FREE], model.occ3d_logits(volume)[:, FREE] - 1)
    other = RenderingModel(CONFIG)
    other.load_state_dict(model.state_dict())
    assert other.free_offset == -1
