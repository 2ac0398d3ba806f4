"""The truth of bird's-eye-view segmentation: which cells a class covers, and where its objects have their centres.

*Object classes* come from the annotations of a key frame: `vehicle` is every category that starts with `vehicle`,
`pedestrian` every one that starts with `human.pedestrian`. *Map classes* come from the map expansion of the location
(`HasMap`). Every class is decided at the centres of the cells.

*Visibility filter.* A cell is ignored where every object of the class that covers it is hardly visible (at most
40 %); `metrics.bev` says how that counts.

*Centres and offsets* (after SimpleBEV, arXiv 2206.07959, and FIERY, arXiv 2104.10490) are of the objects of all object
classes together that are not hardly visible; hardly visible ones have neither. An object's centre is that of its bottom
face. The heat map is exp(−d²/2σ²) of the distance d from the cell's centre to the nearest object's centre, σ = 1.5 m
(three cells, as in SimpleBEV, which moves centres to whole cells first; here they stay where they are). The offset of a
cell that an object covers leads from the cell's centre to the object's centre, along x and y of the ego frame in
metres; of several objects that cover it, the one with the nearest centre counts, and of equally near ones the first in
the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

import numpy as np
from jaxtyping import Bool, Float, Float32

from occlift.errors import ConfigError
from occlift.geometry.footprints import box_footprints
from occlift.geometry.grids import BEV_GRID, BevGrid
from occlift.geometry.transforms import inverse
from occlift.scenes.dataset import MAP_CLASSES, DrivingDataset, HasBoxes, HasMap, MapClass, require
from occlift.scenes.frames import BoxAnnotation, KeyFrame

ObjectClass = Literal["vehicle", "pedestrian"]

OBJECT_CLASSES: Final[tuple[ObjectClass, ...]] = get_args(ObjectClass)

BEV_CLASSES: Final[tuple[str, ...]] = (*OBJECT_CLASSES, *MAP_CLASSES)

CENTRE_SIGMA_M: Final = 1.5
"""σ of the heat map of centres."""

_CATEGORIES: Final[dict[ObjectClass, str]] = {"vehicle": "vehicle", "pedestrian": "human.pedestrian"}

_HARDLY_VISIBLE: Final = 0.4
"""Objects of which the images together show at most this fraction (the lowest of four bins of visibility)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BevTruth:
    """The truth of a key frame on a grid of the ego frame at the lidar's time.

    Attributes:
        classes: along the first axis of `truth` and `ignored`.
        truth: the cell's centre is covered by the class.
        ignored: left out by the visibility filter; nowhere in map classes.
        centre: heat map of the objects' centres, 0..1.
        offset_m: from the cell's centre to that of the object which covers it; zero outside of objects.
        inside_object: an object that is not hardly visible covers the cell: there the offset holds.
    """

    classes: tuple[str, ...]
    truth: Bool[np.ndarray, "classes x y"]
    ignored: Bool[np.ndarray, "classes x y"]
    centre: Float32[np.ndarray, "x y"]
    offset_m: Float32[np.ndarray, "2 x y"]
    inside_object: Bool[np.ndarray, "x y"]


