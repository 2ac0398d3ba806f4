"""Files of `occlift evaluate-bev` side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from occlift.cli.evaluation import compare as compare_command
from occlift.cli.tables import print_comparison
from occlift.errors import ConfigError, DataError
from occlift.evaluation.bev import BevEvaluation
from occlift.evaluation.compare_bev import compare_bev
from occlift.evaluation.score_table import ScoreTable
from occlift.metrics.bev import BevCounts
from occlift.training.corrupt import Corruption

FOG = Corruption(name="fog", strength=3)


def evaluation(right: int, *, corruption: Corruption | None = None, tokens: str = "ab") -> dict[str, Any]:
    """Of `right` cells that are predicted and true, of 100 predicted and 100 true."""
    cells = {"unfiltered": np.array([[right, 100, 100]]), "filtered": np.array([[right, 100, 90]])}
    counts = BevCounts(classes=("vehicle",), cells=cells)
    return BevEvaluation(
        checkpoint=Path("run/last.ckpt"), tokens=tuple(tokens), corruption=corruption, counts=(counts,)
    ).to_dict()


def write(path: Path, *evaluations: dict[str, Any]) -> Path:
    path.write_text(json.dumps(evaluations), encoding="utf-8")
    return path


def test_the_best_is_marked_among_runs_under_the_same_corruption(tmp_path: Path) -> None:
    one = write(tmp_path / "one.json", evaluation(50), evaluation(40, corruption=FOG))
    two = write(tmp_path / "two.json", evaluation(60), evaluation(30, corruption=FOG))
    table = compare_bev([one, two]).table()
    assert table.rows == ("one, images as they are", "two, images as they are", "one, fog 3", "two, fog 3")
    column = table.columns.index("vehicle unfiltered")
    assert [row[column] for row in table.values] == pytest.approx([100 / 3, 100 * 60 / 140, 25, 100 * 30 / 170])
    assert [row[column] for row in table.best] == [False, True, True, False]
    assert table.notes == ()
    alone = compare_bev([one]).table()
    assert not any(any(row) for row in alone.best)


def test_runs_on_other_samples_say_so(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one.json", evaluation(50)), write(tmp_path / "c.json", evaluation(60, tokens="bc"))
    (note,) = compare_bev([one, other], ["a", "b"]).table().notes
    assert note == "b was scored on other samples than a (2 and 2, 1 in common): their scores cannot be compared."
    # A file from before the samples were written down still says how many they were.
    older = evaluation(60)
    del older["tokens"]
    assert compare_bev([one, write(tmp_path / "older.json", older)]).notes() == ()
    (note,) = compare_bev([one, write(tmp_path / "more.json", {**older, "frames": 3})]).notes()
    assert "(3 and 2)" in note


def test_the_command_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = write(tmp_path / "one.json", evaluation(50)), write(tmp_path / "two.json", evaluation(60))
    tyro.cli(compare_command, args=[str(one), str(two), "--markdown"])
    printed = capsys.readouterr().out
    assert "Bird's-eye-view IoU, 2 key frames, images as they are, per cent" in printed
    assert "| two | **42.86** | **46.15** |" in printed
    with pytest.raises(ConfigError, match=r"--per-class: for files of `occlift evaluate`"):
        tyro.cli(compare_command, args=[str(one), "--per-class", "camera"])
    occupancy = tmp_path / "occupancy.json"
    occupancy.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"one.json is of `occlift evaluate-bev`, and .*occupancy.json is not"):
        tyro.cli(compare_command, args=[str(one), str(occupancy)])


def test_eight_scores_and_the_names_of_runs_fit_into_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    masks = ("camera mask", "no mask")
    columns = [f"{score}, {mask}" for mask in masks for score in ("IoU", "mIoU 17", "mIoU 15")]
    columns += ["RayIoU 17", "RayIoU 15"]
    values = ((87.65,) * 8, (12.34,) * 8)
    print_comparison(
        ScoreTable(
            title="2 key frames",
            corner="run",
            columns=tuple(columns),
            rows=("baseline", "ours"),
            values=values,
            best=((True,) * 8, (False,) * 8),
        )
    )
    printed = capsys.readouterr().out
    assert re.search(r"baseline( +87\.65\*){8}", printed)
    assert re.search(r"ours( +12\.34){8}", printed)


@pytest.mark.parametrize("content", ["[]", "[1]", '[{"frames": 1}]', '{"a": 1}', "no JSON"])
def test_what_is_no_evaluation_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"scores.json: not an evaluation as `occlift evaluate-bev --json` writes it"):
        compare_bev([path])
    with pytest.raises(DataError, match="no such file"):
        compare_bev([tmp_path / "none.json"])
