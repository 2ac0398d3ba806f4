"""A stand-in for a data set, for images that have their truth maps beside them."""

from __future__ import annotations

from typing import Any, Final

from occlift.scenes.frames import CameraImage
from occlift.scenes.truth_maps import TruthMaps, read_truth_beside


class TruthBeside:
    """Has truth maps, and nothing else of a data set."""

    def truth_maps(self, image: CameraImage) -> TruthMaps:
        return read_truth_beside(image)


TRUTH: Final[Any] = TruthBeside()
