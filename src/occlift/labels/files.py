"""Labels and predictions on the disk, in the layout of Occ3D.

A label is `<folder>/<scene>/<sample token>/labels.npz` with `semantics` (class ids), `mask_lidar` and `mask_camera`
(0/1), uint8 arrays [x, y, z] on the grid of a label space; a prediction is `<folder>/<sample token>.npz` with
`semantics` alone, the layout of Occ3D submissions (https://github.com/Tsinghua-MARS-Lab/Occ3D). Our own labels may hold
255, *unknown*, which Occ3D does not have. The files do not say which classes and which grid they are about: whoever
reads them does (`space`), and a folder of ours has it in its manifest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray

from occlift.errors import DataError
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace
from occlift.runtime.npz import MissingArray, read_npz, write_npz

if TYPE_CHECKING:
    from occlift.scenes.dataset import DrivingDataset


@dataclass(frozen=True, kw_only=True, eq=False)
class OccupancyLabel:
    """Occupancy of a key frame, in its ego frame.

    Attributes:
        semantics: class per voxel; `Taxonomy.free` (17 for Occ3D) is free, 255 unknown.
        mask_lidar: voxels that lidar observed, as occupied or as free.
        mask_camera: voxels that the cameras observe.
        confidence: confidence of a label, 0..255 for 0..1 (`occlift.labels.decide`); None in truth.

    >>> semantics = np.full((200, 200, 16), 17, np.uint8)
    >>> seen = semantics != 255
    >>> OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen).confidence is None
    True
    """

    semantics: UInt8[np.ndarray, "x y z"]
    mask_lidar: Bool[np.ndarray, "x y z"]
    mask_camera: Bool[np.ndarray, "x y z"]
    confidence: UInt8[np.ndarray, "x y z"] | None = None


def checked_name(name: str, what: str) -> str:
    """`name` if it is safe as one component of a path on any system; `what` says what it is in the error.

    Raises:
        DataError: it is empty, longer than 128 characters, has a separator, a colon or a control character, or starts
            or ends with a dot or a space (so "." and ".." too).
    """
    unsafe = (
        not 0 < len(name) <= 128
        or not name.isprintable()
        or any(character in name for character in '/\\:*?"<>|')
        or name.strip(". ") != name
    )
    if unsafe:
        raise DataError(
            f"{what} {name[:60]!r} cannot be used as a file name: expected 1 to 128 printable characters without "
            "path separators, and no dot or space at either end; correct the table that holds it"
        )
    return name


def label_path(folder: Path, scene: str, token: str) -> Path:
    """Where the label of a key frame lies: `<folder>/<scene>/<token>/labels.npz`.

    Raises:
        DataError: the scene's name or the sample token is no safe path component.
    """
    return folder / checked_name(scene, "scene name") / checked_name(token, "sample token") / "labels.npz"


def label_paths(folder: Path, data: DrivingDataset, tokens: Iterable[str]) -> list[Path]:
    """Where the labels of some samples of a data set lie."""
    return [label_path(folder, data.key_frame(token).scene, token) for token in tokens]


def labels_by_token(folder: Path) -> dict[str, Path]:
    """Token → `<folder>/<scene>/<token>/labels.npz`, in the order of scenes and tokens.

    Raises:
        DataError: a sample has two labels, as where the folder of a scene was copied beside it.
    """
    return once_each((path.parent.name, path) for path in sorted(folder.glob("*/*/labels.npz")))


def once_each(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Name → file.

    Raises:
        DataError: there are two files of one name; names both.
    """
    found: dict[str, Path] = {}
    for name, path in files:
        if found.setdefault(name, path) != path:
            raise DataError(f"there are two files of {name}, {found[name]} and {path}; remove one: which is it to be?")
    return found


def prediction_path(folder: Path, token: str) -> Path:
    """Where the prediction for a key frame lies: `<folder>/<token>.npz`.

    Raises:
        DataError: the sample token is no safe path component.
    """
    return folder / f"{checked_name(token, 'sample token')}.npz"


