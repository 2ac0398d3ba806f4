"""Features of small patches that a recipe makes from the truth beside the images, to imitate those of DINO.

What the features of self-supervised transformers say about a patch is first of all what kind of thing it shows, then
which part of it, then which one, and a little of where in the image it lies. A pixel's feature here is the sum of such
terms, each a vector of fixed length in a direction of its own:

- *class*: one random direction per class; sky is a class. Unlabelled pixels have none.
- *instance*: one per object, from its scene, class and number, so it is the same in all images of a scene. Pixels of no
  object have none. Nothing in an image tells this direction beforehand: for a network it is what it is with DINO's
  finest details, a part that can be learned by heart but not be predicted.
- *height*: random Fourier features (Rahimi and Recht, *Random features for large-scale kernel machines*, 2007) of
  arsinh(2 z), with z the height in metres above the plane of the ego frame: wheels differ from roofs by the same vector
  on every car, and from every side. The sky has none.
- *image*: random Fourier features of the place in the image. Seen from another camera it is another vector: what
  transformers leak of their position encoding.

A cell's feature is the mean over its pixels, plus *noise*: independent for every cell, from a seed that depends on the
image. The directions of two terms are at right angles to each other but for 1 / √channels, so the share of a term is
its part of the squared length, and with the default shares the cosine of two cells is about 0.9 for one class at one
height, 0.6 for one class at heights that differ, 0.2 for two classes at one height.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float64, Int

from occlift.errors import ConfigError
from occlift.label_space import UNKNOWN
from occlift.runtime.noise import generator_of
from occlift.scenes.dataset import HasTruthMaps
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.truth_maps import TruthMaps
from occlift.teachers.teacher import FeatureMap

_RECIPE: Final = 1
"""Part of the settings; goes up when the same options would give other features."""

_HEIGHT_UNIT_M: Final = 0.5
_HEIGHT_SCALE: Final = 0.7
"""Of arsinh(height / unit): 0.8 m at 1 m, 7 m at 10 m make a difference."""

_IMAGE_SCALE: Final = 0.3
"""Of places in the image, parts of its width."""

_SHARES: Final = ("class_share", "instance_share", "height_share", "image_share", "noise_share")


@dataclass(frozen=True, kw_only=True)
class OracleFeaturesConfig:
    """How features are made from the truth.

    Attributes:
        channels: of a feature.
        stride_px: width and height of a cell, pixels, as nearly as whole numbers of cells fill the image. The default
            gives 12 × 22 cells at 96 × 176 pixels, as many as DINOv2 has on an image of 168 × 308.
        class_share: of the squared length of a feature, as all shares; only their ratios count.
        instance_share: of what tells objects of one class apart.
        height_share: of the height above the ground.
        image_share: of the place in the image.
        noise_share: of the noise.
        seed: of the directions and the noise.

    Raises:
        ConfigError: an option is out of range.
    """

    channels: int = 64
    stride_px: float = 8.0
    class_share: float = 0.6
    instance_share: float = 0.1
    height_share: float = 0.2
    image_share: float = 0.02
    noise_share: float = 0.08
    seed: int = 0

    def __post_init__(self) -> None:
        if self.channels < 1 or not 1 <= self.stride_px < math.inf:
            raise ConfigError(
                f"oracle features: {self.channels} channels and a stride of {self.stride_px} pixels; expected one "
                "channel or more and one pixel or more"
            )
        shares = [getattr(self, name) for name in _SHARES]
        if not (min(shares) >= 0 and 0 < sum(shares) < math.inf):
            raise ConfigError(
                f"oracle features: {', '.join(_SHARES)} are {', '.join(map(str, shares))}; expected none below 0 and "
                "one above"
            )

    def length(self, share: str) -> float:
        """Of the vector of a term."""
        return math.sqrt(getattr(self, share) / sum(getattr(self, name) for name in _SHARES))


@dataclass(frozen=True, kw_only=True)
class OracleFeatures:
    """A `FeatureTeacher`: features by the recipe of the module's docstring, float32.

    Attributes:
        truth: the data set whose truth maps are read.
    """

    truth: HasTruthMaps
    config: OracleFeaturesConfig

    @property
    def settings(self) -> Mapping[str, object]:
        return {"teacher": "oracle", "recipe": _RECIPE, **asdict(self.config)}

    def features(self, frame: KeyFrame) -> list[FeatureMap]:
        """The features of every image, a map per camera; DataError where an image has no truth maps, or damaged ones.

        The numbers of objects must mean the same in all images of a scene, as in a town they do.
        """
        return [self._of_image(image, frame.scene) for image in frame.cameras]

    def _of_image(self, image: CameraImage, scene: str) -> FeatureMap:
        config = self.config
        truth = self.truth.truth_maps(image)
        rows, columns = (max(1, round(size / config.stride_px)) for size in (image.height, image.width))
        cells = _Cells(
            row=np.floor((np.arange(image.height) + 0.5) * (rows / image.height)).astype(int),
            column=np.floor((np.arange(image.width) + 0.5) * (columns / image.width)).astype(int),
        )
        features = self._kinds(truth, cells, scene) + self._heights(truth, cells, image)
        features += config.length("image_share") * self._places(rows, columns, image)
        noise = generator_of(config.seed, "feature noise", image.key).standard_normal(features.shape)
        features += config.length("noise_share") / math.sqrt(config.channels) * noise
        stride_px = (image.width / columns, image.height / rows)
        return FeatureMap(
            features=np.ascontiguousarray(features.transpose(2, 0, 1), np.float32),
            stride_px=stride_px,
            offset_px=(stride_px[0] / 2, stride_px[1] / 2),
        )

    def _kinds(self, truth: TruthMaps, cells: _Cells, scene: str) -> Float64[np.ndarray, "rows columns channels"]:
        """The terms of class and instance: the vectors of the kinds of pixels, by how much of a cell each fills."""
        config = self.config
        kinds, kind = np.unique(truth.semantics.astype(np.int64) << 16 | truth.instance, return_inverse=True)
        vectors = np.zeros((len(kinds), config.channels))
        for vector, class_id, number in zip(vectors, (kinds >> 16).tolist(), (kinds & 0xFFFF).tolist(), strict=True):
            if class_id != UNKNOWN:
                vector += config.length("class_share") * self._direction("class", class_id)
            if number:
                vector += config.length("instance_share") * self._direction("instance", scene, class_id, number)
        cell = cells.row[:, None] * cells.columns + cells.column
        count = cells.rows * cells.columns
        pixels = np.bincount(cell.ravel() * len(kinds) + kind.reshape(-1), minlength=count * len(kinds)).reshape(
            count, -1
        )
        # Not `@`: as in `occlift.runtime.noise`, for the same bytes on every machine.
        mean = np.einsum("ck,kd->cd", pixels / pixels.sum(1, keepdims=True), vectors)
        return mean.reshape(cells.rows, cells.columns, config.channels)

    def _heights(
        self, truth: TruthMaps, cells: _Cells, image: CameraImage
    ) -> Float64[np.ndarray, "rows columns channels"]:
        """The term of the height. Heights differ within a cell, so all of its pixels enter; a row of cells at once."""
        v, u = (np.arange(size) + 0.5 for size in truth.depth_m.shape)
        # Height is linear in (u, v) at depth 1: the third row of the mounting, times the ray through a pixel.
        across, down, ahead = image.ego_at_image_from_camera[2, :3] @ np.linalg.inv(image.pinhole_intrinsics_px)
        seen = np.isfinite(truth.depth_m)
        rise = across * u + down * v[:, None] + ahead
        height_m = np.where(seen, truth.depth_m, 0.0) * rise + image.ego_at_image_from_camera[2, 3]
        position = np.arcsinh(height_m / _HEIGHT_UNIT_M)[..., None] / _HEIGHT_SCALE
        means = np.zeros((cells.rows, cells.columns, self.config.channels))
        starts = np.searchsorted(cells.column, np.arange(cells.columns))
        widths = np.diff(starts, append=len(u))
        for row, mean in enumerate(means):
            band = cells.row == row
            waves = np.where(seen[band, :, None], self._waves(position[band], "height"), 0.0).sum(0)
            mean += np.add.reduceat(waves, starts) / (widths[:, None] * np.count_nonzero(band))
        return self.config.length("height_share") * means

    def _places(self, rows: int, columns: int, image: CameraImage) -> Float64[np.ndarray, "rows columns channels"]:
        """Waves over the image, at the centres of the cells."""
        v = (np.arange(rows) + 0.5) * (image.height / rows / image.width)
        u = (np.arange(columns) + 0.5) / columns
        position = np.stack(np.broadcast_arrays(u, v[:, None]), -1) / _IMAGE_SCALE
        return self._waves(position, "image")

    def _direction(self, *names: int | str) -> Float64[np.ndarray, "channels"]:
        vector = generator_of(self.config.seed, *names).standard_normal(self.config.channels)
        return vector / np.linalg.norm(vector)

    def _waves(
        self, position: Float[np.ndarray, "*place dimensions"], purpose: str
    ) -> Float64[np.ndarray, "*place channels"]:
        """Random Fourier features of squared length 1 on average; positions that differ by more than 1 are unlike."""
        rng = generator_of(self.config.seed, f"waves of the {purpose}")
        phase = rng.uniform(0, 2 * np.pi, self.config.channels)
        for axis in range(position.shape[-1]):
            phase = phase + position[..., axis, None] * rng.standard_normal(self.config.channels)
        return math.sqrt(2 / self.config.channels) * np.cos(phase)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cells:
    """In which row of cells each row of pixels lies, and the same for columns; every cell has pixels."""

    row: Int[np.ndarray, "height"]
    column: Int[np.ndarray, "width"]

    @property
    def rows(self) -> int:
        return int(self.row[-1]) + 1

    @property
    def columns(self) -> int:
        return int(self.column[-1]) + 1
