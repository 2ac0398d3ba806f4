"""What stands in the files of a `frames:` folder. `frames.schema.json` and `calibration.schema.json` beside this module
say the same to other programs."""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

CALIBRATION_NAME: Final = "calibration.json"
FRAMES_NAME: Final = "frames.jsonl"
SPLITS_NAME: Final = "splits.json"

_Vector = Annotated[list[float], Meta(min_length=3, max_length=3)]
_Row = Annotated[list[float], Meta(min_length=4, max_length=4)]
_TimeUs = Annotated[int, Meta(ge=0, description="time, microseconds")]


class Pose(Struct, forbid_unknown_fields=True, kw_only=True):
    """A rigid transform; instead of such an object a 4×4 matrix may stand."""

    translation_m: Annotated[_Vector, Meta(description="x, y, z, metres")]
    rotation: Annotated[
        list[float | list[float]], Meta(description="3×3 matrix, row by row, or unit quaternion [w, x, y, z]")
    ]


Transform = Annotated[list[_Row], Meta(min_length=4, max_length=4)] | Pose


class Intrinsics(Struct, forbid_unknown_fields=True, kw_only=True):
    """Focal lengths and principal point of a pinhole camera, pixels of the full image."""

    fx: Annotated[float, Meta(gt=0)]
    fy: Annotated[float, Meta(gt=0)]
    cx: float
    cy: float


class Camera(Struct, forbid_unknown_fields=True, kw_only=True):
    """One camera of the rig."""

    width: Annotated[int, Meta(ge=1, description="of the images, pixels")]
    height: Annotated[int, Meta(ge=1, description="of the images, pixels")]
    intrinsics_px: Intrinsics
    ego_from_camera: Annotated[
        Transform,
        Meta(description="mounting: camera (x right, y down, z forward) to ego (x forward, y left, z up)"),
    ]
    distortion: Annotated[
        dict[str, Any] | None,
        Meta(description="model (brown_conrady, kannala_brandt, f_theta, mei) and its parameters; none: pinhole"),
    ] = None
    mask: Annotated[
        str | None, Meta(description="path of an image of the same size; white where the camera sees the car itself")
    ] = None


class Lidar(Struct, forbid_unknown_fields=True, kw_only=True):
    """The lidar of the rig."""

    ego_from_lidar: Annotated[Transform, Meta(description="mounting of the lidar")]
    columns: Annotated[
        int, Meta(ge=3, description="float32 numbers per point in .bin files; the first three are x, y, z")
    ] = 4


class Calibration(Struct, forbid_unknown_fields=True, kw_only=True):
    """`calibration.json`: the rig of one scene."""

    cameras: Annotated[dict[str, Camera], Meta(min_length=1, description="by their names")]
    lidar: Lidar | None = None
    pixel_center: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            description="coordinate of the centre of the first pixel for cx and cy: 0 as in OpenCV, ROS and KITTI, "
            "0.5 as in COLMAP and nerfstudio",
        ),
    ] = 0.0


class Image(Struct, forbid_unknown_fields=True, kw_only=True):
    """One image of a frame; where it has the time and the pose of its frame, its path alone may stand instead."""

    path: Annotated[str, Meta(min_length=1, description="relative to the folder of the scene")]
    timestamp_us: _TimeUs | None = None
    global_from_ego: Annotated[
        Transform | None, Meta(description="pose of the car at the time of the image; none: that of the frame")
    ] = None
    token: Annotated[
        str | None, Meta(description="name that is unique in the data set; none: <scene>_<camera>_<timestamp_us>")
    ] = None


class Sweep(Struct, forbid_unknown_fields=True, kw_only=True):
    """The lidar sweep of a frame; its path alone may stand instead."""

    path: Annotated[
        str, Meta(min_length=1, description="relative to the folder of the scene: .npy [points, 3 or more] or .bin")
    ]
    timestamp_us: _TimeUs | None = None
    global_from_ego: Annotated[
        Transform | None, Meta(description="pose of the car at the time of the sweep; none: that of the frame")
    ] = None


class Box(Struct, forbid_unknown_fields=True, kw_only=True):
    """An annotated object; its place stands in one of the two frames."""

    instance: Annotated[str, Meta(min_length=1, description="name of the object, the same in all its frames")]
    category: Annotated[str, Meta(min_length=1)]
    size_lwh_m: Annotated[
        list[Annotated[float, Meta(gt=0)]], Meta(min_length=3, max_length=3, description="length, width, height")
    ]
    global_from_box: Transform | None = None
    ego_from_box: Transform | None = None
    visibility: Annotated[float, Meta(ge=0, le=1, description="share that the cameras see, if known")] | None = None


class Frame(Struct, forbid_unknown_fields=True, kw_only=True):
    """One line of `frames.jsonl`: a key frame."""

    timestamp_us: _TimeUs
    global_from_ego: Annotated[
        Transform, Meta(description="pose of the car: ego (x forward, y left, z up) to a fixed frame of the scene")
    ]
    images: Annotated[dict[str, str | Image], Meta(min_length=1, description="by the names of the cameras")]
    lidar: str | Sweep | None = None
    boxes: list[Box] | None = None
    token: Annotated[
        str | None, Meta(description="name that is unique in the data set; none: <scene>_<timestamp_us>")
    ] = None


Splits = dict[str, list[str]]
"""`splits.json`: name of a split → names of its scenes."""
