"""Whether the depth behind a label can be trusted: by how views disagree, by the wheels, and by where the car drives.

Three things are known without any truth. Views of one moment and of the next show the same things that do not move, so
where one sees a surface another must not see through it. The wheels stand on the ground, so that depth which puts the
ground beside the car elsewhere has another scale (Zhou et al. and others recover scale from the camera's height; here
it is the check). And where the car drives, nothing stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8

from occlift.errors import DataError
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import OCC3D, LabelSpace, Taxonomy
from occlift.labels.fuse import static_classes
from occlift.labels.surface_kernels import NEAREST_M, truncation_m
from occlift.labels.view import View
from occlift.runtime.files import replacing

CHECK_NAME: Final = "depth.json"
"""Beside every label: what was measured about its depth."""

FrameViews = tuple[Float[np.ndarray, "4 4"], Sequence[View]]
"""Of one moment: global_from_ego, and the views."""

DISTANCES_M: Final = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0)
REGIONS: Final = ("top third", "middle third", "bottom third")
"""Bins of the measured errors: depth along the optical axis, and rows of the image."""

_PIXELS_PER_VIEW: Final = 500

_STANDING_WITHIN_M: Final = 15.0
_MOST: Final = 0.5
"""Surfaces that stand on the ground within this distance, seen through by others: a label keeps none of which most of
the evidence sees through (`occlift.labels.decide`). The ground says nothing about this: whatever the scale of depth, it
is a plane along which the car moves."""

_GROUND_WITHIN_M: Final = 10.0
_BESIDE_TRACK_M: Final = 4.0
_GROUND_M: Final = 0.2
"""Ground this near to the camera and to where the car stands, and how far from the wheels its height may be: the camber
of a road and a degree of pitch explain as much."""

_CAR_M: Final = ((-0.8, 2.0), (-0.6, 0.6), (0.6, 3.6))
_TRACK_SHARE: Final = 0.1
"""Where nothing stands when the car comes along, in its frame (x, y, z): well inside of its width, and up to a height
that roads leave to lorries (4 m, less a voxel); and at which share of the places something may stand by mistake."""

_FEWEST: Final = 100
"""Samples below which nothing is doubted."""


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """Pixels of views against what other views show at the same place, as the same class.

    Attributes:
        samples: number of comparisons.
        error: standard deviation of the error of one view, as a share of the depth (from the median).
        bias: median of how much farther than the others a view places things, as a share of the depth.
    """

    samples: int = 0
    error: float = 0.0
    bias: float = 0.0

    def __add__(self, other: Disagreement) -> Disagreement:
        """Over the samples of both: means of the medians, weighted by samples."""
        both = max(1, self.samples + other.samples)
        return Disagreement(
            samples=self.samples + other.samples,
            error=(self.samples * self.error + other.samples * other.error) / both,
            bias=(self.samples * self.bias + other.samples * other.bias) / both,
        )

    @classmethod
    def of(cls, log_ratio: Float64[np.ndarray, " samples"]) -> Disagreement:
        """Of logarithms of the depth of a view over that of another."""
        if not len(log_ratio):
            return cls()
        # Of a normal error the median of the absolute value is σ / 1.4826; two views have both one.
        error = 1.4826 * np.median(np.abs(log_ratio)) / 2**0.5
        return cls(samples=len(log_ratio), error=round(float(error), 4), bias=round(float(np.median(log_ratio)), 4))


@dataclass(frozen=True, kw_only=True)
class DepthCheck:
    """What was measured about the depth behind a label, or behind several (`+`).

    Attributes:
        by_distance: a view against the others, by its depth (`DISTANCES_M`).
        by_region: the same by rows of the image (`REGIONS`).
        agree, through: of surfaces that stand within 15 m, how often another view shows one there, within what a label
            averages, and how often it sees through.
        ground: pixels of the ground within 10 m of the camera and 4 m of where the car stands.
        ground_m: median of their height above the wheels.
        camera_m: median height of the cameras that show them.
        track, blocked: columns of voxels where the car drives that are known, and those in which something stands
            lower than a lorry.

    >>> DepthCheck(ground=900, ground_m=-0.5, camera_m=1.5).doubts
    ('the ground beside the car lies 0.50 m below its wheels: depth is about 33 % too large, or focal length, mounting \
or ego frame (z = 0 where the wheels stand) are wrong',)
    """

    by_distance: tuple[Disagreement, ...] = (Disagreement(),) * (len(DISTANCES_M) - 1)
    by_region: tuple[Disagreement, ...] = (Disagreement(),) * len(REGIONS)
    agree: int = 0
    through: int = 0
    ground: int = 0
    ground_m: float = 0.0
    camera_m: float = 0.0
    track: int = 0
    blocked: int = 0

    def __add__(self, other: DepthCheck) -> DepthCheck:
        ground = max(1, self.ground + other.ground)
        return DepthCheck(
            by_distance=tuple(a + b for a, b in zip(self.by_distance, other.by_distance, strict=True)),
            by_region=tuple(a + b for a, b in zip(self.by_region, other.by_region, strict=True)),
            agree=self.agree + other.agree,
            through=self.through + other.through,
            ground=self.ground + other.ground,
            ground_m=(self.ground * self.ground_m + other.ground * other.ground_m) / ground,
            camera_m=(self.ground * self.camera_m + other.ground * other.camera_m) / ground,
            track=self.track + other.track,
            blocked=self.blocked + other.blocked,
        )

    @property
    def through_share(self) -> float:
        """Of surfaces that stand near by, the share of other views that see through them; NaN without any."""
        return self.through / both if (both := self.agree + self.through) else float("nan")

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why depth cannot be trusted, a sentence each; none where it can, or where too little was to compare."""
        doubts = []
        if self.ground >= _FEWEST and abs(self.ground_m) > _GROUND_M:
            # Depth that is s times too large puts the ground (s - 1) times the camera's height below the wheels.
            scale = 1 - self.ground_m / self.camera_m if self.camera_m > 0 else float("nan")
            below, large = ("below", "large") if self.ground_m < 0 else ("above", "small")
            doubts.append(
                f"the ground beside the car lies {abs(self.ground_m):.2f} m {below} its wheels: depth is about "
                f"{100 * abs(scale - 1):.0f} % too {large}, or focal length, mounting or ego frame (z = 0 where the "
                "wheels stand) are wrong"
            )
        if self.agree + self.through >= _FEWEST and self.through_share > _MOST:
            doubts.append(
                f"{100 * self.through_share:.0f} % of what stands within {_STANDING_WITHIN_M:.0f} m is seen through by "
                "other views of the same or the next moment, more than a label can average: depth, poses or the order "
                "of images are wrong"
            )
        if self.track >= _FEWEST and self.blocked > _TRACK_SHARE * self.track:
            doubts.append(
                f"at {100 * self.blocked / self.track:.0f} % of the places where the car drives something stands in "
                "its way or hangs lower than a lorry: depth is too small, or too noisy for labels"
            )
        return tuple(doubts)

    def __str__(self) -> str:
        """A table, and the other measures, a line each."""
        spans = [f"{low:.0f} to {high:.0f} m" for low, high in pairwise(DISTANCES_M)]
        rows = [*zip(spans, self.by_distance, strict=True), *zip(REGIONS, self.by_region, strict=True)]
        lines = [
            f"{name:>12}: error {row.error:5.1%}, bias {row.bias:+6.1%} ({row.samples} pixels)"
            for name, row in rows
            if row.samples
        ]
        if self.agree + self.through:
            lines.append(
                f"other views see through {self.through_share:.0%} of what stands within {_STANDING_WITHIN_M:.0f} m"
            )
        if self.ground:
            lines.append(f"ground beside the car at {self.ground_m:+.2f} m (0: where its wheels stand)")
        if self.track:
            lines.append(f"at {self.blocked / self.track:.0%} of the places where the car drives something stands")
        return "\n".join(line.replace("%", " %") for line in lines) or "no two views show the same place"

    def to_plain(self) -> dict[str, Any]:
        """For a file."""
        return {
            "distance": [[row.samples, row.error, row.bias] for row in self.by_distance],
            "region": [[row.samples, row.error, row.bias] for row in self.by_region],
            "agree": self.agree,
            "through": self.through,
            "ground": [self.ground, self.ground_m, self.camera_m],
            "track": [self.track, self.blocked],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> DepthCheck:
        """From a file.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        rows = {
            name: tuple(Disagreement(samples=int(n), error=float(e), bias=float(b)) for n, e, b in plain[name])
            for name in ("distance", "region")
        }
        (ground, ground_m, camera_m), (track, blocked) = plain["ground"], plain["track"]
        return cls(
            by_distance=rows["distance"],
            by_region=rows["region"],
            agree=int(plain["agree"]),
            through=int(plain["through"]),
            ground=int(ground),
            ground_m=float(ground_m),
            camera_m=float(camera_m),
            track=int(track),
            blocked=int(blocked),
        )


def check_depth(
    own: FrameViews,
    others: Sequence[FrameViews],
    cars: Sequence[Float[np.ndarray, "4 4"]],
    taxonomy: Taxonomy = OCC3D.taxonomy,
) -> DepthCheck:
    """Compares the views of a moment with each other and with those of other moments, and its ground with the wheels.

    Args:
        others: the moments just before and after.
        cars: global_from_ego of the moments in which the car passes what it sees.
    """
    points = _Pixels.of(own[1])
    static = static_classes(taxonomy)
    ratios, distances, rows = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    agree = through = 0
    still = static[points.class_id]
    standing = still & ~taxonomy.table(taxonomy.ground)[points.class_id] & (points.depth_m < _STANDING_WITHIN_M)
    for number, view in enumerate(view for _, views in (own, *others) for view in views):
        ahead, class_id, depth_m = _look(view, points.xyz_global, taxonomy)
        foreign = points.view != number
        same = foreign & still & (class_id == points.class_id) & np.isfinite(depth_m)
        ratios.append(np.log(ahead[same] / depth_m[same]))
        distances.append(points.depth_m[same])
        rows.append(points.row[same])
        # What moves hides a surface, or has left the place where it was: neither is a contradiction.
        near = foreign & standing & (ahead < _STANDING_WITHIN_M) & static[class_id]
        limit = truncation_m(ahead)
        through += int((near & (depth_m > ahead + limit)).sum())
        agree += int((near & (np.abs(depth_m - ahead) <= limit)).sum())
    ratio, distance, row = np.concatenate(ratios), np.concatenate(distances), np.concatenate(rows)
    ground = _ground(own, cars, points, taxonomy)
    thirds = np.minimum((row * len(REGIONS)).astype(int), len(REGIONS) - 1)
    return replace(
        ground,
        by_distance=tuple(
            Disagreement.of(ratio[(distance >= low) & (distance < high)]) for low, high in pairwise(DISTANCES_M)
        ),
        by_region=tuple(Disagreement.of(ratio[thirds == third]) for third in range(len(REGIONS))),
        agree=agree,
        through=through,
    )


def check_track(
    semantics: UInt8[np.ndarray, "x y z"], ego_from_cars: Iterable[Float[np.ndarray, "4 4"]], space: LabelSpace = OCC3D
) -> tuple[int, int]:
    """Of a label, how many columns of voxels are known where the car drives, and in how many of them something stands
    that does not move, lower than a lorry.

    Args:
        ego_from_cars: from the car at some moments to the ego frame of the label.
    """
    taxonomy, grid = space.taxonomy, space.grid
    step = min(grid.voxel_size_m) / 2
    axes = [np.arange(low, high, step) for low, high in _CAR_M]
    car = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    swept = np.zeros(grid.shape, bool)
    for pose in ego_from_cars:
        index, inside = grid.indices(transform_points(pose, car))
        swept[tuple(index[inside].T)] = True
    stands = static_classes(taxonomy) & ~taxonomy.table(taxonomy.ground)
    stands[taxonomy.free :] = False
    known, blocked = (
        int((swept & found).any(axis=2).sum()) for found in (semantics <= taxonomy.free, stands[semantics])
    )
    return known, blocked


def write_check(path: Path, check: DepthCheck) -> None:
    """Writes it beside a label; the same check gives the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path.with_name(CHECK_NAME)) as file:
        file.write((json.dumps(check.to_plain()) + "\n").encode())


