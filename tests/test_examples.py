"""The examples run, and give what they say."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from occlift import OCC3D, cli, open_dataset, read_label
from occlift.label_space import DRIVEABLE_SURFACE, FREE, MANMADE, UNKNOWN
from occlift.labels.files import label_path

# Their arrays are checked everywhere else; these run as they do for users, and take long enough.
pytestmark = pytest.mark.usefixtures("without_shape_checks")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("example", ["labels_from_arrays"], indirect=True)
def test_arrays_become_a_label(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["driveable_surface", "manmade", "free", "unknown"]
    assert sum(int(line.split()[1]) for line in lines) == 200 * 200 * 16


@pytest.mark.parametrize("example", ["own_dataset"], indirect=True)
def test_a_data_set_of_ones_own_gets_labels(example: ModuleType, tmp_path: Path) -> None:
    example.main(str(tmp_path))
    label = read_label(label_path(tmp_path / "labels", "drive", "drive-1"), allow_unknown=True)
    assert {11, 15, 17} <= set(label.semantics.ravel().tolist())
    # What its docstring promises to worker processes.
    data = open_dataset(f"own_dataset:Recordings?root={tmp_path}")
    assert data.key_frame_tokens("drive") == ("drive-0", "drive-1", "drive-2")
    source = (EXAMPLES / "own_dataset.py").read_text()
    assert source.partition("class Recordings")[2].partition("\ndef ")[0].count("\n") < 45


@pytest.mark.parametrize("example", ["three_cameras"], indirect=True)
def test_three_cameras_go_all_the_way(
    example: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In this process: starting one per command takes long.
    monkeypatch.setattr(example, "occlift", lambda *words: cli._run([str(word) for word in words]))
    example.main(str(tmp_path), height=48, width=88, steps=2)
    said = capfd.readouterr().out
    assert "cameras left, front, right" in said
    assert "no problem found" in said
    assert "mIoU" in said
    assert (tmp_path / "show" / "occupancy_on_images.png").exists()


@pytest.mark.parametrize("example", ["fisheye"], indirect=True)
def test_two_fisheye_cameras_become_a_label(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    label = example.main()
    assert "front-left, front-center, front-right, back-left" in capsys.readouterr().out
    centers = OCC3D.grid.centers()
    floor, walls = (centers[label.semantics == class_id] for class_id in (DRIVEABLE_SURFACE, MANMADE))
    # 16.2 × 16.2 m of floor with voxels of 0.4 m, and its walls up to where 45° above the axis leads.
    assert len(floor) > 1300
    assert len(walls) > 2000
    assert np.abs(floor[:, 2]).max() < 0.4
    assert np.abs(np.abs(walls[:, :2]).max(-1) - 8.1).max() < 0.4
    # The hall is closed to all sides, so that nothing is known outside of it.
    outside = np.abs(centers[..., :2]).max(-1) > 8.6
    assert (label.semantics[outside] == UNKNOWN).all()
    assert (label.semantics == FREE).sum() > 10_000


def test_the_notebook_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    display = ModuleType("IPython.display")
    display.display = shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    cells = json.loads((EXAMPLES / "images_to_label.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len(shown) == 5
    assert {11, 15, 16, FREE, UNKNOWN} <= set(names["label"].semantics.ravel().tolist())
    assert names["page"].stat().st_size > 100_000
    names["folder"].cleanup()
