"""Workers of one machine take its GPUs in turn."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from occlift.errors import ConfigError
from occlift.labels import local_engine
from occlift.labels.config import LabelConfig
from occlift.labels.engine import LabelJob
from occlift.runtime.devices import gpus_in_turn
from occlift.scenes.dataset import KeyFrameList


class Started:
    """Stands for the way in which processes are started, and keeps what they were to be given."""

    def __init__(self) -> None:
        self.given: list[tuple[Any, ...]] = []

    def Pipe(self) -> tuple[Any, Any]:
        return SimpleNamespace(), SimpleNamespace(close=lambda: None)

    def Process(self, *, target: object, args: tuple[Any, ...], daemon: bool) -> Any:
        self.given.append(args)
        return SimpleNamespace(start=lambda: None)


def gpus_of_workers(count: int, monkeypatch: pytest.MonkeyPatch, **options: dict[str, str]) -> list[str | None]:
    started = Started()
    monkeypatch.setattr(local_engine, "get_context", lambda method: started)
    job = LabelJob(data=KeyFrameList([]), out=Path("labels"), config=LabelConfig(**options), run="run")
    crew = local_engine._Processes(job, count)
    for slot in range(count):
        crew.start(slot)
    return [args[-1] for args in started.given]


def test_each_worker_takes_the_next_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    assert gpus_in_turn() == ("4", "7")
    assert gpus_of_workers(3, monkeypatch) == ["4", "7", "4"]
    assert gpus_of_workers(2, monkeypatch, depth_options={"device": "cuda:1"}) == [None, None]
    assert gpus_of_workers(2, monkeypatch, semantics_options={"device": "cuda"}) == ["4", "7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_of_workers(2, monkeypatch) == [None, None]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert gpus_of_workers(4, monkeypatch) == ["0", "1", "2", "0"]


def test_a_worker_sees_its_gpu_before_its_teachers_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(local_engine, "end_with_caller", lambda: None)
    seen = []

    def worker() -> Any:
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        raise ConfigError("no teacher")

    job: Any = SimpleNamespace(worker=worker)
    said: list[object] = []
    pipe: Any = SimpleNamespace(send=said.append)
    local_engine._serve(job, pipe, 1, "7")
    assert seen == ["7"]
    assert [str(one) for one in said] == ["no teacher"]
