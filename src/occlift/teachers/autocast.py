"""Half precision where it does no harm.

Under autocast the weights and everything that adds up small steps (positions, boxes, normalisation) stay in float32,
and the multiplications run in 16 bits. A detector that is cast as a whole says where a box lies in the 8 bits of
bfloat16: ±3 pixels in an image 1600 wide.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, get_args

from occlift.errors import ConfigError
from occlift.teachers.torch_model import Precision

if TYPE_CHECKING:
    import torch

AutoPrecision = Literal["auto", "float32", "float16", "bfloat16"]
"""`auto`: bfloat16 on an accelerator that computes in it, float16 on another accelerator, float32 on a CPU."""


def resolved(precision: AutoPrecision, device: torch.device) -> Precision:
    """What `auto` comes to on a device; anything else is itself.

    Raises:
        ConfigError: an unknown precision.
    """
    import torch

    if precision not in get_args(AutoPrecision):
        raise ConfigError(f"precision is {precision!r}; expected one of {', '.join(get_args(AutoPrecision))}")
    if precision != "auto":
        return precision
    if device.type == "cpu":
        return "float32"
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return "bfloat16"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a network of float32 weights multiplies in `precision`."""
    import torch

    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
