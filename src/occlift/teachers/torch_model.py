"""Networks of transformers as teachers run them: from a local copy, on some device, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from occlift.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "float16", "bfloat16"]


def torch_device(device: str) -> torch.device:
    """`auto` (an accelerator where there is one, else the CPU), or what torch calls a device: `cpu`, `cuda:1`.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    import torch

    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); choose auto, cpu, or a device that "
            "torch finds, such as cuda:1"
        ) from error
    return chosen


def loaded(
    load: Callable[..., Any], folder: Path, *, device: str, precision: Precision
) -> tuple[Any, torch.device, torch.dtype]:
    """A network in evaluation mode, its device and its precision.

    Args:
        load: the `from_pretrained` of its class.
        folder: with `config.json` and the weights.
        device: as in `torch_device`.

    Raises:
        ConfigError: the files are incomplete, damaged or do not fit one another; or the device is not there.
    """
    import torch
    from safetensors import SafetensorError

    where, dtype = torch_device(device), getattr(torch, precision)
    try:
        network = load(folder, local_files_only=True, dtype=dtype)
    # What transformers, safetensors and torch raise on files that are incomplete, damaged, or do not fit their config.
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"{folder}: cannot be loaded ({str(error).strip().splitlines()[0]}); expected config.json and weights as "
            "transformers saves them; fetch them again"
        ) from error
    return network.eval().requires_grad_(False).to(where), where, dtype
