"""`occlift label` killed at fifty random moments ends with the bytes of a run that nobody disturbed.

Every kill is SIGKILL, drawn with a seed: to the whole process group, to the run alone (its workers live on for a
moment, while the next run begins), or to one worker (the run goes on with another). Most come as soon as a run, or a
worker that was started again, has begun to write a file, or up to 0.3 seconds later, because starting takes longer than
making a label, and moments drawn evenly would mostly fall into imports. The others fall anywhere in the first two
seconds of a run: reading tables, taking locks, sweeping, starting workers. After the last kill the run ends by itself.

A cycle takes about two seconds, so this is the longest test of the suite: some 100 seconds on two cores. Should a
faster machine finish all labels before the fiftieth kill, the folder is compared and another one is begun. What was
killed when is logged (`pytest --log-cli-level=info`).
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from label_runs import contents, labels_in, workers_of

from occlift.runtime.folder_lock import LOCKS_NAME
from occlift.town.config import TownConfig
from occlift.town.write import write_town

_log = logging.getLogger(__name__)

KILLS = 50
TOWN = TownConfig(scenes=4, frames=15, seed=1, image_height=48, image_width=88, maps=True)
LABELS = TOWN.scenes * TOWN.frames


class Run:
    """`occlift label` in a process group of its own."""

    def __init__(self, root: Path, out: Path, log: Path) -> None:
        self._out, self._log = out, log
        command = [sys.executable, "-m", "occlift", "label", str(root), "--out", str(out), "--workers", "2"]
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [*command, "--frames", "5", "--fusion", "votes", "--keep-votes"],
                start_new_session=True, stdout=file, stderr=file,
            )  # fmt: skip

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self, whom: str) -> str:
        """Kills, and says who it was; a worker only where there is one."""
        workers = [pid for pid in workers_of(self._out) if whom == "worker" and self._has(pid)]
        if workers:
            os.kill(workers[-1], signal.SIGKILL)
            return "a worker"
        if whom == "run":
            self._process.kill()
        else:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return "the run alone" if whom == "run" else "the whole group"

    def _has(self, worker: int) -> bool:
        """Whether a process lives and is ours: the locks of dead workers stay until the run ends."""
        try:
            return os.getpgid(worker) == self._process.pid
        except ProcessLookupError:
            return False

    def wait_for_a_file(self, seconds: float = 60.0) -> None:
        """Waits until it begins to write something, or ends."""
        before, end = _files(self._out), time.monotonic() + seconds
        while not self.ended and not _files(self._out) - before:
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.002)

    def wait(self) -> None:
        assert self._process.wait() == 0, self._log.read_text()


def _files(out: Path) -> set[str]:
    """What a run writes while it works; not its locks."""
    return {str(path) for path in out.glob("*/*/*")} | {str(path) for path in out.glob("*/*/.*.tmp")}


def test_fifty_kills_leave_no_trace(tmp_path: Path) -> None:
    town, log = tmp_path / "town", tmp_path / "log.txt"
    write_town(town, TOWN)
    Run(town, tmp_path / "whole", log).wait()
    whole = contents(tmp_path / "whole")
    assert len(labels_in(tmp_path / "whole")) == LABELS

    draw, kills, started = random.Random(7), Counter[str](), time.monotonic()
    folders = amid_a_file = 0
    while kills.total() < KILLS:
        folders += 1
        out = tmp_path / f"labels{folders}"
        run = Run(town, out, log)
        fresh = True
        while kills.total() < KILLS and len(labels_in(out)) < LABELS:
            whom = draw.choice(["group", "group", "run", "run", "worker"])
            if fresh and draw.random() < 0.25:
                phase = "while it starts"
                time.sleep(draw.uniform(0.0, 2.0))
            else:
                phase = "while it writes"
                run.wait_for_a_file()
                time.sleep(max(0.0, draw.uniform(-0.1, 0.3)))
            if run.ended:
                break
            killed = run.kill(whom)
            kills[f"{killed} {phase}"] += 1
            amid_a_file += any(out.glob("*/*/.*.tmp"))
            fresh = killed != "a worker"
            if fresh:
                run = Run(town, out, log)
        _log.info("after %d kills %d labels are there", kills.total(), len(labels_in(out)))
        run.wait()
        assert contents(out) == whole
        assert [path.name for path in (out / LOCKS_NAME).iterdir()] == ["run.lock"]
    assert amid_a_file, "no kill hit a file that was being written"
    _log.info(
        "%s; %d amid a file; %d folders; %.2f s a kill",
        dict(kills), amid_a_file, folders, (time.monotonic() - started) / KILLS,
    )  # fmt: skip
