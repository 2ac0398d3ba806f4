"""Where maps of images lie on disk, and which class ids they use: our own layout and those that were published.

**occnerf** (OccNeRF, arXiv 2312.09243; facts from github.com/LinShan-Bin/OccNeRF `datasets/nusc_dataset.py` and
github.com/JunchengYan/GroundedSAM_OccNeRF). `nuscenes_semantic/samples/<CHANNEL>/<image name>_mask.bin`: int8 without
any header, as many as the image has pixels, row by row; an id per group of prompts, 0 where no mask lies, -1 everywhere
in an image in which nothing was found. Sky has an id, `others` and `other_flat` have none.
`nuscenes_depth/samples/<CHANNEL>/<image name>.npy`: float32 metres, lidar points projected, 0 where there is none;
made for validation only.

**gaussianflowocc** (GaussianFlowOcc, arXiv 2502.17288; facts from github.com/boschresearch/GaussianFlowOcc
`groundedsam/generate_grounded_sam.py` and `tools/generate_m3d_nusc.py`; DeGO and SuperQuadricOcc use the same files).
`grounded_sam_nusc/<scene>/<sample token>.npy`: int8 [6, 900, 1600], ids of Occ3D; 0 is the sky *and* what no mask
covers, and nobody can tell them apart again, so it is unknown here. `metric_3d_nusc/<scene>/<sample token>.npy`:
float16 [6, 900, 1600] metres along the axis, clamped to 0..300, enlarged bilinearly (edges are smeared). **The two
files order the cameras differently**: front, front left, back left, back, back right, front right for classes; front
left, front, front right, back left, back, back right for depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from occlift.label_space import (
    BARRIER,
    BICYCLE,
    BUS,
    CAR,
    CONSTRUCTION_VEHICLE,
    DRIVEABLE_SURFACE,
    FREE,
    MANMADE,
    MOTORCYCLE,
    PEDESTRIAN,
    SIDEWALK,
    TERRAIN,
    TRAFFIC_CONE,
    TRAILER,
    TRUCK,
    UNKNOWN,
    VEGETATION,
)

LayoutName = Literal["plain", "occnerf", "gaussianflowocc"]

SUFFIXES: Final = (".npy", ".npz", ".png")
"""What `{suffix}` in a pattern may stand for, in the order in which it is looked for."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the maps of one kind lie, and how they are to be read.

    Attributes:
        pattern: below the root. Fields: {channel}; {stem}, the name of the image file without suffix; {token}, the
            sample_data token of the image; {sample}, the token of the key frame; {scene}, its name; {suffix}, one of
            `SUFFIXES`.
        class_ids: id on disk → class; None: they are classes already. Ids that are not named are an error.
        stacked: the channels in the order of the first axis, where one file holds the maps of all cameras.
    """

    pattern: str
    class_ids: Mapping[int, int] | None = None
    stacked: tuple[str, ...] = ()


_OCCNERF_IDS: Final[Mapping[int, int]] = {
    -1: UNKNOWN,
    0: UNKNOWN,
    1: CAR,
    2: DRIVEABLE_SURFACE,
    3: BUS,
    4: TRUCK,
    5: TERRAIN,
    6: VEGETATION,
    7: SIDEWALK,
    8: BICYCLE,
    9: BARRIER,
    10: PEDESTRIAN,
    11: MANMADE,
    12: MOTORCYCLE,
    13: CONSTRUCTION_VEHICLE,
    14: TRAILER,
    15: TRAFFIC_CONE,
    16: FREE,
}

_STACKED: Final = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")

_PLAIN: Final = "{channel}/{stem}{suffix}"
_PER_SAMPLE: Final = "{scene}/{sample}.npy"

SEMANTICS_LAYOUTS: Final[Mapping[LayoutName, Layout]] = {
    "plain": Layout(pattern=_PLAIN),
    "occnerf": Layout(pattern="samples/{channel}/{stem}_mask.bin", class_ids=_OCCNERF_IDS),
    "gaussianflowocc": Layout(
        pattern=_PER_SAMPLE,
        class_ids={-1: UNKNOWN, 0: UNKNOWN, **{number: number for number in range(1, 17)}},
        stacked=(
            "CAM_FRONT",
            "CAM_FRONT_LEFT",
            "CAM_BACK_LEFT",
            "CAM_BACK",
            "CAM_BACK_RIGHT",
            "CAM_FRONT_RIGHT",
        ),
    ),
}

DEPTH_LAYOUTS: Final[Mapping[LayoutName, Layout]] = {
    "plain": Layout(pattern=_PLAIN),
    "occnerf": Layout(pattern="samples/{channel}/{stem}.npy"),
    "gaussianflowocc": Layout(pattern=_PER_SAMPLE, stacked=_STACKED),
}
