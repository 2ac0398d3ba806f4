"""Curves of a training as SVG that lives inside an HTML page: its text and axes take the page's colour and font."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import dataclass
from typing import Any, Final

SERIES_COLORS: Final = ("#2f6fde", "#e0662f", "#2a9d6f", "#9a5bd0", "#b08a1e")
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
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    smooth: bool = True


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
        for number, series in enumerate(curve.series):
            assert len(series.x) == len(series.y), (series.name, len(series.x), len(series.y))
            color = SERIES_COLORS[number % len(SERIES_COLORS)]
            style = "--" if series.dashed else "-"
            many = curve.smooth and len(series.y) > 60
            marker = "o" if len(series.y) <= 12 and not series.dashed else ""
            if many:
                axes.plot(series.x, series.y, color=color, alpha=0.25, linewidth=0.8)
            values = _running_mean(series.y) if many else series.y
            axes.plot(
                series.x, values, style, color=color, linewidth=1.8, marker=marker, markersize=4, label=series.name
            )
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_alpha(0.5)
        axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
        axes.set(xlabel=curve.x_label, ylabel=curve.y_label)
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


def _running_mean(values: tuple[float, ...]) -> list[float]:
    """The mean over a centred window of a twentieth of all values; at both ends the window is cut off."""
    half = len(values) // 40
    totals = [0.0, *itertools.accumulate(values)]
    result = []
    for index in range(len(values)):
        first, end = max(0, index - half), min(len(values), index + half + 1)
        result.append((totals[end] - totals[first]) / (end - first))
    return result
