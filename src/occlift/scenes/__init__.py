"""Key frames, images, lidar sweeps and boxes, and the protocol of a data set, whatever format they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from occlift.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from occlift.scenes.dataset import (
        DatasetSpec,
        DrivingDataset,
        HasBoxes,
        HasMap,
        HasSweeps,
        HasTruthMaps,
        KeyFrameList,
        open_dataset,
        split_tokens,
    )
    from occlift.scenes.frames import BoxAnnotation, CameraImage, KeyFrame, LidarSweep
    from occlift.scenes.sources import ImageArray, ImageFile, ImageSource, LidarSource

__all__ = [
    "BoxAnnotation",
    "CameraImage",
    "DatasetSpec",
    "DrivingDataset",
    "HasBoxes",
    "HasMap",
    "HasSweeps",
    "HasTruthMaps",
    "ImageArray",
    "ImageFile",
    "ImageSource",
    "KeyFrame",
    "KeyFrameList",
    "LidarSource",
    "LidarSweep",
    "open_dataset",
    "split_tokens",
]

_FRAMES = ("BoxAnnotation", "CameraImage", "KeyFrame", "LidarSweep")
_SOURCES = ("ImageArray", "ImageFile", "ImageSource", "LidarSource")
_MODULE_OF = {**dict.fromkeys(_FRAMES, "frames"), **dict.fromkeys(_SOURCES, "sources")}

__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{_MODULE_OF.get(name, 'dataset')}" for name in __all__})
