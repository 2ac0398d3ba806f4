"""Truth maps: class, depth and object of every pixel, in files that a data set may have beside its images.

A town writes these files when asked; the oracle teachers read them. Classes are Occ3D's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from occlift.errors import DataError
from occlift.label_space import OCC3D, UNKNOWN
from occlift.runtime.npz import read_npz, write_npz
from occlift.scenes.frames import CameraImage


@dataclass(frozen=True, kw_only=True, eq=False)
class TruthMaps:
    """The truth about an image.

    Attributes:
        semantics: class of every pixel; 17 sky, 255 unlabelled.
        depth_m: metres along the optical axis; +inf where the pixel's ray hits nothing.
        instance: number of the object that a pixel shows; 0 for no object.
    """

    semantics: UInt8[np.ndarray, "height width"]
    depth_m: Float32[np.ndarray, "height width"]
    instance: UInt16[np.ndarray, "height width"]


def truth_maps_path(image_path: Path) -> Path:
    """Where the truth of an image lies: beside it, `<stem>.truth.npz`."""
    return image_path.with_name(f"{image_path.stem}.truth.npz")


def read_truth_beside(image: CameraImage) -> TruthMaps:
    """Reads the truth maps that lie beside the file of an image.

    Raises:
        DataError: there are none, or they are damaged or of another size than the image.
    """
    path = truth_maps_path(Path(image.source.name))
    maps = read_truth_maps(path)
    if maps.semantics.shape != (image.height, image.width):
        raise DataError(
            f"{path}: maps of {maps.semantics.shape} pixels beside an image of {(image.height, image.width)} "
            "(height, width); make the town with --maps again"
        )
    return maps


def read_truth_maps(path: Path) -> TruthMaps:
    """Reads the truth of an image.

    Raises:
        DataError: the file is missing (make the town with --maps) or damaged, lacks an array, its arrays are no images
            of one size or of the wrong type, it holds a class that does not exist, or a depth that is NaN or not
            positive.
    """
    if not path.exists():
        raise DataError(
            f"{path}: no truth maps beside the image; make the town with --maps, or, where "
            "images are real, choose other teachers than the oracle (`occlift teachers`)"
        )
    arrays = read_npz(path, ("semantics", "depth_m", "instance"))
    maps = TruthMaps(semantics=arrays["semantics"], depth_m=arrays["depth_m"], instance=arrays["instance"])
    _check(path, maps)
    return maps


def write_truth_maps(path: Path, maps: TruthMaps) -> None:
    """Writes the truth of an image, uncompressed and atomically; equal maps give equal bytes.

    Raises:
        OSError: the file cannot be written.
    """
    arrays = {"semantics": maps.semantics, "depth_m": maps.depth_m, "instance": maps.instance}
    for name, array in arrays.items():
        assert array.shape == maps.semantics.shape, (path, name, array.shape, maps.semantics.shape)
    write_npz(path, arrays, level=0)


def _check(path: Path, maps: TruthMaps) -> None:
    expected = {"semantics": "uint8", "depth_m": "float32", "instance": "uint16"}
    for name, dtype in expected.items():
        array = getattr(maps, name)
        if array.dtype.name != dtype or array.ndim != 2 or array.shape != maps.semantics.shape:
            raise DataError(
                f"{path}: {name} should be a {dtype} image of the size of semantics {maps.semantics.shape}, "
                f"but is {array.dtype} of shape {array.shape}; make the town's maps again"
            )
    valid = (maps.semantics <= OCC3D.taxonomy.free) | (maps.semantics == UNKNOWN)
    if not valid.all():
        raise DataError(
            f"{path}: semantics holds class {maps.semantics[~valid][0]}; expected 0..16, 17 (sky) or 255 (unlabelled)"
        )
    if not (maps.depth_m > 0).all():
        raise DataError(
            f"{path}: depth_m holds {maps.depth_m[~(maps.depth_m > 0)][0]}; expected metres above 0, or +inf"
        )
