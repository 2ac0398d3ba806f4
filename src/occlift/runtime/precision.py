"""Which arithmetic a network runs in."""

from __future__ import annotations

from typing import Literal

import torch

from occlift.errors import ConfigError

Precision = Literal["auto", "bf16", "fp32"]


def lightning_precision(precision: Precision, device_type: str) -> Literal["bf16-mixed", "32-true"]:
    """What Lightning calls it; `auto` takes bf16 where the hardware computes in it natively.

    Raises:
        ConfigError: an unknown precision.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise ConfigError(f"precision {precision!r} is not auto, bf16 or fp32")
    if precision == "auto":
        return "bf16-mixed" if computes_bf16(device_type) else "32-true"
    return "bf16-mixed" if precision == "bf16" else "32-true"


def computes_bf16(device_type: str) -> bool:
    """Whether the device multiplies in bf16 natively; emulated, it is slower than float32."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        # Older releases cannot be asked; float32 is right everywhere.
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
