"""A `transforms.json` of nerfstudio, or of COLMAP through nerfstudio, as a `frames:` folder.

    python examples/convert_nerfstudio.py capture/transforms.json data/capture --camera-height-m 1.4
    occlift check frames:data/capture
    occlift label frames:data/capture --out data/labels --semantics ... --depth ...

The file knows one moving camera and no car: every image becomes a key frame of its own. The ego frame (x forward, y
left, z up, on the road) is put below the camera: `--camera-height-m`, and `--camera-pitch-deg` if it looks down.
COLMAP does not know how long a metre is: `--metres-per-unit` says it. Images have no times: `--fps`.

In `transforms.json` cameras have x right, y up, z back (OpenGL), the world has z up, and pixel centres are at + 0.5,
which are ours (https://docs.nerf.studio/quickstart/data_conventions.html).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from occlift import CameraImage, KeyFrame
from occlift.datasets.frames.layout import Transform
from occlift.datasets.frames.values import Place, transform
from occlift.datasets.frames.values import convert as convert_value
from occlift.datasets.frames.writer import write_frames
from occlift.errors import DataError, OccliftError
from occlift.geometry.lenses import BrownConrady, KannalaBrandt, Lens
from occlift.geometry.transforms import inverse
from occlift.scenes import ImageFile, KeyFrameList

OPENGL_FROM_CAMERA = np.diag([1.0, -1.0, -1.0, 1.0])
"""Ours has y down and z ahead."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transforms", type=Path, help="transforms.json; images lie relative to it")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--camera-height-m", type=float, default=1.5, help="of the camera above the road")
    parser.add_argument("--camera-pitch-deg", type=float, default=0.0, help="how far the camera looks down")
    parser.add_argument("--metres-per-unit", type=float, default=1.0, help="scale of the file's lengths")
    parser.add_argument("--fps", type=float, default=10.0, help="images per second")
    given = parser.parse_args()
    try:
        convert(
            given.transforms, given.out, ego_from_camera=mounting(given.camera_height_m, given.camera_pitch_deg),
            metres_per_unit=given.metres_per_unit, fps=given.fps,
        )  # fmt: skip
    except OccliftError as error:
        raise SystemExit(f"convert_nerfstudio: {error}") from None


def mounting(height_m: float, pitch_deg: float = 0.0) -> np.ndarray:
    """`ego_from_camera` of a camera that looks ahead from above the origin, and down by an angle."""
    s, c = math.sin(math.radians(pitch_deg)), math.cos(math.radians(pitch_deg))
    # Columns: the camera's right, down and ahead in the ego frame.
    return np.array([[0, -s, c, 0], [-1, 0, 0, 0], [0, -c, -s, height_m], [0, 0, 0, 1.0]])


def convert(
    transforms: Path, out: Path, *, ego_from_camera: np.ndarray, metres_per_unit: float = 1.0, fps: float = 10.0
) -> None:
    """Writes the folder.

    Raises:
        DataError: the file, or an image that it names, is missing or damaged, or it has cameras that differ.
    """
    place = Place(transforms)
    try:
        told = json.loads(transforms.read_text(encoding="utf-8"))
        listed = sorted(told["frames"], key=lambda frame: frame["file_path"])
    except FileNotFoundError:
        raise DataError(f"{transforms}: no such file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{transforms}: expected JSON with a list 'frames' that have a 'file_path' ({error})"
        ) from error
    scene, frames = transforms.parent.resolve().name, []
    for index, frame in enumerate(listed):
        at = place.at(f"frames[{frame['file_path']}]")
        matrix = convert_value(at.at("transform_matrix"), frame.get("transform_matrix"), Transform)
        global_from_opengl = transform(at.at("transform_matrix"), matrix)
        global_from_opengl[:3, 3] *= metres_per_unit
        pose = global_from_opengl @ OPENGL_FROM_CAMERA @ inverse(ego_from_camera)
        # What stands at the top of the file holds for all frames that say nothing else.
        described = {**told, **frame}
        path = transforms.parent / frame["file_path"]
        height, width = image_size(at, described, path)
        image = CameraImage(
            camera="camera", key=f"{scene}-{path.stem}", timestamp_us=round(1e6 * index / fps), height=height,
            width=width, intrinsics_px=intrinsics(at, described), distortion=lens_of(at, described),
            ego_at_image_from_camera=ego_from_camera, global_from_ego_at_image=pose, source=ImageFile(path),
        )  # fmt: skip
        frames.append(
            KeyFrame(
                token=f"{scene}-{index:06}", scene=scene, index=index, timestamp_us=image.timestamp_us,
                global_from_ego=pose, cameras=(image,),
            )
        )  # fmt: skip
    if not frames:
        place.at("frames").fail("has no frame")
    write_frames(KeyFrameList(frames), out)


def image_size(place: Place, told: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Height and width of an image, which must be those of its intrinsics."""
    if not path.exists():
        place.at("file_path").fail(f"there is no image {path}")
    with Image.open(path) as opened:
        width, height = opened.size
    if (told.get("w", width), told.get("h", height)) != (width, height):
        place.at("w").fail(f"the image has {width} × {height} pixels, the file says {told.get('w')} × {told.get('h')}")
    return height, width


def intrinsics(place: Place, told: Mapping[str, Any]) -> np.ndarray:
    fx, fy, cx, cy = (convert_value(place.at(name), told.get(name), float) for name in ("fl_x", "fl_y", "cx", "cy"))
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def lens_of(place: Place, told: Mapping[str, Any]) -> Lens | None:
    """The lens of `camera_model` and its coefficients; None where they are all 0."""
    model = told.get("camera_model", "OPENCV")
    found = {name: float(told[name]) for name in ("k1", "k2", "k3", "k4", "p1", "p2") if told.get(name)}
    if model == "OPENCV_FISHEYE":
        return KannalaBrandt(**{name: value for name, value in found.items() if name.startswith("k")})
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE") or "k4" in found:
        place.at("camera_model").fail(
            f"is {model!r} with {found}; expected OPENCV with k1, k2, k3, p1, p2, or OPENCV_FISHEYE with k1 to k4"
        )
    return BrownConrady(**found) if found else None


if __name__ == "__main__":
    main()
