"""Programs that are told to stop, as a terminal and a scheduler do: all of their processes at once, and again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT_S = 4.0
"""Two seconds are promised; a machine that runs other tests besides takes its time to start a thread."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals to groups of processes")

_PROGRAM = """
import sys, time
from pathlib import Path
from occlift.runtime.interrupts import stopping_soon, going_on
from occlift.runtime.processes import in_processes, run_in_processes
started = Path(sys.argv[1])
def compiled_code():
    import hashlib
    started.touch()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
def swallowing():
    started.touch()
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
def a_pool():
    for _ in in_processes(time.sleep, [(0,), *[(60,)] * 5], workers=2, threads=1):
        started.touch()
def processes_that_train():
    import functools
    started.touch()
    run_in_processes(functools.partial(time.sleep, 60), 2)
def loaders():
    import torch
    class Slow(torch.utils.data.Dataset):
        def __len__(self):
            return 9
        def __getitem__(self, index):
            started.touch()
            time.sleep(60)
    next(iter(torch.utils.data.DataLoader(Slow(), num_workers=2)))
if __name__ == "__main__":
    with stopping_soon() as stop, going_on(lambda: "interrupted; go on in some way"):
        try:
            globals()[sys.argv[2]]()
        except BaseException:
            stop.end()
"""


def stop(process: subprocess.Popen[str], started: Path, number: int) -> tuple[str, float]:
    """Signals the whole group three times as soon as it has begun; (what it said, seconds until it was gone)."""
    deadline = time.monotonic() + 200
    while not started.exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, "it did not begin"
        time.sleep(0.02)
    time.sleep(0.2)
    before = time.monotonic()
    for _ in range(3):
        if process.poll() is None:
            os.killpg(process.pid, number)
            time.sleep(0.05)
    _, errors = process.communicate(timeout=60)
    return errors, time.monotonic() - before


def start(*command: str) -> subprocess.Popen[str]:
    def answer_interrupts() -> None:
        # In the background of a script SIGINT is ignored, and would stay so.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=answer_interrupts,
    )  # fmt: skip


@pytest.mark.parametrize("work", ["compiled_code", "swallowing", "a_pool", "processes_that_train", "loaders"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whatever_it_does_a_program_is_gone_soon_and_says_one_sentence(
    work: str, number: signal.Signals, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    process = start(str(program), str(tmp_path / "started"), work)
    errors, seconds = stop(process, tmp_path / "started", number)
    assert errors == "occlift: interrupted; go on in some way\n"
    assert process.returncode == 128 + number
    assert seconds < LIMIT_S


def test_a_town_stops_with_its_processes_and_goes_on(tmp_path: Path) -> None:
    """Before, all of its scenes were written first."""
    command = ("-m", "occlift", "town", str(tmp_path), "--scenes", "3", "--frames", "9", "--workers", "2")
    process = start(*command, "--image-height", "48", "--image-width", "88")
    errors, seconds = stop(process, tmp_path / "samples", signal.SIGINT)
    *_, last = errors.splitlines()
    assert last == "occlift: interrupted; what is finished is kept: run the same command again to go on"
    assert "Traceback" not in errors
    assert process.returncode == 130
    assert seconds < LIMIT_S
    files = set(tmp_path.rglob("*"))
    time.sleep(0.3)
    assert set(tmp_path.rglob("*")) == files, "somebody still writes"
