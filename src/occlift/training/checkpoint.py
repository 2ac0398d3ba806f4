"""Checkpoints of our tasks, read without Lightning and without unpickling code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import torch
from torch import Tensor, nn

from occlift.errors import ConfigError, DataError
from occlift.models.bev_network import BevNetwork, BevNetworkConfig
from occlift.models.easyocc import EasyOcc, EasyOccConfig
from occlift.models.rendering import RenderingConfig, RenderingModel
from occlift.scenes.dataset import DrivingDataset
from occlift.training.run_folder import checkpoint_in

Network = TypeVar("Network", bound=nn.Module)

Task = Literal["occupancy", "rendering", "pretraining", "bev"]

TRAINED_BY: Final[Mapping[Task, str]] = {
    "occupancy": "occlift train",
    "rendering": "occlift train-rendering",
    "pretraining": "occlift pretrain",
    "bev": "occlift finetune",
}
"""The command that trains a task."""

AVERAGED_WEIGHTS: Final = "averaged_weights"
"""The key under which a run with `WeightAverage` keeps the average, named and shaped as the `state_dict` beside it."""


def checkpoint_parts(checkpoint: Path) -> dict[str, Any]:
    """The contents of a checkpoint of a task, on the CPU.

    Args:
        checkpoint: the file, or the folder of a run, of which its last one is meant.

    Raises:
        DataError: the file is missing, damaged, or something else.
    """
    checkpoint = checkpoint_in(checkpoint)
    if checkpoint.exists() and not zipfile.is_zipfile(checkpoint):
        # Asked first: torch takes anything else for an old format and fails in the middle of it.
        raise DataError(f"{checkpoint}: not a readable checkpoint (no zip archive); train again or fetch it again")
    try:
        parts = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{checkpoint}: no such checkpoint") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{checkpoint}: not a readable checkpoint ({error}); train again or fetch it again") from error
    if not isinstance(parts, dict) or not {"state_dict", "hyper_parameters"} <= parts.keys():
        raise DataError(f"{checkpoint}: expected a checkpoint written by `occlift train`, got something else")
    return parts


def task_of(parts: dict[str, Any], checkpoint: Path) -> Task:
    """Which task a checkpoint is of.

    Args:
        parts: as `checkpoint_parts` gives them.
        checkpoint: where they are from, for the error.

    Raises:
        DataError: of none of ours; checkpoints of other projects have the same parts.
    """
    settings = parts["hyper_parameters"]
    config = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(config, dict):
        raise DataError(
            f"{checkpoint}: a checkpoint of another project; expected one of {', '.join(TRAINED_BY.values())}"
        )
    if "architecture" in config:
        return "pretraining" if "head" in settings else "bev"
    return "rendering" if "network" in config else "occupancy"


def load_easyocc(checkpoint: Path) -> EasyOcc | RenderingModel:
    """The network of a checkpoint, whichever task trained it, in evaluation mode on the CPU.

    With averaged weights where the run kept any.

    Raises:
        DataError: as `checkpoint_parts`, or the weights do not fit the configuration beside them.

    >>> from occlift import open_dataset
    >>> from occlift.training import OccupancyTraining, TrainConfig, run_training
    >>> spec = OccupancyTraining(data=open_dataset(town), labels=town / "gts", config=TrainConfig())
    >>> run = run_training(spec, out, max_steps=1)
    >>> load_easyocc(run.checkpoint).config.output_shape
    (200, 200, 16)
    """
    parts = checkpoint_parts(checkpoint)
    task = task_of(parts, checkpoint)
    config = parts["hyper_parameters"]["model"]
    if task in ("bev", "pretraining"):
        use = "use occlift evaluate-bev" if task == "bev" else "fine-tune it with occlift finetune --from"
        raise DataError(
            f"{checkpoint}: a bird's-eye-view network of `{TRAINED_BY[task]}`, which predicts no occupancy: {use}"
        )
    # The weights are in the checkpoint: where the first ones came from no longer matters.
    if task == "rendering":
        try:
            rendering = RenderingConfig.from_dict({**config, "network": {**config["network"], "pretrained": None}})
        except ConfigError as error:
            raise DataError(f"{checkpoint}: {error}") from error
        return _loaded(RenderingModel(rendering), parts, checkpoint)
    return _loaded(EasyOcc(EasyOccConfig.from_dict({**config, "pretrained": None})), parts, checkpoint)


def load_bev_network(checkpoint: Path) -> BevNetwork:
    """The bird's-eye-view network of a checkpoint of a `BevTask`, in evaluation mode on the CPU.

    Raises:
        DataError: as `checkpoint_parts`, or it is a checkpoint of something else.

    >>> from occlift import open_dataset
    >>> from occlift.training import BevFinetuning, FinetuneConfig, run_training
    >>> spec = BevFinetuning(data=open_dataset(town), config=FinetuneConfig.demo())
    >>> run = run_training(spec, out, max_steps=1)
    >>> load_bev_network(run.checkpoint).config.classes
    ('vehicle',)
    """
    parts = checkpoint_parts(checkpoint)
    if (task := task_of(parts, checkpoint)) != "bev":
        raise DataError(
            f"{checkpoint}: expected a checkpoint of `{TRAINED_BY['bev']}`, got one of `{TRAINED_BY[task]}`"
        )
    config = parts["hyper_parameters"]["model"]
    return _loaded(BevNetwork(BevNetworkConfig.from_dict({**config, "pretrained": None})), parts, checkpoint)


def trained_blind(checkpoint: Path) -> bool:
    """Whether the network was trained on grey images, and has to be given such.

    Raises:
        DataError: as `checkpoint_parts`.
    """
    return bool(checkpoint_parts(checkpoint)["hyper_parameters"].get("blind", False))


def trained_cameras(checkpoint: Path) -> tuple[str, ...]:
    """Names of the cameras that the network was trained on, in order; none in checkpoints that do not record them.

    Raises:
        DataError: as `checkpoint_parts`.
    """
    return tuple(checkpoint_parts(checkpoint)["hyper_parameters"].get("cameras", ()))


def check_cameras(checkpoint: Path, data: DrivingDataset) -> None:
    """Sees to it that a network is shown the cameras that it was trained on, if its checkpoint says which.

    Raises:
        ConfigError: the data set has cameras of other names, in another order, or another number of them.
        DataError: as `checkpoint_parts`.
    """
    trained = trained_cameras(checkpoint)
    if trained and trained != data.cameras:
        raise ConfigError(
            f"{checkpoint}: the network was trained on {len(trained)} cameras ({', '.join(trained)}), and {data.spec} "
            f"has {len(data.cameras)} ({', '.join(data.cameras)}): use a data set with the same cameras in the same "
            "order, or train a network on these"
        )


def network_weights(parts: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of what a task calls `model`; the averaged ones where the run kept any."""
    prefix = "model."
    state = parts.get(AVERAGED_WEIGHTS, parts["state_dict"])
    return {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}


def _loaded(model: Network, parts: dict[str, Any], checkpoint: Path) -> Network:
    try:
        model.load_state_dict(network_weights(parts))
    except RuntimeError as error:
        raise DataError(f"{checkpoint}: the weights do not fit the configuration beside them ({error})") from error
    return model.eval()
