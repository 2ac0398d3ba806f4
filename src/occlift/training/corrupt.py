"""Images as bad light, bad weather, a moving camera or a broken one leave them: six corruptions in five strengths.

In the spirit of ImageNet-C (Hendrycks and Dietterich, *Benchmarking neural network robustness to common corruptions and
perturbations*, ICLR 2019) and of its relatives for surround cameras (Xie et al., *RoboBEV*, arXiv 2304.06719; Dong et
al., arXiv 2303.11040). The amounts and what is done with them are our own: compare numbers
under these corruptions with each other, not with theirs.

| corruption, and its amount at strength | 1 | 2 | 3 | 4 | 5 |
| --- | --- | --- | --- | --- | --- |
| `brightness`: stops of over-exposure | 0.4 | 0.8 | 1.2 | 1.6 | 2 |
| `dark`: stops of under-exposure | 1 | 2 | 3 | 4 | 5 |
| `fog`: optical depth | 0.2 | 0.4 | 0.7 | 1.1 | 1.7 |
| `snow`: flakes in a square as wide as the image | 400 | 1000 | 1800 | 2800 | 4200 |
| `snow`: light that comes from snow too small to see | 2 % | 4 % | 7 % | 10 % | 14 % |
| `motion_blur`: path of a point while the shutter is open, parts of the width | 0.01 | 0.02 | 0.03 | 0.045 | 0.065 |
| `camera_missing`: cameras that deliver nothing | 1 | 2 | 3 | 4 | 5 |

Light is added and scaled as light, not as bytes: images are decoded from sRGB to linear values in [0, 1], changed, and
encoded again.

- `brightness` multiplies the light by 2^stops; what exceeds the range is white.
- `dark` multiplies it by 2^−stops. What is left drowns in the noise of the sensor: shot noise of the photons that still
  arrive and a constant read noise, independent per pixel. Noise is per pixel of the image as it is on disk, so it
  averages out when a large image is made small, as in a camera.
- `fog` mixes in the grey light of the air, 1 − e^−τ of it (Koschmieder's law). How far away a pixel is is not known
  here, so the optical depth τ is that of the table for the whole image, times plumes: a smooth field between about a
  half and two. Real fog leaves near things and takes far ones; this one takes both.
- `snow` adds flakes in three sizes, near ones large, rare and out of focus, streaked along one direction of fall. It is
  noise that looks like snow: nothing lies on the ground, and flakes know no depth.
- `motion_blur` averages along a straight path within 30° of the horizontal, of one direction for the whole image. What
  lies beyond the border goes on as the border.
- `camera_missing` makes whole images black, which is what a driver hands on whose camera has stopped. Grey would be the
  mean that networks are given for padding, and the milder fault. At strength 1 every key frame lacks one camera.

Lengths are parts of the image's width, so damage hardly depends on its size. What is random depends on the seed, the
name of the corruption, the key frame and the camera; not on the strength, so that with growing strength it is the same
flakes and more, the same plumes thicker, the same cameras and one more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import ndimage

from occlift.errors import ConfigError
from occlift.runtime.noise import generator_of, smooth_noise

CorruptionName = Literal["brightness", "dark", "fog", "snow", "motion_blur", "camera_missing"]

CORRUPTIONS: Final[tuple[CorruptionName, ...]] = get_args(CorruptionName)
"""All of them, in the order of tables."""

STRENGTHS: Final = (1, 2, 3, 4, 5)

BRIGHT_STOPS: Final = (0.4, 0.8, 1.2, 1.6, 2.0)

DARK_STOPS: Final = (1.0, 2.0, 3.0, 4.0, 5.0)
FULL_WELL: Final = 2000.0
"""Photons of a white pixel; a sensor of few, for the shot noise to be seen."""
READ_NOISE: Final = 0.0025
"""Standard deviation of what reading a pixel adds, in parts of white."""

FOG_DEPTHS: Final = (0.2, 0.4, 0.7, 1.1, 1.7)
AIR_LIGHT: Final = (0.56, 0.58, 0.60)
"""Linear RGB of fog by day; about (197, 200, 203) as bytes."""
PLUMES: Final = ((1 / 2, 0.30), (1 / 5, 0.18), (1 / 14, 0.10))
"""Size in parts of the width and standard deviation of the logarithm of the optical depth, octave by octave."""

SNOW_FLAKES: Final = (400, 1000, 1800, 2800, 4200)
SNOW_VEILS: Final = (0.02, 0.04, 0.07, 0.10, 0.14)
SNOW_LIGHT: Final = (0.86, 0.88, 0.90)
"""Linear RGB of snow by day."""


@dataclass(frozen=True, kw_only=True)
class _Flakes:
    """Flakes of one size.

    Attributes:
        share: of all flakes.
        radius: standard deviation of a flake's outline, parts of the image's width.
        fall: how far it falls while the shutter is open, parts of the image's width.
        opacity: at its centre.
    """

    share: float
    radius: float
    fall: float
    opacity: float


FLAKES: Final = (
    _Flakes(share=0.75, radius=0.0011, fall=0.004, opacity=0.75),
    _Flakes(share=0.21, radius=0.0022, fall=0.010, opacity=0.75),
    _Flakes(share=0.04, radius=0.0050, fall=0.022, opacity=0.55),
)

BLUR_PATHS: Final = (0.01, 0.02, 0.03, 0.045, 0.065)
MAX_BLUR_TILT_RAD: Final = math.radians(30)

MISSING_CAMERAS: Final = (1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """What is done to all images of an evaluation.

    Attributes:
        name: one of `CORRUPTIONS`.
        strength: 1 (weak) to 5.
        seed: of what is random in it.

    Raises:
        ConfigError: there is no such corruption or strength.
    """

    name: CorruptionName
    strength: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS:
            raise ConfigError(f"there is no corruption {self.name!r}; choose one of {', '.join(CORRUPTIONS)}")
        if self.strength not in STRENGTHS:
            raise ConfigError(f"corruption {self.name}: strength is {self.strength}; expected 1 (weak) to 5 (strong)")


def corrupt_images(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], corruption: Corruption, key: str
) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """The images of all cameras of a key frame, corrupted; sizes stay.

    Args:
        images: sRGB, one per camera; they may have different sizes. Cameras are told apart by their place, so they must
            always stand in the same order.
        corruption: with `camera_missing`, as many images as it says turn black, all where there are fewer; the others
            are returned as they came.
        key: of the key frame: its sample token.
    """
    hit = set(range(len(images)))
    if corruption.name == "camera_missing":
        order = generator_of(corruption.seed, "which camera is missing", key).permutation(len(images)).tolist()
        hit = set(order[: MISSING_CAMERAS[corruption.strength - 1]])
    return [
        corrupt(image, corruption.name, corruption.strength, (corruption.seed, key, camera)) if camera in hit else image
        for camera, image in enumerate(images)
    ]


def corrupt(
    image: UInt8[np.ndarray, "height width 3"],
    name: CorruptionName,
    strength: int,
    seed: tuple[int | str, ...],
) -> UInt8[np.ndarray, "height width 3"]:
    """An sRGB image, corrupted; with `camera_missing`, of a camera that is missing.

    Args:
        strength: 1 to 5.
        seed: whatever tells images apart whose flakes, noise, plumes or paths should differ.
    """
    step = STRENGTHS.index(strength)
    rng = generator_of(name, *seed)
    if name == "brightness":
        return _gained(image, 2.0 ** BRIGHT_STOPS[step])
    if name == "dark":
        return _encoded(_under_exposed(_decoded(image), DARK_STOPS[step], rng))
    if name == "fog":
        return _encoded(_fogged(_decoded(image), FOG_DEPTHS[step], rng))
    if name == "snow":
        return _encoded(_snowed_on(_decoded(image), SNOW_FLAKES[step], SNOW_VEILS[step], rng))
    if name == "motion_blur":
        tilt_rad = rng.uniform(-MAX_BLUR_TILT_RAD, MAX_BLUR_TILT_RAD)
        return _encoded(streaked(_decoded(image), BLUR_PATHS[step] * image.shape[1], tilt_rad))
    assert name == "camera_missing", name
    return np.zeros_like(image)


def streaked(
    image: Float32[np.ndarray, "height width c"], length_px: float, angle_rad: float
) -> Float32[np.ndarray, "height width c"]:
    """The mean of an image over a straight path of `length_px`, centred on each pixel; the border goes on outside.

    The path is sampled at least once per pixel. Means over paths twice as long are means of two shifted means, so k
    steps take 2^k samples.

    Args:
        angle_rad: of the path to the horizontal; positive leads to the right and down.
    """
    doublings = max(1, math.ceil(math.log2(max(length_px, 1.0))))
    margin_px = math.ceil(length_px / 2) + doublings
    height, width = image.shape[:2]
    mean = np.pad(image, ((margin_px, margin_px), (margin_px, margin_px), (0, 0)), mode="edge")
    half_px = length_px / 2**doublings / 2
    for _ in range(doublings):
        down_px, right_px = half_px * math.sin(angle_rad), half_px * math.cos(angle_rad)
        mean = (_shifted(mean, down_px, right_px) + _shifted(mean, -down_px, -right_px)) / 2
        half_px *= 2
    return mean[margin_px : margin_px + height, margin_px : margin_px + width]


def _shifted(
    image: Float32[np.ndarray, "height width c"], down_px: float, right_px: float
) -> Float32[np.ndarray, "height width c"]:
    """An image moved by any distance, bilinearly; what comes in from outside is the border."""
    for axis, distance_px in enumerate((down_px, right_px)):
        whole = math.floor(distance_px)
        weight = np.float32(distance_px - whole)
        places = np.arange(image.shape[axis]) - whole
        last = image.shape[axis] - 1
        near, far = (image.take(np.clip(places - step, 0, last), axis) for step in (0, 1))
        image = near + weight * (far - near)
    return image


def _gained(image: UInt8[np.ndarray, "height width 3"], gain: float) -> UInt8[np.ndarray, "height width 3"]:
    return _encoded(np.float32(gain) * _LINEAR)[image]


def _under_exposed(
    light: Float32[np.ndarray, "height width 3"], stops: float, rng: np.random.Generator
) -> Float32[np.ndarray, "height width 3"]:
    light = light * np.float32(2.0**-stops)
    noise = np.sqrt(light / np.float32(FULL_WELL) + np.float32(READ_NOISE**2))
    return light + noise * rng.standard_normal(light.shape, np.float32)


def _fogged(
    light: Float32[np.ndarray, "height width 3"], optical_depth: float, rng: np.random.Generator
) -> Float32[np.ndarray, "height width 3"]:
    height, width = light.shape[:2]
    log_plumes = sum(sigma * smooth_noise(rng, (height, width), size * width) for size, sigma in PLUMES)
    passes = np.exp(-optical_depth * np.exp(log_plumes)).astype(np.float32)[..., None]
    return passes * light + (1 - passes) * np.array(AIR_LIGHT, np.float32)


def _snowed_on(
    light: Float32[np.ndarray, "height width 3"], flakes: int, veil: float, rng: np.random.Generator
) -> Float32[np.ndarray, "height width 3"]:
    height, width = light.shape[:2]
    passes = np.full((height, width, 1), 1 - veil, np.float32)
    fall_rad = rng.uniform(np.radians(50), np.radians(130))
    for kind in FLAKES:
        per_square = (round(kind.share * number) for number in (flakes, SNOW_FLAKES[-1]))
        count, most = (round(number * height / width) for number in per_square)
        # All that the greatest strength has are drawn: the first ones are those of the weaker strengths.
        place = rng.random((most, 2))[:count] * (height, width)
        radius_px, fall_px = kind.radius * width, kind.fall * width
        dots = _dots(place, height, width)
        spread = ndimage.gaussian_filter(dots, radius_px, mode="constant")[..., None]
        # At the centre of a flake the blur and the path have thinned a dot of weight 1 to this, in a picture of any
        # size; where a flake is smaller than a pixel, it covers a part of one.
        centre = math.erf(fall_px / (radius_px * math.sqrt(8))) / (radius_px * fall_px * math.sqrt(2 * math.pi))
        cover = streaked(spread, fall_px, fall_rad) * np.float32(kind.opacity / centre)
        passes *= 1 - np.minimum(cover, 1)
    return passes * light + (1 - passes) * np.array(SNOW_LIGHT, np.float32)


def _dots(place_px: np.ndarray, height: int, width: int) -> Float32[np.ndarray, "height width"]:
    """Dots of weight 1 at places (v, u) in continuous pixel coordinates, each shared by the four nearest pixels."""
    dots = np.zeros((height, width), np.float32)
    first = np.floor(place_px - 0.5).astype(int)
    part = place_px - 0.5 - first
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1])
            row, column = np.clip(first + np.array((down, right)), 0, (height - 1, width - 1)).T
            np.add.at(dots, (row, column), weight.astype(np.float32))
    return dots


def _decoded(image: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, "height width 3"]:
    """sRGB bytes → linear light, 0..1 (IEC 61966-2-1)."""
    return _LINEAR[image]


def _encoded(light: Float32[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Linear light → sRGB bytes; what lies outside of [0, 1] is black or white."""
    light = np.clip(light, 0, 1)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** np.float32(1 / 2.4) - 0.055)
    return np.rint(255 * curve).astype(np.uint8)


def _linear_of_bytes() -> Float32[np.ndarray, "256"]:
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR: Final = _linear_of_bytes()
