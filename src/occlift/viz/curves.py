"""Curves: as SVG that lives inside an HTML page, whose text and axes take the page's colour and font, or as PNG."""

from __future__ import annotations

import io
import itertools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from occlift.runtime.files import replacing
from occlift.viz.canvas import INK, MUTED_INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES_COLORS: Final = ("#2f6fde", "#e0662f", "#2a9d6f", "#9a5bd0", "#b08a1e", "#6b7586")
"""Readable on white and on near black."""

_INK: Final = "#010203"
"""Stands for the page's text colour until the SVG is written; no series has it."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A named line; `dashed` for references. x and y have the same length."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One diagram.

    Attributes:
        smooth: draw lines with more than 60 values as their running mean, the values themselves faint.
        x_ticks: where the x axis is labelled; by default wherever it looks good.
        log_x: a doubling of x is as long everywhere.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    smooth: bool = True
    x_ticks: tuple[float, ...] = ()
    log_x: bool = False


def curve_svg(curve: Curve, *, width_in: float = 5.6, height_in: float = 3.3) -> str:
    """The `<svg>` element of a diagram: no prolog, no metadata, no address of anything outside."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        # Ids inside the SVG follow from the title: the same input gives the same bytes, and two diagrams on one
        # page do not share ids.
        "svg.hashsalt": f"{curve.title}|{curve.y_label}",
        "font.size": 10,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, curve, _INK)
        if len(curve.series) > 1:
            axes.legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Inside HTML the namespaces are known to the parser.
    svg = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    return svg.replace(_INK, "currentColor").strip()


def write_curves_png(path: Path, title: str, note: str, curves: Sequence[Curve]) -> None:
    """Writes diagrams side by side as a PNG; equal input gives equal bytes. All have the same series: one legend.

    Args:
        path: replaced if it exists; written under a temporary name first.
        title: above all of them.
        note: below: what they have in common.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    assert curves, "no diagram to draw"
    names = [series.name for series in curves[0].series]
    assert all([series.name for series in curve.series] == names for curve in curves), names
    ink = "#{:02x}{:02x}{:02x}".format(*INK)
    settings: dict[Any, Any] = {
        # The font that matplotlib carries with it, so that the picture is the same on every machine.
        "font.family": "DejaVu Sans",
        "font.size": 10,
        **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), ink),
    }
    lines = textwrap.wrap(note, 50 * len(curves))
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **settings}):
        layout = ConstrainedLayoutEngine(w_pad=0.12)
        height_in = 3.4 + 0.17 * len(lines)
        figure = Figure(figsize=(4.0 * len(curves), height_in), dpi=150, facecolor="white", layout=layout)
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
        muted = "#{:02x}{:02x}{:02x}".format(*MUTED_INK)
        figure.supxlabel("\n".join(lines), fontsize=9, color=muted, x=0.01, ha="left")
        for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
            _draw(axes, curve, ink)
            axes.set_title(curve.title, fontsize=10)
        if len(names) > 1:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside right center", frameon=False)
        with replacing(path) as file:
            figure.savefig(file, format="png", metadata={"Software": None})


def _draw(axes: Axes, curve: Curve, ink: str) -> None:
    """Lines, axes and grid of a diagram."""
    for number, series in enumerate(curve.series):
        assert len(series.x) == len(series.y), (series.name, len(series.x), len(series.y))
        color = SERIES_COLORS[number % len(SERIES_COLORS)]
        style = "--" if series.dashed else "-"
        many = curve.smooth and len(series.y) > 60
        marker = "o" if len(series.y) <= 12 and not series.dashed else ""
        if many:
            axes.plot(series.x, series.y, color=color, alpha=0.25, linewidth=0.8)
        values = _running_mean(series.y) if many else series.y
        axes.plot(series.x, values, style, color=color, linewidth=1.8, marker=marker, markersize=4, label=series.name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_alpha(0.5)
    axes.grid(color=ink, alpha=0.12, linewidth=0.6)
    axes.set(xlabel=curve.x_label, ylabel=curve.y_label)
    if curve.log_x:
        axes.set_xscale("log", base=2)
    if curve.x_ticks:
        axes.set_xticks(curve.x_ticks, [f"{tick:g}" for tick in curve.x_ticks])
        axes.minorticks_off()


def _running_mean(values: tuple[float, ...]) -> list[float]:
    """The mean over a centred window of a twentieth of all values; at both ends the window is cut off."""
    half = len(values) // 40
    totals = [0.0, *itertools.accumulate(values)]
    result = []
    for index in range(len(values)):
        first, end = max(0, index - half), min(len(values), index + half + 1)
        result.append((totals[end] - totals[first]) / (end - first))
    return result
