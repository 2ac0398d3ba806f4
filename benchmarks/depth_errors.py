"""How a depth network errs, and how `oracle:foundation` does, measured alike: the amounts of a `DepthCorruption`.

usage: depth_errors.py TOWN [KITTI]

TOWN is a town with truth maps (`occlift town TOWN --scenes 3 --frames 3 --maps`): its true depth against the oracle's,
whose amounts are known, shows what the fit can find. KITTI is a folder with `network_depth`, `stereo_depth` and
`network_classes` (metres × 256, 0 for none): depth of a network against stereo, which has errors of its own (half a
pixel of disparity is 2.6 % at 20 m and 5 % at 40 m; it is thick at edges).

All errors are those of the logarithm, e = ln(network / truth), from 5 to 40 m, away from edges (nearer than 5 m stereo
has matched wrongly more often than rightly). Amounts are 1.48 · median |error|, the standard deviation of a normal
distribution around 0 with as large a median: mismatches of stereo are rare and huge, and a `DepthCorruption` has no
bias. Lengths are in pixels of an image 400 wide.

scale       the image's median of e; its root mean square over the images
smooth      what is left, r, grows with the distance d as smooth · (1 + growth · d): a line through bins of distance
            which begins at 0.01 or above
cell        r / (1 + growth · d) at two pixels has half its correlation where smooth noise of this cell has
pixel       jump of r between neighbouring pixels, over √2
bleed       radius of the average that makes a step of depth as wide as it is, between a quarter and three quarters
sky         the median of the depth of the sky
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

from occlift import open_dataset
from occlift.label_space import FREE
from occlift.runtime.noise import generator_of, smooth_noise
from occlift.scenes.dataset import HasTruthMaps, require
from occlift.teachers.corruption import REFERENCE_WIDTH_PX, DepthCorruption
from occlift.teachers.oracle import FOUNDATION_DEPTH, MEASURED_DEPTH

NEAREST_M, FARTHEST_M = 5.0, 40.0
BINS_M: Final = ((5, 10), (10, 15), (15, 20), (20, 30), (30, 40))
EDGE_RATIO: Final = 1.5
"""Steps of depth whose width is measured; smaller ones say little about it."""
EDGE_REACH_PX: Final = 16
"""How far on both sides of a step depth must be even."""
STEPS_PER_IMAGE: Final = 300
FRAME_STEP: Final = 3
"""Of KITTI every third frame: at 10 Hz neighbours err alike."""
SMALLEST: Final = 0.01
"""Amount at distance 0: a line through errors that grow with the distance alone would have none."""
_TO_SIGMA: Final = 1.4826


@dataclass(frozen=True)
class Pair:
    """A depth map beside the truth, metres; truth NaN where nothing is known, infinite in the sky."""

    truth_m: np.ndarray
    depth_m: np.ndarray

    @property
    def per_pixel(self) -> float:
        """Pixels of this image per pixel of one 400 wide."""
        return self.truth_m.shape[1] / REFERENCE_WIDTH_PX

    @property
    def error(self) -> np.ndarray:
        """ln(depth / truth) where it is measured, else NaN: beside edges the truth is not to be had."""
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.log(self.depth_m / self.truth_m)
            known = (self.truth_m > NEAREST_M) & (self.truth_m < FARTHEST_M) & (self.depth_m > 0)
        return np.where(known & np.isfinite(error) & ~self._near_edges(), error, np.nan)

    def _near_edges(self) -> np.ndarray:
        near = np.zeros(self.truth_m.shape, bool)
        with np.errstate(invalid="ignore", divide="ignore"):
            log_m = np.log(self.truth_m)
            down, right = (np.abs(np.diff(log_m, axis=axis)) > np.log(1.15) for axis in (0, 1))
        near[:-1] |= down
        near[1:] |= down
        near[:, :-1] |= right
        near[:, 1:] |= right
        return binary_dilation(near, iterations=max(1, round(3 * self.per_pixel)))


def main() -> None:
    town, *kitti = map(Path, sys.argv[1:])
    columns = {
        "foundation, stated": stated(FOUNDATION_DEPTH),
        "town, `oracle:foundation`": fitted(town_pairs(town, FOUNDATION_DEPTH)),
        "measured, stated": stated(MEASURED_DEPTH),
        "town, `oracle:measured`": fitted(town_pairs(town, MEASURED_DEPTH)),
    }
    if kitti:
        columns["KITTI, network"] = fitted(kitti_pairs(kitti[0]))
        columns["KITTI, stereo with `measured`"] = fitted(corrupted_stereo(kitti[0], MEASURED_DEPTH))
    rows = [
        [name, *(column.get(name, "–") for column in columns.values())] for name in columns["town, `oracle:foundation`"]
    ]
    print("| amount | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def town_pairs(root: Path, corruption: DepthCorruption) -> list[Pair]:
    data = open_dataset(root)
    truth = require(data, HasTruthMaps, "truth")
    pairs = []
    for scene in data.scenes():
        for token in data.key_frame_tokens(scene):
            for image in data.key_frame(token).cameras:
                depth_m = truth.truth_maps(image).depth_m
                pairs.append(Pair(depth_m, corruption.apply(depth_m, generator_of(0, "depth", image.key))))
    return pairs


def kitti_pairs(folder: Path) -> list[Pair]:
    return [Pair(truth_m, depth_of(folder / "network_depth" / name)) for name, truth_m in stereo(folder)]


def corrupted_stereo(folder: Path, corruption: DepthCorruption) -> list[Pair]:
    """Stereo depth with a corruption on it; where there is none, the network's, so that edges have two sides."""
    pairs = []
    for name, truth_m in stereo(folder):
        whole_m = np.where(np.isnan(truth_m), depth_of(folder / "network_depth" / name), truth_m).astype(np.float32)
        pairs.append(Pair(truth_m, corruption.apply(whole_m, generator_of(0, "depth", name))))
    return pairs


