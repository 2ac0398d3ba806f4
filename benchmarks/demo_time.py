"""Where the time of the demo goes: parts of a training step, of a scene of the town and of a scene's labels.

    occlift demo --out runs/demo
    python benchmarks/demo_time.py runs/demo [--steps 20] [--threads N] [--json FILE]

What the stages took stands in the folder's demo.json. The town and its labels are made again for one scene, in this
process on one core, files written at once instead of by threads; training runs its real loop for some steps on the
folder's town and labels. Shares of a stage are then shares of its seconds. A backward
pass is cut where the gradient reaches the tensors between two parts. `compiling` is what the first key frame of a town
takes longer with an empty cache of kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning
import numba
import torch

import occlift.labels.scene
import occlift.labels.vote
import occlift.losses.occupancy
import occlift.models.easyocc
import occlift.town.layout
import occlift.town.scene_writer
import occlift.training.loop
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.demo import DemoConfig
from occlift.labels.generate import generate_labels
from occlift.town.config import TownConfig
from occlift.town.scene_writer import GTS, SceneWriter, finished_mark
from occlift.training.occupancy import OccupancyTraining, TrainConfig
from occlift.training.run import run_training

WARM_UP_STEPS = 4


class Parts:
    """Seconds by part; every moment between `start` and `stop` belongs to exactly one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = 0.0
        self._open = ["the rest"]

    def start(self) -> None:
        self.seconds = {}
        self._last = time.perf_counter()

    def ended(self, part: str) -> None:
        """What went on since the last call was this part."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now

    def stop(self) -> dict[str, float]:
        self.ended(self._open[-1])
        return self.seconds

    def between(self, call: Callable[..., Any], before: str, part: str) -> Callable[..., Any]:
        """The same function, whose time counts as this part; what went on until it was called as `before`."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.ended(before)
            result = call(*args, **kwargs)
            self.ended(part)
            return result

        return wrapper

    def timed(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The same function, whose time counts as this part, that of timed functions which it calls excepted."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.ended(self._open[-1])
            self._open.append(part)
            try:
                return call(*args, **kwargs)
            finally:
                self.ended(self._open.pop())

        return wrapper

    @contextmanager
    def functions(self, *named: tuple[Any, str, str]) -> Iterator[None]:
        """Times functions while it lasts: (module or class, name, part)."""
        with ExitStack() as stack:
            for owner, name, part in named:
                stack.enter_context(patch.object(owner, name, self.timed(getattr(owner, name), part)))
            yield


class AtOnce:
    """Stands for the pool of threads that writes files."""

    def __init__(self, **_: Any) -> None:
        pass

    def submit(self, call: Callable[..., Any], *args: Any) -> AtOnce:
        call(*args)
        return self

    def result(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


def write_scene(out: Path, config: TownConfig, number: int) -> None:
    finished_mark(out, config.scene_name(number)).parent.mkdir(parents=True, exist_ok=True)
    for step in SceneWriter(out, config, number).steps():
        step()


def town_parts(config: TownConfig) -> dict[str, float]:
    writer = occlift.town.scene_writer
    parts = Parts()
    named = (
        (writer, "build_scene", "planning"),
        (occlift.town.layout, "paint_ground", "painting the ground"),
        (writer, "render_image", "drawing images"),
        (writer, "sweep_lidar", "lidar"),
        (writer, "visible_share", "boxes"),
        (SceneWriter, "_annotate", "boxes"),
        (writer, "SceneTruth", "truth: classes"),
        (writer.SceneTruth, "semantics", "truth: classes"),
        (writer.SceneTruth, "add_beams", "truth: lidar mask"),
        (writer.SceneTruth, "mask_lidar", "truth: lidar mask"),
        (writer, "observed_by_camera", "truth: camera mask"),
        (writer, "_write_image", "writing images and maps"),
        (writer, "write_label", "writing truth"),
    )
    with tempfile.TemporaryDirectory() as folder, patch.object(writer, "ThreadPoolExecutor", AtOnce):
        write_scene(Path(folder), config, 0)
        with parts.functions(*named):
            parts.start()
            write_scene(Path(folder), config, 1)
            return parts.stop()


def label_parts(town: Path, config: DemoConfig) -> dict[str, float]:
    scene, parts = occlift.labels.scene, Parts()
    named = (
        (scene.SceneLabeller, "_make_views", "teachers"),
        (scene.Tally, "add_view", "voting"),
        (scene.Tally, "votes", "collecting votes"),
        (occlift.labels.vote, "ray_evidence", "rays: what is free"),
        (scene, "decide", "deciding"),
        (scene, "label_of", "camera mask"),
        (scene, "write_label", "writing"),
    )
    data = NuScenes.open(town)
    with tempfile.TemporaryDirectory() as folder:
        generate_labels(data, Path(folder), config.label, scenes=data.scenes()[:1])
        with parts.functions(*named):
            parts.start()
            generate_labels(data, Path(folder), config.label, scenes=data.scenes()[1:2])
            return parts.stop()


class StepParts(lightning.Callback):
    """Cuts the steps of a real training into parts."""

    def __init__(self, parts: Parts, threads: int) -> None:
        self._parts, self._threads = parts, threads
        self.step_parts: dict[str, float] = {}
        self.validation_s = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # numba's threads may be OpenMP's, which are torch's.
        torch.set_num_threads(self._threads)
        model = pl_module.model
        model.encoder.register_forward_hook(lambda _, __, out: self._cut(out, "encoder forward", "lifting backward"))
        model.volume.register_forward_pre_hook(lambda _, args: self._cut(args[0], "tables forward", "3-D CNN backward"))
        model.volume.register_forward_hook(
            lambda _, __, out: self._cut(out, "3-D CNN forward", "logits and loss backward")
        )

    def _cut(self, tensor: torch.Tensor, forward: str, backward: str) -> None:
        self._parts.ended(forward)
        if tensor.requires_grad:
            tensor.register_hook(lambda _: self._parts.ended(backward))

    def lifted(self, lift: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def wrapper(*args: Any) -> torch.Tensor:
            result = lift(*args)
            self._cut(result, "lifting forward", "tables backward")
            return result

        return wrapper

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM_UP_STEPS:
            self._parts.start()
        self._parts.ended("reading, logging")

    def on_before_zero_grad(self, *_: Any) -> None:
        self._parts.ended("logits and loss forward")

    def on_after_backward(self, *_: Any) -> None:
        self._parts.ended("encoder backward")

    def on_train_batch_end(self, *_: Any) -> None:
        self._parts.ended("optimiser")

    def on_validation_start(self, *_: Any) -> None:
        self._parts.ended("reading, logging")
        self.step_parts = dict(self._parts.seconds)
        self._parts.start()

    def on_validation_end(self, *_: Any) -> None:
        self.validation_s = sum(self._parts.stop().values())


def training_parts(root: Path, config: TrainConfig, steps: int, threads: int) -> tuple[dict[str, float], float]:
    """(seconds of one step by part, seconds of one validation)."""
    parts = Parts()
    callback = StepParts(parts, threads)
    make_trainer = occlift.training.loop.make_trainer

    def with_callback(*args: Any, **kwargs: Any) -> lightning.Trainer:
        trainer = make_trainer(*args, **kwargs)
        trainer.callbacks.append(callback)
        return trainer

    last = WARM_UP_STEPS + steps
    config = replace(config, validation_every=last, checkpoint_every=10 * last)
    model, loss = occlift.models.easyocc, occlift.losses.occupancy
    pairs = parts.between(model.visible_pairs, "reading, logging", "lifting forward")
    lovasz = parts.between(loss.lovasz_softmax, "logits and loss forward", "Lovász forward")
    clip = parts.between(torch.nn.utils.clip_grad_norm_, "the rest", "clipping")
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(occlift.training.loop, "make_trainer", with_callback),
        patch.object(model, "lift", callback.lifted(model.lift)),
        patch.object(model, "visible_pairs", pairs),
        patch.object(loss, "lovasz_softmax", lovasz),
        patch.object(torch.nn.utils, "clip_grad_norm_", clip),
    ):
        town = root / "town"
        spec = OccupancyTraining(
            data=NuScenes.open(town), labels=root / "labels", config=config, validation_labels=town / GTS
        )
        run_training(spec, Path(folder), max_steps=last)
    return {part: seconds / steps for part, seconds in callback.step_parts.items()}, callback.validation_s


def first_frame_s(cache: str) -> float:
    """Seconds that a fresh process takes for a town of one key frame, with kernels cached in this folder."""
    code = (
        "import sys, time; from pathlib import Path; from occlift.demo import DemoConfig; "
        "from occlift.town.write import write_town; from dataclasses import replace; began = time.perf_counter(); "
        "write_town(Path(sys.argv[1]), replace(DemoConfig.standard().town, scenes=1, frames=1), workers=1); "
        "print(time.perf_counter() - began)"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code, str(Path(folder) / "town")]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, "NUMBA_CACHE_DIR": cache}
        )
    return float(done.stdout)


