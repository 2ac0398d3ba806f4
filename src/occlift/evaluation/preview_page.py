"""The page of a preview: its pictures and tables, made of what `occlift.evaluation.preview` saw."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from occlift.evaluation.preview import DEPTH_HEADS, Preview, depth_cells, percent
from occlift.geometry.transforms import inverse
from occlift.label_space import UNKNOWN
from occlift.labels.unproject import unproject
from occlift.scenes.lidar_depth import lidar_depth
from occlift.scenes.rigs import single_rigs
from occlift.viz.birds_eye import birds_eye_image
from occlift.viz.canvas import class_palette, readable_name
from occlift.viz.occupancy import perspective_image, top_view_with_ruler
from occlift.viz.overlay import draw_classes, draw_depth, draw_points, resize
from occlift.viz.preview import PreviewImages, PreviewPage, PreviewTable, write_preview
from occlift.viz.show import camera_caption

_PICTURE_WIDTH: Final = 480
"""Width of the pictures of a camera, pixels."""


def write_page(path: Path, seen: Preview, *, command: str, teachers: tuple[str, str]) -> None:
    """Writes what was seen as one HTML file that needs nothing else.

    Args:
        command: that made it.
        teachers: names of the teachers of classes and of depth.
    """
    frame, space = seen.frame, seen.space
    write_preview(
        path,
        PreviewPage(
            title=f"Preview of {frame.scene}, key frame {frame.index + 1}",
            summary=f"What {teachers[0]} (classes) and {teachers[1]} (depth) say about key frame {frame.token}.",
            command=command,
            cards=_cards(seen),
            notes=(*seen.check.doubts, *seen.notes),
            images=_images(seen),
            tables=_tables(seen),
            points=birds_eye_image(*_colored_points(seen), cameras=single_rigs(frame), taxonomy=space.taxonomy),
            label_perspective=perspective_image(seen.label, space=space, height=450, width=800),
            label_above=top_view_with_ruler(seen.label, space=space),
            taxonomy=space.taxonomy,
        ),
    )


def _cards(seen: Preview) -> tuple[tuple[str, str], ...]:
    cards = [
        (f"{seen.semantics_time.per_image_s:.2f} s", "per image, teacher of classes"),
        (f"{seen.depth_time.per_image_s:.2f} s", "per image, teacher of depth"),
    ]
    if seen.against_lidar and seen.against_lidar[-1].covered > 0:
        whole = seen.against_lidar[-1]
        cards += [
            (f"{whole.abs_rel:.3f}", "abs_rel of depth against lidar"),
            (f"{whole.scale:.2f}×", "depth over lidar's, median"),
        ]
    return tuple(cards)


def _images(seen: Preview) -> tuple[PreviewImages, ...]:
    found = []
    for camera, image, classes, depth in zip(seen.frame.cameras, seen.images, seen.semantics, seen.depth, strict=True):
        height, width = round(_PICTURE_WIDTH * camera.height / camera.width), _PICTURE_WIDTH
        small = resize(image, height, width)
        drawn = [
            draw_classes(small, _nearest(classes.class_id, height, width), taxonomy=seen.space.taxonomy),
            draw_depth(_nearest(depth.depth_m, height, width)),
        ]
        if seen.points_lidar is not None:
            pixels_uv, depth_m = lidar_depth(seen.frame, camera, seen.points_lidar)
            shrink = np.array([width / camera.width, height / camera.height])
            drawn.append(draw_points((small * 0.5).astype(np.uint8), pixels_uv * shrink, depth_m))
        found.append(
            PreviewImages(name=camera_caption(camera.camera), pictures=tuple(map(Image.fromarray, (small, *drawn))))
        )
    return tuple(found)


def _nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map in another size: of every pixel the value in which its centre lies."""
    rows, columns = (
        ((np.arange(size) + 0.5) * given / size).astype(int)
        for size, given in zip((height, width), values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def _tables(seen: Preview) -> tuple[PreviewTable, ...]:
    taxonomy = seen.space.taxonomy
    pixels = np.bincount(np.concatenate([one.class_id.ravel() for one in seen.semantics]), minlength=256)
    voxels = np.bincount(seen.label.ravel(), minlength=256)
    occupied = max(1, int(voxels[: taxonomy.free].sum()))
    names = [*((i, readable_name(taxonomy.name_of(i))) for i in range(taxonomy.free)), (taxonomy.free, "sky")]
    tables = [
        PreviewTable(
            title="Classes",
            caption="Share of the pixels, and of the occupied voxels of the label of this frame alone.",
            heads=("class", "pixels", "voxels"),
            rows=tuple(
                (name, percent(pixels[i] / pixels.sum()), "" if i == taxonomy.free else percent(voxels[i] / occupied))
                for i, name in (*names, (UNKNOWN, "unknown"))
                if pixels[i] or (i < taxonomy.free and voxels[i])
            ),
        )
    ]
    if seen.against_lidar:
        tables.append(
            PreviewTable(
                title="Depth against lidar",
                caption=(
                    "Pixels with a point of the lidar; how many of them the teacher gives a depth; the median of its "
                    "depth over the lidar's; mean relative error, as it is and after every image was scaled by one "
                    "number; share within a factor of 1.25. Points that only the higher lidar sees count as errors."
                ),
                heads=DEPTH_HEADS,
                rows=tuple(depth_cells(row) for row in seen.against_lidar),
            )
        )
    return tuple(tables)


def _colored_points(seen: Preview) -> tuple[Float64[np.ndarray, "points 3"], UInt8[np.ndarray, "points 3"]]:
    """The points that pixels with a class and a depth show, metres, ego frame, and the colours of their classes."""
    ego_from_global = inverse(seen.frame.global_from_ego)
    palette = class_palette(taxonomy=seen.space.taxonomy)
    points, colors = [], []
    for view in seen.views:
        found = unproject(
            view.depth_m, view.intrinsics_px, ego_from_global @ view.global_from_camera, stride=view.stride
        )
        shown = np.isfinite(view.depth_m) & (view.class_id < seen.space.taxonomy.free)
        points.append(found[shown])
        colors.append(palette[view.class_id[shown]])
    return np.concatenate(points), np.concatenate(colors)
