"""Stands in for the trainings and scores of occlift: as fast as can be, with the same files."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True)
class Schedule:
    steps: int


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    optimizer: Schedule = field(default_factory=lambda: Schedule(steps=40))


def prepare(*, path: Path) -> dict[str, float]:
    """Notes every call."""
    with path.open("a") as file:
        file.write("called\n")
    return {}


def train(*, config: Config, out: Path, resume: Path | None, max_steps: int, step_s: float = 0.0) -> None:
    """Adds up its steps; a checkpoint and a line of the log after each."""
    state = {"global_step": 0, "total": config.seed} if resume is None else torch.load(resume, weights_only=True)
    out.mkdir(parents=True, exist_ok=True)
    log = out / "losses.csv"
    lines = log.read_text().splitlines(keepends=True) if resume else ["step,name,value\n"]
    for step in range(state["global_step"] + 1, max_steps + 1):
        time.sleep(step_s)
        state = {"global_step": step, "total": state["total"] + step}
        lines += [f"{step},loss,1.0\n", f"{step},step_seconds,0.5\n"]
        log.write_text("".join(lines))
        torch.save(state, out / "new.ckpt")
        (out / "new.ckpt").replace(out / "last.ckpt")


def score(*, checkpoint: Path) -> dict[str, float]:
    total = float(torch.load(checkpoint, weights_only=True)["total"])
    return {"frames": 3, "ray_iou_17": total, "iou_none": float("nan")}


def fail(*, text: str) -> dict[str, float]:
    raise ValueError(text)


def sleep(*, seconds: float) -> dict[str, float]:
    time.sleep(seconds)
    return {}


def meet(*, here: Path, there: Path) -> dict[str, float]:
    """Ends only if somebody does the other half at the same time."""
    here.touch()
    end = time.monotonic() + 60
    while not there.exists():
        assert time.monotonic() < end, "alone"
        time.sleep(0.01)
    return {}
