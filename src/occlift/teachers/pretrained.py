"""Networks and tokenizers of transformers by the kind that their `config.json` names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from occlift.errors import ConfigError
from occlift.runtime.devices import torch_device
from occlift.runtime.extras import needs_extra
from occlift.teachers.weights import model_type

if TYPE_CHECKING:
    import torch


def load_network(folder: Path, classes: Mapping[str, str], *, device: str) -> tuple[Any, torch.device]:
    """A network with float32 weights, in evaluation mode, and the device it is on.

    Args:
        folder: with `config.json` and the weights.
        classes: from the `model_type` that the config may name to the class of transformers that reads it.
        device: as `runtime.devices.torch_device` reads it.

    Raises:
        ConfigError: the folder holds another kind of network, or not all of its weights; or the device is not there.
        DataError: `config.json` is missing or damaged.
    """
    import torch

    with needs_extra("teachers", f"{folder}: a network"):
        import transformers
        from safetensors import SafetensorError

    kind = model_type(folder)
    if kind not in classes:
        raise ConfigError(f"{folder}: a network of type {kind!r}; expected one of {', '.join(classes)}")
    where = torch_device(device)
    try:
        network, info = getattr(transformers, classes[kind]).from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        # transformers gives weights that a file lacks random values, and only logs it.
        if info["missing_keys"]:
            lacking = sorted(info["missing_keys"])
            raise ValueError(f"{len(lacking)} weights of {classes[kind]} are not in it, the first {lacking[0]}")
    # What transformers, safetensors and torch raise on files that are incomplete, damaged, or do not fit their config.
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"{folder}: cannot be loaded ({str(error).strip().splitlines()[0]}); expected config.json and weights as "
            "transformers saves them; fetch them again"
        ) from error
    return network.eval().requires_grad_(False).to(where), where


def keep_float32(modules: Iterable[Any], device: torch.device) -> None:
    """Makes modules of a network compute in float32 wherever the rest runs in half precision.

    What a network says at last has to be finer than what it computes with: bfloat16 has 256 numbers from 32 to 64 m,
    and scores that are equal by rounding alone are decided by the order of the prompts.
    """
    for module in modules:
        module.forward = partial(_in_float32, module.forward, device.type)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer beside a network's weights.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    with needs_extra("teachers", f"{folder}: a tokenizer"):
        from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder}: its tokenizer cannot be loaded ({str(error).strip().splitlines()[0]}); expected the "
            "tokenizer's files beside the weights, fetch them again"
        ) from error


def _in_float32(forward: Callable[..., Any], device_type: str, *arguments: Any, **named: Any) -> Any:
    import torch

    with torch.autocast(device_type, enabled=False):
        return forward(*_widened(arguments), **_widened(named))


def _widened(value: Any) -> Any:
    """Arguments with all floating point tensors, in whatever lists they are, as float32."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(map(_widened, value))
    if isinstance(value, dict):
        return {name: _widened(one) for name, one in value.items()}
    return value
