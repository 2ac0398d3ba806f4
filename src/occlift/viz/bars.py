"""Scores per class of several runs as one picture: grouped horizontal bars."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from occlift.runtime.files import replacing
from occlift.viz.canvas import INK, MUTED_INK, readable_name
from occlift.viz.curves import SERIES_COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rgb = tuple[int, int, int]

WIDTH_IN: Final = 10.0
DPI: Final = 150

_BAR_IN: Final = 0.125
"""Height of a bar: its number is written beside it."""
_MIN_GROUP_IN: Final = 0.26
"""Height of a class of one run: its name is written beside it."""
_GAP_IN: Final = 0.11
"""Between two classes."""
_AXIS_IN: Final = 0.35
_TITLE_CHARACTERS: Final = 100
"""Length of a line of the title."""


def write_class_bars(
    path: Path,
    *,
    title: str,
    runs: Sequence[str],
    classes: Sequence[str],
    values: Sequence[Sequence[float | None]],
    colors: Sequence[Rgb] | None = None,
) -> None:
    """Writes bars per class as a PNG of `WIDTH_IN` × `DPI` pixels width; equal input gives equal bytes.

    A class that a run was not scored on is no bar of length zero: "absent" is written in its place (once, where no run
    was). The legend has the mean of every run over the classes that it was scored on, and their number where some are
    absent.

    Args:
        path: replaced if it exists; written under a temporary name first.
        title: the score by its full name: which mask, which classes, what happens to absent ones; may have lines.
        runs: names, best told apart if there are no more than six.
        classes: names.
        values: [run][class], per cent; None or NaN where the class is absent.
        colors: sRGB per class, drawn as swatches beside the names; None for none.
    """
    import matplotlib
    from matplotlib.figure import Figure

    scores = np.array(values, dtype=np.float64)
    assert scores.shape == (len(runs), len(classes)), (scores.shape, len(runs), len(classes))
    assert scores.size, "no bars to draw"
    assert colors is None or len(colors) == len(classes), (len(colors), len(classes))
    group_in = max(len(runs) * _BAR_IN, _MIN_GROUP_IN) + _GAP_IN
    lines = [line for part in title.split("\n") for line in textwrap.wrap(part, _TITLE_CHARACTERS)]
    title_in = 0.14 + 0.22 * len(lines)
    head_in = title_in + 0.16 + 0.21 * len(runs)
    height_in = head_in + group_in * len(classes) + _AXIS_IN
    # The font that matplotlib carries with it, as plain text: names may hold dollar signs.
    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": _hex(INK),
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white")
        axes = figure.add_axes((0.2, _AXIS_IN / height_in, 0.755, 1 - (head_in + _AXIS_IN) / height_in))
        figure.text(0.02, 1 - 0.14 / height_in, "\n".join(lines), fontsize=11, fontweight="bold", va="top")
        bar_in = (group_in - _GAP_IN) / len(runs)
        top = _axis_end(scores)
        nowhere = np.isnan(scores).all(axis=0)
        _draw_frame(axes, classes, colors, top, group_in)
        for run, name in enumerate(runs):
            below_top = 0.5 * _GAP_IN + (run + 0.5) * bar_in
            centers = np.arange(len(classes)) + below_top / group_in
            axes.barh(
                centers,
                np.nan_to_num(scores[run]),
                0.86 * bar_in / group_in,
                color=SERIES_COLORS[run % len(SERIES_COLORS)],
                # A second round through the colours is told from the first by being paler.
                alpha=1.0 if run < len(SERIES_COLORS) else 0.5,
                # Matplotlib leaves labels that begin with an underscore out of legends; a name may.
                label=f" {name}   {_mean(scores[run])}",
            )
            for center, score in zip(centers[~nowhere].tolist(), scores[run, ~nowhere].tolist(), strict=True):
                _write_score(axes, center, score, top)
        for number in np.flatnonzero(nowhere).tolist():
            _write_score(axes, number + 0.5, float("nan"), top)
        figure.legend(
            loc="upper left",
            bbox_to_anchor=(0.012, 1 - title_in / height_in),
            frameon=False,
            fontsize=10,
            handlelength=1.1,
            handleheight=0.9,
            labelspacing=0.35,
        )
        with replacing(path) as file:
            figure.savefig(file, format="png", metadata={"Software": None})


def _draw_frame(axes: Axes, classes: Sequence[str], colors: Sequence[Rgb] | None, top: float, group_in: float) -> None:
    """The scale, the names of the classes with their swatches, and a line between two classes."""
    axes.set_xlim(0, top)
    axes.set_ylim(len(classes), 0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(_hex(MUTED_INK))
    axes.grid(axis="x", color=_hex(INK), alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=0, labelcolor=_hex(MUTED_INK), labelsize=9)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_yticks(np.arange(len(classes)) + 0.5, [readable_name(name) for name in classes])
    axes.tick_params(axis="y", length=0, pad=8 if colors is None else 24, labelcolor=_hex(INK))
    for line in range(1, len(classes)):
        axes.axhline(line, color=_hex(INK), alpha=0.08, linewidth=0.6)
    if colors is None:
        return
    # Squares of 0.13 inches, in the space that the names leave beside the axis.
    width_in = WIDTH_IN * axes.get_position().width
    for number, color in enumerate(colors):
        axes.barh(
            number + 0.5,
            0.13 / width_in * top,
            left=-0.25 / width_in * top,
            height=0.13 / group_in,
            color=_hex(color),
            edgecolor="#777777",
            linewidth=0.5,
            clip_on=False,
        )


def _write_score(axes: Axes, center: float, score: float, top: float) -> None:
    """The number behind the end of a bar, or that there is none."""
    absent = math.isnan(score)
    axes.text(
        0.004 * top + (0.0 if absent else score),
        center,
        "absent" if absent else f"{score:.1f}",
        va="center_baseline",
        fontsize=7,
        fontstyle="italic" if absent else "normal",
        color=_hex(MUTED_INK if absent else INK),
    )


def _axis_end(scores: Float[np.ndarray, "runs classes"]) -> float:
    """Upper end of the axis: the largest score, and room for the number beside it."""
    present = scores[~np.isnan(scores)]
    largest = float(present.max()) if present.size else 0.0
    return max(1.06 * largest, 5.0)


def _mean(scores: Float[np.ndarray, "classes"]) -> str:
    present = scores[~np.isnan(scores)]
    if not present.size:
        return "all classes absent"
    over = "" if present.size == scores.size else f" over {present.size} of {scores.size} classes"
    return f"mean {present.mean():.2f}{over}"


def _hex(color: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
