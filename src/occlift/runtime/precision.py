"""Former place of a part of `occlift.runtime.devices`."""

from occlift.runtime.devices import Precision, computes_bf16, lightning_precision

__all__ = ["Precision", "computes_bf16", "lightning_precision"]
