"""The scripts in `examples/` do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from occlift import OCC3D
from occlift.label_space import DRIVEABLE_SURFACE, FREE, MANMADE, UNKNOWN

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_fisheye_cameras_become_a_label(capsys: pytest.CaptureFixture[str]) -> None:
    label = load("fisheye").main()
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
