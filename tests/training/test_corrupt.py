"""Corrupted images: what each strength does, that it grows, and that nothing but seed, key frame and camera decide."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import ndimage

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError
from occlift.training.corrupt import (
    AIR_LIGHT,
    BLUR_PATHS,
    CORRUPTIONS,
    STRENGTHS,
    Corruption,
    CorruptionName,
    corrupt,
    corrupt_images,
    streaked,
)
from occlift.training.frames import OccupancyFrames, normalised

SHAPE = (96, 176, 3)
RANDOM: tuple[CorruptionName, ...] = ("dark", "fog", "snow", "motion_blur")


def street(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Sky, houses, a road with lines and dark things on it, all a little grainy."""
    height, width, _ = shape
    rng = np.random.default_rng(seed)
    image = np.empty(shape)
    image[:] = np.linspace(150, 215, height)[:, None, None] * (0.95, 1.0, 1.05)
    for left in rng.uniform(0, 0.9, 5):
        columns = slice(int(left * width), int((left + 0.15) * width))
        image[int(rng.uniform(0.1, 0.4) * height) : height // 2, columns] = rng.uniform(50, 190, 3)
    image[height // 2 :] = (95, 96, 100)
    image[height // 2 :: max(1, height // 12), width // 2 : width // 2 + width // 40] = 230
    for left, top in rng.uniform(0.1, 0.8, (6, 2)):
        area = np.s_[int(top * height) : int((top + 0.1) * height), int(left * width) : int((left + 0.1) * width)]
        image[area] = rng.uniform(10, 80, 3)
    return np.clip(image + rng.normal(0, 4, shape), 0, 255).astype(np.uint8)


def streets() -> list[np.ndarray]:
    return [street(seed) for seed in range(6)]


def damage(before: list[np.ndarray], after: list[np.ndarray]) -> tuple[float, float]:
    """Mean absolute difference, and minus the PSNR (dB), over all images together."""
    difference = np.stack(after).astype(float) - np.stack(before)
    return float(np.abs(difference).mean()), float(-10 * np.log10(255**2 / (difference**2).mean()))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_with_strength(name: CorruptionName) -> None:
    before = streets()
    copies = [image.copy() for image in before]
    after = [corrupt_images(before, Corruption(name=name, strength=strength), "token") for strength in STRENGTHS]
    for images in after:
        assert all(image.dtype == np.uint8 and image.shape == SHAPE for image in images)
    damages = [(0.0, -np.inf), *(damage(before, images) for images in after)]
    for (weaker, weaker_psnr), (stronger, stronger_psnr) in pairwise(damages):
        assert stronger > 1.1 * weaker
        assert stronger_psnr > weaker_psnr
    assert damages[1][0] > 1
    assert all(np.array_equal(image, copy) for image, copy in zip(before, copies, strict=True))


@pytest.mark.parametrize("name", RANDOM)
def test_seed_key_frame_and_camera_decide_and_nothing_else(name: CorruptionName) -> None:
    image = street(0)
    first = corrupt_images([image, image], Corruption(name=name, strength=3), "token")
    again = corrupt_images([image, street(1)], Corruption(name=name, strength=3), "token")
    assert np.array_equal(first[0], again[0])
    others = [
        first[1],
        corrupt_images([image], Corruption(name=name, strength=3, seed=1), "token")[0],
        corrupt_images([image], Corruption(name=name, strength=3), "nekot")[0],
    ]
    for other in others:
        assert not np.array_equal(first[0], other)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 3, 3), (31, 90, 3)])
def test_any_size(name: CorruptionName, shape: tuple[int, ...]) -> None:
    for strength in (1, 5):
        assert corrupt(street(0, (90, 90, 3))[: shape[0], : shape[1]], name, strength, ()).shape == shape


def test_brightness_multiplies_light_until_it_is_white() -> None:
    # 2 stops: sRGB 0.2 is 0.0331 of light; four times that is 0.1324, sRGB 0.400.
    grey = np.full(SHAPE, 51, np.uint8)
    assert np.unique(corrupt(grey, "brightness", 5, ())).tolist() == [102]
    white = np.full(SHAPE, 255, np.uint8)
    for strength in STRENGTHS:
        assert np.array_equal(corrupt(white, "brightness", strength, ()), white)
    bright = np.full(SHAPE, 200, np.uint8)
    means = [corrupt(bright, "brightness", strength, ()).mean() for strength in STRENGTHS]
    assert means == sorted(means)
    assert means[0] > 200
    assert means[-1] == 255


def test_darkness_takes_light_and_leaves_noise() -> None:
    grey = np.full(SHAPE, 128, np.uint8)
    images = [corrupt(grey, "dark", strength, ("token",)).astype(float) for strength in STRENGTHS]
    # One stop: sRGB 0.502 is 0.2159 of light; half of it is 0.1080, sRGB 0.362.
    assert images[0].mean() == pytest.approx(92.4, abs=0.3)
    contrast = [image.std() / image.mean() for image in images]
    assert contrast == sorted(contrast)
    assert contrast[-1] > 0.2


