"""Trunks of image encoders: ResNets and EfficientNet-B0, cut off behind the coarsest stride that is used.

Built from a configuration of transformers; weights that are named are looked up in the Hugging Face cache, never
downloaded. A network of the library is a stem and a row of blocks; which block ends a stride is measured, not assumed.
Blocks behind the last one that is used are thrown away: they would cost memory, and a distributed training stumbles
over weights without gradients.

Three habits of `EfficientNetModel` are not followed. It drops single activations at random, from the global random
state: here nothing is dropped. It takes TensorFlow's momentum of batch norms, 0.99, over as torch's, which counts the
other way round, so that running statistics would be those of the last batch: here it is torch's usual 0.1. And its
random weights of batch norms lie around zero, so that a hundredth or two of a signal pass each of them: here they
start at one.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import nn

from occlift.errors import ConfigError
from occlift.runtime.extras import missing_extra

BackboneName = Literal["resnet18", "resnet50", "resnet101", "efficientnet-b0"]

EFFICIENTNET: Final = "efficientnet-b0"


@dataclass(frozen=True, kw_only=True)
class _ResNetShape:
    depths: tuple[int, int, int, int]
    block: Literal["basic", "bottleneck"]
    widths: tuple[int, int, int, int]

    def options(self) -> dict[str, Any]:
        """As `ResNetConfig` calls them."""
        return {"depths": list(self.depths), "layer_type": self.block, "hidden_sizes": list(self.widths)}


_RESNETS: Final[dict[str, _ResNetShape]] = {
    "resnet18": _ResNetShape(depths=(2, 2, 2, 2), block="basic", widths=(64, 128, 256, 512)),
    "resnet50": _ResNetShape(depths=(3, 4, 6, 3), block="bottleneck", widths=(256, 512, 1024, 2048)),
    "resnet101": _ResNetShape(depths=(3, 4, 23, 3), block="bottleneck", widths=(256, 512, 1024, 2048)),
}

BACKBONES: Final = (*_RESNETS, EFFICIENTNET)
"""The names of all trunks."""

# Of the larger EfficientNets both are larger.
_B0_SIZE: Final[dict[str, Any]] = {"width_coefficient": 1.0, "depth_coefficient": 1.0}
_B0_OPTIONS: Final[dict[str, Any]] = {**_B0_SIZE, "drop_connect_rate": 0.0, "batch_norm_momentum": 0.1}


def build_trunk(name: BackboneName, pretrained: str | None) -> nn.Module:
    """A whole `ResNetBackbone` or `EfficientNetModel`, in training mode.

    Args:
        pretrained: a name or a folder for `from_pretrained`; None: random weights.

    Raises:
        ConfigError: an unknown name; weights that cannot be read, or that belong to another network; the extra train is
            not installed.
    """
    if name not in BACKBONES:
        raise ConfigError(f"backbone {name!r} is not one of {', '.join(BACKBONES)}")
    if missing := missing_extra("train", f"the backbone {name}", "transformers"):
        raise ConfigError(missing)
    # Imported here: the first model class of transformers costs seconds that a metric or a loss need not pay.
    if name == EFFICIENTNET:
        from transformers import EfficientNetConfig, EfficientNetModel

        if pretrained is not None:
            return _with_weights(EfficientNetModel, name, pretrained, shape=_B0_SIZE, options=_B0_OPTIONS)
        network = EfficientNetModel(EfficientNetConfig(hidden_dim=1280, **_B0_OPTIONS))
        _initialise(network)
        return network
    from transformers import ResNetBackbone, ResNetConfig

    shape = _RESNETS[name].options()
    if pretrained is not None:
        return _with_weights(ResNetBackbone, name, pretrained, shape=shape, options={})
    return ResNetBackbone(ResNetConfig(**shape))


def stem_and_blocks(trunk: Any) -> tuple[nn.Module, list[nn.Module]]:
    """What images pass one after the other in a network of `build_trunk`."""
    if hasattr(trunk, "embedder"):
        return trunk.embedder, [block for stage in trunk.encoder.stages for block in stage.layers]
    return trunk.embeddings, list(trunk.encoder.blocks)


@torch.no_grad()
def last_blocks(trunk: nn.Module, strides: Sequence[int]) -> tuple[list[int], list[int]]:
    """The numbers of the last blocks at some strides, and how many channels they have.

    Measured with an image of 64×64 pixels.

    Raises:
        ConfigError: the trunk has no map at one of the strides.
    """
    stem, blocks = stem_and_blocks(trunk)
    weight = next(stem.parameters())
    training = trunk.training
    # In evaluation mode, so that batch norms do not count the image.
    trunk.eval()
    hidden = stem(weight.new_zeros(1, 3, 64, 64))
    last = {}
    for number, block in enumerate(blocks):
        hidden = block(hidden)
        last[64 // hidden.shape[-1]] = (number, hidden.shape[1])
    trunk.train(training)
    if missing := [stride for stride in strides if stride not in last]:
        raise ConfigError(f"the backbone has maps at strides {sorted(last)}, expected {missing} among them")
    return [last[stride][0] for stride in strides], [last[stride][1] for stride in strides]


def cut_behind(trunk: Any, block: int) -> None:
    """Throws away what follows a block; of a ResNet whole stages."""
    if hasattr(trunk, "embedder"):
        stages = trunk.encoder.stages
        while sum(len(stage.layers) for stage in stages[:-1]) > block:
            del stages[-1]
    else:
        del trunk.encoder.blocks[block + 1 :]
        del trunk.encoder.top_conv, trunk.encoder.top_bn


def _with_weights(
    network_class: Any, name: str, pretrained: str, *, shape: dict[str, Any], options: dict[str, Any]
) -> nn.Module:
    """The network that the weights belong to, if it is the one expected.

    Args:
        shape: fields of its configuration that must be so.
        options: fields that are set, whatever the weights' own configuration says.
    """
    from transformers import AutoConfig

    expected = network_class.config_class.model_type
    try:
        config = AutoConfig.from_pretrained(pretrained, local_files_only=True)
        if config.model_type != expected:
            raise ConfigError(
                f"pretrained weights {pretrained!r} belong to a network of type {config.model_type}, {name} is of "
                f"type {expected}: give the backbone that belongs to them"
            )
        for field, value in shape.items():
            if (found := getattr(config, field)) != value:
                raise ConfigError(
                    f"pretrained weights {pretrained!r} have {field} {found}, {name} has {value}: give the backbone "
                    "that belongs to them"
                )
        network, info = network_class.from_pretrained(
            pretrained, output_loading_info=True, local_files_only=True, **options
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"pretrained weights {pretrained!r} cannot be read ({str(error).strip().splitlines()[0]}); expected a "
            "folder with config.json and weights, or the name of a model in the Hugging Face cache, where "
            f"`hf download {shlex.quote(pretrained)}` puts it: nothing is fetched without being asked for"
        ) from error
    # transformers gives weights that a file lacks random values, and only logs it.
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("num_batches_tracked"))
    if missing:
        raise ConfigError(
            f"pretrained weights {pretrained!r} lack {len(missing)} weights of {name}, the first {missing[0]}: fetch "
            "them again, or give the backbone that belongs to them"
        )
    # transformers returns what it has loaded in evaluation mode, and Lightning does not change modes.
    return network.train()


@torch.no_grad()
def _initialise(network: nn.Module) -> None:
    """He's normal distribution by the number of outputs, as the paper of the EfficientNets has it (Tan & Le, 2019)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels / module.groups
            module.weight.normal_(0.0, (2 / fan_out) ** 0.5)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
