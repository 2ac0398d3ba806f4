"""Where maps of images lie on disk, and which class ids they use: our own layout and those that were published.

**occnerf** (OccNeRF, arXiv 2312.09243; facts from github.com/LinShan-Bin/OccNeRF `datasets/nusc_dataset.py` and
github.com/JunchengYan/GroundedSAM_OccNeRF). `<data set>_semantic/samples/<CHANNEL>/<image name>_mask.bin`: int8 without
any header, as many as the image has pixels, row by row; an id per group of prompts, 0 where no mask lies, -1 everywhere
in an image in which nothing was found. Sky has an id, `others` and `other_flat` have none.
`<data set>_depth/samples/<CHANNEL>/<image name>.npy`: float32 metres, lidar points projected, 0 where there is none;
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

from occlift.label_space import OCC3D

LayoutName = Literal["plain", "occnerf", "gaussianflowocc"]

SUFFIXES: Final = (".npy", ".npz", ".png")
"""What `{suffix}` in a pattern may stand for, in the order in which it is looked for."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the maps of one kind lie, and how they are to be read.

    Attributes:
        pattern: path below the root. Fields: {camera} or {channel}, the name of the camera; {stem}, the name of the
            image file without suffix; {token}, the key of the image in the data set; {sample}, the token of the key
            frame; {scene}, its name; {suffix}, one of `SUFFIXES`.
        flat_pattern: where they may lie instead, if no two scenes have images of one name.
        classes: id on disk → name of a class, `free` (sky) or `unknown`; None: ids are classes already. Other ids, and
            those of classes that the taxonomy does not have, are an error.
        stacked: names of the cameras in the order of the first axis, where one file holds the maps of all.
    """

    pattern: str
    flat_pattern: str = ""
    classes: Mapping[int, str] | None = None
    stacked: tuple[str, ...] = ()


_OCCNERF_CLASSES: Final[Mapping[int, str]] = {
    -1: "unknown",
    0: "unknown",
    1: "car",
    2: "driveable_surface",
    3: "bus",
    4: "truck",
    5: "terrain",
    6: "vegetation",
    7: "sidewalk",
    8: "bicycle",
    9: "barrier",
    10: "pedestrian",
    11: "manmade",
    12: "motorcycle",
    13: "construction_vehicle",
    14: "trailer",
    15: "traffic_cone",
    16: "free",
}

_STACKED: Final = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")

_PLAIN: Final = "{scene}/{camera}/{stem}{suffix}"
_FLAT: Final = "{camera}/{stem}{suffix}"
_PER_SAMPLE: Final = "{scene}/{sample}.npy"

SEMANTICS_LAYOUTS: Final[Mapping[LayoutName, Layout]] = {
    "plain": Layout(pattern=_PLAIN, flat_pattern=_FLAT),
    "occnerf": Layout(pattern="samples/{channel}/{stem}_mask.bin", classes=_OCCNERF_CLASSES),
    "gaussianflowocc": Layout(
        pattern=_PER_SAMPLE,
        classes={-1: "unknown", 0: "unknown", **dict(enumerate(OCC3D.taxonomy.names[1:], start=1))},
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
    "plain": Layout(pattern=_PLAIN, flat_pattern=_FLAT),
    "occnerf": Layout(pattern="samples/{channel}/{stem}.npy"),
    "gaussianflowocc": Layout(pattern=_PER_SAMPLE, stacked=_STACKED),
}
