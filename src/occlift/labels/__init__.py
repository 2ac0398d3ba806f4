"""From teachers' views of many images to one labelled voxel grid per key frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from occlift.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from occlift.labels.config import LabelConfig
    from occlift.labels.convert import convert_label
    from occlift.labels.decide import DecisionConfig
    from occlift.labels.files import OccupancyLabel, read_label, read_prediction, write_label, write_prediction
    from occlift.labels.folder import LabelFolder
    from occlift.labels.from_views import PosedView, label_from_views
    from occlift.labels.generate import generate_labels
    from occlift.labels.layouts import convert_labels

_MODULES: Final = {
    "DecisionConfig": "occlift.labels.decide",
    "LabelConfig": "occlift.labels.config",
    "LabelFolder": "occlift.labels.folder",
    "OccupancyLabel": "occlift.labels.files",
    "PosedView": "occlift.labels.from_views",
    "convert_label": "occlift.labels.convert",
    "convert_labels": "occlift.labels.layouts",
    "generate_labels": "occlift.labels.generate",
    "label_from_views": "occlift.labels.from_views",
    "read_label": "occlift.labels.files",
    "read_prediction": "occlift.labels.files",
    "write_label": "occlift.labels.files",
    "write_prediction": "occlift.labels.files",
}

__all__ = [
    "DecisionConfig",
    "LabelConfig",
    "LabelFolder",
    "OccupancyLabel",
    "PosedView",
    "convert_label",
    "convert_labels",
    "generate_labels",
    "label_from_views",
    "read_label",
    "read_prediction",
    "write_label",
    "write_prediction",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
