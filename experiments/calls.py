"""Everything that the experiments call in occlift, one function per kind of call.

Functions that train also take what `perform` decides: `out`, `resume` and `max_steps`. The others return scores by
name, all of the validation split; and as `draws`, by name, what they are under draws of its scenes with replacement.
Imports stand in the functions: a process needs those of one kind.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any, Final

Scores = dict[str, Any]
"""Numbers by name, and perhaps `draws`: lists of numbers by name."""

_CORES_PER_LABELLER: Final = 4


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_town(*, root: Path, config: Any) -> Scores:
    """Builds the data set."""
    from occlift.town.write import write_town

    write_town(root, config)
    return {}


def make_labels(*, root: Path, labels: Path, config: Any) -> Scores:
    """Makes the labels of both splits; the validation split's are scored, never trained on."""
    from occlift import open_dataset
    from occlift.errors import DataError
    from occlift.labels.generate import generate_labels

    made = generate_labels(open_dataset(root), labels, config, workers=max(1, usable_cores() // _CORES_PER_LABELLER))
    if made.failed:
        token, reason = next(iter(made.failed.items()))
        raise DataError(f"{len(made.failed)} labels could not be made, {token} because {reason}; see {labels}")
    return {}


def train_easyocc(*, root: Path, labels: Path, out: Path, config: Any, **how_far: Any) -> None:
    """Trains an EasyOcc."""
    from occlift import open_dataset
    from occlift.training.occupancy import OccupancyTraining
    from occlift.training.run import run_training

    run_training(OccupancyTraining(data=open_dataset(root), labels=labels, config=config), out, **how_far)


def train_rendering(*, root: Path, labels: Path | None, out: Path, config: Any, **how_far: Any) -> None:
    """Trains a rendering model, with the pseudo-loss if there are labels."""
    from occlift import open_dataset
    from occlift.training.rendering import RenderingTraining
    from occlift.training.run import run_training

    run_training(RenderingTraining(data=open_dataset(root), labels=labels, config=config), out, **how_far)


def pretrain(*, root: Path, labels: Path | None, features: Path, out: Path, config: Any, **how_far: Any) -> None:
    """Pretrains a bird's-eye-view network; without labels, occupancy comes from the lidar."""
    from occlift import open_dataset
    from occlift.training.occfeat import OccFeatPretraining
    from occlift.training.run import run_training

    spec = OccFeatPretraining(data=open_dataset(root), labels=labels, feature_cache=features, config=config)
    run_training(spec, out, **how_far)


def finetune(*, root: Path, pretrained: Path | None, out: Path, config: Any, **how_far: Any) -> None:
    """Trains a bird's-eye-view network on a share of the labels."""
    from occlift import open_dataset
    from occlift.training.bev import BevFinetuning
    from occlift.training.run import run_training

    run_training(BevFinetuning(data=open_dataset(root), pretrained=pretrained, config=config), out, **how_far)


def score_network(*, root: Path, truth: Path, checkpoint: Path, predictions: Path) -> Scores:
    """Occupancy scores of a trained network."""
    from occlift import open_dataset
    from occlift.training.predict import predict

    predict(open_dataset(root), predictions, checkpoint=checkpoint)
    return _score(root, truth, predictions)


def score_prior(*, root: Path, truth: Path, labels: Path, predictions: Path) -> Scores:
    """Occupancy scores of the most frequent class of every voxel in the training labels."""
    from occlift.evaluation.baselines import write_prior
    from occlift.scenes import open_dataset

    write_prior(open_dataset(root), labels, predictions)
    return _score(root, truth, predictions)


def score_labels(*, root: Path, truth: Path, labels: Path, predictions: Path) -> Scores:
    """Occupancy scores of the labels themselves, unknown as free."""
    from occlift.evaluation.baselines import write_labels_as_predictions
    from occlift.scenes import open_dataset

    write_labels_as_predictions(open_dataset(root), labels, predictions)
    return _score(root, truth, predictions)


def _score(root: Path, truth: Path, predictions: Path) -> Scores:
    """Scores predictions and replaces them by `evaluation.json`, whose histograms are all that scores need."""
    from occlift.evaluation.occupancy import evaluate
    from occlift.scenes import open_dataset, split_tokens

    data = open_dataset(root)
    evaluation = evaluate(predictions, truth, tokens=split_tokens(data, "val"), rays=data)
    predictions.with_name("evaluation.json").write_text(evaluation.to_json(), encoding="utf-8")
    shutil.rmtree(predictions)
    return {"frames": evaluation.frames, **evaluation.named(), "draws": _draws(evaluation.scenes)}


def _draws(scenes: Any) -> dict[str, list[float]]:
    from occlift.evaluation.by_scene import scene_draws

    return {name: [round(float(value), 4) for value in values] for name, values in scene_draws(scenes).items()}


def score_bev(*, root: Path, checkpoint: Path) -> Scores:
    """Bird's-eye-view scores of a fine-tuned network."""
    from occlift import open_dataset
    from occlift.evaluation.bev import evaluate_bev

    (evaluation,) = evaluate_bev(open_dataset(root), checkpoint)
    return {"frames": evaluation.frames, **evaluation.named(), "draws": _draws(evaluation.scenes)}


def score_corrupted(*, root: Path, checkpoint: Path, score: str) -> Scores:
    """The same, and as `<score>_<corruption>` a score under every corruption: the mean over its strengths."""
    from occlift import open_dataset
    from occlift.evaluation.bev import evaluate_bev
    from occlift.training.corrupt import CORRUPTIONS, STRENGTHS, Corruption

    found = score_bev(root=root, checkpoint=checkpoint)
    for name in CORRUPTIONS:
        corruptions = [Corruption(name=name, strength=strength) for strength in STRENGTHS]
        evaluations = evaluate_bev(open_dataset(root), checkpoint, corruptions=corruptions)
        found[f"{score}_{name}"] = fmean(evaluation.named()[score] for evaluation in evaluations)
    return found
