"""The bird's-eye-view networks and how they reach the ground."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import surround_rig, tiny_bev
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from occlift.errors import ConfigError
from occlift.geometry.grids import BEV_GRID, BevGrid
from occlift.models.bev_encoder import BevEncoder, BevEncoderConfig
from occlift.models.bev_network import Architecture, BevNetworkConfig, bev_network
from occlift.models.instance_norm import InstanceNorm2d
from occlift.models.lift_splat import LiftSplat, LiftSplatConfig
from occlift.models.pillars import Pillars
from occlift.models.simple_bev import SimpleBevConfig, SimpleBevLift

ARCHITECTURES: tuple[Architecture, ...] = ("simple_bev", "lift_splat", "bevformer")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_outputs_on_the_grid_whatever_the_order_of_the_cameras(architecture: Architecture) -> None:
    torch.manual_seed(0)
    model = bev_network(tiny_bev(architecture)).eval()
    images, rig = torch.randn(2, 6, 3, 32, 64), surround_rig(batch=2, height=32, width=64)
    order = [3, 1, 5, 0, 2, 4]
    shuffled = replace(rig, intrinsics_px=rig.intrinsics_px[:, order], ego_from_camera=rig.ego_from_camera[:, order])
    second = replace(rig, intrinsics_px=rig.intrinsics_px[1:], ego_from_camera=rig.ego_from_camera[1:])
    with torch.no_grad():
        output = model(images, rig)
        again = model(images[:, order], shuffled)
        alone = model(images[1:], second)
    assert [part.shape[1] for part in output] == [2, 1, 2]
    for part, reordered, single in zip(output, again, alone, strict=True):
        assert part.shape[2:] == BEV_GRID.shape
        torch.testing.assert_close(part, reordered, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(part[1:], single, rtol=1e-3, atol=1e-3)
    assert model.bev_features(images, rig).shape == (2, 8, *BEV_GRID.shape)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_batch_is_learnt_by_heart(architecture: Architecture) -> None:
    """Two key frames that differ in their images only, each with an object elsewhere."""
    torch.manual_seed(0)
    model = bev_network(tiny_bev(architecture, classes=("vehicle",)))
    images, rig = torch.randn(2, 6, 3, 32, 64), surround_rig(height=32, width=64)
    rig = replace(
        rig,
        intrinsics_px=rig.intrinsics_px.repeat(2, 1, 1, 1),
        ego_from_camera=rig.ego_from_camera.repeat(2, 1, 1, 1),
    )
    truth, offset_m = torch.zeros(2, 1, 200, 200), torch.zeros(2, 2, 200, 200)
    for frame, (x, y) in enumerate([(125, 92), (92, 135)]):
        truth[frame, 0, x - 5 : x + 5, y - 4 : y + 4] = 1
        offset_m[frame, 0] = ((x - torch.arange(200) - 0.5) * 0.5)[:, None]
        offset_m[frame, 1] = (y - torch.arange(200) - 0.5) * 0.5
    more, on_object = torch.tensor(5.0), truth > 0
    model.start_from_prior(torch.tensor([0.01]))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    history = []
    for _ in range(120):
        output = model(images, rig)
        errors_m = (output.offset_m - offset_m).abs().sum(1, keepdim=True)
        terms = (
            F.binary_cross_entropy_with_logits(output.segmentation, truth, pos_weight=more),
            F.binary_cross_entropy_with_logits(output.centre, truth, pos_weight=more),
            0.02 * errors_m[on_object].mean(),
        )
        optimizer.zero_grad()
        torch.stack(terms).sum().backward()
        optimizer.step()
        history.append([float(term.detach()) for term in terms])
    assert all(last < 0.6 * first for first, last in zip(history[0], history[-1], strict=True)), history
    predicted = output.segmentation > 0
    # A network that looked at no image would mark both places in both frames: 0.5 at best.
    assert float((predicted & on_object).sum() / (predicted | on_object).sum()) > 0.7


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_reach_every_parameter(architecture: Architecture) -> None:
    torch.manual_seed(0)
    model = bev_network(tiny_bev(architecture))
    for name, parameter in model.named_parameters():
        # Deformable attention starts with weights of zero, through which nothing reaches the places.
        if name.startswith("view.layers"):
            nn.init.normal_(parameter, std=0.2)
    output = model(torch.randn(1, 6, 3, 32, 64), surround_rig(height=32, width=64))
    sum(part.square().mean() for part in output).backward()  # type: ignore[union-attr]
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert without == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_below_the_heads_do_not_know_the_classes(architecture: Architecture) -> None:
    torch.manual_seed(0)
    first = bev_network(tiny_bev(architecture, classes=("vehicle",))).eval()
    second = bev_network(tiny_bev(architecture, classes=("drivable_area", "crossing", "lane_divider"))).eval()
    below = {name: value for name, value in first.state_dict().items() if not name.startswith("heads.")}
    missing, unexpected = second.load_state_dict(below, strict=False)
    assert not unexpected
    assert missing
    assert all(name.startswith("heads.") for name in missing)
    images, rig = torch.randn(1, 6, 3, 32, 64), surround_rig(height=32, width=64)
    with torch.no_grad():
        assert torch.equal(first.bev_features(images, rig), second.bev_features(images, rig))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recomputed_activations_change_no_number(architecture: Architecture) -> None:
    torch.manual_seed(0)
    plain, saving = (bev_network(tiny_bev(architecture)) for _ in range(2))
    saving.load_state_dict(plain.state_dict())
    saving.recompute_activations()
    images, rig = torch.randn(1, 6, 3, 32, 64), surround_rig(height=32, width=64)
    for model in (plain, saving):
        model.bev_features(images, rig).square().mean().backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert name.startswith("heads.") or torch.equal(one.grad, other.grad), name  # type: ignore[arg-type]
    assert all(torch.equal(saving.state_dict()[name], value) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gradient_of_a_batch_is_the_sum_over_its_frames(architecture: Architecture) -> None:
    torch.manual_seed(0)
    # In evaluation mode, so that batch norms do not see the whole batch; in double precision, so that nothing rounds.
    model = bev_network(tiny_bev(architecture)).eval().double()
    images, rig = torch.randn(2, 6, 3, 32, 64).double(), surround_rig(batch=2, height=32, width=64)
    wanted = torch.rand(2, 2, 200, 200).double()

    def gradient(frames: slice) -> Tensor:
        model.zero_grad()
        intrinsics_px, ego_from_camera = rig.intrinsics_px[frames].double(), rig.ego_from_camera[frames].double()
        cameras = replace(rig, intrinsics_px=intrinsics_px, ego_from_camera=ego_from_camera)
        logits = model(images[frames], cameras).segmentation
        F.binary_cross_entropy_with_logits(logits, wanted[frames], reduction="sum").backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    torch.testing.assert_close(gradient(slice(0, 2)), gradient(slice(0, 1)) + gradient(slice(1, 2)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("gradient_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("batch", "channels"), [(1, 6), (2, 6), (1, 1)])
def test_instance_norm_equals_what_it_is_made_of(
    batch: int, channels: int, layout: torch.memory_format, gradient_layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(batch, channels, 7, 9, generator=generator)
    gradient = torch.randn(maps.shape, generator=generator).contiguous(memory_format=gradient_layout)
    given = maps.clone(memory_format=layout).requires_grad_()
    normed = InstanceNorm2d(channels)(given)
    normed.backward(gradient)
    twin = maps.clone().requires_grad_()
    spread = (twin.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = (twin - twin.mean((2, 3), keepdim=True)) / spread
    expected.backward(gradient)
    torch.testing.assert_close(normed, expected)
    torch.testing.assert_close(given.grad, twin.grad)


def test_an_untrained_network_answers_with_the_prior() -> None:
    torch.manual_seed(0)
    model = bev_network(tiny_bev("simple_bev"))
    model.start_from_prior(torch.tensor([0.02, 0.3]))
    last = model.heads.segmentation[-1]
    assert isinstance(last, nn.Conv2d)
    torch.testing.assert_close(last(torch.zeros(8, 1, 1)).sigmoid().flatten(), torch.tensor([0.02, 0.3]))


def test_simple_bev_puts_a_feature_where_the_image_has_it() -> None:
    config = Pillars(heights=4, lower_m=-1.0, upper_m=3.0)
    view = SimpleBevLift(SimpleBevConfig(**vars(config)), grid=BEV_GRID, inputs=1, channels=4)
    rig = surround_rig(height=64, width=96)
    # The centre of voxel (125, 107, 1), in front of camera 0 and seen by it alone.
    point_ego = torch.tensor([[12.75, 3.75, 0.5]])
    pixels, _, visible = rig.project(point_ego)
    assert visible[0, :, 0].tolist() == [True] + 5 * [False]
    column, row = (pixels[0, 0, 0] / 8 - 0.5).floor().int().tolist()
    features = torch.zeros(1, 6, 1, 8, 12)
    features[0, 0, 0, row : row + 2, column : column + 2] = 1
    volume = view.volume(features, rig)[0, ..., 0]
    assert volume.shape == (200, 200, 4)
    assert float(volume[125, 107, 1]) == pytest.approx(1, abs=1e-5)
    assert (volume[107, 125] == 0).all()
    # Behind the car, nothing; and the map has the same axes.
    assert (volume[:100] == 0).all()
    assert view(features, rig).shape == (1, 4, 200, 200)


def small_splat(grid: BevGrid = BEV_GRID, **changes: Any) -> LiftSplat:
    parts = {"context_channels": 3, "depth_bins": 12, "nearest_m": 2.0, "farthest_m": 26.0, **changes}
    return LiftSplat(LiftSplatConfig(**parts), grid=grid, inputs=4, channels=8)


def test_lift_splat_puts_a_feature_where_its_depth_says() -> None:
    view, rig = small_splat(), surround_rig(height=64, width=96)
    # Feature pixel (5, 9) of camera 1 and bin 4: the point 11 m ahead on the ray through the pixel's centre.
    ray = torch.linalg.inv(rig.intrinsics_px[0, 1]) @ torch.tensor([9.5 * 8, 5.5 * 8, 1.0])
    point_ego = (rig.ego_from_camera[0, 1] @ torch.cat((11 * ray, torch.ones(1))))[:3]
    context, depth = torch.zeros(1, 6, 8, 12, 3), torch.zeros(1, 6, 8, 12, 12)
    context[0, 1, 5, 9], depth[0, 1, 5, 9, 4] = torch.tensor([1.0, 2.0, 3.0]), 0.25
    (index,), _ = BEV_GRID.indices(point_ego[None, :2].numpy())
    assert index[0] != index[1]
    bev = view.splat(context, depth, rig)[0]
    assert bev.abs().sum(-1).nonzero().tolist() == [index.tolist()]
    assert bev[tuple(index)].tolist() == [0.25, 0.5, 0.75]


def test_lift_splat_equals_its_slow_twin_forward_and_backward() -> None:
    torch.manual_seed(0)
    # Not square, so that x and y cannot be exchanged unnoticed.
    grid = BevGrid(lower_m=(-20.0, -16.0), cell_size_m=(4.0, 4.0), shape=(10, 7))
    view, rig = small_splat(grid, lower_m=-2.0, upper_m=3.0).double(), surround_rig(batch=2, dtype=torch.float64)
    context = torch.randn(2, 6, 4, 6, 3, dtype=torch.float64, requires_grad=True)
    depth = torch.rand(2, 6, 4, 6, 12, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(2, 10, 7, 3, dtype=torch.float64)
    for frame in range(2):
        for camera in range(6):
            for i in range(4):
                for j in range(6):
                    pixel = torch.tensor([(j + 0.5) * 16, (i + 0.5) * 16, 1]).double()
                    ray = torch.linalg.solve(rig.intrinsics_px[frame, camera], pixel)
                    for number in range(12):
                        point = torch.cat((ray * (3 + 2 * number), ray.new_ones(1)))
                        x_m, y_m, z_m, _ = (rig.ego_from_camera[frame, camera] @ point).tolist()
                        x, y = math.floor((x_m + 20) / 4), math.floor((y_m + 16) / 4)
                        if -2 <= z_m < 3 and 0 <= x < 10 and 0 <= y < 7:
                            expected[frame, x, y] += context[frame, camera, i, j] * depth[frame, camera, i, j, number]
    bev = view.splat(context, depth, rig)
    torch.testing.assert_close(bev, expected, rtol=1e-9, atol=1e-9)
    towards = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(bev, (context, depth), towards),
        torch.autograd.grad(expected, (context, depth), towards),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_lift_splat_ignores_what_falls_outside() -> None:
    view, rig = small_splat(nearest_m=90.0, farthest_m=120.0), surround_rig()
    assert (view.cells(rig, 8, 12) == -1).all()
    context, depth = torch.ones(1, 6, 8, 12, 3, requires_grad=True), torch.ones(1, 6, 8, 12, 12, requires_grad=True)
    bev = view.splat(context, depth, rig)
    assert (bev == 0).all()
    bev.sum().backward()
    assert (context.grad == 0).all()


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that an operation makes, forward or backward."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.num_bytes = max(self.num_bytes, tensor.untyped_storage().nbytes())
        return result


def test_lift_splat_at_paper_size_never_makes_the_cloud() -> None:
    config = BevNetworkConfig.full("lift_splat")
    assert isinstance(config.view, LiftSplatConfig)
    view = LiftSplat(config.view, grid=config.working_grid, inputs=16, channels=16)
    features, rig = torch.randn(1, 6, 16, 28, 50, requires_grad=True), surround_rig(height=224, width=400)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        view(features, rig).sum().backward()
    cloud_bytes = 6 * 28 * 50 * config.view.depth_bins * config.view.context_channels * 4
    assert largest.num_bytes < cloud_bytes / 5, (largest.num_bytes, cloud_bytes)
    assert sum(kept.values()) < cloud_bytes / 2, (sum(kept.values()), cloud_bytes)


def test_cells_are_not_rounded_under_autocast() -> None:
    view, rig = small_splat(), surround_rig()
    exact = view.cells(rig, 8, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(view.cells(rig, 8, 12), exact)
        features = torch.randn(1, 6, 4, 8, 12)
        rounded = view(features, rig).float()
    torch.testing.assert_close(rounded, view(features, rig), rtol=0.1, atol=0.1)


def test_bev_encoder_keeps_the_axes() -> None:
    """Interpolated instance norms spread a little everywhere, but what changes most lies where the change is."""
    torch.manual_seed(0)
    encoder = BevEncoder(4, BevEncoderConfig(widths=(8, 8, 8), blocks=1)).eval()
    bev = torch.randn(1, 4, 40, 56)
    changed = bev.clone()
    changed[0, :, 31, 9] += 10
    with torch.no_grad():
        difference = (encoder(changed) - encoder(bev)).abs().sum(1)[0]
    assert difference.shape == (40, 56)
    assert divmod(int(difference.argmax()), 56) == (31, 9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", ["demo", "full", "tiny"])
def test_configs_survive_json(architecture: Architecture, size: str) -> None:
    sizes = {"demo": BevNetworkConfig.demo, "full": BevNetworkConfig.full, "tiny": tiny_bev}
    config = sizes[size](architecture)  # type: ignore[operator]
    assert BevNetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_configs_that_cannot_work_are_refused() -> None:
    config = tiny_bev("simple_bev")
    with pytest.raises(ConfigError, match="'bevformer' needs a BevFormerConfig, got a SimpleBevConfig"):
        replace(config, architecture="bevformer")
    with pytest.raises(ConfigError, match="'pointbev' is not one of simple_bev, lift_splat, bevformer"):
        BevNetworkConfig.full("pointbev")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple"):
        replace(config, image_width=65)
    with pytest.raises(ConfigError, match="none twice"):
        replace(config, classes=("vehicle", "vehicle"))
    with pytest.raises(ConfigError, match="cell stride 3"):
        replace(config, cell_stride=3)
    with pytest.raises(ConfigError, match="fewer levels"):
        replace(config, encoder=BevEncoderConfig(widths=(8, 8)))
    with pytest.raises(ConfigError, match="at least one level"):
        BevEncoderConfig(widths=())
    with pytest.raises(ConfigError, match="one channel"):
        replace(config, head_channels=0)
    with pytest.raises(ConfigError, match="nearest_m < farthest_m"):
        LiftSplatConfig(nearest_m=50.0)
    with pytest.raises(ConfigError, match="depth bin"):
        LiftSplatConfig(depth_bins=0)
    with pytest.raises(ConfigError, match="not the configuration of a BEV network"):
        BevNetworkConfig.from_dict({"architecture": "simple_bev"})
    with pytest.raises(ConfigError, match="not the configuration of a BEV network"):
        BevNetworkConfig.from_dict({**config.to_dict(), "depth": 3})