def check_bev_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The classes, if there are such and none is named twice.

    Raises:
        ConfigError: there is none, one is unknown, or one is named twice.
    """
    if not classes or len(set(classes)) < len(classes) or not set(classes) <= set(BEV_CLASSES):
        raise ConfigError(
            f"the classes of a bird's-eye view are {', '.join(classes) or 'none'}; expected one or more of "
            f"{', '.join(BEV_CLASSES)}, each once"
        )
    return tuple(classes)


def bev_truth(
    data: DrivingDataset,
    token: str,
    classes: Sequence[str],
    *,
    grid: BevGrid = BEV_GRID,
) -> BevTruth:
    """The truth of a key frame.

    Args:
        token: of the sample.
        classes: of `BEV_CLASSES`.

    Raises:
        ConfigError: see `check_bev_classes`; the data set has no boxes, or no map for a map class.
        DataError: there is no such sample, or no map for a map class.
    """
    classes = check_bev_classes(classes)
    frame, boxes = data.key_frame(token), require(data, HasBoxes, "truth from above").boxes(token)
    truth = np.zeros((len(classes), *grid.shape), dtype=np.bool_)
    ignored = np.zeros_like(truth)
    for number, name in enumerate(classes):
        if name in OBJECT_CLASSES:
            truth[number], ignored[number] = object_truth(frame, boxes, name, grid)
        else:
            scene_map = require(data, HasMap, f"the class {name}").scene_map(frame.scene)
            truth[number] = scene_map.cells(cast(MapClass, name), frame.global_from_ego, grid)
    objects = [name for name in OBJECT_CLASSES if name in classes]
    centre, offset_m, inside_object = object_centres(frame, boxes, objects, grid)
    return BevTruth(
        classes=classes, truth=truth, ignored=ignored, centre=centre, offset_m=offset_m, inside_object=inside_object
    )


def vehicle_truth(
    frame: KeyFrame, boxes: Sequence[BoxAnnotation], grid: BevGrid = BEV_GRID
) -> tuple[Bool[np.ndarray, "x y"], Bool[np.ndarray, "x y"]]:
    """Where vehicles stand, and which of these cells a score with visibility filter leaves out.

    A vehicle is every annotation whose category starts with `vehicle`, bicycles and trailers too, seen or not.
    Arguments and results are those of `object_truth`.
    """
    return object_truth(frame, boxes, "vehicle", grid)


def object_truth(
    frame: KeyFrame, boxes: Sequence[BoxAnnotation], name: ObjectClass, grid: BevGrid = BEV_GRID
) -> tuple[Bool[np.ndarray, "x y"], Bool[np.ndarray, "x y"]]:
    """Where objects of a class stand, and which of these cells a score with visibility filter leaves out.

    Args:
        boxes: all annotations of the key frame (`HasBoxes.boxes`).
        grid: of the ego frame at the lidar's time.

    Returns:
        truth: the cell's centre lies in the bottom face of an object's box (`box_footprints`).
        ignored: every object that covers the cell is hardly visible (at most 40 %). A cell that no
            object covers is never ignored, nor is one where the table says nothing about visibility.
    """
    objects = _of_classes(boxes, (name,))
    covered = box_footprints(*_in_ego(frame, objects), grid)
    hardly_visible = np.array([_hardly_visible(box) for box in objects], dtype=bool)
    truth, seen = (np.logical_or.reduce(some, axis=0) for some in (covered, covered[~hardly_visible]))
    return truth, truth & ~seen


def object_centres(
    frame: KeyFrame, boxes: Sequence[BoxAnnotation], names: Sequence[ObjectClass], grid: BevGrid = BEV_GRID
) -> tuple[Float32[np.ndarray, "x y"], Float32[np.ndarray, "2 x y"], Bool[np.ndarray, "x y"]]:
    """`centre`, `offset_m` and `inside_object` of `BevTruth`, over the objects of some classes."""
    objects = [box for box in _of_classes(boxes, names) if not _hardly_visible(box)]
    ego_from_box, size_lwh_m = _in_ego(frame, objects)
    centers_ego = ego_from_box[:, :2, 3] - 0.5 * size_lwh_m[:, 2:] * ego_from_box[:, :2, 2]
    x, y = grid.axis_centers()
    centre = np.zeros(grid.shape)
    offset_m = np.zeros((2, *grid.shape))
    nearest = np.full(grid.shape, np.inf)
    for cells, (center_x, center_y) in zip(box_footprints(ego_from_box, size_lwh_m, grid), centers_ego, strict=True):
        to_x, to_y = (center_x - x)[:, None], (center_y - y)[None, :]
        heat_x, heat_y = (np.exp(-(to**2) / (2 * CENTRE_SIGMA_M**2)) for to in (to_x, to_y))
        np.maximum(centre, heat_x * heat_y, out=centre)
        if not cells.any():
            continue
        squared = to_x**2 + to_y**2
        nearer = cells & (squared < nearest)
        nearest[nearer] = squared[nearer]
        offset_m[:, nearer] = np.stack(np.broadcast_arrays(to_x, to_y))[:, nearer]
    return centre.astype(np.float32), offset_m.astype(np.float32), np.isfinite(nearest)


def _hardly_visible(box: BoxAnnotation) -> bool:
    return box.visibility is not None and box.visibility <= _HARDLY_VISIBLE


def _of_classes(boxes: Sequence[BoxAnnotation], names: Sequence[ObjectClass]) -> list[BoxAnnotation]:
    starts = tuple(f"{_CATEGORIES[name]}." for name in names)
    return [box for box in boxes if f"{box.category}.".startswith(starts)]


def _in_ego(
    frame: KeyFrame, boxes: Sequence[BoxAnnotation]
) -> tuple[Float[np.ndarray, "boxes 4 4"], Float[np.ndarray, "boxes 3"]]:
    """`ego_from_box` and sizes (length, width, height), metres."""
    ego_from_global = inverse(frame.global_from_ego)
    return (
        np.array([ego_from_global @ box.global_from_box for box in boxes]).reshape(-1, 4, 4),
        np.array([box.size_lwh_m for box in boxes]).reshape(-1, 3),
    )
