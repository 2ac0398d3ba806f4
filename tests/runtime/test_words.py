"""Words of what is printed."""

from __future__ import annotations

from occlift.runtime.words import counted


def test_one_thing_is_no_plural() -> None:
    assert [counted(number, "key frame") for number in (0, 1, 2)] == ["0 key frames", "1 key frame", "2 key frames"]
