"""Tables as commands print them."""

from __future__ import annotations

import pytest

from occlift.cli.tables import print_teachers
from occlift.teachers.registry import TeacherStatus


def test_square_brackets_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    status = TeacherStatus(
        kind="depth", name="net[1]", summary="s", needs="n", ready=False, note="pip install 'occlift[teachers]'"
    )
    print_teachers((status,))
    printed = capsys.readouterr().out
    assert "net[1]: pip install 'occlift[teachers]'" in printed
    assert printed.count("net[1]") == 2, "in the table, too"
