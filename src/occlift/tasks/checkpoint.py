"""Checkpoints of an `OccupancyTask`, read without Lightning and without unpickling code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from occlift.errors import DataError
from occlift.models.easyocc import EasyOcc, EasyOccConfig


def checkpoint_parts(checkpoint: Path) -> dict[str, Any]:
    """The contents of a checkpoint of an `OccupancyTask`, on the CPU.

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


def load_model(checkpoint: Path) -> EasyOcc:
    """The network of a checkpoint, in evaluation mode on the CPU.

    Raises:
        DataError: as `checkpoint_parts`, or the weights do not fit the configuration beside them.
    """
    parts = checkpoint_parts(checkpoint)
    # The weights are in the checkpoint: where the first ones came from no longer matters.
    model = EasyOcc(EasyOccConfig.from_dict({**parts["hyper_parameters"]["model"], "pretrained": None}))
    prefix = "model."
    weights = {name.removeprefix(prefix): w for name, w in parts["state_dict"].items() if name.startswith(prefix)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{checkpoint}: the weights do not fit the configuration beside them ({error})") from error
    return model.eval()
