"""Trainings: what is trained and how (a specification per kind), the loop, and checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from occlift.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from occlift.training.bev import BevFinetuning, FinetuneConfig
    from occlift.training.checkpoint import load_bev_network, load_easyocc
    from occlift.training.occfeat import OccFeatPretraining, PretrainConfig
    from occlift.training.occupancy import OccupancyTraining, TrainConfig
    from occlift.training.rendering import RenderingTrainConfig, RenderingTraining
    from occlift.training.run import run_training

_MODULES: Final = {
    "BevFinetuning": "occlift.training.bev",
    "FinetuneConfig": "occlift.training.bev",
    "OccFeatPretraining": "occlift.training.occfeat",
    "OccupancyTraining": "occlift.training.occupancy",
    "PretrainConfig": "occlift.training.occfeat",
    "RenderingTrainConfig": "occlift.training.rendering",
    "RenderingTraining": "occlift.training.rendering",
    "TrainConfig": "occlift.training.occupancy",
    "load_bev_network": "occlift.training.checkpoint",
    "load_easyocc": "occlift.training.checkpoint",
    "run_training": "occlift.training.run",
}

__all__ = [
    "BevFinetuning",
    "FinetuneConfig",
    "OccFeatPretraining",
    "OccupancyTraining",
    "PretrainConfig",
    "RenderingTrainConfig",
    "RenderingTraining",
    "TrainConfig",
    "load_bev_network",
    "load_easyocc",
    "run_training",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