def read_checks(labels: Sequence[Path]) -> DepthCheck:
    """What was measured when some labels were made, together; those that say nothing count nothing.

    Raises:
        DataError: what is written beside a label is damaged.
    """
    total = DepthCheck()
    for path in (label.with_name(CHECK_NAME) for label in labels):
        try:
            total += DepthCheck.from_plain(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not readable ({error!r}); remove it and its label and make them again") from error
    return total


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pixels:
    """Some pixels of some views, evenly spaced: what they show and where."""

    view: Int64[np.ndarray, " n"]
    row: Float64[np.ndarray, " n"]
    class_id: UInt8[np.ndarray, " n"]
    depth_m: Float64[np.ndarray, " n"]
    xyz_global: Float64[np.ndarray, "n 3"]

    @classmethod
    def of(cls, views: Sequence[View]) -> _Pixels:
        numbers, rows, classes, depths, places = [], [], [], [], []
        for number, view in enumerate(views):
            step = max(1, round((view.depth_m.size / _PIXELS_PER_VIEW) ** 0.5))
            some = slice(step // 2, None, step)
            depth_m = view.depth_m[some, some]
            shown = np.isfinite(depth_m)
            v, u = (np.arange(size)[some] * view.stride + view.stride // 2 + 0.5 for size in view.depth_m.shape)
            pixels = np.stack([*np.meshgrid(u, v), np.ones(depth_m.shape)], axis=-1)[shown]
            depth = depth_m[shown].astype(float)
            rays = pixels @ np.linalg.inv(view.intrinsics_px).T
            numbers.append(np.full(len(depth), number))
            rows.append((pixels[:, 1]) / (view.depth_m.shape[0] * view.stride))
            classes.append(view.class_id[some, some][shown])
            depths.append(depth)
            places.append(transform_points(view.global_from_camera, rays * depth[:, None]))
        return cls(
            view=np.concatenate(numbers),
            row=np.concatenate(rows),
            class_id=np.concatenate(classes),
            depth_m=np.concatenate(depths),
            xyz_global=np.concatenate(places),
        )


def _look(
    view: View, xyz_global: Float64[np.ndarray, "n 3"], taxonomy: Taxonomy
) -> tuple[Float64[np.ndarray, " n"], UInt8[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Of some places: how far along the optical axis of a view, and which class (255: none) and depth (the sky is
    infinitely far) it shows there."""
    camera = transform_points(inverse(view.global_from_camera), xyz_global)
    ahead = np.maximum(camera[:, 2], NEAREST_M)
    column, row, _ = (camera @ view.intrinsics_px.T / (ahead * view.stride)[:, None]).T
    rows, columns = view.depth_m.shape
    seen = (camera[:, 2] > NEAREST_M) & (column >= 0) & (row >= 0) & (column < columns) & (row < rows)
    at = tuple(np.where(seen, a, 0).astype(int) for a in (row, column))
    class_id = np.where(seen, view.class_id[at], np.uint8(255))
    depth_m = np.where(class_id == taxonomy.free, np.inf, view.depth_m[at].astype(float))
    return ahead, class_id, np.where(class_id <= taxonomy.free, depth_m, np.nan)


def _ground(
    own: FrameViews, cars: Sequence[Float[np.ndarray, "4 4"]], points: _Pixels, taxonomy: Taxonomy
) -> DepthCheck:
    """The height of the ground above the wheels of the nearest of some cars (transforms to the global frame)."""
    chosen = taxonomy.table(taxonomy.ground)[points.class_id] & (points.depth_m < _GROUND_WITHIN_M)
    places = points.xyz_global[chosen]
    local = np.stack([transform_points(inverse(pose), places) for pose in cars])
    away_m = np.hypot(local[..., 0], local[..., 1])
    nearest = away_m.argmin(axis=0)[None]
    beside = np.take_along_axis(away_m, nearest, 0)[0] < _BESIDE_TRACK_M
    height_m = np.take_along_axis(local[..., 2], nearest, 0)[0][beside]
    if not len(height_m):
        return DepthCheck()
    cameras = np.array([transform_points(inverse(own[0]), view.global_from_camera[:3, 3])[2] for view in own[1]])
    return DepthCheck(
        ground=len(height_m),
        ground_m=round(float(np.median(height_m)), 3),
        camera_m=round(float(np.median(cameras[points.view[chosen][beside]])), 3),
    )
