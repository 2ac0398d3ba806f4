"""Folders are ours, free to take, or refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from occlift.datasets.nuscenes.index_cache import cache_paths
from occlift.errors import ConfigError, DataError
from occlift.runtime.folders import check_same, is_claimed, read_record
from occlift.training.run_folder import peak_memory_bytes


def test_a_folder_is_ours_or_free_or_refused(tmp_path: Path) -> None:
    assert not is_claimed(tmp_path / "missing", "mark.json", contents="labels")
    assert not is_claimed(tmp_path, "mark.json", contents="labels")
    (tmp_path / ".locks").mkdir()
    assert not is_claimed(tmp_path, "mark.json", contents="labels"), "what is hidden may be ours"
    for name in "abcd":
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"holds something else \(a, b, c, \.\.\.\) and no labels \(no mark\.json\)"):
        is_claimed(tmp_path, "mark.json", contents="labels")
    (tmp_path / "mark.json").touch()
    assert is_claimed(tmp_path, "mark.json", contents="labels")


def test_other_settings_are_named(tmp_path: Path) -> None:
    check_same(tmp_path, {"size": [1, 2]}, {"size": (1, 2)}, contents="a run")
    with pytest.raises(ConfigError, match=r"holds a run of another configuration \(seed: 1 there, 2 now\)"):
        check_same(tmp_path, {"seed": 1}, {"seed": 2}, contents="a run")


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_damaged_records_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(DataError, match=r"run\.json: not readable"):
        read_record(tmp_path / "run.json")


def test_without_a_home_an_index_is_cached_beside_its_tables_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who is a number and nothing else, as containers have them."""

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert [path.parent for path in cache_paths(tmp_path)] == [tmp_path]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert [path.parent for path in cache_paths(tmp_path)] == [tmp_path, tmp_path / "cache/occlift"]


def test_where_the_system_does_not_say_the_peak_memory_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no module `resource`."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(peak_memory_bytes())
