"""The page of a preview: one key frame as its teachers see it, in one HTML file in the style of the report.

All numbers, pictures and texts come in through the dataclasses below; nothing is computed here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from occlift.label_space import OCC3D, Taxonomy
from occlift.runtime.files import write_text
from occlift.viz.overlay import MAX_SHOWN_DEPTH_M, depth_colors
from occlift.viz.report import cards_html, data_uri, document_html, legend_html

LAYERS: Final = ("image", "classes", "depth", "lidar")
"""What the pictures of a camera show, in their order; the last only where there is a lidar."""

_SCALE_M: Final = (2, 3, 5, 10, 20, 40, 60)


@dataclass(frozen=True, kw_only=True, eq=False)
class PreviewImages:
    """The pictures of a camera, of one size, in the order of `LAYERS`."""

    name: str
    pictures: tuple[Image.Image, ...]


@dataclass(frozen=True, kw_only=True)
class PreviewTable:
    """A table; the first cell of a row is its name."""

    title: str
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PreviewPage:
    """Everything that the page shows.

    Attributes:
        title: the headline.
        summary: a sentence below it.
        command: that made it.
        cards: numbers in large print, and what each is.
        notes: what is wrong or unlikely, or could not be read, as sentences.
        images: the cameras.
        tables: further numbers.
        points: what pixels show, from above.
        label_perspective, label_above: the label of this key frame alone.
        taxonomy: classes of the legend.
    """

    title: str
    summary: str
    command: str
    cards: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    images: tuple[PreviewImages, ...]
    tables: tuple[PreviewTable, ...]
    points: Image.Image
    label_perspective: Image.Image
    label_above: Image.Image
    taxonomy: Taxonomy = OCC3D.taxonomy


def write_preview(path: Path, page: PreviewPage) -> None:
    """Writes `preview_html` as UTF-8; folders are made."""
    write_text(path, preview_html(page))


def preview_html(page: PreviewPage) -> str:
    """The whole document; every text is escaped, every picture inlined, nothing is loaded from elsewhere."""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in page.notes)
    sections = [
        f"<header><h1>{html.escape(page.title)}</h1><p>{html.escape(page.summary)}</p>{cards_html(page.cards)}</header>",
        f"<section><h2>Notes</h2><ul>{notes}</ul></section>" if notes else "",
        _images(page),
        _from_above(page),
        _tables(page.tables),
        f"<section><h2>How it was made</h2><pre><code>{html.escape(page.command)}</code></pre></section>",
    ]
    return document_html(page.title, sections)


def _images(page: PreviewPage) -> str:
    """Layer by layer, so that cameras stand beside each other."""
    captions = {
        "image": "",
        "classes": f'{legend_html(page.taxonomy)}<p class="caption">Pale blue: sky. The unknown stays as it is.</p>',
        "depth": f'{_depth_scale()}<p class="caption">Metres along the optical axis; dark where there is none.</p>',
        "lidar": '<p class="caption">Points of the lidar in the colours of depth: the two should agree.</p>',
    }
    parts = []
    layers = zip_longest(*(camera.pictures for camera in page.images))
    for layer, pictures in zip(LAYERS, layers, strict=False):
        figures = "".join(
            f'<figure><img alt="{layer}, {html.escape(camera.name)}" src="{data_uri(picture, photo=True)}">'
            f"<figcaption>{html.escape(camera.name)}</figcaption></figure>"
            for camera, picture in zip(page.images, pictures, strict=True)
        )
        parts.append(
            f'<section><h2>{layer.capitalize()}</h2>{captions[layer]}<div class="images">{figures}</div></section>'
        )
    return "".join(parts)


def _depth_scale() -> str:
    """The colours of depth with their metres."""
    swatches = "".join(
        f'<span><i class="swatch" style="background:rgb{tuple(color)}"></i>{metres:g} m'
        f"{' and more' if metres >= MAX_SHOWN_DEPTH_M else ''}</span>"
        for metres, color in zip(_SCALE_M, depth_colors(np.array(_SCALE_M, float)).tolist(), strict=True)
    )
    return f'<div class="legend">{swatches}</div>'


def _from_above(page: PreviewPage) -> str:
    pictures = (
        ("points from above", page.points, False),
        ("label of this frame alone, from above", page.label_above, False),
        ("the same in perspective", page.label_perspective, True),
    )
    figures = "".join(
        f'<figure><figcaption>{name}</figcaption><img alt="{name}" src="{data_uri(picture, photo=photo)}"></figure>'
        for name, picture, photo in pictures
    )
    return (
        f'<section><h2>In space</h2>{legend_html(page.taxonomy)}<div class="volumes">{figures}</div>'
        '<p class="caption">Forward is up; rings every 10 m. Hatched: unknown. A label of many key frames knows more: '
        "what one moment does not show stays unknown here.</p></section>"
    )


def _tables(tables: Sequence[PreviewTable]) -> str:
    found = []
    for table in tables:
        heads = "".join(f"<th>{html.escape(head)}</th>" for head in table.heads)
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th>'
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            + "</tr>"
            for name, *cells in table.rows
        )
        found.append(
            f'<section><h2>{html.escape(table.title)}</h2><p class="caption">{html.escape(table.caption)}</p>'
            f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>'
        )
    return "".join(found)
