"""What a teacher is: something that says what every pixel of an image shows, how far away it is, or what it is like.

All three protocols have one rule: a teacher is given a whole key frame and returns one map per camera of
`frame.cameras`, in that order. So networks may batch over cameras, and a teacher may use more than the image: the lidar
of the frame, its scene, its poses. `dataclasses.replace(frame, cameras=...)` asks about some cameras only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, UInt8

from occlift.scenes.frames import KeyFrame


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


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """What small patches of an image are like, on a regular grid of cells.

    The centre of the cell in row r and column c lies at u = `offset_px[0]` + c · `stride_px[0]`,
    v = `offset_px[1]` + r · `stride_px[1]` in the image, in continuous pixel coordinates of the image as it is on disk
    (the centre of its first pixel is at 0.5). Cells of padding have their centres outside of the image.

    Attributes:
        features: float32 or float16.
        stride_px: from one cell to the next, to the right and down.
        offset_px: of the centre of the first cell, to the right and down.
    """

    features: Float[np.ndarray, "channels rows columns"]
    stride_px: tuple[float, float]
    offset_px: tuple[float, float]


class Teacher(Protocol):
    """What all teachers have in common.

    A map may have another size than its image; it covers the whole image all the same. What a teacher returns for an
    image depends on the key frame and on `settings` alone, not on what it was asked before.
    """

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that its maps depend on besides the key frame, as JSON values; enters the digest of labels."""


class SemanticsTeacher(Teacher, Protocol):
    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        """The class of every pixel, a map per camera.

        Raises:
            DataError: a file that is needed is missing or damaged.
        """


class DepthTeacher(Teacher, Protocol):
    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        """The depth of every pixel, a map per camera.

        Raises:
            DataError: a file that is needed is missing or damaged.
        """


class FeatureTeacher(Teacher, Protocol):
    def features(self, frame: KeyFrame) -> list[FeatureMap]:
        """The features of every image, a map per camera.

        Raises:
            DataError: a file that is needed is missing or damaged.
        """