def stereo(folder: Path) -> Iterable[tuple[str, np.ndarray]]:
    """Names of the images, and their true depth; infinite where a network says sky."""
    for path in sorted((folder / "stereo_depth").glob("*.png"))[::FRAME_STEP]:
        depth_m = depth_of(path)
        depth_m[depth_m == 0] = np.nan
        classes = np.asarray(Image.open(folder / "network_classes" / path.name))
        depth_m[classes == FREE] = np.inf
        yield path.name, depth_m


def depth_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.float64) / 256


def stated(corruption: DepthCorruption) -> dict[str, str]:
    """The amounts of a corruption, named as `fitted` does."""
    return {
        "scale": f"{corruption.scale_sigma:.3f}",
        "smooth": f"{corruption.smooth_sigma:.3f}",
        "growth per m": f"{corruption.growth_per_m:.3f}",
        "cell, px of 400": f"{corruption.smooth_cell_px:.0f}",
        "pixel": f"{corruption.pixel_sigma:.4f}",
        "bleed, px of 400": f"{corruption.bleed_px:.1f}",
        "sky, m": f"{corruption.sky_depth_m:.0f}",
    }


def fitted(pairs: Sequence[Pair]) -> dict[str, str]:
    """The amounts that were found, and what they come to."""
    errors = [pair.error for pair in pairs]
    measured = [i for i, error in enumerate(errors) if np.isfinite(error).sum() > 1000]
    pairs, errors = [pairs[i] for i in measured], [errors[i] for i in measured]
    scales = np.array([np.nanmedian(error) for error in errors])
    rest = [error - scale for error, scale in zip(errors, scales, strict=True)]
    smooth, growth = growth_of(pairs, rest)
    even = [r / (1 + growth * np.clip(pair.truth_m, 0, FARTHEST_M)) for pair, r in zip(pairs, rest, strict=True)]
    pixel = _sigma(np.concatenate([np.diff(r, axis=1)[np.isfinite(np.diff(r, axis=1))] for r in even])) / np.sqrt(2)
    found = {
        "scale": f"{np.sqrt((scales**2).mean()):.3f}",
        "... its mean ± sd over images": f"{scales.mean():+.3f} ± {scales.std():.3f}",
        "smooth": f"{np.sqrt(max(smooth**2 - pixel**2, 0)):.3f}",
        "growth per m": f"{growth:.3f}",
        "cell, px of 400": f"{cell_of(pairs, even):.0f}",
        "pixel": f"{pixel:.4f}",
        "bleed, px of 400": f"{bleed_of(pairs):.1f}",
        "sky, m": f"{sky_of(pairs):.0f}",
        "images": f"{len(pairs)}",
    }
    truth = np.concatenate([p.truth_m[np.isfinite(e)] for p, e in zip(pairs, errors, strict=True)])
    error = np.expm1(np.concatenate([e[np.isfinite(e)] for e in errors]))
    found["mean of |error|"] = f"{np.abs(error).mean():.3f}"
    for lower, upper in BINS_M:
        inside = (truth >= lower) & (truth < upper)
        found[f"median error, of |error|, {lower} to {upper} m"] = (
            f"{np.median(error[inside]):+.3f}, {np.median(np.abs(error[inside])):.3f}" if inside.sum() > 1000 else "–"
        )
    return found


