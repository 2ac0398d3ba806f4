"""A key frame of a data set, and volumes of it, as the report and the 3-D scene show them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from occlift.label_space import OCC3D, LabelSpace
from occlift.runtime.threads import usable_cores
from occlift.scenes.dataset import DrivingDataset
from occlift.scenes.rigs import single_rigs
from occlift.viz.canvas import add_caption, legend, panel, stack
from occlift.viz.occupancy import perspective_image, top_view_with_ruler
from occlift.viz.overlay import resize
from occlift.viz.report import ReportFrame, VolumePictures
from occlift.viz.scene import write_scene_html
from occlift.viz.show import camera_caption, read_images

IMAGE_WIDTH: Final = 480
"""Width of a camera image in the report, pixels."""

NAMED_PACKAGES: Final = ("occlift", "torch", "numpy", "numba", "lightning", "transformers")


def report_frame(
    data: DrivingDataset, token: str, volumes: Mapping[str, UInt8[np.ndarray, "x y z"]], *, space: LabelSpace = OCC3D
) -> ReportFrame:
    """The pictures of one key frame: its images, and each volume in perspective and from above.

    Args:
        volumes: by the name to show (truth, label, prediction); class ids and 255 on the space's grid.

    Raises:
        DataError: the sample or one of its images is missing or broken.
    """
    key_frame = data.key_frame(token)
    images = []
    for camera, image in zip(key_frame.cameras, read_images(key_frame), strict=True):
        height = round(IMAGE_WIDTH * image.shape[0] / image.shape[1])
        images.append((camera_caption(camera.camera), Image.fromarray(resize(image, height, IMAGE_WIDTH))))
    pictures = tuple(
        VolumePictures(
            name=name,
            perspective=perspective_image(semantics, space=space, height=450, width=800),
            above=top_view_with_ruler(semantics, space=space),
        )
        for name, semantics in volumes.items()
    )
    return ReportFrame(
        title=f"{key_frame.scene}, key frame {key_frame.index + 1}", images=tuple(images), volumes=pictures
    )


def overview_image(frame: ReportFrame, *, space: LabelSpace = OCC3D, width: int = 900) -> Image.Image:
    """One picture of a key frame: its images, every volume in perspective and from above, and the legend."""

    def row(pictures: Sequence[Image.Image]) -> Image.Image:
        cell = (width - 8) // len(pictures) - 8
        sizes = [(cell, round(picture.height / picture.width * cell)) for picture in pictures]
        return panel([picture.resize(size) for picture, size in zip(pictures, sizes, strict=True)], len(pictures))

    images = [add_caption(picture, name) for name, picture in frame.images]
    rows = [row(images[start : start + 3]) for start in range(0, len(images), 3)]
    rows.append(row([add_caption(volume.perspective, volume.name, size_px=26) for volume in frame.volumes]))
    rows.append(row([volume.above for volume in frame.volumes]))
    return stack([*rows, legend(width - 40, taxonomy=space.taxonomy)], gap_px=0)


def write_frame_scene(
    path: Path,
    data: DrivingDataset,
    token: str,
    volumes: Mapping[str, UInt8[np.ndarray, "x y z"]],
    *,
    space: LabelSpace = OCC3D,
) -> None:
    """Writes one key frame in 3-D (`viz.scene`): volumes that can be switched, cameras with their images.

    Raises:
        ConfigError: viser is not installed.
        DataError: the sample or one of its images is missing or broken.
    """
    key_frame = data.key_frame(token)
    write_scene_html(
        path,
        volumes,
        space=space,
        cameras=single_rigs(key_frame),
        images=[Image.fromarray(image) for image in read_images(key_frame)],
        title=f"{key_frame.scene}, key frame {key_frame.index + 1}",
    )


def environment_facts() -> tuple[tuple[str, str], ...]:
    """Names and values of what a result depends on besides the command: versions and the machine."""
    versions = []
    for package in NAMED_PACKAGES:
        try:
            versions.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            versions.append((package, "not installed"))
    return (
        *versions,
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("processor", f"{_processor()}, {usable_cores()} cores used"),
    )


def _processor() -> str:
    """The processor's model name; what the platform says where there is no /proc/cpuinfo."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
