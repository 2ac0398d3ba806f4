"""Parts of all pictures: a font, captions, class colours, legends, and panels of several pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from occlift.label_space import OCC3D, Taxonomy

INK: Final = (38, 42, 50)
"""Text and lines of drawings."""
PAPER: Final = (255, 255, 255)
"""Background of drawings."""
UNKNOWN_COLOR: Final = (188, 192, 200)
"""Unknown (255): a cold grey that no class has; areas of it are hatched."""
MUTED_INK: Final = (112, 118, 130)
"""Axes, rulers and secondary text."""


def class_palette(*, taxonomy: Taxonomy = OCC3D.taxonomy) -> UInt8[np.ndarray, "256 3"]:
    """sRGB by class id, and `UNKNOWN_COLOR` for every id that is no class."""
    palette = np.tile(np.array(UNKNOWN_COLOR, dtype=np.uint8), (256, 1))
    palette[: taxonomy.num_classes] = taxonomy.palette
    return palette


@cache
def font(size_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font that Pillow carries with it, so that pictures look the same on every machine."""
    return ImageFont.load_default(size=size_px)


def readable_name(name: str) -> str:
    """An identifier as a person would write it: `construction_vehicle` → `construction vehicle`."""
    return name.replace("_", " ")


def add_caption(picture: Image.Image, caption: str, *, size_px: int = 15) -> Image.Image:
    """The picture with a caption above it on a strip of paper."""
    strip_px = size_px + 10
    canvas = Image.new("RGB", (picture.width, picture.height + strip_px), PAPER)
    canvas.paste(picture, (0, strip_px))
    ImageDraw.Draw(canvas).text((2, strip_px // 2), caption, INK, font(size_px), anchor="lm")
    return canvas


def panel(pictures: Sequence[Image.Image], columns: int, *, gap_px: int = 8) -> Image.Image:
    """Pictures row by row, at most `columns` to a row, with paper between and around them.

    Cells are as large as the largest picture; smaller ones are in the upper left corner of theirs.
    """
    columns = min(columns, len(pictures))
    assert columns > 0, columns
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * (width + gap_px) + gap_px, rows * (height + gap_px) + gap_px), PAPER)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        canvas.paste(picture, (gap_px + column * (width + gap_px), gap_px + row * (height + gap_px)))
    return canvas


