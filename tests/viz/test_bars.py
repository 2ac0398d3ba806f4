"""Bars per class: their lengths, measured in the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occlift.label_space import FREE, OCC3D
from occlift.viz.bars import DPI, WIDTH_IN, write_class_bars
from occlift.viz.curves import SERIES_COLORS


def _draw(path: Path, values: list[list[float | None]], **options: object) -> np.ndarray:
    write_class_bars(
        path,
        title="IoU, camera mask, 17 classes, per cent",
        runs=[f"run {number}" for number in range(len(values))],
        classes=OCC3D.taxonomy.all_names[:FREE][: len(values[0])],
        values=values,
        **options,  # type: ignore[arg-type]
    )
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def _bars(picture: np.ndarray, run: int) -> list[tuple[int, int]]:
    """(row of the middle, length in pixels) of a run's bars, from above; the swatch of its legend left out."""
    color = [int(SERIES_COLORS[run][i : i + 2], 16) for i in (1, 3, 5)]
    is_bar = (picture == color).all(axis=2)
    is_bar[:, : picture.shape[1] // 5] = False
    rows = np.flatnonzero(is_bar.any(axis=1))
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [(int(group.mean()), int(is_bar[group].sum(axis=1).max())) for group in groups if group.size]


@pytest.mark.parametrize("runs", [1, 2, 6])
def test_bars_are_as_long_as_their_scores(runs: int, tmp_path: Path) -> None:
    values = np.random.default_rng(runs).uniform(5, 90, (runs, 17))
    picture = _draw(tmp_path / "bars.png", values.tolist(), colors=OCC3D.taxonomy.palette[:FREE])
    assert picture.shape[1] == WIDTH_IN * DPI
    rows = []
    for run in range(runs):
        bars = _bars(picture, run)
        assert len(bars) == 17
        lengths = np.array([length for _, length in bars])
        np.testing.assert_allclose(lengths / lengths.max(), values[run] / values[run].max(), atol=0.004)
        # All runs share one scale.
        assert lengths.max() / values[run].max() == pytest.approx(_bars(picture, 0)[0][1] / values[0, 0], rel=0.02)
        rows.append([row for row, _ in bars])
    # Class by class, the runs in their order.
    assert np.array(rows).T.ravel().tolist() == sorted(np.ravel(rows).tolist())


def test_an_absent_class_is_not_a_bar_of_length_zero(tmp_path: Path) -> None:
    zero = _draw(tmp_path / "zero.png", [[50.0, 0.0, 20.0], [40.0, 0.0, 10.0]])
    absent = _draw(tmp_path / "absent.png", [[50.0, None, 20.0], [40.0, float("nan"), 10.0]])
    nan = _draw(tmp_path / "nan.png", [[50.0, float("nan"), 20.0], [40.0, None, 10.0]])
    assert [len(_bars(picture, 0)) for picture in (zero, absent)] == [2, 2]
    assert (zero != absent).any()
    np.testing.assert_array_equal(absent, nan)
    # The legend says over how many classes the mean goes, and the second row says "absent".
    height = zero.shape[0]
    different = (zero != absent).any(axis=(1, 2))
    assert different[: height // 2].any()
    first, last = (row for row, _ in _bars(zero, 0))
    assert different[first + 10 : last - 10].any()
    # Nothing else changed.
    assert not different[last + 10 :].any()


def test_nothing_at_all_is_drawn_too(tmp_path: Path) -> None:
    picture = _draw(tmp_path / "new/folder/bars.png", [[None, None], [None, None]])
    assert _bars(picture, 0) == []


def test_swatches_have_the_colours_of_the_classes(tmp_path: Path) -> None:
    values = [[30.0] * 17]
    colors = [tuple(color) for color in OCC3D.taxonomy.palette[:FREE]]
    picture = _draw(tmp_path / "bars.png", values, colors=colors)
    left_of_axis = {tuple(color) for color in picture[:, : picture.shape[1] // 5].reshape(-1, 3).tolist()}
    assert set(colors) <= left_of_axis
    plain = _draw(tmp_path / "plain.png", values)
    assert not (set(colors) - {(60, 60, 60)}) & {tuple(color) for color in plain.reshape(-1, 3).tolist()}


def test_names_are_shown_as_they_are_and_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_class_bars(
            tmp_path / f"{name}.png",
            title="A title that is so long that it has to be continued on a second line, as a full name of a score is "
            "when it names the mask and $the$ rules",
            runs=("_hidden", "costs $5 and $6"),
            classes=("car",),
            values=((1.0,), (2.0,)),
        )
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "other.png"]
    with Image.open(tmp_path / "one.png") as picture:
        legend = np.asarray(picture.convert("RGB")).astype(int)[:, : picture.width // 20]
    # A run whose name begins with an underscore is in the legend.
    for color in SERIES_COLORS[:2]:
        assert (legend == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2).any()
