"""Devices, and the arithmetic that networks run in on them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, get_args

from occlift.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "bf16", "fp32"]
"""Arithmetic of training; `auto` is bf16 where the hardware computes in it natively."""

TorchPrecision = Literal["float32", "float16", "bfloat16"]
"""Arithmetic of inference, as torch names it."""

AutoPrecision = Literal["auto", "float32", "float16", "bfloat16"]
"""`auto`: bfloat16 on an accelerator that computes in it, float16 on another accelerator, float32 on a CPU."""


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


def default_device() -> str:
    """A GPU where there is one, else the CPU, as torch and Lightning name them."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def gpus_in_turn() -> tuple[str, ...]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them, to be given to other processes in turn."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


def computes_bf16(device_type: str) -> bool:
    """Whether the device multiplies in bf16 natively; emulated, it is slower than float32."""
    import torch

    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        # Older releases cannot be asked; float32 is right everywhere.
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def lightning_precision(precision: Precision, device_type: str) -> Literal["bf16-mixed", "32-true"]:
    """Lightning's name of the arithmetic of training.

    Raises:
        ConfigError: an unknown precision.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision {precision!r} is not auto, bf16 or fp32")
    if precision == "auto":
        return "bf16-mixed" if computes_bf16(device_type) else "32-true"
    return "bf16-mixed" if precision == "bf16" else "32-true"


def resolve_precision(precision: AutoPrecision, device: torch.device) -> TorchPrecision:
    """The precision that `auto` stands for on a device; anything else is itself.

    Raises:
        ConfigError: an unknown precision.
    """
    if precision not in get_args(AutoPrecision):
        raise ConfigError(f"precision is {precision!r}; expected one of {', '.join(get_args(AutoPrecision))}")
    if precision != "auto":
        return precision
    if device.type == "cpu":
        return "float32"
    return "float16" if device.type == "cuda" and not computes_bf16("cuda") else "bfloat16"


def autocast(precision: TorchPrecision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a network of float32 weights multiplies in `precision`.

    Weights and everything that adds up small steps (positions, boxes, normalisation) stay in float32. A detector cast
    as a whole says where a box lies in the 8 bits of bfloat16: ±3 pixels in an image 1600 wide.
    """
    import torch

    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
