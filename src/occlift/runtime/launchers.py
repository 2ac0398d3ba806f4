"""Which processes were started together, as torchrun, srun and this program say it in environment variables.

A variable that is left over from another program, or a launcher that was asked for another number of processes than
the training, would end in processes that wait for one another for ever, or in fewer than the user believes: both are
refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from occlift.errors import ConfigError
from occlift.runtime.extras import needs_extra

if TYPE_CHECKING:
    from lightning.fabric.plugins import ClusterEnvironment

_TORCHRUN: Final = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MPI_SIZES: Final = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True, kw_only=True)
class World:
    """Processes that were started together.

    Attributes:
        rank: of this one, from 0.
        size: how many there are.
        by: the variable that says how many, for errors.
    """

    rank: int
    size: int
    by: str


def world() -> World | None:
    """The processes that this one was started with; None: it is alone.

    Raises:
        ConfigError: a variable is no number; or some of the variables are there and the others are not.
    """
    there = [name for name in _TORCHRUN if os.environ.get(name)]
    if "LOCAL_RANK" in there or _number("WORLD_SIZE", 1) > 1:
        if missing := [name for name in _TORCHRUN if name not in there]:
            raise ConfigError(
                f"the environment has {', '.join(f'{name}={os.environ[name]}' for name in there)} and no "
                f"{', '.join(missing)}: start with torchrun, which sets them all, or unset {', '.join(there)}"
            )
        return World(rank=_number("RANK", 0), size=_number("WORLD_SIZE", 1), by="WORLD_SIZE")
    # A batch script has SLURM_NTASKS and a rank of 0, too, but is alone until it calls srun.
    size, by = _number("SLURM_STEP_NUM_TASKS", 1), "SLURM_STEP_NUM_TASKS"
    if (rank := _number("SLURM_PROCID", 0)) and size == 1:
        size, by = _number("SLURM_NTASKS", 1), "SLURM_NTASKS"
    if size > 1:
        if not os.environ.get("SLURM_NTASKS_PER_NODE"):
            raise ConfigError(
                f"srun started {size} processes ({by}={size}), and does not say how many on each machine: ask for them "
                f"with --ntasks-per-node={size}"
            )
        return World(rank=rank, size=size, by=by)
    for by in _MPI_SIZES:
        if (size := _number(by, 1)) > 1:
            raise ConfigError(f"{size} processes were started by mpirun ({by}={size}): start with torchrun or srun")
    return None


def check_world(devices: int) -> World | None:
    """As `world`, for a training on so many devices.

    Raises:
        ConfigError: as `world`; or the processes that were started are not as many as the devices.
    """
    if devices == 1 and "WORLD_SIZE" not in os.environ:
        # What is left over from another program keeps nobody from training alone.
        os.environ.pop("LOCAL_RANK", None)
    there = world()
    if there is not None and there.size != devices:
        raise ConfigError(
            f"{there.size} processes were started together ({there.by}={there.size}), and the training is for "
            f"{devices} devices: ask for --devices {there.size}, or start {devices}; all of them on one machine"
        )
    return there


def is_first_process() -> bool:
    """False in all but one of the processes that were started together."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if os.environ.get(name):
            return os.environ[name] == "0"
    return True


def cluster_environment() -> ClusterEnvironment:
    """How Lightning finds the other processes."""
    import torch.distributed

    with needs_extra("train", "training"):
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
        from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    there = world()
    if there is None or there.by == "WORLD_SIZE":
        launched = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
        return TorchElasticEnvironment() if there and launched else LightningEnvironment()
    # A training that is told to end says how it goes on; whether it is queued again is the user's choice.
    return SLURMEnvironment(auto_requeue=False)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise ConfigError(
            f"{name}={text} in the environment: expected a number; start with torchrun or srun, or unset it"
        )
    return int(text) if text else default
