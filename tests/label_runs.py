"""What tests of runs that are disturbed have in common."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.labels.manifest import TIMINGS_NAME
from occlift.runtime.folder_lock import LOCKS_NAME, WORKER_LOCKS

QUICK = LabelConfig(
    semantics="oracle:perfect", depth="oracle:perfect", frames=3, decision=DecisionConfig(fusion="votes", min_points=1)
)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder of labels, hidden and temporary ones too, but for the timings."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != TIMINGS_NAME)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def labels_in(folder: Path) -> list[Path]:
    """The labels that are finished."""
    return sorted(folder.glob("*/*/labels.npz"))


def workers_of(folder: Path) -> list[int]:
    """The processes of workers that have begun, dead or alive."""
    return sorted(int(path.stem.rpartition("-")[2]) for path in (folder / LOCKS_NAME).glob(WORKER_LOCKS))


def wait_until(condition: object, what: str, *, seconds: float = 60.0) -> None:
    """Looks every few milliseconds, and fails after a while."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.005)


@contextmanager
def one_worker_killed(folder: Path) -> Iterator[list[int]]:
    """While this is open, kills one worker when the first label is there; the list holds who it was."""
    killed: list[int] = []

    def kill() -> None:
        wait_until(lambda: labels_in(folder) and workers_of(folder), "a label")
        killed.append(workers_of(folder)[0])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        thread.join()
