"""Networks: functions of tensors and a CameraRig."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from occlift.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from occlift.models.bev_network import BevNetwork, BevNetworkConfig
    from occlift.models.easyocc import EasyOcc, EasyOccConfig
    from occlift.models.rendering import RenderingConfig, RenderingModel

_MODULES: Final = {
    "BevNetwork": "occlift.models.bev_network",
    "BevNetworkConfig": "occlift.models.bev_network",
    "EasyOcc": "occlift.models.easyocc",
    "EasyOccConfig": "occlift.models.easyocc",
    "RenderingConfig": "occlift.models.rendering",
    "RenderingModel": "occlift.models.rendering",
}

__all__ = [
    "BevNetwork",
    "BevNetworkConfig",
    "EasyOcc",
    "EasyOccConfig",
    "RenderingConfig",
    "RenderingModel",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
