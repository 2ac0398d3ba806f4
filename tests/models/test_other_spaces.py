"""Five classes on an asymmetric grid of 0.2 m: forward, loss, backward, score."""

from __future__ import annotations

import pytest
import torch
from networks import tiny_easyocc

from occlift.errors import ConfigError, DataError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import LabelSpace, Taxonomy
from occlift.losses.pseudo_loss import PseudoLoss
from occlift.metrics.streaming import OccupancyScore
from occlift.models.easyocc import EasyOcc, EasyOccConfig

NAMES = ("ground", "wall", "car", "walker", "rest")
GRID = VoxelGrid(lower_m=(0.0, -3.2, -0.6), voxel_size_m=(0.2, 0.2, 0.2), shape=(48, 32, 12))
SPACE = LabelSpace(grid=GRID, taxonomy=Taxonomy(names=NAMES, vague=("rest",)))


def test_five_classes_with_two_cameras_go_from_images_to_a_score() -> None:
    torch.manual_seed(0)
    config = tiny_easyocc(space=SPACE)
    assert EasyOccConfig.from_dict(config.to_dict()) == config
    camera = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    intrinsics_px = torch.tensor([[40.0, 0, 32], [0, 40, 16], [0, 0, 1]])
    rig = CameraRig(
        intrinsics_px=intrinsics_px.repeat(1, 2, 1, 1), ego_from_camera=camera.repeat(1, 2, 1, 1), height=32, width=64
    )
    model = EasyOcc(config)
    logits = model(torch.randn(1, 2, 3, 32, 64), rig)
    assert logits.shape == (1, 6, *GRID.shape)
    with pytest.raises(DataError, match=r"images of 32×32 pixels .* intrinsics are for 32×64: resize or crop both"):
        model(torch.randn(1, 2, 3, 32, 32), rig)
    labels = torch.randint(0, 6, (1, *GRID.shape), dtype=torch.uint8)
    PseudoLoss(space=SPACE)(logits, labels).backward()
    assert model.head.weight.grad is not None
    assert bool((model.head.weight.grad != 0).any())
    score = OccupancyScore(taxonomy=SPACE.taxonomy, masks=("none",))
    score.update(truth=labels, prediction=logits.argmax(1).to(torch.uint8))
    assert {"miou_5_none_absent_zero", "miou_4_none_absent_zero"} < score.compute().keys()


def test_a_stride_that_does_not_divide_the_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        tiny_easyocc(space=SPACE, horizontal_stride=5)
