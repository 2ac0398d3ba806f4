"""What a user sees of long work: in a terminal, in a file, and that results stay apart from it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading

import pytest

from occlift.runtime import progress
from occlift.runtime.progress import remark, shown_progress, track

_PROGRAM = """
import time
from occlift.runtime.progress import remark, shown_progress, track
with shown_progress():
    for _ in track(range(3), "long work"):
        for _ in track(range(2), "a part of it"):
            time.sleep(0.2)
        remark("loss 0.500")
    for _ in track(range(3), "short work"):
        pass
    print("the result")
"""


def test_in_a_file_a_long_stage_leaves_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "the result\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("long work: 3 in ")
    assert line.endswith(" s, loss 0.500")


def test_in_a_terminal_no_bar_stays_below_the_results_and_they_go_to_the_output_alone() -> None:
    here, there = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, stderr=there, env=environment, text=True
    )
    os.close(there)
    seen = []

    def read() -> None:
        try:
            while data := os.read(here, 4096):
                seen.append(data)
        except OSError:  # how Linux says that the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    assert process.stdout is not None
    with process.stdout:
        printed = process.stdout.read()
    assert process.wait() == 0
    reader.join()
    os.close(here)
    terminal = b"".join(seen).decode()
    assert printed == "the result\n"
    assert "the result" not in terminal, "it was redirected, and the terminal is not where it goes"
    assert "3/3" not in terminal.partition("long work: 3 in ")[2].replace("short work", ""), "a bar that stays"


def test_in_a_file_long_stages_say_how_far_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 0.0)
    with shown_progress():
        for number in track(range(3), "long work"):
            remark(f"loss {number}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"long work: {number + 1} of 3, 0 s left, loss {number}" for number in range(3)]
