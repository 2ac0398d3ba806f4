"""Pictures, the report, the 3-D scene, and the viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from occlift.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from occlift.viz.viewer import Viewer, view

_MODULES: Final = {"Viewer": "occlift.viz.viewer", "view": "occlift.viz.viewer"}

__all__ = ["Viewer", "view"]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
