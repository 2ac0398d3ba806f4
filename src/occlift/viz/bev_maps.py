"""Maps of the bird's-eye view as pictures: how probable a class is, and where a prediction agrees with the truth.

Forward (x) is up and left (y) to the left, as in all our pictures from above.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from occlift.geometry.grids import BevGrid, VoxelGrid
from occlift.viz.canvas import INK, PAPER, UNKNOWN_COLOR, font
from occlift.viz.occupancy import draw_ego_from_above, enlarge_from_above, scale_bar, voxel_size_px

Rgb = tuple[int, int, int]

AGREEMENT: Final[tuple[tuple[str, Rgb], ...]] = (
    ("found", (38, 140, 90)),
    ("missed", (52, 108, 196)),
    ("invented", (226, 118, 34)),
    ("not scored", UNKNOWN_COLOR),
)
"""States of a cell, with colours that also colour-blind people tell apart."""

_RULE: Final = (205, 208, 214)


def probability_image(probability: Float[np.ndarray, "x y"], grid: BevGrid, *, pixels_per_cell: int = 3) -> Image.Image:
    """A map of probabilities 0..1: paper where nothing is expected, darker the more probable, with ego and ruler."""
    import matplotlib

    shade = matplotlib.colormaps["Blues"](np.clip(probability, 0.0, 1.0))[..., :3] * 255
    shade[probability < 0.02] = PAPER
    return _map(shade, grid, pixels_per_cell)


def agreement_image(
    predicted: Bool[np.ndarray, "x y"],
    truth: Bool[np.ndarray, "x y"],
    ignored: Bool[np.ndarray, "x y"],
    grid: BevGrid,
    *,
    pixels_per_cell: int = 3,
) -> Image.Image:
    """True positives (found), false negatives (missed) and false positives (invented) in the colours of `AGREEMENT`;
    `ignored` cells are not scored."""
    colors = np.full((*grid.shape, 3), PAPER, dtype=np.float64)
    cells = (predicted & truth, ~predicted & truth, predicted & ~truth, ignored)
    for (_, color), where in zip(AGREEMENT, cells, strict=True):
        colors[where] = color
    return _map(colors, grid, pixels_per_cell)


def agreement_legend(width: int, *, size_px: int = 14) -> Image.Image:
    """The colours of `agreement_image`, in one line."""
    canvas = Image.new("RGB", (width, size_px + 12), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (name, color) in enumerate(AGREEMENT):
        left, top = number * width // len(AGREEMENT) + 4, 6
        draw.rectangle((left, top, left + size_px, top + size_px), color, outline=(120, 120, 120))
        draw.text((left + size_px + 6, top + size_px / 2), name, INK, font(size_px), anchor="lm")
    return canvas


def _map(colors: Float[np.ndarray, "x y 3"], grid: BevGrid, pixels_per_cell: int) -> Image.Image:
    assert colors.shape[:2] == grid.shape, (colors.shape, grid.shape)
    flat = VoxelGrid(lower_m=(*grid.lower_m, 0.0), voxel_size_m=(*grid.cell_size_m, 1.0), shape=(*grid.shape, 1))
    picture = Image.fromarray(
        np.round(enlarge_from_above(colors, voxel_size_px(flat, pixels_per_cell))).astype(np.uint8)
    )
    draw_ego_from_above(picture, flat, pixels_per_cell)
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_RULE)
    return scale_bar(picture, min(grid.cell_size_m) / pixels_per_cell)
