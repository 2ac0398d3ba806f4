"""The process of one run: `runner` starts it and sends the arguments of `perform` through its
standard input.

A training goes as far as the time allows; the next process resumes it. Everything else is short, or goes on by itself
where it was interrupted.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import platform
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from filelock import FileLock

from calls import usable_cores
from runs import CHECKPOINT, Result, Run, read_losses, write_whole

TIME_OVER: Final = 75
"""Exit status where the rest does not fit into the time: EX_TEMPFAIL of sysexits.h."""

_PROBE_STEPS: Final = 20
"""Steps of the first call of a training, which shows how long a step takes."""

_SCORING_S: Final = 60.0
"""Time that must be left for scoring a trained network."""

_ORPHAN_S: Final = 60.0
"""How long to wait for the process of a call that was killed."""


def perform(run: Run, folder: Path, ends_at: float) -> bool:
    """Does a run, or the part of its training that the time allows; false if the time is too short for any more.

    Args:
        folder: folder of the run.
        ends_at: when to end, as `time.time` counts; infinite: no limit.
    """
    started, scores, log = time.monotonic(), dict[str, Any](), folder / "calls.jsonl"
    calls: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if run.train:
        checkpoint = folder / CHECKPOINT
        done = _steps_done(checkpoint) if checkpoint.exists() else 0
        if done < run.steps:
            last = steps_in_time(done, run.steps, _step_seconds(calls), ends_at - time.time())
            if last == done:
                return False
            run.train(out=checkpoint.parent, resume=checkpoint if done else None, max_steps=last)
            calls.append({"first": done, "last": last, "seconds": time.monotonic() - started, **_peak_bytes()})
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(calls[-1]) + "\n")
            if last < run.steps:
                return True
            started = time.monotonic()
        if run.call and ends_at - time.time() < _SCORING_S:
            return False
        step_seconds = [seconds for _, seconds in read_losses(folder, "step_seconds")]
        scores["step_seconds"] = median(step_seconds) if step_seconds else math.nan
        # The accelerator's memory where there is one. Not known if every call was killed.
        scores["peak_memory"] = max((call["device"] or call["resident"] for call in calls), default=math.nan) / 1e9
    if run.call:
        scores |= run.call()
    draws = scores.pop("draws", {})
    result = Result(
        kind=run.kind, seed=run.seed,
        scores={name: value for name, value in scores.items() if not math.isnan(value)},
        seconds=sum(call["seconds"] for call in calls) + time.monotonic() - started, commit=_commit(),
        machine=_machine(), draws=draws,
    )  # fmt: skip
    write_whole(folder / "result.json", json.dumps(asdict(result), indent=1))
    return True


def steps_in_time(done: int, steps: int, step_s: float | None, seconds: float) -> int:
    """The step at which a call should end: the last one, or the last that fits.

    Args:
        done: number of steps before this call.
        steps: number of steps of the schedule.
        step_s: duration of a step, everything included; None: unknown.
        seconds: time left; infinite: no limit.
    """
    if math.isinf(seconds):
        return steps
    return min(steps, done + (_PROBE_STEPS if step_s is None else max(0, int(seconds / step_s))))


def _step_seconds(calls: list[dict[str, Any]]) -> float | None:
    """Duration of a step in the last call, its start included; None before the first."""
    return calls[-1]["seconds"] / (calls[-1]["last"] - calls[-1]["first"]) if calls else None


def _steps_done(checkpoint: Path) -> int:
    import torch

    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


def _peak_bytes() -> dict[str, int | None]:
    """Largest resident size of this process or one of its children, and the most that tensors took on a GPU."""
    resident = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    torch = sys.modules.get("torch")
    device = torch.cuda.max_memory_allocated() if torch and torch.cuda.is_available() else None
    return {"resident": resident * (1 if sys.platform == "darwin" else 1024), "device": device}


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _machine() -> str:
    table, torch = Path("/proc/cpuinfo"), sys.modules.get("torch")
    model = re.search(r"model name\s*: (.*)", table.read_text()) if table.exists() else None
    accelerator = [torch.cuda.get_device_name()] if torch and torch.cuda.is_available() else []
    processor = model[1] if model else platform.processor() or platform.machine()
    return ", ".join([*accelerator, processor, f"{usable_cores()} cores used", f"torch {version('torch')}"])


def _end_with_the_caller() -> None:
    """Ends this process and its children when the standard input closes: the next call wants to resume the run."""
    while os.read(0, 1 << 16):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Reads a job and does it."""
    run, folder, ends_at = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    with FileLock(folder / ".lock", timeout=_ORPHAN_S):
        return 0 if perform(run, folder, ends_at) else TIME_OVER


if __name__ == "__main__":
    sys.exit(main())
