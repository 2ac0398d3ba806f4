"""The demo in its smallest form: every stage runs, a second run reuses, another configuration is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from occlift.demo import DemoConfig, run_demo
from occlift.errors import ConfigError


def test_the_demo_runs_reuses_what_is_there_and_refuses_to_mix(tmp_path: Path) -> None:
    config = DemoConfig.smoke()
    first = run_demo(tmp_path / "demo", config, command="occlift demo --size smoke")
    assert [row.name for row in first.rows] == ["prior", "blind", "labels", "EasyOcc"]
    html = first.report.read_text(encoding="utf-8")
    assert "occlift demo --size smoke" in html
    assert "trained for 2 steps instead of 4" in html
    assert first.scene.stat().st_size > 500_000
    assert (tmp_path / "demo/overview.png").exists()
    scores = json.loads((tmp_path / "demo/scores/easyocc.json").read_text())["scores"]
    assert first.rows[-1].with_camera_mask.miou[0] == pytest.approx(scores["miou_17_camera_absent_skipped"])
    checkpoint = tmp_path / "demo/easyocc/last.ckpt"
    written = checkpoint.stat().st_mtime_ns
    second = run_demo(tmp_path / "demo", config, command="occlift demo --size smoke")
    assert checkpoint.stat().st_mtime_ns == written
    assert second.rows == first.rows
    with pytest.raises(ConfigError, match="another configuration"):
        run_demo(tmp_path / "demo", replace(config, blind_steps=3), command="occlift demo")
    assert checkpoint.stat().st_mtime_ns == written


def test_a_missing_viewer_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(ConfigError, match=r"the demo needs viser: pip install 'occlift\[demo\]'"):
        run_demo(tmp_path / "demo", DemoConfig.smoke(), command="occlift demo")
    assert not (tmp_path / "demo").exists()