def growth_of(pairs: Sequence[Pair], rest: Sequence[np.ndarray]) -> tuple[float, float]:
    """Amount at distance 0, and growth per metre of itself: least squares over bins of distance."""
    distance = np.concatenate([pair.truth_m[np.isfinite(r)] for pair, r in zip(pairs, rest, strict=True)])
    value = np.concatenate([r[np.isfinite(r)] for r in rest])
    middles, amounts = [], []
    for lower, upper in BINS_M:
        inside = (distance >= lower) & (distance < upper)
        if inside.sum() > 1000:
            middles.append(distance[inside].mean())
            amounts.append(_sigma(value[inside]))
    slope, offset = np.polyfit(middles, amounts, 1)
    if slope <= 0:  # errors that shrink with the distance have no place in the model
        return float(np.mean(amounts)), 0.0
    if offset < SMALLEST:
        offset, distances = SMALLEST, np.array(middles)
        slope = np.dot(distances, np.array(amounts) - offset) / np.dot(distances, distances)
    return float(offset), float(slope / offset)


def cell_of(pairs: Sequence[Pair], even: Sequence[np.ndarray]) -> float:
    """Cell of smooth noise whose correlation along rows falls to a half where that of the errors does."""
    rng = np.random.default_rng(0)
    noise = [smooth_noise(rng, (64, 1600), 60.0) for _ in range(40)]
    per_cell = half_lag(noise, 1.0) / 60.0
    # Rows near one another say the same.
    by_width = half_lag([r[:: max(1, round(4 * pairs[0].per_pixel))] for r in even], pairs[0].per_pixel)
    return by_width / per_cell


def half_lag(fields: Sequence[np.ndarray], per_pixel: float) -> float:
    """Lag, in pixels of an image 400 wide, at which the correlation is half of that between neighbours."""
    first: float | None = None
    lags = np.unique(np.round(np.concatenate([[1], np.arange(2, 200, 3)]) * per_pixel).astype(int).clip(1))
    for lag in lags[lags < fields[0].shape[1] // 2]:
        left = np.concatenate([f[:, :-lag].ravel() for f in fields])
        right = np.concatenate([f[:, lag:].ravel() for f in fields])
        both = np.isfinite(left) & np.isfinite(right)
        # Long tails would decide a product of the values: of their signs, sin(π/2 · E[s s']) is the correlation.
        correlation = float(np.sin(np.pi / 2 * (np.sign(left[both]) * np.sign(right[both])).mean()))
        first = correlation if first is None else first
        if correlation < first / 2:
            return float(lag) / per_pixel
    return float("nan")


def bleed_of(pairs: Sequence[Pair]) -> float:
    """Radius, in pixels of an image 400 wide, of the average that makes steps along rows as wide as they are."""
    profiles: list[np.ndarray] = []
    reach = max(6, round(EDGE_REACH_PX * pairs[0].per_pixel / 2))
    for pair in pairs:
        with np.errstate(invalid="ignore", divide="ignore"):
            truth, depth = np.log(pair.truth_m), np.log(pair.depth_m)
            steps = np.argwhere(np.abs(np.diff(truth, axis=1)) > np.log(EDGE_RATIO))
        steps = steps[(steps[:, 1] >= reach) & (steps[:, 1] < truth.shape[1] - 1 - reach)]
        for row, column in steps[:: max(1, len(steps) // STEPS_PER_IMAGE)]:
            left, right = truth[row, column - reach + 1 : column + 1], truth[row, column + 1 : column + reach + 1]
            left, right = left[np.isfinite(left)], right[np.isfinite(right)]
            if min(len(left), len(right)) < 0.7 * reach or max(np.ptp(left), np.ptp(right)) > np.log(1.2):
                continue
            profile = depth[row, column - reach + 1 : column + reach + 1]
            # From the nearer to the farther side, whichever comes first.
            profiles.append(profile if right.mean() > left.mean() else profile[::-1])
    if len(profiles) < 30:
        return float("nan")
    mean = np.median(profiles, axis=0)
    low, high = mean[:2].mean(), mean[-2:].mean()
    share = np.maximum.accumulate((mean - low) / (high - low))
    quarter, three_quarters = (np.interp(level, share, np.arange(len(share))) for level in (0.25, 0.75))
    width_px = 2 * (three_quarters - quarter)
    return float(max(0.0, (width_px - 1) / 2) / pairs[0].per_pixel)


def sky_of(pairs: Sequence[Pair]) -> float:
    """The median of the depth where the truth is the sky."""
    sky = np.concatenate([pair.depth_m[np.isinf(pair.truth_m)] for pair in pairs])
    return float(np.median(sky)) if sky.size else float("nan")


def _sigma(values: np.ndarray) -> float:
    return float(np.median(np.abs(values)) * _TO_SIGMA)


if __name__ == "__main__":
    main()
