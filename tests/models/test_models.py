"""The EasyOcc network and its parts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from networks import surround_rig, tiny_easyocc
from torch import nn
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.label_space import NUM_CLASSES
from occlift.models.backbone import ImageEncoder
from occlift.models.easyocc import EasyOcc, EasyOccConfig, fine_voxels
from occlift.models.lift import lift, visible_pairs
from occlift.models.occfeat import OccFeatHead, OccFeatHeadConfig
from occlift.models.rows import linear_of_rows

TINY = tiny_easyocc(residual_pair=True, hourglass_blocks=1)


def dense_lift(features: torch.Tensor, rig: CameraRig, points_ego: torch.Tensor) -> torch.Tensor:
    """The slow twin of `lift`: a volume per camera, then the mean over those that see the point."""
    batch, cameras = features.shape[:2]
    pixels, _, visible = rig.project(points_ego)
    grid = 2 * pixels / pixels.new_tensor([rig.width, rig.height]) - 1
    samples = F.grid_sample(
        features.flatten(0, 1), grid.flatten(0, 1)[:, None], padding_mode="border", align_corners=False
    )
    samples = samples[:, :, 0].view(batch, cameras, -1, points_ego.shape[0])
    seen = visible[:, :, None].to(samples.dtype)
    return ((samples * seen).sum(1) / seen.sum(1).clamp(min=1)).transpose(1, 2)


def test_sparse_lifting_equals_dense_lifting_forward_and_backward() -> None:
    generator = torch.Generator().manual_seed(0)
    rig = surround_rig(batch=2, dtype=torch.float64)
    features = torch.randn(2, 6, 5, 8, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    points_ego = torch.rand(3000, 3, generator=generator, dtype=torch.float64) * 40 - 20
    pairs = visible_pairs(rig, points_ego)
    assert {0, 1, 2} <= set(pairs.views.unique().tolist())

    sparse, dense = lift(features, pairs), dense_lift(features, rig, points_ego)
    torch.testing.assert_close(sparse, dense, rtol=1e-10, atol=1e-10)
    assert (sparse[pairs.views == 0] == 0).all()

    weight = torch.randn(sparse.shape, generator=generator, dtype=torch.float64)
    (sparse_gradient,) = torch.autograd.grad((sparse * weight).sum(), features)
    (dense_gradient,) = torch.autograd.grad((dense * weight).sum(), features)
    torch.testing.assert_close(sparse_gradient, dense_gradient, rtol=1e-10, atol=1e-10)


def test_lifting_keeps_float32_under_autocast_and_accepts_points_that_nobody_sees() -> None:
    rig = surround_rig()
    points_ego = torch.tensor([[0.0, 0.0, 50.0], [0.0, 0.0, 60.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = torch.ones(1, 6, 4, 8, 12, dtype=torch.bfloat16, requires_grad=True)
        lifted = lift(features, visible_pairs(rig, points_ego))
    assert lifted.dtype == torch.float32
    assert (lifted == 0).all()
    lifted.sum().backward()


def test_a_feature_lies_where_the_image_has_it() -> None:
    """A bright image spot, straight through the encoder's geometry: the point on its ray gets the brightest feature."""
    rig = surround_rig()
    features = torch.zeros(1, 6, 1, 8, 12)
    features[0, 0, 0, 2, 7] = 1
    # The centre of feature pixel (row 2, column 7) of stride 8, 10 m in front of camera 0.
    ray = torch.linalg.inv(rig.intrinsics_px[0, 0]) @ torch.tensor([7.5 * 8, 2.5 * 8, 1.0])
    point_ego = (rig.ego_from_camera[0, 0] @ torch.cat((10 * ray, torch.ones(1))))[:3]
    lifted = lift(features, visible_pairs(rig, point_ego[None]))
    assert float(lifted) == pytest.approx(1, abs=1e-4)


def test_encoder_pads_instead_of_stretching() -> None:
    """A picture that does not divide by 32 gets the features of the padded picture, not squeezed ones."""
    torch.manual_seed(0)
    encoder = ImageEncoder(name="resnet18", channels=8, stride=4).eval()
    image = torch.randn(1, 3, 48, 80)
    padded = F.pad(image, (0, 16, 0, 16))
    with torch.no_grad():
        torch.testing.assert_close(encoder(image), encoder(padded)[..., :12, :20])
    assert encoder(image).shape == (1, 8, 12, 20)


