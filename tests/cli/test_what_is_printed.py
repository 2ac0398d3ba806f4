"""What commands print, and what they do without being told."""

from __future__ import annotations

from pathlib import Path

import pytest

from occlift.cli import call
from occlift.cli.tables import print_teachers
from occlift.scenes import open_dataset
from occlift.teachers.registry import TeacherStatus


def test_square_brackets_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    status = TeacherStatus(
        kind="depth", name="net[1]", summary="s", needs="n", ready=False, note="pip install 'occlift[teachers]'"
    )
    print_teachers((status,))
    printed = capsys.readouterr().out
    assert "net[1]: pip install 'occlift[teachers]'" in printed
    assert printed.count("net[1]") == 2, "in the table, too"


def test_without_a_token_the_middle_of_the_first_scene_is_drawn(
    small_town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_dataset(small_town)
    tokens = data.key_frame_tokens(data.scenes()[0])
    call("show", [str(small_town), "--out", str(tmp_path / "middle")])
    call("show", [str(small_town), tokens[len(tokens) // 2], "--out", str(tmp_path / "named")])
    assert capsys.readouterr().out.count("occupancy.png") == 2
    pictures = sorted(path.name for path in (tmp_path / "named").iterdir())
    assert all((tmp_path / "middle" / n).read_bytes() == (tmp_path / "named" / n).read_bytes() for n in pictures)