def compiling_s() -> float:
    with tempfile.TemporaryDirectory() as cache:
        return first_frame_s(cache) - first_frame_s(cache)


def scaled(parts: dict[str, float], seconds: float) -> dict[str, float]:
    """The same shares of other seconds."""
    return {part: value * seconds / sum(parts.values()) for part, value in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="a folder that `occlift demo` finished")
    parser.add_argument("--steps", type=int, default=20, help="training steps that are timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the training")
    parser.add_argument("--json", type=Path, help="where the numbers are written too")
    arguments = parser.parse_args()
    root: Path = arguments.demo
    stages = {name: s["seconds"] for name, s in json.loads((root / "demo.json").read_text())["stages"].items()}
    config = DemoConfig.standard()

    compiling = compiling_s()
    numba.set_num_threads(1)
    measured = {"town": town_parts(config.town), "labels": label_parts(root / "town", config)}
    split = {
        "town": {"compiling": compiling, **scaled(measured["town"], stages["town"] - compiling)},
        "labels": scaled(measured["labels"], stages["labels"]),
    }
    blind = replace(config.train, blind=True)
    for name, training, steps in (
        ("train EasyOcc", config.train, config.train.optimizer.steps),
        ("train blind", blind, config.blind_steps),
    ):
        step, validation_s = training_parts(root, training, arguments.steps, arguments.threads)
        measured[name] = {**step, "one validation": validation_s}
        whole = {part: steps * seconds for part, seconds in step.items()}
        whole["validation"] = steps // config.train.validation_every * validation_s
        split[name] = scaled(whole, stages[name])

    total = sum(stages.values())
    print(f"{total:.0f} s of stages; parts of 1 % and more\n\n| stage | part | share of the stage % | of the demo % |")
    print("| --- | --- | ---: | ---: |")
    for stage, seconds in stages.items():
        print(f"| **{stage}** | {seconds:.0f} s | | **{100 * seconds / total:.1f}** |")
        for part, value in sorted(split.get(stage, {}).items(), key=lambda item: -item[1]):
            if value > 0.01 * total or value > 0.05 * seconds:
                print(f"| | {part} | {100 * value / seconds:.1f} | {100 * value / total:.1f} |")
    for name in ("train EasyOcc", "train blind"):
        step_s = sum(s for part, s in measured[name].items() if part != "one validation")
        print(f"\n{name}: {step_s:.3f} s a step on {arguments.threads} threads here")
    if arguments.json:
        text = json.dumps({"stages": stages, "measured": measured, "of_the_demo": split}, indent=1)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
