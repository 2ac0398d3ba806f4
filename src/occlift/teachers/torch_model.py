"""Former place of `occlift.runtime.devices.torch_device`."""

from occlift.runtime.devices import torch_device

__all__ = ["torch_device"]
