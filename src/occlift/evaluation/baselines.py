"""Baselines that use no image at prediction time: the prior, and the labels themselves.

A score says little alone. Beside it belong the *prior* (no image used), a network that was trained *blind*, and the
*labels* that it was trained on, scored as if they were predictions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from occlift.geometry.grids import OCC3D_GRID
from occlift.label_space import FREE, NUM_CLASSES, UNKNOWN
from occlift.labels.files import label_paths, prediction_path, read_label, write_prediction
from occlift.runtime.progress import track
from occlift.scenes.dataset import open_dataset, split_tokens


def prior_predictions(root: Path, labels: Path, out: Path, *, train_split: str = "train", split: str = "val") -> int:
    """Writes the *prior*: for every voxel its most frequent class in the training labels, whatever the image.

    Unknown labels are not counted; a voxel that is never known is free; of equally frequent classes the one with the
    smaller id is taken. Returns the number of frames written.
    """
    data = open_dataset(root)
    counts = np.zeros((NUM_CLASSES, OCC3D_GRID.num_voxels), np.uint32)
    for path in track(label_paths(labels, data, split_tokens(data, train_split)), "prior"):
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
    data = open_dataset(root)
    tokens = split_tokens(data, split)
    out.mkdir(parents=True, exist_ok=True)
    for token, path in zip(tokens, label_paths(labels, data, tokens), strict=True):
        semantics = read_label(path, allow_unknown=True).semantics
        write_prediction(prediction_path(out, token), np.where(semantics == UNKNOWN, FREE, semantics))
    return len(tokens)
