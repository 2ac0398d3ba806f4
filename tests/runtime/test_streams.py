"""What a command prints, into pipes that nobody reads and in locales that lack its letters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASCII = {"PYTHONIOENCODING": "ascii"}
"""Streams without letters, as cp1252 lacks λ."""

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale that is not UTF-8: names of files are bytes that no text holds."""


def run(*command: str, shell_end: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, *command]
    return subprocess.run(
        ["bash", "-c", f'"$@" {shell_end}', "bash", *words], env=os.environ | environment, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip


_PROGRAM = """
import sys, time
from pathlib import Path
from occlift.runtime.streams import patient_streams
with patient_streams() as streams:
    for line in range(200):
        print("x" * 1000, flush=True)
        print("y" * 1000, file=sys.stderr, flush=True)
    Path("made").write_text("the rest")
Path("broken").write_text(str(streams.broken))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("end", ["2>&1 | head -1", "| true", "2>&1 | true", ">&-", "2>&-"])
def test_nothing_is_lost_to_a_reader_that_has_had_enough(
    end: str, unbuffered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("-c", _PROGRAM, shell_end=end, PYTHONUNBUFFERED=unbuffered)
    assert (tmp_path / "made").read_text() == "the rest"
    assert (tmp_path / "broken").read_text() == str("|" in end)


@pytest.mark.parametrize("words", ["--help", "train --help", "space occ3d"])
def test_a_closed_pipe_is_no_error(words: str) -> None:
    found = run("-m", "occlift", *words.split(), shell_end="| true; exit ${PIPESTATUS[0]}")
    # Whatever was written in one piece may have been written before the reader left.
    assert found.returncode in (0, 141)
    assert found.stderr == b""


@pytest.mark.parametrize("command", ["--help", "train --help", "label --help", "finetune --help"])
def test_help_is_printed_in_every_encoding(command: str) -> None:
    found = run("-m", "occlift", *command.split(), **ASCII)
    assert (found.returncode, found.stderr) == (0, b"")
    assert b"usage: occlift" in found.stdout


def test_names_of_files_are_printed_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "Übung"
    folder.mkdir()
    found = run("-m", "occlift", "evaluate", "--predictions", str(folder), "--truth", str(folder), **C_LOCALE)
    assert found.returncode == 1
    assert found.stderr.startswith(b"occlift: ")
    assert "Übung".encode() in found.stderr


def test_a_data_set_in_a_folder_with_umlauts_is_indexed(small_town: Path, tmp_path: Path) -> None:
    """Its tables cannot be written into, so the index goes into the user's cache, by the folder's name."""
    tables = tmp_path / "Übersicht"
    tables.mkdir()
    for name in ("gts", "samples", "maps"):
        (tables / name).symlink_to(small_town / name, target_is_directory=True)
    (tables / "v1.0-town").mkdir()
    for table in (small_town / "v1.0-town").glob("*.json"):
        (tables / "v1.0-town" / table.name).write_bytes(table.read_bytes())
    (tables / "v1.0-town").chmod(0o555)
    code = "import sys; from occlift import open_dataset; print(len(open_dataset(sys.argv[1]).scenes()))"
    found = run("-c", code, str(tables), **C_LOCALE, XDG_CACHE_HOME=str(tmp_path / "Ablage"))
    (tables / "v1.0-town").chmod(0o755)
    assert (found.stdout, found.stderr) == (b"2\n", b"")
    assert len(list((tmp_path / "Ablage" / "occlift").iterdir())) == 1
