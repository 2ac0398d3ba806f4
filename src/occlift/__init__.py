"""occlift: from what foundation models see in images to 3-D supervision for surround-camera networks.

Everything public can be imported from here, and is loaded when it is first used: `import occlift` takes milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from occlift.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from occlift.geometry.grids import VoxelGrid
    from occlift.label_space import OCC3D, LabelSpace, Taxonomy, read_space
    from occlift.labels.config import LabelConfig
    from occlift.labels.convert import convert_label
    from occlift.labels.files import OccupancyLabel, read_label
    from occlift.labels.folder import LabelFolder
    from occlift.labels.from_views import PosedView, label_from_views
    from occlift.labels.generate import generate_labels
    from occlift.losses.pseudo_loss import PseudoLoss
    from occlift.metrics.streaming import BevScore, DepthScore, OccupancyScore, RayScore
    from occlift.scenes.dataset import DrivingDataset, KeyFrameList, open_dataset
    from occlift.scenes.frames import CameraImage, KeyFrame
    from occlift.training.checkpoint import load_bev_network, load_easyocc

__version__ = "0.1.0"

_MODULES: Final = {
    "BevScore": "occlift.metrics.streaming",
    "CameraImage": "occlift.scenes.frames",
    "DepthScore": "occlift.metrics.streaming",
    "DrivingDataset": "occlift.scenes.dataset",
    "KeyFrame": "occlift.scenes.frames",
    "KeyFrameList": "occlift.scenes.dataset",
    "LabelConfig": "occlift.labels.config",
    "LabelFolder": "occlift.labels.folder",
    "LabelSpace": "occlift.label_space",
    "OCC3D": "occlift.label_space",
    "OccupancyLabel": "occlift.labels.files",
    "OccupancyScore": "occlift.metrics.streaming",
    "PosedView": "occlift.labels.from_views",
    "PseudoLoss": "occlift.losses.pseudo_loss",
    "RayScore": "occlift.metrics.streaming",
    "Taxonomy": "occlift.label_space",
    "VoxelGrid": "occlift.geometry.grids",
    "convert_label": "occlift.labels.convert",
    "generate_labels": "occlift.labels.generate",
    "label_from_views": "occlift.labels.from_views",
    "load_bev_network": "occlift.training.checkpoint",
    "load_easyocc": "occlift.training.checkpoint",
    "open_dataset": "occlift.scenes.dataset",
    "read_label": "occlift.labels.files",
    "read_space": "occlift.label_space",
}

__all__ = [
    "OCC3D",
    "BevScore",
    "CameraImage",
    "DepthScore",
    "DrivingDataset",
    "KeyFrame",
    "KeyFrameList",
    "LabelConfig",
    "LabelFolder",
    "LabelSpace",
    "OccupancyLabel",
    "OccupancyScore",
    "PosedView",
    "PseudoLoss",
    "RayScore",
    "Taxonomy",
    "VoxelGrid",
    "convert_label",
    "generate_labels",
    "label_from_views",
    "load_bev_network",
    "load_easyocc",
    "open_dataset",
    "read_label",
    "read_space",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
