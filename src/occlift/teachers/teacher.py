"""What a teacher is: something that says what every pixel of an image shows, or how far away it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, UInt8

from occlift.data.key_frame import CameraImage


@dataclass(frozen=True, kw_only=True, eq=False)
class SemanticMap:
    """What the pixels of an image show.

    Attributes:
        class_id: 0..16; 17 sky, free along the whole ray; 255 nothing known.
        score: how sure the teacher is, 0..1.
    """

    class_id: UInt8[np.ndarray, "height width"]
    score: Float32[np.ndarray, "height width"]


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthMap:
    """How far the pixels of an image are.

    Attributes:
        depth_m: metres along the optical axis (not along the ray); +inf or NaN where nothing is known.
        confidence: how sure the teacher is, 0..1.
    """

    depth_m: Float32[np.ndarray, "height width"]
    confidence: Float32[np.ndarray, "height width"]


class Teacher(Protocol):
    """What all teachers have in common.

    A map may have another size than its image; it covers the whole image all the same. What a teacher returns for an
    image depends on the image and on `settings` alone, not on what it was asked before.
    """

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that its maps depend on besides the image, as JSON values; enters the digest of labels."""


class SemanticsTeacher(Teacher, Protocol):
    def semantics(self, image: CameraImage) -> SemanticMap:
        """The class of every pixel.

        Raises:
            DataError: a file that is needed is missing or damaged.
        """


class DepthTeacher(Teacher, Protocol):
    def depth(self, image: CameraImage) -> DepthMap:
        """The depth of every pixel.

        Raises:
            DataError: a file that is needed is missing or damaged.
        """
