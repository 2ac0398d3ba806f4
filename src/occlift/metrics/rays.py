"""RayIoU. This text is its definition; `docs/metrics.md` has the same in full.

What matters about occupancy is the first surface that a ray meets, so 14,040 rays are cast from up to 8 places on the
ego vehicle's way through truth and prediction. *Directions*: 39 pitches θ_k = −(π/2 − atan(k + 1)) for k = 0..9, then
the last step repeated while the last pitch is below 0.21 rad; 360 azimuths at 1°. *Origins*: the lidar positions of all
key frames of the scene, in the current ego frame; those that lie more than 1 m inside of the grid along x and y (Occ3D:
|x| < 39 m and |y| < 39 m), or less than 2 m away from the ego frame's origin along both; of more than 8 the ones with
the indices round(linspace(0, n − 1, 8)). A ray ends in the first voxel of a semantic class; its label is that class,
its distance the range at which it *leaves* the voxel; a ray that meets none is free. No mask.

Only rays whose truth is not free count. For class c and τ ∈ {1, 2, 4} m a ray is a true positive if both labels are c
and the distances differ by less than τ; IoU = TP / (n_truth + n_pred − TP), over all rays of all key frames of the
split. RayIoU@τ is the mean over the semantic classes (all, or all that are not vague: 17 or 15 of Occ3D's) that are
present in truth or prediction, RayIoU the mean of the three. All scores are percentages. Source: SparseOcc (arXiv
2312.17118); traversal: `occlift.geometry.traversal`.

The public code of that paper rounds to single precision on its way, which decides for rays that run along the faces of
voxels, as those of a lidar in the middle of the vehicle do. `walk="float32"` repeats it rounding for rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, UInt8

from occlift.errors import ConfigError, DataError
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import OCC3D, LabelSpace, Taxonomy
from occlift.metrics.occupancy import class_sets

RayWalk = Literal["float64", "float32"]
"""How rays walk: as exactly as doubles can, or as the public code of RayIoU does."""

RAY_WALKS: Final[tuple[RayWalk, ...]] = get_args(RayWalk)
THRESHOLDS_M: Final = (1.0, 2.0, 4.0)
MAX_ORIGINS: Final = 8
_ORIGIN_MARGIN_M: Final = 1.0
_NEAR_EGO_M: Final = 2.0
_UPWARDS_RAD: Final = 0.21

RayHistogram = Int[np.ndarray, "classes classes_and_free 4"]


def ray_histogram_shape(taxonomy: Taxonomy = OCC3D.taxonomy) -> tuple[int, int, int]:
    """Shape of a ray histogram: classes of the truth, classes of the prediction and free, bins of the difference."""
    return taxonomy.free, taxonomy.num_classes, len(THRESHOLDS_M) + 1


def ray_directions() -> Float[np.ndarray, "14040 3"]:
    """Unit vectors in the ego frame, pitch by pitch from steep to flat to upwards, azimuths from x towards y."""
    pitches_rad = [-(math.pi / 2 - math.atan(k + 1)) for k in range(10)]
    while pitches_rad[-1] < _UPWARDS_RAD:
        pitches_rad.append(2 * pitches_rad[-1] - pitches_rad[-2])
    pitch_rad, azimuth_rad = np.meshgrid(pitches_rad, np.deg2rad(np.arange(360)), indexing="ij")
    directions = (np.cos(pitch_rad) * np.cos(azimuth_rad), np.cos(pitch_rad) * np.sin(azimuth_rad), np.sin(pitch_rad))
    return np.stack(directions, axis=-1).reshape(-1, 3)


def ray_origins(
    global_from_lidar: Float[np.ndarray, "frames 4 4"],
    global_from_ego: Float[np.ndarray, "4 4"],
    *,
    grid: VoxelGrid = OCC3D.grid,
) -> Float[np.ndarray, "origins 3"]:
    """Where rays start, metres in the ego frame of the key frame that is scored; at most 8.

    Args:
        global_from_lidar: of all key frames of the scene, in time order.
        global_from_ego: of the key frame that is scored, at the lidar's time.
        grid: of the volumes, in that ego frame.
    """
    return _kept(transform_points(inverse(global_from_ego), global_from_lidar[:, :3, 3]), grid)


def float32_ray_origins(
    global_from_lidar: Float[np.ndarray, "frames 4 4"],
    current: int,
    ego_from_lidar: Float[np.ndarray, "4 4"],
    *,
    grid: VoxelGrid = OCC3D.grid,
) -> Float[np.ndarray, "origins 3"]:
    """As `ray_origins`, by the way of the public code: rounded to single precision in the frame of the current lidar.

    Args:
        current: index of the key frame that is scored among those of the scene.
        ego_from_lidar: mounting of the lidar, in the ego frame of that key frame.
    """
    places_lidar = transform_points(inverse(global_from_lidar[current]), global_from_lidar[:, :3, 3])
    # The lidar itself is at zero, and not where two products of matrices find it.
    places_lidar[current] = 0
    return _kept(transform_points(ego_from_lidar, places_lidar.astype(np.float32).astype(np.float64)), grid)


def _kept(origins_ego: Float[np.ndarray, "frames 3"], grid: VoxelGrid) -> Float[np.ndarray, "origins 3"]:
    """Those in reach of the grid, at most 8 of them."""
    # Grids that do not reach behind the ego vehicle are scored from where it stands all the same.
    lower_m = np.minimum(np.array(grid.lower_m[:2]) + _ORIGIN_MARGIN_M, -_NEAR_EGO_M)
    upper_m = np.maximum(np.array(grid.upper_m[:2]) - _ORIGIN_MARGIN_M, _NEAR_EGO_M)
    xy_m = origins_ego[:, :2]
    origins_ego = origins_ego[((xy_m > lower_m) & (xy_m < upper_m)).all(axis=1)]
    if len(origins_ego) > MAX_ORIGINS:
        origins_ego = origins_ego[np.linspace(0, len(origins_ego) - 1, MAX_ORIGINS).round().astype(int)]
    return origins_ego


def ray_histogram(
    *,
    truth: UInt8[np.ndarray, "x y z"],
    prediction: UInt8[np.ndarray, "x y z"],
    origins_m: Float[np.ndarray, "origins 3"],
    space: LabelSpace = OCC3D,
    device: str = "cpu",
    walk: RayWalk = "float64",
) -> RayHistogram:
    """What the rays of a key frame meet: h[class in truth, class in prediction, bin of the difference of distances].

    Args:
        truth, prediction: class ids on the space's grid, the last class is free.
        origins_m: where rays start (`ray_origins`), metres in the grid's frame; inside of the grid or outside.
        space: grid and classes of both volumes.
        device: `cpu` is compiled; any other, as torch names it, is cast there by torch. The answer is the same.
        walk: how rays walk; `float32` on the CPU only, and on grids of cubes.

    Returns:
        int64 [n, n + 1, 4] for n semantic classes, over the rays whose truth is not free; the last class of the
        prediction is free. Bins: below 1 m, below 2 m, below 4 m, the rest (which holds the rays that are predicted
        free).

    Raises:
        ConfigError: the walk in single precision is asked for on another device, or on a grid of no cubes.
        DataError: shapes differ from the grid's, or a value is no class: rays need a truth and a prediction that
            decide everywhere.
    """
    check_walk(walk, device, space.grid)
    grid, free = space.grid, space.taxonomy.free
    for name, volume in (("truth", truth), ("prediction", prediction)):
        if volume.shape != grid.shape:
            raise DataError(f"the {name} has the shape {volume.shape}; RayIoU needs {grid.shape} [x, y, z]")
        if int(volume.max()) > free:
            raise DataError(
                f"RayIoU needs a {name} of classes 0..{free} (free) everywhere, got {int(volume.max())}: rays cannot "
                "pass what is unknown (255)"
            )
    if device != "cpu":
        from occlift.geometry.raycast_torch import count_first_hits as count_on_device

        return count_on_device(
            truth, prediction, grid, origins_m, ray_directions(), empty=free, bins_m=THRESHOLDS_M, device=device
        )
    if walk == "float32":
        from occlift.geometry.float32_walk import count_first_hits
    else:
        from occlift.geometry.two_volumes import count_first_hits
    return count_first_hits(
        truth, prediction, grid, origins_m, ray_directions(), empty=free, bins_m=np.array(THRESHOLDS_M)
    )


def check_walk(walk: RayWalk, device: str, grid: VoxelGrid) -> None:
    """Raises ConfigError where rays cannot walk in this way."""
    if walk not in RAY_WALKS:
        raise ConfigError(f"there is no ray walk {walk!r}; choose {' or '.join(RAY_WALKS)}")
    if walk == "float32" and device != "cpu":
        raise ConfigError(f"the ray walk float32 is computed on the CPU, not on {device}: leave the device out")
    if walk == "float32" and len(set(grid.voxel_size_m)) > 1:
        raise ConfigError(
            f"the ray walk float32 is that of the public code, which knows one voxel size, not {grid.voxel_size_m}: "
            "choose float64"
        )


def ray_class_iou(h: RayHistogram) -> Float[np.ndarray, "3 classes"]:
    """IoU per threshold and class, per cent; NaN where the class is absent from truth and prediction."""
    by_class = np.diagonal(h[:, :-1]).T  # [class, bin]
    hits = by_class.cumsum(axis=1)[:, : len(THRESHOLDS_M)].T.astype(np.float64)
    union = h.sum(axis=(1, 2)) + h.sum(axis=(0, 2))[:-1] - hits
    return np.divide(100.0 * hits, union, out=np.full(hits.shape, np.nan), where=union > 0)


def ray_score_name(classes: int, threshold_m: float | None = None) -> str:
    """The full name of a RayIoU over so many classes: the mean of all thresholds, or at one.

    >>> ray_score_name(17), ray_score_name(15, 2.0)
    ('ray_iou_17', 'ray_iou_15_2m')
    """
    return f"ray_iou_{classes}" + ("" if threshold_m is None else f"_{threshold_m:.0f}m")


@dataclass(frozen=True, kw_only=True, eq=False)
class RayCounts:
    """The ray histogram of some key frames, and every score that follows from it; parts of a split add up.

    Attributes:
        histogram: as `ray_histogram` makes them.
        taxonomy: classes of the histogram.
        walk: how the rays walked.
    """

    histogram: RayHistogram
    taxonomy: Taxonomy = OCC3D.taxonomy
    walk: RayWalk = "float64"

    @classmethod
    def zero(cls, taxonomy: Taxonomy = OCC3D.taxonomy, walk: RayWalk = "float64") -> RayCounts:
        """The counts of no key frame."""
        return cls(histogram=np.zeros(ray_histogram_shape(taxonomy), np.int64), taxonomy=taxonomy, walk=walk)

    def __add__(self, other: RayCounts) -> RayCounts:
        mine, others = self.taxonomy.names, other.taxonomy.names
        if mine != others:
            raise ConfigError(f"counts of rays add up only if the classes are the same: {mine} and {others}")
        if self.walk != other.walk:
            raise ConfigError(f"counts of rays add up only if the rays walk alike: {self.walk} and {other.walk}")
        return RayCounts(histogram=self.histogram + other.histogram, taxonomy=self.taxonomy, walk=self.walk)

    def named(self) -> dict[str, float]:
        """RayIoU and RayIoU at each threshold over every set of classes, by name; NaN if no ray meets anything."""
        iou = ray_class_iou(self.histogram)
        scores: dict[str, float] = {}
        for number, classes in class_sets(self.taxonomy).items():
            of_set = iou[:, list(classes)]
            present = ~np.isnan(of_set[0])
            at = [float(row[present].mean()) if present.any() else float("nan") for row in of_set]
            scores[ray_score_name(number)] = sum(at) / len(at)
            scores |= {ray_score_name(number, m): score for m, score in zip(THRESHOLDS_M, at, strict=True)}
        return scores

    def class_iou(self) -> dict[str, float]:
        """IoU per class name, mean over the thresholds, per cent; NaN where absent."""
        return dict(zip(self.taxonomy.names, map(float, ray_class_iou(self.histogram).mean(axis=0)), strict=True))