def gallery_sizes(
    sizes: Sequence[tuple[int, int]], *, columns: int = 3, column_px: int = 800, max_height: int = 600
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """How large pictures are in rows that are read like text, whatever shapes they have.

    Rows have equally many pictures, or one less; those of a row are equally high, and together `column_px` times their
    number wide, or less where they would be higher than `max_height`. A single picture may take two columns.

    Args:
        sizes: height and width of each picture.
        columns: pictures in a row at most.

    >>> gallery_sizes([(450, 800)] * 4, columns=3, column_px=400)
    (((225, 400), (225, 400)), ((225, 400), (225, 400)))
    >>> gallery_sizes([(2000, 1500), (1500, 2000)], column_px=400)
    (((384, 288), (384, 512)),)
    """
    num_rows = -(-len(sizes) // columns)
    shortest, longer = divmod(len(sizes), num_rows)
    rows, start = [], 0
    for number in range(num_rows):
        count = shortest + (number < longer)
        ratios = [width / height for height, width in sizes[start : start + count]]
        total = column_px * (2 if len(sizes) == 1 else count)
        height = min(float(max_height), total / sum(ratios))
        rows.append(tuple((round(height), max(1, round(height * ratio))) for ratio in ratios))
        start += count
    return tuple(rows)


def gallery(pictures: Sequence[Image.Image], counts: Sequence[int], *, gap_px: int = 8) -> Image.Image:
    """Pictures in rows of `counts`, each row centred, with paper between and around them."""
    assert sum(counts) == len(pictures), (counts, len(pictures))
    remaining = iter(pictures)
    rows = [[next(remaining) for _ in range(count)] for count in counts]
    widths = [sum(picture.width + gap_px for picture in row) + gap_px for row in rows]
    heights = [max(picture.height for picture in row) + gap_px for row in rows]
    canvas = Image.new("RGB", (max(widths), sum(heights) + gap_px), PAPER)
    top = gap_px
    for row, width, height in zip(rows, widths, heights, strict=True):
        left = (canvas.width - width) // 2 + gap_px
        for picture in row:
            canvas.paste(picture, (left, top))
            left += picture.width + gap_px
        top += height
    return canvas


def stack(pictures: Sequence[Image.Image], *, gap_px: int = 8) -> Image.Image:
    """Pictures of any size below one another, centred on paper."""
    width = max(picture.width for picture in pictures)
    height = sum(picture.height for picture in pictures) + gap_px * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, height), PAPER)
    top = 0
    for picture in pictures:
        canvas.paste(picture, ((width - picture.width) // 2, top))
        top += picture.height + gap_px
    return canvas


def legend_entries(
    *, taxonomy: Taxonomy = OCC3D.taxonomy, unknown: bool = True
) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    """Name and colour of the semantic classes in the order of their ids, then of unknown; free is drawn as paper."""
    entries = tuple(zip(map(readable_name, taxonomy.names), taxonomy.palette, strict=False))
    return (*entries, ("unknown", UNKNOWN_COLOR)) if unknown else entries


def legend(width: int, *, taxonomy: Taxonomy = OCC3D.taxonomy, size_px: int = 14, unknown: bool = True) -> Image.Image:
    """A legend of all classes: swatches with names in equal columns that fill `width` pixels."""
    entries = legend_entries(taxonomy=taxonomy, unknown=unknown)
    type_face = font(size_px)
    swatch_px, line_px = size_px, size_px + 9
    cell_px = int(max(type_face.getlength(name) for name, _ in entries)) + swatch_px + 22
    columns = max(1, min(len(entries), width // cell_px))
    cell_px = width // columns
    rows = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, rows * line_px + 6), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (name, color) in enumerate(entries):
        row, column = divmod(number, columns)
        left, top = column * cell_px + 4, row * line_px + 5
        if name == "unknown":
            tile = np.full((swatch_px, swatch_px, 3), PAPER, dtype=np.uint8)
            tile[hatch(swatch_px, swatch_px)] = UNKNOWN_COLOR
            canvas.paste(Image.fromarray(tile), (left, top))
            draw.rectangle((left, top, left + swatch_px - 1, top + swatch_px - 1), outline=UNKNOWN_COLOR)
        else:
            draw.rectangle((left, top, left + swatch_px - 1, top + swatch_px - 1), color, outline=(120, 120, 120))
        draw.text((left + swatch_px + 6, top + swatch_px / 2), name, INK, type_face, anchor="lm")
    return canvas


def color_scale(what: str, low: str, high: str, colors: UInt8[np.ndarray, "n 3"], *, size_px: int = 14) -> Image.Image:
    """What colours mean that stand for a quantity: a bar from the first colour to the last, between two values."""
    type_face, bar_px = font(size_px), 16 * size_px
    texts = (f"{what}: {low}", high)
    left_px, right_px = (int(type_face.getlength(text)) + 8 for text in texts)
    canvas = Image.new("RGB", (left_px + bar_px + right_px, size_px + 9), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((0, canvas.height / 2), texts[0], INK, type_face, anchor="lm")
    draw.text((left_px + bar_px + 8, canvas.height / 2), texts[1], INK, type_face, anchor="lm")
    share = np.arange(bar_px) * len(colors) // bar_px
    bar = np.broadcast_to(colors[share], (size_px, bar_px, 3))
    canvas.paste(Image.fromarray(np.ascontiguousarray(bar)), (left_px, 4))
    return canvas


def hatch(height: int, width: int, *, period_px: int = 6, line_px: int = 2) -> Bool[np.ndarray, "height width"]:
    """[height, width] true on the lines of a 45° hatch."""
    rows, columns = np.mgrid[:height, :width]
    return (rows + columns) % period_px < line_px
