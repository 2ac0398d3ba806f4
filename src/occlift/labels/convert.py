"""Labels of one space in another: other classes, another grid, another frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, Int64, UInt8

from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import UNKNOWN, LabelSpace, class_table
from occlift.labels.files import OccupancyLabel


def convert_label(
    label: OccupancyLabel,
    source: LabelSpace,
    target: LabelSpace,
    mapping: Mapping[str, str] | None = None,
    *,
    target_from_source: Float[np.ndarray, "4 4"] | None = None,
    file: str = "mapping",
) -> OccupancyLabel:
    """A label of one space in another.

    First the classes become those of the target (`class_mapping`). Then every target voxel looks at the source voxels
    whose centres lie in it, or, if there are none, as where voxels become smaller, at the one in which its own centre
    lies. It is

    - occupied if one of them is, with the most frequent of their semantic classes (the smaller id among equals): thin
      things stay, as they would if the points behind the label were counted again;
    - else free if one of them is free: a ray passed through it;
    - else, where all are unknown or it lies outside of the source grid, unknown.

    It is inside a mask if one of them is and it is not unknown; its confidence is the mean over those that have its
    class. In equal spaces and frames a label stays as it is, to the last bit.

    Args:
        source: grid and classes of the label.
        target: grid and classes wanted.
        mapping: class of the source → class of the target, `free` or `unknown`, beside those that names tell.
        target_from_source: 4×4, from the frame of the source grid to that of the target; None: they are one frame.
        file: what errors call the mapping.

    Raises:
        ConfigError: a class of the source has no counterpart, or the mapping names one that does not exist.

    >>> from occlift.label_space import read_space
    >>> occ3d, other = read_space("occ3d"), read_space("surroundocc")
    >>> semantics = np.full(occ3d.grid.shape, occ3d.taxonomy.free, np.uint8)
    >>> seen = np.ones(occ3d.grid.shape, bool)
    >>> label = OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen)
    >>> converted = convert_label(label, occ3d, other)
    >>> np.unique(converted.semantics).tolist(), "free, and unknown outside of Occ3D's grid"
    ([16, 255], "free, and unknown outside of Occ3D's grid")
    """
    table = class_table(source.taxonomy, target.taxonomy, mapping, file=file)
    same_classes = bool((table[: source.taxonomy.num_classes] == np.arange(source.taxonomy.num_classes)).all())
    same_grid = source.grid == target.grid and target_from_source is None
    if same_grid and same_classes and source.taxonomy.free == target.taxonomy.free:
        return label
    matrix = None if target_from_source is None else tuple(map(tuple, target_from_source.tolist()))
    looks = _looks(source.grid, target.grid, matrix)
    classes = table[label.semantics.ravel()[looks.source]]
    semantics = looks.decide(classes, target.taxonomy.free)
    known = semantics != UNKNOWN
    confidence = None
    if label.confidence is not None:
        confidence = looks.mean(label.confidence.ravel()[looks.source], classes == semantics.ravel()[looks.target])
    return OccupancyLabel(
        semantics=semantics,
        mask_lidar=looks.any(label.mask_lidar.ravel()[looks.source]) & known,
        mask_camera=looks.any(label.mask_camera.ravel()[looks.source]) & known,
        confidence=confidence,
    )


def resample(
    semantics: UInt8[np.ndarray, "source_x source_y source_z"], source: VoxelGrid, target: VoxelGrid, free: int
) -> UInt8[np.ndarray, "x y z"]:
    """Classes on another grid in the same frame, by the rule of `convert_label`; `free` is the class of free space."""
    looks = _looks(source, target, None)
    return looks.decide(semantics.ravel()[looks.source], free)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Looks:
    """Which source voxels every target voxel looks at, as pairs of flat indices."""

    source: Int64[np.ndarray, " pairs"]
    target: Int64[np.ndarray, " pairs"]
    shape: tuple[int, int, int]

    def decide(self, classes: UInt8[np.ndarray, " pairs"], free: int) -> UInt8[np.ndarray, "x y z"]:
        """The class of every target voxel, by the rule of `convert_label`."""
        number = int(np.prod(self.shape))
        most = np.zeros(number, np.int64)
        decided = np.full(number, UNKNOWN, np.uint8)
        decided[self.target[classes == free]] = free
        for class_id in np.flatnonzero(np.bincount(classes, minlength=256)).tolist():
            if class_id < free:
                count = np.bincount(self.target[classes == class_id], minlength=number)
                decided[count > most] = class_id
                np.maximum(most, count, out=most)
        return decided.reshape(self.shape)

    def any(self, inside: Bool[np.ndarray, " pairs"]) -> Bool[np.ndarray, "x y z"]:
        """Target voxels of which a source voxel is inside."""
        found = np.zeros(self.shape, np.bool_)
        found.ravel()[self.target[inside]] = True
        return found

    def mean(
        self, values: UInt8[np.ndarray, " pairs"], counted: Bool[np.ndarray, " pairs"]
    ) -> UInt8[np.ndarray, "x y z"]:
        """Rounded means over the source voxels that count; 0 where none does."""
        number = int(np.prod(self.shape))
        total = np.bincount(self.target[counted], values[counted], minlength=number)
        count = np.maximum(np.bincount(self.target[counted], minlength=number), 1)
        return np.floor(total / count + 0.5).astype(np.uint8).reshape(self.shape)


@lru_cache(maxsize=2)
def _looks(source: VoxelGrid, target: VoxelGrid, matrix: tuple[tuple[float, ...], ...] | None) -> _Looks:
    """The same for all labels of a folder, as a rule: the lidar is mounted once."""
    target_from_source = None if matrix is None else np.array(matrix)
    source_from_target = None if target_from_source is None else inverse(target_from_source)
    into, alone = _containing(source, target, target_from_source), _containing(target, source, source_from_target)
    scattered = np.flatnonzero(into >= 0)
    met = np.zeros(target.num_voxels, np.bool_)
    met[into[scattered]] = True
    gathering = np.flatnonzero(~met & (alone >= 0))
    return _Looks(
        source=np.concatenate([scattered, alone[gathering]]),
        target=np.concatenate([into[scattered], gathering]),
        shape=target.shape,
    )


def _containing(
    grid: VoxelGrid, other: VoxelGrid, other_from_grid: Float[np.ndarray, "4 4"] | None
) -> Int64[np.ndarray, " voxels"]:
    """Flat index of the voxel of another grid in which the centre of each voxel lies; -1 outside."""
    return np.concatenate(list(_containing_by_slab(grid, other, other_from_grid)))


def _containing_by_slab(
    grid: VoxelGrid, other: VoxelGrid, other_from_grid: Float[np.ndarray, "4 4"] | None
) -> Iterator[Int[np.ndarray, " voxels"]]:
    """One slice along x after the other: the centres of all ten million voxels of a fine grid fill a gigabyte."""
    x, y, z = (
        lower + (np.arange(count) + 0.5) * size
        for lower, size, count in zip(grid.lower_m, grid.voxel_size_m, grid.shape, strict=True)
    )
    for one in x:
        centers = np.stack(np.meshgrid(one, y, z, indexing="ij"), axis=-1).reshape(-1, 3)
        points = centers if other_from_grid is None else transform_points(other_from_grid, centers)
        index, inside_grid = other.indices(points)
        flat = np.full(len(points), -1, np.int64)
        flat[inside_grid] = np.ravel_multi_index(tuple(index[inside_grid].T), other.shape)
        yield flat