def test_fog_takes_contrast_and_leaves_what_has_its_own_colour() -> None:
    light = np.array(AIR_LIGHT)
    air = np.rint(255 * (1.055 * light ** (1 / 2.4) - 0.055)).astype(np.uint8)
    foggy = np.broadcast_to(air, SHAPE)
    assert np.abs(corrupt(foggy, "fog", 5, ()).astype(int) - foggy).max() <= 1
    dark, bright = (corrupt(np.full(SHAPE, value, np.uint8), "fog", 3, ("t",)).astype(float) for value in (20, 220))
    # The same share of every pixel's light is lost, whatever it was, and the shares differ from place to place.
    assert (dark < bright).all()
    assert (bright - dark).max() < 0.6 * 200
    assert np.ptp(bright - dark) > 15


def test_snow_covers_as_much_of_an_image_of_any_size() -> None:
    covered = []
    for width in (88, 352):
        black = np.zeros((width * 6 // 11, width, 3), np.uint8)
        snowed = [[corrupt(black, "snow", strength, (i,)) for i in range(12)] for strength in STRENGTHS]
        # Bytes are nearly the 2.2th root of light: how much of it is the snow's.
        covered.append(((np.array(snowed) / 255) ** 2.2).mean((1, 2, 3, 4)))
    small, large = covered
    assert small == pytest.approx(large, rel=0.15)
    assert (np.diff(large) > 0).all()
    assert 0.02 < large[0] < 0.06
    assert 0.15 < large[-1] < 0.3


@pytest.mark.parametrize(("length_px", "angle_rad"), [(0.4, 0.0), (5.0, 0.0), (13.3, 0.5), (30.0, -0.4), (8.0, 1.5)])
def test_streaks_are_means_over_a_path(length_px: float, angle_rad: float) -> None:
    image = ndimage.gaussian_filter(street(0).astype(np.float32), (1, 1, 0))
    v, u = np.indices(SHAPE[:2])
    steps = (np.arange(400) + 0.5) / 400 - 0.5
    expected = np.zeros(SHAPE)
    for step in steps * length_px:
        where = (v + step * np.sin(angle_rad), u + step * np.cos(angle_rad))
        for channel in range(3):
            expected[..., channel] += ndimage.map_coordinates(image[..., channel], where, order=1, mode="nearest")
    found = streaked(image, length_px, angle_rad)
    assert found.shape == image.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected / len(steps)).mean() < 0.35


@pytest.mark.parametrize("width", [176, 704])
def test_blur_is_as_long_as_its_part_of_the_width(width: int) -> None:
    image = np.zeros((width // 2, width, 3), np.uint8)
    image[:, width // 2 :] = 255
    blurred = corrupt(image, "motion_blur", 5, ("t",))[width // 4, :, 0]
    path = np.count_nonzero((blurred > 0) & (blurred < 255)) / width
    # The path is tilted by 30° at most, and an edge is as wide as the path is long across it.
    assert 0.8 * BLUR_PATHS[4] < path < 1.1 * BLUR_PATHS[4] + 2 / width


def test_missing_cameras_are_black_and_one_more_with_every_strength() -> None:
    images = streets()
    before: set[int] = set()
    for strength in STRENGTHS:
        found = corrupt_images(images, Corruption(name="camera_missing", strength=strength), "token")
        black = {camera for camera, image in enumerate(found) if not image.any()}
        assert len(black) == strength
        assert black > before
        assert all(found[camera] is images[camera] for camera in set(range(6)) - black)
        before = black
    first = [
        next(
            camera
            for camera, image in enumerate(
                corrupt_images(images, Corruption(name="camera_missing", strength=1, seed=seed), str(token))
            )
            if not image.any()
        )
        for seed in (0, 1)
        for token in range(60)
    ]
    # A seeded choice per key frame that spares no camera.
    assert np.bincount(first, minlength=6).min() > 8
    assert first[:60] != first[60:]
    alone = corrupt_images(images[:1], Corruption(name="camera_missing", strength=5), "token")
    assert len(alone) == 1
    assert not alone[0].any()


def test_what_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"no corruption 'rain'; choose one of brightness, dark"):
        Corruption(name=cast(Any, "rain"), strength=1)
    with pytest.raises(ConfigError, match=r"fog: strength is 6; expected 1 \(weak\) to 5"):
        Corruption(name="fog", strength=6)


def test_frames_are_corrupted_as_they_are_on_disk(small_town: Path) -> None:
    data = NuScenes.open(small_town)
    token = data.key_frame_tokens(data.scenes()[0])[1]
    corruption = Corruption(name="snow", strength=4, seed=3)
    found = OccupancyFrames(data, [token], height=48, width=88, corruption=corruption)[0].images[0]
    on_disk = [camera.read() for camera in data.key_frame(token).cameras]
    expected = np.stack(corrupt_images(on_disk, corruption, token)).transpose(0, 3, 1, 2)
    assert torch.equal(found, normalised(torch.from_numpy(expected)))
    assert not torch.equal(found, OccupancyFrames(data, [token], height=48, width=88)[0].images[0])
    with pytest.raises(ConfigError, match="blind, and corrupted by snow"):
        OccupancyFrames(data, [token], height=48, width=88, corruption=corruption, blind=True)
