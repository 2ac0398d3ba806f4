"""Scores of occupancy predictions, and the predictions of those who do not look: prior and labels.

A score says little alone. Beside it belong the *prior* (no image used), a network that was trained *blind*, and the
*labels* that it was trained on, scored as if they were predictions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occlift.classes import FREE, NUM_CLASSES, UNKNOWN
from occlift.data.nuscenes import NuScenes
from occlift.data.occ3d import label_path, prediction_path, read_label, read_prediction, write_prediction
from occlift.errors import DataError
from occlift.geometry.grids import OCC3D_GRID
from occlift.metrics.occupancy import MASKS, Mask, OccupancyScores, histogram, require_same_tokens
from occlift.progress import track


def prior_predictions(root: Path, labels: Path, out: Path, *, train_split: str = "train", split: str = "val") -> int:
    """Writes the *prior*: for every voxel its most frequent class in the training labels, whatever the image.

    Unknown labels are not counted; a voxel that is never known is free; of equally frequent classes the one with the
    smaller id is taken. Returns the number of frames written.
    """
    data = NuScenes.open(root)
    counts = np.zeros((NUM_CLASSES, OCC3D_GRID.num_voxels), np.uint32)
    for path in track(label_paths(data, labels, split_tokens(data, train_split)), "prior"):
        semantics = read_label(path, allow_unknown=True).semantics.ravel()
        known = np.flatnonzero(semantics != UNKNOWN)
        counts[semantics[known], known] += 1
    prior = np.where(counts.any(axis=0), counts.argmax(axis=0), FREE).astype(np.uint8).reshape(OCC3D_GRID.shape)
    out.mkdir(parents=True, exist_ok=True)
    tokens = split_tokens(data, split)
    for token in tokens:
        write_prediction(prediction_path(out, token), prior)
    return len(tokens)


def label_predictions(root: Path, labels: Path, out: Path, *, split: str = "val") -> int:
    """Writes labels as if they were predictions; a prediction must decide, so unknown becomes free.

    Returns the number of frames written.
    """
    data = NuScenes.open(root)
    tokens = split_tokens(data, split)
    out.mkdir(parents=True, exist_ok=True)
    for token, path in zip(tokens, label_paths(data, labels, tokens), strict=True):
        semantics = read_label(path, allow_unknown=True).semantics
        write_prediction(prediction_path(out, token), np.where(semantics == UNKNOWN, FREE, semantics))
    return len(tokens)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of a folder of predictions against a folder of truth.

    Attributes:
        frames: how many key frames were scored.
        scores: histograms per mask, and what follows from them.
    """

    predictions: str
    truth: str
    frames: int
    scores: OccupancyScores

    def to_json(self) -> str:
        """Histograms, every named score, and IoU per class; NaN (absent) as null."""
        plain = {
            "predictions": self.predictions,
            "truth": self.truth,
            "frames": self.frames,
            "histograms": {mask: h.tolist() for mask, h in self.scores.histograms.items()},
            "scores": _nan_as_none(self.scores.named()),
            "class_iou": {mask: _nan_as_none(self.scores.class_iou(mask)) for mask in self.scores.histograms},
        }
        return json.dumps(plain, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """From the histograms of `to_json`; the scores follow from them.

        Raises:
            DataError: the text is something else.
        """
        try:
            plain = json.loads(text)
            histograms = {mask: np.asarray(plain["histograms"][mask], np.int64) for mask in plain["histograms"]}
            assert all(h.shape == (NUM_CLASSES, NUM_CLASSES) for h in histograms.values())
            return cls(
                predictions=plain["predictions"],
                truth=plain["truth"],
                frames=int(plain["frames"]),
                scores=OccupancyScores(histograms=histograms),
            )
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise DataError(f"not an evaluation as `occlift evaluate --json` writes it: {error}") from error


def evaluate(
    predictions: Path, truth: Path, *, tokens: Sequence[str] | None = None, masks: Sequence[Mask] = MASKS
) -> Evaluation:
    """Scores anybody's predictions (`<token>.npz`, key `semantics`) against `<truth>/<scene>/<token>/labels.npz`.

    Args:
        tokens: the samples of the split. Without them the predictions say which samples are scored.

    Raises:
        DataError: a token is missing on one side (all such are listed), a file is damaged, or a prediction holds a
            value that is no class.
    """
    for folder in (predictions, truth):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    truth_paths = {path.parent.name: path for path in truth.glob("*/*/labels.npz")}
    predicted = {path.stem for path in predictions.glob("*.npz")}
    scored = sorted(predicted if tokens is None else set(tokens))
    if not scored:
        raise DataError(f"{predictions}: no prediction (<token>.npz) to score")
    require_same_tokens(predicted & set(scored), scored)
    require_same_tokens(scored, truth_paths.keys() & set(scored))
    histograms = {mask: np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64) for mask in masks}
    for token in track(scored, "evaluate"):
        label = read_label(truth_paths[token])
        prediction = read_prediction(prediction_path(predictions, token))
        evaluated = {"camera": label.mask_camera, "lidar": label.mask_lidar, "none": None}
        for mask in masks:
            histograms[mask] += histogram(label.semantics, prediction, evaluated[mask])
    return Evaluation(
        predictions=str(predictions),
        truth=str(truth),
        frames=len(scored),
        scores=OccupancyScores(histograms=histograms),
    )


def split_tokens(data: NuScenes, split: str) -> list[str]:
    """Sample tokens of a split, scene by scene in time order.

    Raises:
        DataError: the split is empty.
    """
    tokens = [token for scene in data.split(split) for token in data.key_frame_tokens(scene)]
    if not tokens:
        raise DataError(f"{data.root}: the split {split!r} holds no key frame")
    return tokens


def label_paths(data: NuScenes, labels: Path, tokens: Sequence[str]) -> list[Path]:
    """Where the labels of some samples lie."""
    return [label_path(labels, data.key_frame(token).scene, token) for token in tokens]


def _nan_as_none(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in scores.items()}
