"""Several processes train as one would; a training that is killed goes on as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from ddp_functions import be_killed_while_the_other_waits, normalise_and_diverge
from networks import tiny_easyocc

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError
from occlift.losses.occfeat import OccFeatLossConfig
from occlift.losses.occupancy import OccupancyLossConfig
from occlift.models.easyocc import EasyOcc
from occlift.runtime import processes
from occlift.runtime.processes import ProcessFailed, run_in_processes
from occlift.training.augment import AugmentConfig
from occlift.training.callbacks import read_scalars
from occlift.training.checkpoint import checkpoint_parts
from occlift.training.checkpoint_file import WholeCheckpoints
from occlift.training.mean_loss import TrainingDiverged
from occlift.training.occfeat import OccFeatPretraining, PretrainConfig
from occlift.training.occupancy import OccupancyTraining, TrainConfig
from occlift.training.optimizer import OptimizerConfig
from occlift.training.run import run_training

TINY = tiny_easyocc(hourglass_stride=(1, 1, 2), horizontal_stride=8)


def scalars(path: Path) -> dict[tuple[int, str], float]:
    """What was logged, without the clock."""
    return {(step, name): value for step, name, value in read_scalars(path) if name != "step_seconds"}


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes find `ddp_functions`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)


def test_two_processes_train_as_one_with_the_doubled_batch(small_town: Path, tmp_path: Path) -> None:
    """Mirrored frames, changed images, drawn voxels, batch statistics, the clipped gradient: everything is shared."""
    two_processes = TrainConfig(
        model=TINY,
        loss=OccupancyLossConfig(max_voxels=5000, max_lovasz_voxels=1000),
        optimizer=OptimizerConfig(steps=3, learning_rate=1e-4, gradient_norm=0.2),
        mirror_front_back=True,
        augment=AugmentConfig.usual(),
        ema_decay=0.9,
        validation_every=3,
        checkpoint_every=2,
        precision="fp32",
        devices=2,
    )
    one_process = replace(two_processes, devices=1, batch_size=2)
    gts = small_town / "gts"
    spec = OccupancyTraining(data=NuScenes.open(small_town), labels=gts, config=two_processes, validation_labels=gts)
    shared = run_training(spec, tmp_path / "two")
    alone = run_training(replace(spec, config=one_process), tmp_path / "one")
    assert (shared.steps, alone.steps) == (3, 3)
    found, expected = scalars(shared.losses), scalars(alone.losses)
    assert {"loss", "loss_lovasz", "gradient_norm", "val_miou_17_camera"} <= {name for _, name in expected}
    # Later steps see rounding through Adam, which divides small gradients by themselves; by how much is a matter of the
    # processor's kernels (up to 5e-5 in the loss and 1e-2 in the norm were seen). The first step is compared strictly.
    tolerance = {"loss": 2e-4, "grad": 3e-2, "val_": 1e-6}
    assert found == {key: pytest.approx(v, rel=tolerance[key[1][:4]]) for key, v in expected.items()}
    assert found[1, "loss"] == pytest.approx(expected[1, "loss"], rel=1e-6)
    assert found[1, "gradient_norm"] == pytest.approx(expected[1, "gradient_norm"], rel=1e-3)

    lightning.seed_everything(one_process.seed)
    first = {f"model.{name}": weight for name, weight in EasyOcc(TINY).state_dict().items()}
    one, two = (checkpoint_parts(run.checkpoint)["state_dict"] for run in (alone, shared))
    assert one.keys() == two.keys() == first.keys()
    # Each by its norm: single channels whose mean is next to nothing are what rounding makes them.
    for name, weight in one.items():
        if "running" in name:
            assert (two[name] - weight).norm() < 5e-3 * (weight - first[name]).norm(), name
    # Those that begin as the seed says; the head's bias begins with the prior of the labels.
    weights = [f"model.{name}" for name, _ in EasyOcc(TINY).named_parameters() if name != "head.bias"]
    moved, apart = (
        torch.cat([(a[name] - b[name]).flatten() for name in weights]).norm() for a, b in ((one, first), (one, two))
    )
    assert float(apart) < 0.1 * float(moved)


def test_two_processes_pretrain_on_features_alone_as_one_with_the_doubled_batch(
    small_town: Path, tmp_path: Path
) -> None:
    """Weights that no term of the loss uses would stop the two."""
    base = PretrainConfig.demo()
    two_processes = replace(
        base,
        model=replace(base.model, image_height=48, image_width=88),
        head=replace(base.head, horizontal_stride=4),
        loss=OccFeatLossConfig(occupancy=0.0, features=1.0),
        teacher_options={"channels": "8"},
        # So low that the second step sees next to nothing of the first: Adam makes much of rounding.
        optimizer=OptimizerConfig(steps=2, learning_rate=1e-6),
        precision="fp32",
        devices=2,
    )
    one_process = replace(two_processes, devices=1, batch_size=2)
    spec = OccFeatPretraining(data=NuScenes.open(small_town), config=two_processes)
    shared = run_training(spec, tmp_path / "two")
    alone = run_training(replace(spec, config=one_process), tmp_path / "one")
    found, expected = scalars(shared.losses), scalars(alone.losses)
    assert (1, "loss_features") in expected
    assert found == {key: pytest.approx(value, rel=1e-3) for key, value in expected.items()}


def test_batch_norm_is_that_of_all_processes_and_no_process_waits_for_one_that_diverged(importable: None) -> None:
    with pytest.raises(TrainingDiverged, match=r"step 0: the term y of the loss is inf \(samples d\)"):
        run_in_processes(partial(normalise_and_diverge, 0), 2)


def test_what_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be pickled"):
        run_in_processes(lambda: None, 2)


def test_a_process_that_dies_ends_the_others(importable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE_S", 0.5)
    with pytest.raises(ProcessFailed, match=r"process 1 of 2 was ended by signal 9"):
        run_in_processes(be_killed_while_the_other_waits, 2)


def test_no_process_outlives_its_caller(importable: None, tmp_path: Path) -> None:
    code = (
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from ddp_functions import wait_for_ever\n"
        "from occlift.runtime.processes import run_in_processes\n"
        f"run_in_processes(partial(wait_for_ever, Path({str(tmp_path)!r})), 2)"
    )
    caller = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
    finally:
        caller.kill()
        caller.wait()
    pids = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_training_that_is_killed_goes_on_as_if_it_had_not_been(small_town: Path, tmp_path: Path) -> None:
    def command(out: str, *more: str) -> list[str]:
        options = ["--steps", "5", "--checkpoint-every", "2", "--precision", "fp32"]
        return [
            sys.executable, "-m", "occlift", "train", "easyocc-demo", str(small_town), "--labels",
            str(small_town / "gts"), "--out", str(tmp_path / out), *options, *more,
        ]  # fmt: skip

    training = subprocess.Popen(command("killed"))
    checkpoint, log = tmp_path / "killed/last.ckpt", tmp_path / "killed/losses.csv"
    try:
        wait_until(lambda: checkpoint.exists() and any(step == 3 for step, _ in scalars(log)))
    finally:
        training.send_signal(signal.SIGKILL)
    assert training.wait() == -signal.SIGKILL, "it was killed before it had ended"
    with log.open("ab") as file:
        file.write(b"4,loss,1.2")  # as if it had been killed while it wrote
    subprocess.run(command("killed", "--resume", str(checkpoint)), check=True)
    subprocess.run(command("whole"), check=True)
    assert scalars(log) == scalars(tmp_path / "whole/losses.csv")
    assert max(step for step, _ in scalars(log)) == 5
    one, other = (checkpoint_parts(tmp_path / run / "last.ckpt")["state_dict"] for run in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    class Unwritable:
        def __reduce__(self) -> Any:
            raise OSError("the disk is full")

    path = tmp_path / "last.ckpt"
    writer = WholeCheckpoints()
    writer.save_checkpoint({"step": 1}, path)
    with pytest.raises(OSError, match="full"):
        writer.save_checkpoint({"weights": torch.zeros(1000), "rest": Unwritable()}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_no_process_at_all_is_refused(small_town: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="devices must be at least 1"):
        run_training(
            OccupancyTraining(data=NuScenes.open(small_town), labels=tmp_path, config=TrainConfig(devices=0)), tmp_path
        )
