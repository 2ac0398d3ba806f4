"""Labels and predictions on the disk, in the layout of Occ3D.

A label is `<folder>/<scene>/<sample token>/labels.npz` with `semantics` (class ids), `mask_lidar` and `mask_camera`
(0/1), uint8 arrays of [200, 200, 16] in `OCC3D_GRID`; a prediction is `<folder>/<sample token>.npz` with `semantics`
alone, the layout of Occ3D submissions (https://github.com/Tsinghua-MARS-Lab/Occ3D). Our own labels may hold 255,
*unknown*, which Occ3D does not have.
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
from occlift.geometry.grids import OCC3D_GRID
from occlift.label_space import FREE, UNKNOWN
from occlift.runtime.npz import MissingArray, read_npz, write_npz

if TYPE_CHECKING:
    from occlift.scenes.dataset import DrivingDataset


@dataclass(frozen=True, kw_only=True, eq=False)
class OccupancyLabel:
    """Occupancy of a key frame, in the ego frame at the lidar's time.

    Attributes:
        semantics: class per voxel; 17 free, 255 unknown.
        mask_lidar: voxels that lidar observed, as occupied or as free.
        mask_camera: voxels that the cameras observe.
        confidence: confidence of a label, 0..255 for 0..1 (`occlift.labels.decide`); None in truth.

    >>> semantics = np.full((200, 200, 16), 17, np.uint8)
    >>> seen = semantics != 255
    >>> OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen).confidence is None
    True
    """

    semantics: UInt8[np.ndarray, "200 200 16"]
    mask_lidar: Bool[np.ndarray, "200 200 16"]
    mask_camera: Bool[np.ndarray, "200 200 16"]
    confidence: UInt8[np.ndarray, "200 200 16"] | None = None


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


def prediction_path(folder: Path, token: str) -> Path:
    """Where the prediction for a key frame lies: `<folder>/<token>.npz`.

    Raises:
        DataError: the sample token is no safe path component.
    """
    return folder / f"{checked_name(token, 'sample token')}.npz"


def read_label(path: Path, *, allow_unknown: bool = False) -> OccupancyLabel:
    """Reads a label; `allow_unknown` accepts 255 in `semantics`, as in labels that this project makes.

    Raises:
        DataError: the file is missing or damaged, lacks an array, has one of another shape, a class that does not
            exist, or a mask that is not 0/1.

    >>> path = sorted(town.glob("gts/*/*/labels.npz"))[0]
    >>> read_label(path).semantics.shape
    (200, 200, 16)
    """
    arrays = read_npz(path, ("semantics", "mask_lidar", "mask_camera"))
    return OccupancyLabel(
        semantics=_checked_semantics(path, arrays["semantics"], allow_unknown=allow_unknown),
        mask_lidar=_checked_mask(path, "mask_lidar", arrays["mask_lidar"]),
        mask_camera=_checked_mask(path, "mask_camera", arrays["mask_camera"]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class OccupancyTruth:
    """What a prediction is scored against.

    Attributes:
        semantics: class per voxel; 17 free, 255 unknown (truth that is a label of ours).
        masks: by name, `camera` and `lidar`, those that were asked for.
    """

    semantics: UInt8[np.ndarray, "200 200 16"]
    masks: Mapping[str, Bool[np.ndarray, "200 200 16"]]


def read_confidence(path: Path) -> UInt8[np.ndarray, "200 200 16"]:
    """How sure a label of ours is, 0..255 for 0..1.

    Raises:
        DataError: the file is missing or damaged, or holds no confidence (Occ3D's does not).
    """
    confidence = read_npz(path, ("confidence",))["confidence"]
    if confidence.shape != OCC3D_GRID.shape or confidence.dtype != np.uint8:
        raise DataError(
            f"{path}: confidence should be uint8 of shape {OCC3D_GRID.shape}, but is {confidence.dtype} of "
            f"{confidence.shape}; make the label again"
        )
    return confidence


def read_truth(path: Path, masks: Collection[Literal["camera", "lidar"]]) -> OccupancyTruth:
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
        semantics=_checked_semantics(path, arrays["semantics"], allow_unknown=True),
        masks={mask: _checked_mask(path, name, arrays[name]) for mask, name in names.items()},
    )


def write_label(path: Path, label: OccupancyLabel) -> None:
    """Writes a label in Occ3D's layout, atomically; equal labels give equal bytes.

    Raises:
        OSError: the file cannot be written.
    """
    arrays = {"semantics": label.semantics, "mask_lidar": label.mask_lidar, "mask_camera": label.mask_camera}
    if label.confidence is not None:
        arrays["confidence"] = label.confidence
    for name, array in arrays.items():
        assert array.shape == OCC3D_GRID.shape, (path, name, array.shape)
    valid = (label.semantics <= FREE) | (label.semantics == UNKNOWN)
    assert valid.all(), (path, np.unique(label.semantics[~valid]))
    write_npz(path, {name: array.astype(np.uint8) for name, array in arrays.items()}, level=6)


def read_prediction(path: Path) -> UInt8[np.ndarray, "200 200 16"]:
    """Reads a prediction: a class in 0..17 per voxel; files of other projects may hold any integer type.

    Raises:
        DataError: as `read_label`; 255 is refused, a prediction decides.
    """
    return _checked_semantics(path, read_npz(path, ("semantics",))["semantics"], allow_unknown=False)


def write_prediction(path: Path, semantics: UInt8[np.ndarray, "200 200 16"]) -> None:
    """Writes a prediction in the layout of Occ3D submissions, atomically; equal arrays give equal bytes.

    Raises:
        OSError: the file cannot be written.
    """
    assert semantics.shape == OCC3D_GRID.shape, (path, semantics.shape)
    assert int(semantics.min()) >= 0, (path, semantics.min())
    assert int(semantics.max()) <= FREE, (path, semantics.max())
    write_npz(path, {"semantics": semantics.astype(np.uint8)}, level=6)


def _checked_semantics(path: Path, semantics: NDArray[Any], *, allow_unknown: bool) -> UInt8[np.ndarray, "200 200 16"]:
    _check_shape_and_type(path, "semantics", semantics)
    valid = (semantics >= 0) & (semantics <= FREE)
    if allow_unknown:
        valid |= semantics == UNKNOWN
    if not valid.all():
        # An index instead of a value list: a damaged file may hold any number of values.
        first = np.argwhere(~valid)[0]
        expected = "0..17" + (" or 255 (unknown)" if allow_unknown else "")
        raise DataError(
            f"{path}: semantics holds class {semantics[tuple(first)]} at voxel {first.tolist()} and "
            f"{int((~valid).sum()) - 1} more that are not {expected}; is it a label of another class list?"
        )
    return semantics.astype(np.uint8)


def _checked_mask(path: Path, name: str, mask: NDArray[Any]) -> Bool[np.ndarray, "200 200 16"]:
    _check_shape_and_type(path, name, mask)
    valid = (mask == 0) | (mask == 1)
    if not valid.all():
        raise DataError(f"{path}: {name} should hold 0 and 1 only, but holds {mask[~valid][0]}")
    return mask.astype(np.bool_)


def _check_shape_and_type(path: Path, name: str, array: NDArray[Any]) -> None:
    if array.shape != OCC3D_GRID.shape:
        raise DataError(f"{path}: {name} should have the shape {OCC3D_GRID.shape} [x, y, z], but has {array.shape}")
    if array.dtype.kind not in "uib":
        raise DataError(f"{path}: {name} should hold integers (uint8 in Occ3D), but holds {array.dtype}")
