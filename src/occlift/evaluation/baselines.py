"""Baselines that use no image at prediction time: the prior, and the labels themselves.

A score says little alone. Beside it belong the *prior* (no image used), a network that was trained *blind*, and the
*labels* that it was trained on, scored as if they were predictions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from occlift.label_space import OCC3D, UNKNOWN, LabelSpace
from occlift.labels.files import label_paths, prediction_path, read_label, write_prediction
from occlift.labels.manifest import check_label_space
from occlift.runtime.folder_lock import sole_writer
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, split_tokens


def write_prior(
    data: DrivingDataset,
    labels: Path,
    out: Path,
    *,
    train_split: str = "train",
    split: str = "val",
    space: LabelSpace = OCC3D,
) -> int:
    """Writes the *prior*: for every voxel its most frequent class in the training labels, whatever the image.

    Unknown labels are not counted; a voxel that is never known is free; of equally frequent classes the one with the
    smaller id is taken. Returns the number of key frames written.
    """
    check_label_space(labels, space)
    grid, taxonomy = space.grid, space.taxonomy
    counts = np.zeros((taxonomy.num_classes, grid.num_voxels), np.uint32)
    for path in track(label_paths(labels, data, split_tokens(data, train_split)), "prior"):
        semantics = read_label(path, allow_unknown=True, space=space).semantics.ravel()
        known = np.flatnonzero(semantics != UNKNOWN)
        counts[semantics[known], known] += 1
    most_frequent = np.where(counts.any(axis=0), counts.argmax(axis=0), taxonomy.free)
    prior = most_frequent.astype(np.uint8).reshape(grid.shape)
    tokens = split_tokens(data, split)
    with sole_writer(out):
        for token in tokens:
            write_prediction(prediction_path(out, token), prior, space=space)
    return len(tokens)


def write_labels_as_predictions(
    data: DrivingDataset, labels: Path, out: Path, *, split: str = "val", space: LabelSpace = OCC3D
) -> int:
    """Writes labels as if they were predictions; a prediction must decide, so unknown becomes free.

    Returns the number of key frames written.
    """
    check_label_space(labels, space)
    tokens = split_tokens(data, split)
    with sole_writer(out):
        for token, path in zip(tokens, label_paths(labels, data, tokens), strict=True):
            semantics = read_label(path, allow_unknown=True, space=space).semantics
            decided = np.where(semantics == UNKNOWN, np.uint8(space.taxonomy.free), semantics)
            write_prediction(prediction_path(out, token), decided, space=space)
    return len(tokens)
