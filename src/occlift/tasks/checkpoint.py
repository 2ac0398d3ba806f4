"""Checkpoints of an `OccupancyTask` or a `RenderingTask`, read without Lightning and without unpickling code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, Final

import torch

from occlift.errors import DataError
from occlift.models.easyocc import EasyOcc, EasyOccConfig
from occlift.models.rendering import RenderingConfig, RenderingModel

AVERAGED_WEIGHTS: Final = "averaged_weights"
"""The key under which a run with `WeightAverage` keeps the average, named and shaped as the `state_dict` beside it."""


def checkpoint_parts(checkpoint: Path) -> dict[str, Any]:
    """The contents of a checkpoint of a task, on the CPU.

    Raises:
        DataError: the file is missing, damaged, or something else.
    """
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


def load_model(checkpoint: Path) -> EasyOcc | RenderingModel:
    """The network of a checkpoint, whichever task trained it, in evaluation mode on the CPU.

    With averaged weights where the run kept any.

    Raises:
        DataError: as `checkpoint_parts`, or the weights do not fit the configuration beside them.
    """
    parts = checkpoint_parts(checkpoint)
    model = _network(parts["hyper_parameters"]["model"])
    prefix = "model."
    state = parts.get(AVERAGED_WEIGHTS, parts["state_dict"])
    weights = {name.removeprefix(prefix): w for name, w in state.items() if name.startswith(prefix)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{checkpoint}: the weights do not fit the configuration beside them ({error})") from error
    return model.eval()


def _network(config: dict[str, Any]) -> EasyOcc | RenderingModel:
    # The weights are in the checkpoint: where the first ones came from no longer matters.
    if "network" in config:
        network = {**config["network"], "pretrained": None}
        return RenderingModel(RenderingConfig.from_dict({**config, "network": network}))
    return EasyOcc(EasyOccConfig.from_dict({**config, "pretrained": None}))
