"""Deformable attention of the cells, against a twin that goes through everything one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from networks import surround_rig
from torch import Tensor, nn

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import BevGrid
from occlift.models.bevformer import BevFormer, BevFormerConfig, CellAttention, ImageAttention, seen_points

# Not square, so that x and y cannot be exchanged unnoticed.
GRID = BevGrid(lower_m=(-10.0, -6.0), cell_size_m=(5.0, 4.0), shape=(4, 3))
CONFIG = BevFormerConfig(layers=2, heads=2, points=4, feed_forward=16, heights=2, lower_m=-1.0, upper_m=3.0)


def randomised(module: nn.Module) -> nn.Module:
    """Every weight drawn, in double precision: as they start, many are zero."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def pixel(image: Tensor, column: float, row: float) -> Tensor:
    """Bilinear sample of [channels, rows, columns] where pixel centres lie at + 0.5, zero outside."""
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    left, top = math.floor(column - 0.5), math.floor(row - 0.5)
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                weight = (1 - abs(row - 0.5 - i)) * (1 - abs(column - 0.5 - j))
                total = total + weight * image[:, i, j]
    return total


def slow_cell_attention(attention: CellAttention, queries: Tensor, place: Tensor) -> Tensor:
    count_x, count_y = attention.shape
    depth = queries.shape[-1] // attention.heads
    result = torch.zeros_like(queries)
    for batch in range(len(queries)):
        values = attention.values(queries[batch])
        for x in range(count_x):
            for y in range(count_y):
                asking = queries[batch, x * count_y + y] + place[x * count_y + y]
                offsets = attention.offsets(asking).view(attention.heads, attention.points, 2)
                for head in range(attention.heads):
                    part = slice(head * depth, (head + 1) * depth)
                    image = values[:, part].T.reshape(depth, count_x, count_y)
                    logits = attention.weights(asking).view(attention.heads, attention.points)[head]
                    for point in range(attention.points):
                        column, row = (float(offset) for offset in offsets[head, point])
                        share = logits[point].exp() / logits.exp().sum()
                        sample = pixel(image, y + 0.5 + column, x + 0.5 + row)
                        result[batch, x * count_y + y, part] += share * sample
    return attention.output(result)


def slow_image_attention(
    attention: ImageAttention, queries: Tensor, place: Tensor, features: Tensor, rig: CameraRig, points_ego: Tensor
) -> Tensor:
    batch_size, cameras, _, height, width = features.shape
    heads, heights, depth = attention.heads, attention.heights, queries.shape[-1] // attention.heads
    per_height = attention.points // heights
    result = torch.zeros_like(queries)
    for batch in range(batch_size):
        values = attention.values(features[batch].movedim(1, -1)).movedim(-1, 1)
        for cell in range(queries.shape[1]):
            asking = queries[batch, cell] + place[cell]
            offsets = attention.offsets(asking).view(heads, heights, per_height, 2)
            logits = attention.weights(asking).view(heads, heights, per_height)
            for z in range(heights):
                point_ego = points_ego[cell * heights + z]
                read = []
                for camera in range(cameras):
                    ego_from_camera = rig.ego_from_camera[batch, camera]
                    in_camera = ego_from_camera[:3, :3].T @ (point_ego - ego_from_camera[:3, 3])
                    if in_camera[2] <= 0.1:
                        continue
                    u, v, _ = (rig.intrinsics_px[batch, camera] @ (in_camera / in_camera[2])).tolist()
                    if not (0 <= u < rig.width and 0 <= v < rig.height):
                        continue
                    sums = torch.zeros(queries.shape[-1], dtype=torch.float64)
                    for head in range(heads):
                        part = slice(head * depth, (head + 1) * depth)
                        for p in range(per_height):
                            column, row = (float(offset) for offset in offsets[head, z, p])
                            share = logits[head, z, p].exp() / logits[head].exp().sum()
                            where = (u / rig.width * width + column, v / rig.height * height + row)
                            sums[part] += share * pixel(values[camera, part], *where)
                    read.append(sums)
                if read:
                    result[batch, cell] += torch.stack(read).mean(0)
    return attention.output(result)


