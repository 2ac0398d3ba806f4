"""Image encoders over every trunk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import EfficientNetConfig, EfficientNetModel, ResNetBackbone, ResNetConfig

from occlift.errors import ConfigError
from occlift.models.backbone import ImageEncoder
from occlift.models.trunk import BACKBONES, build_trunk, last_blocks


def small_encoder(name: str, **options: object) -> ImageEncoder:
    return ImageEncoder(name=name, channels=8, stride=8, coarsest_stride=16, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def b0_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-B0 as it is published: a whole network, with the library's own rates and momenta."""
    folder = tmp_path_factory.mktemp("b0")
    config = EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280)
    EfficientNetModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "widths"),
    [("resnet18", [128, 256]), ("resnet50", [512, 1024]), ("efficientnet-b0", [40, 112])],
)
def test_maps_at_an_eighth_and_a_sixteenth_are_fused(name: str, widths: list[int]) -> None:
    encoder = small_encoder(name)
    assert [lateral.in_channels for lateral in encoder.lateral] == widths  # type: ignore[union-attr]
    with torch.no_grad():
        # 40 is no multiple of 16: padded, and cut back.
        assert encoder.eval()(torch.randn(1, 3, 40, 80)).shape == (1, 8, 5, 10)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-b0"])
def test_nothing_is_built_that_gets_no_gradient(name: str) -> None:
    torch.manual_seed(0)
    encoder = small_encoder(name)
    encoder(torch.randn(2, 3, 64, 96)).square().mean().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not bool((p.grad != 0).any())] == []


def test_resnets_keep_all_stages_and_their_names_where_all_strides_are_fused() -> None:
    encoder = ImageEncoder(name="resnet18", channels=8, stride=4)
    names = {name.split(".")[0] for name in encoder.state_dict()}
    assert names == {"resnet", "lateral", "fuse"}
    whole = ResNetBackbone(ResNetConfig(depths=[2, 2, 2, 2], layer_type="basic", hidden_sizes=[64, 128, 256, 512]))
    assert encoder.get_submodule("resnet").state_dict().keys() == whole.state_dict().keys()
    assert len(encoder.lateral) == 4


def test_a_random_efficientnet_hands_on_what_it_sees_and_draws_nothing() -> None:
    torch.manual_seed(0)
    encoder = small_encoder("efficientnet-b0")
    images = torch.randn(2, 3, 64, 64)
    state = torch.get_rng_state()
    first, second = encoder(images), encoder(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    trunk = encoder.get_submodule("efficientnet")
    with torch.no_grad():
        hidden = trunk.embeddings(images)  # type: ignore[operator]
        for block in trunk.encoder.blocks:  # type: ignore[union-attr]
            hidden = block(hidden)
            assert 0.1 < float(hidden.std()) < 10


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-b0"])
def test_measuring_the_strides_leaves_no_trace(name: str) -> None:
    trunk = build_trunk(name, None)  # type: ignore[arg-type]
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    state = torch.get_rng_state()
    last_blocks(trunk, [8, 16])
    assert trunk.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in trunk.state_dict().items())


def test_recomputed_blocks_of_an_efficientnet_change_no_number() -> None:
    torch.manual_seed(0)
    plain, saving = small_encoder("efficientnet-b0"), small_encoder("efficientnet-b0")
    saving.load_state_dict(plain.state_dict())
    saving.recompute = True
    images = torch.randn(2, 3, 64, 64)
    for encoder in (plain, saving):
        encoder(images).square().mean().backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name  # type: ignore[arg-type]
    assert all(torch.equal(saving.state_dict()[name], value) for name, value in plain.state_dict().items())


def test_published_weights_are_taken_and_train(b0_weights: Path) -> None:
    encoder = small_encoder("efficientnet-b0", pretrained=str(b0_weights))
    published = load_file(b0_weights / "model.safetensors")
    own = encoder.get_submodule("efficientnet").state_dict()
    assert own
    assert all(torch.equal(value, published[name]) for name, value in own.items())
    assert all(module.training for module in encoder.modules())
    assert {m.momentum for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert {m.p for m in encoder.modules() if isinstance(m, nn.Dropout)} == {0.0}


def test_foreign_weights_are_refused(b0_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="type efficientnet, resnet18 is of type resnet"):
        small_encoder("resnet18", pretrained=str(b0_weights))
    with pytest.raises(ConfigError, match="cannot be read"):
        small_encoder("efficientnet-b0", pretrained=str(tmp_path / "nowhere"))

    with pytest.raises(ConfigError, match="`hf download google/no-such-network` puts it: nothing is fetched"):
        small_encoder("efficientnet-b0", pretrained="google/no-such-network")

    larger = EfficientNetConfig(width_coefficient=0.2, depth_coefficient=1.0, hidden_dim=256)
    EfficientNetModel(larger).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ConfigError, match=r"width_coefficient 0\.2, efficientnet-b0 has 1\.0"):
        small_encoder("efficientnet-b0", pretrained=str(tmp_path / "narrow"))
    deeper = ResNetConfig(depths=[1, 1, 1, 1], layer_type="basic", hidden_sizes=[64, 128, 256, 512])
    ResNetBackbone(deeper).save_pretrained(tmp_path / "shallow")
    with pytest.raises(ConfigError, match=r"depths \[1, 1, 1, 1\], resnet18 has \[2, 2, 2, 2\]"):
        small_encoder("resnet18", pretrained=str(tmp_path / "shallow"))

    weights = load_file(b0_weights / "model.safetensors")
    del weights["encoder.blocks.3.projection.project_conv.weight"]
    (tmp_path / "torn").mkdir()
    save_file(weights, tmp_path / "torn/model.safetensors", metadata={"format": "pt"})
    (tmp_path / "torn/config.json").write_bytes((b0_weights / "config.json").read_bytes())
    with pytest.raises(ConfigError, match=r"lack 1 weights of efficientnet-b0, the first encoder\.blocks\.3"):
        small_encoder("efficientnet-b0", pretrained=str(tmp_path / "torn"))


def test_strides_that_there_are_not_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 or 8"):
        ImageEncoder(name="resnet18", channels=8, stride=2)
    with pytest.raises(ConfigError, match="16 or 32"):
        ImageEncoder(name="resnet18", channels=8, stride=4, coarsest_stride=64)
    with pytest.raises(ConfigError, match="one of " + ", ".join(BACKBONES)):
        ImageEncoder(name="vgg", channels=8, stride=4)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"strides \[4, 8, 16, 32\], expected \[2\]"):
        last_blocks(build_trunk("resnet18", None), [2, 4])
