"""The report of a run: one HTML file that needs nothing else, readable on screen (light, dark) and on paper.

All numbers, pictures and texts come in through the dataclasses below; nothing is computed here but the ratio of the
model to the best baseline, and which number of a column is the best. Scores are per cent.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from occlift.label_space import OCC3D, Taxonomy
from occlift.metrics.occupancy import class_sets
from occlift.runtime.files import write_text
from occlift.viz.canvas import legend_entries
from occlift.viz.curves import Curve, curve_svg
from occlift.viz.style import REPORT_CSS

Role = Literal["baseline", "reference", "model"]
"""Kind of a row of the score table: `reference` rows (the labels' own score) take part in no comparison."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores over one set of evaluated voxels, per cent.

    Attributes:
        iou: occupied against free.
        miou: mean IoU over each of the taxonomy's sets of classes (`metrics.occupancy.class_sets`), all classes first.
    """

    iou: float
    miou: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One row of the score table.

    Attributes:
        name: as the reader knows it: prior, blind, labels, EasyOcc.
        role: how it takes part in the comparison.
        with_camera_mask: over the voxels in the truth's camera mask.
        without_mask: over all voxels.
        ray_iou: RayIoU, mean over its thresholds.
        class_iou: per semantic class with the camera mask, per cent; `None` where a class does not occur.
        note: a few words below the name: what it is, what is special (trained shorter).
    """

    name: str
    role: Role
    with_camera_mask: Scores
    without_mask: Scores
    ray_iou: float
    class_iou: tuple[float | None, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class VolumePictures:
    """A volume of a frame (truth, label, prediction) in perspective and from above."""

    name: str
    perspective: Image.Image
    above: Image.Image


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportFrame:
    """One validation frame: its camera images with names, three to a row, and its volumes."""

    title: str
    images: tuple[tuple[str, Image.Image], ...]
    volumes: tuple[VolumePictures, ...]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the run: how long it took and how much memory the process held at most (`None`: not measured)."""

    name: str
    seconds: float
    peak_memory_gb: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Everything a report shows.

    Attributes:
        title: the headline.
        summary: one or two sentences below it.
        command: that made the run, exactly.
        rows: rows of the score table, in order.
        frames: validation frames with pictures.
        curves: curves of the training.
        stages: in the order in which they ran.
        facts: name and value: data, versions, machine.
        links: relative file names of things that lie beside the report, with a text each.
        taxonomy: classes of the scores and of the legend.
    """

    title: str
    summary: str
    command: str
    rows: tuple[ScoreRow, ...]
    frames: tuple[ReportFrame, ...] = ()
    curves: tuple[Curve, ...] = ()
    stages: tuple[Stage, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = field(default=())
    taxonomy: Taxonomy = OCC3D.taxonomy


def score_columns(taxonomy: Taxonomy) -> tuple[str, ...]:
    """Names of the scores over one set of evaluated voxels: IoU, and mIoU with its number of classes."""
    return ("IoU", *(f"mIoU {classes}" for classes in class_sets(taxonomy)))


def write_report(path: Path, report: Report) -> None:
    """Writes `report_html` as UTF-8; folders are made."""
    write_text(path, report_html(report))


def report_html(report: Report) -> str:
    """The whole document; every text is escaped, every picture inlined, nothing is loaded from elsewhere."""
    sections = [
        _header(report),
        _scores(report.rows, report.taxonomy),
        _frames(report.frames, report.taxonomy),
        _curves(report.curves),
        _making(report),
    ]
    return document_html(report.title, sections)


def document_html(title: str, sections: Sequence[str]) -> str:
    """A whole document in the report's style; empty sections are left out."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{REPORT_CSS}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The best model beside the best baselines, by scores with the camera mask, per cent.

    Attributes:
        model: the model with the highest mIoU over all classes.
        baseline: the baseline with the highest mIoU over all classes.
        ratio: the model's mIoU over this baseline's.
        baseline_by_iou: the baseline with the highest IoU of occupied against free, which may be another one.
    """

    model: ScoreRow
    baseline: ScoreRow
    ratio: float
    baseline_by_iou: ScoreRow

    def __str__(self) -> str:
        mine, other = self.model.with_camera_mask, self.baseline_by_iou.with_camera_mask
        side = "above" if mine.iou > other.iou else "not above"
        return (
            f"{self.model.name} has {self.ratio:.2f} times the mIoU of the better baseline, {self.baseline.name} "
            f"({mine.miou[0]:.2f} against {self.baseline.with_camera_mask.miou[0]:.2f}), and its IoU is {side} that "
            f"of {self.baseline_by_iou.name} ({mine.iou:.2f} against {other.iou:.2f}), with the camera mask."
        )


def compare_with_baselines(rows: Sequence[ScoreRow]) -> Comparison | None:
    """`None` if models or baselines are missing, or the baselines score nothing."""
    models = [row for row in rows if row.role == "model"]
    baselines = [row for row in rows if row.role == "baseline"]
    if not models or not baselines:
        return None
    model = max(models, key=lambda row: row.with_camera_mask.miou[0])
    baseline = max(baselines, key=lambda row: row.with_camera_mask.miou[0])
    if baseline.with_camera_mask.miou[0] <= 0:
        return None
    return Comparison(
        model=model, baseline=baseline, ratio=model.with_camera_mask.miou[0] / baseline.with_camera_mask.miou[0],
        baseline_by_iou=max(baselines, key=lambda row: row.with_camera_mask.iou),
    )  # fmt: skip


def data_uri(picture: Image.Image, *, photo: bool) -> str:
    """A picture as `data:` address: JPEG for photographs and shaded pictures, PNG for flat ones."""
    buffer = io.BytesIO()
    if photo:
        picture.convert("RGB").save(buffer, "JPEG", quality=88, subsampling=0, optimize=True)
    else:
        picture.convert("RGB").save(buffer, "PNG", optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{'jpeg' if photo else 'png'};base64,{encoded}"


def cards_html(cards: Sequence[tuple[str, str]]) -> str:
    """Numbers in large print, each with what it is below; empty without any."""
    shown = "".join(f'<div class="card"><b>{_text(value)}</b><span>{_text(name)}</span></div>' for value, name in cards)
    return f'<div class="cards">{shown}</div>' if shown else ""


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _header(report: Report) -> str:
    cards = []
    found = compare_with_baselines(report.rows)
    if found is not None:
        model, other = found.model, found.baseline_by_iou
        cards = [
            (
                f"{model.with_camera_mask.miou[0]:.1f}",
                f"{model.name}: mIoU over {report.taxonomy.free} classes, camera mask",
            ),
            (f"{found.ratio:.2f}×", f"mIoU of {model.name} over the better baseline, {found.baseline.name}"),
            (f"{model.with_camera_mask.iou:.1f}", f"{model.name}: IoU of occupied against free, camera mask"),
            (f"{other.with_camera_mask.iou:.1f}", f"IoU of the better baseline, {other.name}"),
        ]
    links = "".join(f'<a href="{_text(target)}">{_text(name)}</a>' for target, name in report.links)
    return (
        f"<header><h1>{_text(report.title)}</h1><p>{_text(report.summary)}</p>"
        + (f'<nav class="beside">{links}</nav>' if links else "")
        + cards_html(cards)
        + "</header>"
    )


def _scores(rows: Sequence[ScoreRow], taxonomy: Taxonomy) -> str:
    if not rows:
        return ""
    columns = score_columns(taxonomy)
    best = [
        max((_numbers(row)[column] for row in rows if row.role != "reference"), default=float("nan"))
        for column in range(2 * len(columns) + 1)
    ]
    body = []
    for row in rows:
        cells = "".join(
            f'<td class="{_cell(column, columns, best=row.role != "reference" and number == best[column])}">'
            f"{number:.2f}</td>"
            for column, number in enumerate(_numbers(row))
        )
        note = f"<small>{_text(row.note)}</small>" if row.note else ""
        body.append(f'<tr class="{row.role}"><th scope="row">{_text(row.name)}{note}</th>{cells}</tr>')
    heads = "".join(
        f'<th class="{_cell(column, columns)}">{name}</th>' for column, name in enumerate((*columns, *columns))
    )
    found = compare_with_baselines(rows)
    line = "" if found is None else f'<p class="ratio">{_text(str(found))}</p>'
    return (
        "<section><h2>Scores</h2>"
        '<div class="wide"><table class="scores"><thead><tr><th rowspan="2"></th>'
        f'<th colspan="{len(columns)}">with camera mask</th><th colspan="{len(columns)}">without mask</th>'
        f'<th rowspan="2" class="group">RayIoU</th></tr><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
        f'{line}<p class="caption">Per cent, from one confusion matrix over all validation frames on the full '
        "grid; RayIoU without mask, mean of 1, 2 and 4 m. Bold: best of a column, the labels' own score aside.</p>"
        f"{_class_scores(rows, taxonomy)}</section>"
    )


def _cell(column: int, columns: Sequence[str], *, best: bool = False) -> str:
    """CSS classes of a cell of the score table: whether it is the best, and whether a group of columns starts."""
    starts = column in (len(columns), 2 * len(columns))
    return " ".join(name for name, holds in (("best", best), ("group", starts)) if holds)


def _numbers(row: ScoreRow) -> tuple[float, ...]:
    masked, unmasked = row.with_camera_mask, row.without_mask
    return (masked.iou, *masked.miou, unmasked.iou, *unmasked.miou, row.ray_iou)


def _class_scores(rows: Sequence[ScoreRow], taxonomy: Taxonomy) -> str:
    heads = "".join(f"<th>{_text(row.name)}</th>" for row in rows)
    body = []
    for class_id, (name, color) in enumerate(legend_entries(taxonomy=taxonomy, unknown=False)):
        values = [row.class_iou[class_id] for row in rows]
        contenders = [v for v, row in zip(values, rows, strict=True) if v is not None and row.role != "reference"]
        best = max(contenders, default=0.0)
        cells = []
        for value, row in zip(values, rows, strict=True):
            if value is None:
                cells.append('<td class="absent">–</td>')
                continue
            strong = ' class="best"' if row.role != "reference" and value == best > 0 else ""
            share = max(0.0, min(100.0, value))
            cells.append(f'<td{strong}><i style="width:{share:.1f}%"></i><span>{value:.1f}</span></td>')
        body.append(f'<tr><th scope="row">{_swatch(color)}{_text(name)}</th>{"".join(cells)}</tr>')
    return (
        '<h3>IoU by class, with camera mask</h3><div class="wide"><table class="classes">'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _swatch(color: tuple[int, int, int]) -> str:
    return f'<i class="swatch" style="background:rgb{color}"></i>'


def legend_html(taxonomy: Taxonomy) -> str:
    """Swatches with the names of the classes, then of unknown."""
    entries = legend_entries(taxonomy=taxonomy)
    items = []
    for name, color in entries:
        swatch = '<i class="swatch unknown"></i>' if name == "unknown" else _swatch(color)
        items.append(f"<span>{swatch}{_text(name)}</span>")
    return f'<div class="legend">{"".join(items)}</div>'


def _frames(frames: Sequence[ReportFrame], taxonomy: Taxonomy) -> str:
    if not frames:
        return ""
    parts = []
    for frame in frames:
        images = "".join(
            f'<figure><img alt="{_text(name)}" src="{data_uri(image, photo=True)}">'
            f"<figcaption>{_text(name)}</figcaption></figure>"
            for name, image in frame.images
        )
        volumes = "".join(
            f"<figure><figcaption>{_text(volume.name)}</figcaption>"
            f'<img alt="{_text(volume.name)} in perspective" src="{data_uri(volume.perspective, photo=True)}">'
            f'<img alt="{_text(volume.name)} from above" src="{data_uri(volume.above, photo=False)}"></figure>'
            for volume in frame.volumes
        )
        parts.append(
            f'<article><h3>{_text(frame.title)}</h3><div class="images">{images}</div>'
            f'<div class="volumes">{volumes}</div></article>'
        )
    return (
        f"<section><h2>Validation frames</h2>{legend_html(taxonomy)}"
        '<p class="caption">Perspective: from behind and above the ego (dark), looking forward; free and unknown '
        "voxels are not drawn. From above: forward is up; hatched where a column is unknown.</p>"
        f"{''.join(parts)}</section>"
    )


def _curves(curves: Sequence[Curve]) -> str:
    if not curves:
        return ""
    figures = "".join(
        f"<figure>{curve_svg(curve)}<figcaption>{_text(curve.title)}</figcaption></figure>" for curve in curves
    )
    return f'<section><h2>Training</h2><div class="curves">{figures}</div></section>'


def _making(report: Report) -> str:
    stages = "".join(
        f'<tr><th scope="row">{_text(stage.name)}'
        + (f"<small>{_text(stage.note)}</small>" if stage.note else "")
        + f"</th><td>{duration(stage.seconds)}</td>"
        + ("<td>–</td>" if stage.peak_memory_gb is None else f"<td>{stage.peak_memory_gb:.2f} GB</td>")
        + "</tr>"
        for stage in report.stages
    )
    if stages:
        total = duration(sum(stage.seconds for stage in report.stages))
        peaks = [stage.peak_memory_gb for stage in report.stages if stage.peak_memory_gb is not None]
        peak = f"{max(peaks):.2f} GB" if peaks else "–"
        stages = (
            "<table><thead><tr><th>stage</th><th>time</th><th>peak memory</th></tr></thead>"
            f"<tbody>{stages}</tbody><tfoot><tr><th>together</th><td>{total}</td><td>{peak}</td></tr></tfoot></table>"
        )
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in report.facts)
    return (
        f"<section><h2>How it was made</h2><pre><code>{_text(report.command)}</code></pre>"
        f'<div class="making">{stages}<dl>{facts}</dl></div></section>'
    )


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 1 h 02 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
