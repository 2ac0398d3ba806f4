"""What launchers leave in the environment, against the devices that a training is for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError
from occlift.runtime.launchers import World, check_world, cluster_environment, is_first_process
from occlift.training.occupancy import OccupancyTraining, TrainConfig
from occlift.training.run import run_training

TORCHRUN = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "night", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = {**BATCH, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0",
        "SLURM_NTASKS_PER_NODE": "2"}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*TORCHRUN, *(name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "PMI_")))]:
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "devices", "world"),
    [
        ({}, 1, None),
        ({}, 4, None),
        (TORCHRUN, 2, World(rank=1, size=2, by="WORLD_SIZE")),
        (SRUN, 2, World(rank=1, size=2, by="SLURM_STEP_NUM_TASKS")),
        # One task with two GPUs: nobody else was started, so the processes are started here.
        ({**BATCH, "SLURM_NTASKS": "1"}, 2, None),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, 2, None),
        # A batch script that has not called srun is alone, however many tasks it may start.
        (BATCH, 2, None),
        # Left over from something else, and of no consequence.
        ({"LOCAL_RANK": "0"}, 1, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, 1, None),
    ],
)
def test_the_world_is_what_was_started(
    variables: dict[str, str], devices: int, world: World | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    assert check_world(devices) == world
    assert is_first_process() == (world is None or world.rank == 0)


@pytest.mark.parametrize(
    ("variables", "devices", "message"),
    [
        ({"LOCAL_RANK": "0"}, 2, r"has LOCAL_RANK=0 and no RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT: .* unset LOCAL"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 2, r"has RANK=0, WORLD_SIZE=2 and no LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        (TORCHRUN, 1, r"2 processes were started together \(WORLD_SIZE=2\), and the training is for 1 devices"),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, 2, r"1 processes were started together .* is for 2 devices"),
        ({**SRUN, "SLURM_NTASKS_PER_NODE": ""}, 4, r"srun started 2 processes .* --ntasks-per-node=2"),
        (SRUN, 4, r"2 processes were started together \(SLURM_STEP_NUM_TASKS=2\).* ask for --devices 2"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2, r"started by mpirun \(OMPI_COMM_WORLD_SIZE=2\): start with torchrun"),
        ({**TORCHRUN, "RANK": "one"}, 2, r"RANK=one in the environment: expected a number"),
    ],
)
def test_a_world_that_does_not_fit_is_refused_by_name_before_anything_starts(
    variables: dict[str, str], devices: int, message: str, small_town: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    set_all(monkeypatch, variables)
    spec = OccupancyTraining(
        data=NuScenes.open(small_town), labels=small_town / "gts", config=TrainConfig(devices=devices)
    )
    with pytest.raises(ConfigError, match=message):
        run_training(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "LightningEnvironment"),
        ({**BATCH, "SLURM_NTASKS": "1"}, "LightningEnvironment"),
        (TORCHRUN, "LightningEnvironment"),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "1"}, "TorchElasticEnvironment"),
        (SRUN, "SLURMEnvironment"),
        # Processes that this program starts inside of a Slurm job are its own.
        ({**TORCHRUN, **BATCH, "SLURM_NTASKS": "1"}, "LightningEnvironment"),
    ],
)
def test_lightning_is_told_who_started_the_processes(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    set_all(monkeypatch, variables)
    assert type(cluster_environment()).__name__ == expected