def test_numbers_of_rows_repeat_and_nothing_else_changes() -> None:
    """Every new shape costs oneDNN a kernel, with megabytes of scratch memory that it keeps."""
    layer = nn.Linear(3, 2).double()
    asked: list[int] = []
    layer.register_forward_hook(lambda module, inputs, output: asked.append(len(inputs[0])))
    for count in range(60_000, 64_000, 37):
        assert linear_of_rows(layer, torch.zeros(count, 3, dtype=torch.float64)).shape == (count, 2)
    assert len(set(asked)) <= 2
    assert max(asked) <= 64_000 * 9 / 8
    for count in (0, 1, 63, 1000, 5000):
        rows = torch.randn(count, 3, dtype=torch.float64, requires_grad=True)
        plain = layer(rows)
        assert torch.allclose(linear_of_rows(layer, rows), plain, atol=1e-12)
        weight = torch.randn_like(plain)
        wanted = [rows, layer.weight, layer.bias]
        found = torch.autograd.grad((linear_of_rows(layer, rows) * weight).sum(), wanted)
        for gradient, expected in zip(found, torch.autograd.grad((plain * weight).sum(), wanted), strict=True):
            assert torch.allclose(gradient, expected, atol=1e-10)


@pytest.mark.parametrize("model", ["easyocc", "occfeat"])
def test_heads_are_asked_for_few_different_numbers_of_voxels(model: str) -> None:
    asked: set[int] = set()
    counts = range(2000, 3000, 50)
    if model == "easyocc":
        network = EasyOcc(TINY)
        network.head.register_forward_hook(lambda module, inputs, output: asked.add(len(inputs[0])))
        features = torch.zeros(*network.config.working_grid.shape, network.config.volume.channels)
        for count in counts:
            network.logits_at(features, torch.randperm(features[..., 0].numel())[:count])
    else:
        head = OccFeatHead(OccFeatHeadConfig(channels=2, feature_channels=3, classes=True), bev_channels=4)
        for layer in (head.features, head.classes):
            assert layer is not None
            layer.register_forward_hook(lambda module, inputs, output: asked.add(len(inputs[0])))
        vectors, voxel = torch.zeros(1, 30, 30, 8, 2), torch.zeros(3000, 4, dtype=torch.long)
        for count in counts:
            head.features_at(vectors, voxel[:count])
            head.class_logits_at(vectors, voxel[:count])
    assert len(asked) <= 9, asked


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_fine_voxels_come_from_the_working_voxel_that_covers_them(stride: int) -> None:
    x, y, z = 3, 2, 2
    logits = torch.arange(x * y * z * NUM_CLASSES * stride**2).view(1, x, y, z, -1)
    fine = fine_voxels(logits, stride)
    assert fine.shape == (1, x * stride, y * stride, z, NUM_CLASSES)
    for i in range(x * stride):
        for j in range(y * stride):
            part = (i % stride) * stride + j % stride
            expected = logits[0, i // stride, j // stride, :, part * NUM_CLASSES : (part + 1) * NUM_CLASSES]
            assert torch.equal(fine[0, i, j], expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_logits_of_drawn_voxels_are_rows_of_all_logits_and_so_are_their_gradients(stride: int) -> None:
    """The slow twin: all logits, spread over the output grid, of which rows are taken."""
    torch.manual_seed(0)
    model = EasyOcc(replace(TINY, horizontal_stride=stride)).double()
    grid = model.config.working_grid.shape
    features = torch.randn(*grid, model.config.volume.channels, dtype=torch.float64, requires_grad=True)
    index = torch.randperm(model.config.working_grid.num_voxels * stride**2)[:3000].sort().values
    drawn = model.logits_at(features, index)
    expected = fine_voxels(model.head(features[None]), stride).reshape(-1, NUM_CLASSES)[index]
    torch.testing.assert_close(drawn, expected)
    towards = torch.randn_like(expected)
    wanted = (features, *model.head.parameters())
    for one, other in zip(
        torch.autograd.grad(drawn, wanted, towards), torch.autograd.grad(expected, wanted, towards), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_logits_on_the_occ3d_grid_whatever_the_order_of_the_cameras() -> None:
    torch.manual_seed(0)
    model = EasyOcc(TINY).eval()
    images, rig = torch.randn(2, 6, 3, 32, 64), surround_rig(batch=2, height=32, width=64)
    order = [3, 1, 5, 0, 2, 4]
    shuffled = replace(rig, intrinsics_px=rig.intrinsics_px[:, order], ego_from_camera=rig.ego_from_camera[:, order])
    second = replace(rig, intrinsics_px=rig.intrinsics_px[1:], ego_from_camera=rig.ego_from_camera[1:])
    with torch.no_grad():
        logits = model(images, rig)
        torch.testing.assert_close(logits, model(images[:, order], shuffled), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logits[1:], model(images[1:], second), rtol=1e-4, atol=1e-4)
    assert logits.shape == (2, NUM_CLASSES, 200, 200, 16)
    assert logits.movedim(1, -1).is_contiguous()


def test_start_from_prior_is_what_an_empty_volume_answers() -> None:
    model = EasyOcc(TINY)
    prior = torch.rand(NUM_CLASSES, generator=torch.Generator().manual_seed(0)) + 0.01
    model.start_from_prior(prior)
    torch.testing.assert_close(model.head.bias.view(16, NUM_CLASSES).softmax(-1), (prior / prior.sum()).expand(16, -1))


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model = EasyOcc(TINY)
    model(torch.randn(1, 6, 3, 32, 64), surround_rig(height=32, width=64)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert without == []


def losses_and_gradients(model: EasyOcc, images: torch.Tensor, rig: CameraRig) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(images, rig).square().mean()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_recomputed_activations_change_no_number_and_are_not_kept() -> None:
    torch.manual_seed(0)
    plain, saving = EasyOcc(TINY), EasyOcc(TINY)
    saving.load_state_dict(plain.state_dict())
    saving.recompute_activations()
    images, rig = torch.randn(1, 6, 3, 32, 64), surround_rig(height=32, width=64)
    kept: dict[str, int] = {}
    for name, model in (("plain", plain), ("saving", saving)):
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(images, rig)
        kept[name] = sum(sizes.values())
        output.square().mean().backward()
    assert kept["saving"] < 0.75 * kept["plain"], kept
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad), name  # type: ignore[arg-type]
    # The second run of a block did not count its batch again.
    for name, value in plain.state_dict().items():
        assert torch.equal(saving.state_dict()[name], value), name
    assert all(norm.track_running_stats for norm in saving.modules() if isinstance(norm, nn.BatchNorm3d))


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("default")  # torch.compile runs into warnings of its own
def test_a_compiled_network_computes_the_same_and_keeps_its_names(without_shape_checks: None) -> None:
    torch.manual_seed(0)
    config = tiny_easyocc()
    plain, compiled = EasyOcc(config), EasyOcc(config)
    compiled.load_state_dict(plain.state_dict())
    compiled.compile_networks()
    images, rig = torch.randn(1, 6, 3, 32, 64), surround_rig(height=32, width=64)
    (one, gradients), (other, compiled_gradients) = (losses_and_gradients(m, images, rig) for m in (plain, compiled))
    assert other == pytest.approx(one, rel=1e-5)
    assert gradients.keys() == compiled_gradients.keys()
    for name, gradient in gradients.items():
        assert float((compiled_gradients[name] - gradient).norm()) < 0.01 * float(gradient.norm()), name
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    EasyOcc(config).load_state_dict(compiled.state_dict())


def test_volumes_are_laid_out_channels_last_throughout() -> None:
    """Every convolution takes and gives memory with the channels last, forward and backward, without a copy between.

    At the demo's width; for a few channels torch has kernels of its own, whose memory is laid out as they please.
    """
    torch.manual_seed(0)
    model = EasyOcc(tiny_easyocc(feature_channels=32, volume=EasyOccConfig.demo().volume, horizontal_stride=2))
    seen: list[str] = []

    def laid_out(tensor: torch.Tensor) -> bool:
        return tensor.is_contiguous(memory_format=torch.channels_last_3d)

    for name, module in model.volume.named_modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.BatchNorm3d):

            def forward(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor, name: str = name) -> None:
                assert laid_out(inputs[0]), (name, inputs[0].stride())
                assert laid_out(output), (name, output.stride())
                output.register_hook(lambda gradient: seen.append(name) if laid_out(gradient) else None)

            module.register_forward_hook(forward)
    rig = surround_rig(height=32, width=64)
    model(torch.randn(1, 6, 3, 32, 64), rig).square().mean().backward()
    layers = [m for m in model.volume.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d | nn.BatchNorm3d)]
    assert len(seen) == len(layers)


@pytest.mark.parametrize("config", [EasyOccConfig.demo(), EasyOccConfig.full(), TINY])
def test_configs_survive_json(config: EasyOccConfig) -> None:
    assert EasyOccConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_configs_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        tiny_easyocc(image=(33, 64))
    with pytest.raises(ConfigError, match="does not divide the output grid"):
        tiny_easyocc(horizontal_stride=3)
    with pytest.raises(ConfigError, match="does not divide the working"):
        tiny_easyocc(horizontal_stride=8)
    with pytest.raises(ConfigError, match="one stride per coarser grid"):
        replace(TINY.volume, hourglass_channels=(8, 8))
    with pytest.raises(ConfigError, match="resnet34"):
        ImageEncoder(name="resnet34", channels=8, stride=4)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not the configuration"):
        EasyOccConfig.from_dict({"backbone": "resnet18"})
