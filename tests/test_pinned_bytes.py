"""The exact bytes of towns, labels, predictions and evaluations, so that a change of structure cannot change a result.

Everything up to the labels is integer work or sums in a stated order. The prediction is the argmax of a network in
float32 and may differ between versions of torch and between processors; the tests skip where torch or Pillow are not
the pinned ones.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from networks import tiny_easyocc

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.evaluation.occupancy import evaluate
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.labels.depth_check import CHECK_NAME
from occlift.labels.generate import generate_labels
from occlift.training.predict import predict

pytestmark = pytest.mark.skipif(
    not torch.__version__.startswith("2.13.") or PIL.__version__ != "13.0.0" or platform.machine() != "x86_64",
    reason="bytes are pinned for torch 2.13, Pillow 13.0.0 and x86-64",
)


TOWN = "ef86cc245431147ea821d44b7735fb700d98f41319373574a9988439c2aa8046"
LABELS = "121f99dd20ae46cd3fea2f29468e5281595777abf63a80bc2404ef20a17ed29e"
# With the fields `space` (grid and classes) and `fusion`, which there were not when the bytes were first pinned.
MANIFEST = "7bf3a247fd8271ceee2ade7ac6e556b117c8ffbb808bcaecd83195713697ae12"
PREDICTIONS = "fe1dc7f9a00a1cb58b37a81e0c62d1f17d0d59b66326988695e5a0a084c657f8"
# With the mask `near_surface` and counts by scene; everything else as before.
EVALUATION = "463bf3449ce9567007ae1dac44189740d0a6479861a864c28f318ee7116eaa68"


def digest(folder: Path, *, without: tuple[str, ...] = ()) -> str:
    """SHA-256 over names and contents of every file below a folder; of JSON over numbers of nine decimals.

    Poses go through numpy's eigenvectors, whose last digit depends on the processor's BLAS kernels.
    """
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name not in without and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            content = path.read_bytes()
            if path.suffix == ".json":
                content = json.dumps(json.loads(content, parse_float=lambda n: round(float(n), 9) + 0.0)).encode()
            total.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return total.hexdigest()


@pytest.fixture(scope="module")
def labels(small_town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels") / "labels"
    config = LabelConfig(frames=3, confidence=True, decision=DecisionConfig(fusion="votes"))
    generate_labels(NuScenes.open(small_town), out, config, keep_votes=True)
    return out


@pytest.fixture(scope="module")
def predictions(small_town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predictions")
    predict(NuScenes.open(small_town), out, model=tiny_easyocc(), split="val", precision="fp32", device="cpu")
    return out


def test_a_town(small_town: Path) -> None:
    assert digest(small_town) == TOWN


def test_labels_with_votes_and_confidence(labels: Path) -> None:
    assert digest(labels, without=("timings.csv", "manifest.json", CHECK_NAME)) == LABELS
    assert hashlib.sha256((labels / "manifest.json").read_bytes()).hexdigest() == MANIFEST


def test_predictions_of_a_seeded_network(predictions: Path) -> None:
    volumes = [np.load(path)["semantics"] for path in sorted(predictions.glob("*.npz"))]
    assert len(volumes) == 4
    assert len(np.unique(volumes)) > 1
    assert digest(predictions) == PREDICTIONS


def test_an_evaluation(small_town: Path, predictions: Path) -> None:
    evaluation = replace(evaluate(predictions, small_town / "gts"), predictions="predictions", truth="truth")
    text = evaluation.to_json()
    assert hashlib.sha256(text.encode()).hexdigest() == EVALUATION