def read_label(path: Path, *, allow_unknown: bool = False, space: LabelSpace = OCC3D) -> OccupancyLabel:
    """Reads a label.

    Args:
        allow_unknown: accept 255 in `semantics`, as in labels that this project makes.
        space: grid and classes of the label.

    Raises:
        DataError: the file is missing or damaged, lacks an array, has one of another shape, a class that does not
            exist, or a mask that is not 0/1.

    >>> path = sorted(town.glob("gts/*/*/labels.npz"))[0]
    >>> read_label(path).semantics.shape
    (200, 200, 16)
    """
    arrays = read_npz(path, ("semantics", "mask_lidar", "mask_camera"))
    return OccupancyLabel(
        semantics=_checked_semantics(path, arrays["semantics"], space, allow_unknown=allow_unknown),
        mask_lidar=_checked_mask(path, "mask_lidar", arrays["mask_lidar"], space),
        mask_camera=_checked_mask(path, "mask_camera", arrays["mask_camera"], space),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class OccupancyTruth:
    """What a prediction is scored against.

    Attributes:
        semantics: class per voxel; `Taxonomy.free` is free, 255 unknown (truth that is a label of ours).
        masks: by name, `camera` and `lidar`, those that were asked for.
    """

    semantics: UInt8[np.ndarray, "x y z"]
    masks: Mapping[Literal["camera", "lidar"], Bool[np.ndarray, "x y z"]]


def read_confidence(path: Path, *, space: LabelSpace = OCC3D) -> UInt8[np.ndarray, "x y z"]:
    """How sure a label of ours is, 0..255 for 0..1.

    Raises:
        DataError: the file is missing or damaged, or holds no confidence (Occ3D's does not).
    """
    confidence = read_npz(path, ("confidence",))["confidence"]
    if confidence.shape != space.grid.shape or confidence.dtype != np.uint8:
        raise DataError(
            f"{path}: confidence should be uint8 of shape {space.grid.shape}, but is {confidence.dtype} of "
            f"{confidence.shape}; make the label again"
        )
    return confidence


def read_truth(
    path: Path, masks: Collection[Literal["camera", "lidar"]], *, space: LabelSpace = OCC3D
) -> OccupancyTruth:
    """Reads truth with only those masks that a score needs: some published truth has none.

    Raises:
        DataError: as `read_label`; a mask that is missing is named.
    """
    names = {mask: f"mask_{mask}" for mask in masks}
    try:
        arrays = read_npz(path, ("semantics", *names.values()))
    except MissingArray as error:
        if error.key == "semantics":
            raise
        raise DataError(f"{error}; without it only the mask `none` (all voxels) can be scored") from error
    return OccupancyTruth(
        semantics=_checked_semantics(path, arrays["semantics"], space, allow_unknown=True),
        masks={mask: _checked_mask(path, name, arrays[name], space) for mask, name in names.items()},
    )


def write_label(path: Path, label: OccupancyLabel, *, space: LabelSpace = OCC3D) -> None:
    """Writes a label in Occ3D's layout, atomically; equal labels give equal bytes.

    Raises:
        DataError: the label is of another grid, or holds a class that the space does not have.
        OSError: the file cannot be written.
    """
    arrays = {"semantics": label.semantics, "mask_lidar": label.mask_lidar, "mask_camera": label.mask_camera}
    if label.confidence is not None:
        arrays["confidence"] = label.confidence
    for name, array in arrays.items():
        _check_shape_and_type(path, name, array, space)
    _checked_semantics(path, label.semantics, space, allow_unknown=True)
    write_npz(path, {name: array.astype(np.uint8) for name, array in arrays.items()}, level=6)


def read_prediction(path: Path, *, space: LabelSpace = OCC3D) -> UInt8[np.ndarray, "x y z"]:
    """Reads a prediction: a class or free per voxel; files of other projects may hold any integer type.

    Raises:
        DataError: as `read_label`; 255 is refused, a prediction decides.
    """
    return _checked_semantics(path, read_npz(path, ("semantics",))["semantics"], space, allow_unknown=False)


def write_prediction(path: Path, semantics: UInt8[np.ndarray, "x y z"], *, space: LabelSpace = OCC3D) -> None:
    """Writes a prediction in the layout of Occ3D submissions, atomically; equal arrays give equal bytes.

    Raises:
        DataError: the prediction is of another grid, or holds a class that the space does not have, or 255.
        OSError: the file cannot be written.
    """
    write_npz(path, {"semantics": _checked_semantics(path, semantics, space, allow_unknown=False)}, level=6)


def check_some_free(path: Path, semantics: UInt8[np.ndarray, "x y z"], space: LabelSpace) -> None:
    """Sees to it that a volume is not of a class list in which free has another number.

    Some labels for the grid of Occ3D have 16 classes, and 16 is free: taken for Occ3D's they are vegetation everywhere.

    Raises:
        DataError: no voxel is free, and one class fills more than half of the grid.
    """
    free = space.taxonomy.free
    if (semantics == free).any():
        return
    counts = np.bincount(semantics.ravel(), minlength=UNKNOWN + 1)[:free]
    fullest = int(counts.argmax())
    if counts[fullest] > semantics.size / 2:
        raise DataError(
            f"{path}: no voxel is free (class {free}), and {counts[fullest] / semantics.size:.0%} of all are "
            f"{space.taxonomy.name_of(fullest)} (class {fullest}). Is that what its own class list calls free, as that "
            f"of OpenOcc v2 does with 16? Then name that list (space=..., or --space), or write free as {free}"
        )


def _checked_semantics(
    path: Path, semantics: NDArray[Any], space: LabelSpace, *, allow_unknown: bool
) -> UInt8[np.ndarray, "x y z"]:
    _check_shape_and_type(path, "semantics", semantics, space)
    free = space.taxonomy.free
    valid = (semantics >= 0) & (semantics <= free)
    if allow_unknown:
        valid |= semantics == UNKNOWN
    if not valid.all():
        # An index instead of a value list: a damaged file may hold any number of values.
        first = np.argwhere(~valid)[0]
        expected = f"0..{free}" + (" or 255 (unknown)" if allow_unknown else "")
        raise DataError(
            f"{path}: semantics holds class {semantics[tuple(first)]} at voxel {first.tolist()} and "
            f"{int((~valid).sum()) - 1} more that are not {expected}; is it a label of another class list?"
        )
    return semantics.astype(np.uint8)


def _checked_mask(path: Path, name: str, mask: NDArray[Any], space: LabelSpace) -> Bool[np.ndarray, "x y z"]:
    _check_shape_and_type(path, name, mask, space)
    valid = (mask == 0) | (mask == 1)
    if not valid.all():
        raise DataError(f"{path}: {name} should hold 0 and 1 only, but holds {mask[~valid][0]}")
    return mask.astype(np.bool_)


def _check_shape_and_type(path: Path, name: str, array: NDArray[Any], space: LabelSpace) -> None:
    space.grid.check_shape(array.shape, f"{path}: {name}")
    if array.dtype.kind not in "uib":
        raise DataError(f"{path}: {name} should hold integers (uint8 in Occ3D), but holds {array.dtype}")