@torch.no_grad()
def test_attention_to_the_cells_equals_its_slow_twin() -> None:
    torch.manual_seed(0)
    attention = randomised(CellAttention(channels=8, heads=2, points=3, shape=GRID.shape))
    queries, place = torch.randn(2, 12, 8).double(), torch.randn(12, 8).double()
    assert isinstance(attention, CellAttention)
    expected = slow_cell_attention(attention, queries, place)
    # The centres of the cells were rounded to float32 once.
    torch.testing.assert_close(attention(queries, place), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_attention_to_the_images_equals_its_slow_twin() -> None:
    torch.manual_seed(1)
    attention = randomised(ImageAttention(inputs=5, channels=8, heads=2, points=4, heights=2))
    assert isinstance(attention, ImageAttention)
    queries, place = torch.randn(2, 12, 8).double(), torch.randn(12, 8).double()
    features, rig = torch.randn(2, 6, 5, 4, 7).double(), surround_rig(batch=2, dtype=torch.float64)
    points_ego = CONFIG.points_ego(GRID).double()
    seen = seen_points(rig, points_ego, heights=2)
    assert {0, 1, 2} <= set(seen.pairs.views.unique().tolist())
    expected = slow_image_attention(attention, queries, place, features, rig, points_ego)
    torch.testing.assert_close(attention(queries, place, features, seen), expected, rtol=1e-9, atol=1e-9)


def test_a_fresh_network_looks_around_the_projections() -> None:
    attention = ImageAttention(inputs=4, channels=8, heads=4, points=8, heights=4)
    offsets = attention.offsets_px(torch.zeros(8))
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    distances = torch.tensor([1.0, 2.0]).repeat(4)
    torch.testing.assert_close(offsets, directions[:, None] * distances[:, None])
    assert torch.equal(attention.shares(torch.randn(8)), torch.full((4, 8), 1 / 8))


@torch.no_grad()
def test_a_feature_is_read_by_the_cells_on_its_ray_only() -> None:
    attention = ImageAttention(inputs=2, channels=2, heads=1, points=1, heights=1)
    for linear in (attention.values, attention.output):
        linear.weight.copy_(torch.eye(2))
    attention.offsets.bias.zero_()
    grid = BevGrid(lower_m=(-20.0, -20.0), cell_size_m=(1.0, 1.0), shape=(40, 40))
    config = BevFormerConfig(heights=1, points=1, lower_m=0.0, upper_m=1.0)
    rig = surround_rig(height=64, width=96)
    # Cell (32, 23): the point (12.5, 3.5, 0.5), in front of camera 0.
    (u, v), *_ = rig.project(torch.tensor([[12.5, 3.5, 0.5]]))[0][0, 0].tolist()
    features = torch.zeros(1, 6, 2, 64, 96)
    features[0, 0, 1, round(v) - 2 : round(v) + 2, round(u) - 2 : round(u) + 2] = 1
    seen = seen_points(rig, config.points_ego(grid), heights=1)
    read = attention(torch.zeros(1, 1600, 2), torch.zeros(1600, 2), features, seen)[0, :, 1].view(40, 40)
    assert float(read[32, 23]) == pytest.approx(1, abs=1e-5)
    assert float(read[23, 32]) == 0
    x, y = (read > 0).nonzero().float().add(0.5 - 20).unbind(1)
    # From the camera at (1, 0, 1.5), the direction of the point.
    assert ((torch.atan2(y, x - 1) - math.atan2(3.5, 11.5)).abs() < math.radians(4)).all()


def test_cells_that_nobody_sees_and_cameras_that_see_nothing_are_no_trouble() -> None:
    torch.manual_seed(0)
    attention = randomised(ImageAttention(inputs=4, channels=8, heads=2, points=2, heights=1))
    rig = surround_rig(dtype=torch.float64)
    queries, features = torch.randn(1, 3, 8).double(), torch.randn(1, 6, 4, 4, 6).double()
    in_front = torch.tensor([[8.0, 0.0, 1.5], [0.0, 0.0, 90.0], [9.0, 0.5, 1.5]]).double()
    for points_ego in (in_front, in_front[[1, 1, 1]]):
        seen = seen_points(rig, points_ego, heights=1)
        queries.requires_grad_()
        read = attention(queries, torch.zeros(3, 8).double(), features, seen)
        assert torch.equal(read[0, 1], attention.output.bias)  # type: ignore[union-attr]
        read.sum().backward()


def test_recomputed_layers_change_no_number() -> None:
    torch.manual_seed(0)
    model = BevFormer(CONFIG, grid=GRID, inputs=5, channels=8)
    features, rig = torch.randn(2, 6, 5, 4, 7), surround_rig(batch=2)
    gradients = []
    for recompute in (False, True):
        model.recompute = recompute
        model.zero_grad()
        model(features, rig).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])  # type: ignore[union-attr]
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_coordinates_are_not_rounded_under_autocast() -> None:
    torch.manual_seed(0)
    model = BevFormer(CONFIG, grid=GRID, inputs=5, channels=8).eval()
    rig = surround_rig()
    with torch.no_grad():
        # A steep picture: a coordinate off by a hundredth of a pixel shows.
        features = torch.linspace(0, 1, 96).mul(100).sin().expand(1, 6, 5, 64, 96)
        exact = model(features, rig)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(features, rig)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.1)


def test_configurations_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot share 6 points"):
        replace(CONFIG, points=6, heights=4)
    with pytest.raises(ConfigError, match="at least one layer"):
        replace(CONFIG, layers=0)
    with pytest.raises(ConfigError, match="top above the bottom"):
        replace(CONFIG, upper_m=-1.0)
    with pytest.raises(ConfigError, match="2 heads do not divide 9 channels"):
        BevFormer(CONFIG, grid=GRID, inputs=5, channels=9)
