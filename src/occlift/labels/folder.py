"""A folder of labels as a torch data set: by sample token, without the tables of a data set.

The folder has Occ3D's layout, `<scene>/<sample token>/labels.npz`: labels that `occlift label` made, or Occ3D's own.
Somebody else's data set asks for the label of a sample that it has loaded:

    labels = LabelFolder("labels")
    semantics = labels.label(token).semantics
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from occlift.errors import ConfigError, DataError
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace
from occlift.labels.files import check_some_free, labels_by_token, read_confidence, read_label
from occlift.labels.manifest import check_label_space
from occlift.runtime.npz import MissingArray
from occlift.runtime.progress import track


@dataclass(frozen=True, kw_only=True, eq=False)
class VoxelLabel:
    """The label of a key frame, in its ego frame, or those of several.

    Attributes:
        tokens: of the samples, one per key frame.
        semantics: class per voxel; `Taxonomy.free` (17 for Occ3D) is free, 255 unknown.
        mask_camera: voxels that the cameras observe.
        confidence: how sure the label is, 0..255 for 0..1; None where the file has none.
    """

    tokens: tuple[str, ...]
    semantics: UInt8[Tensor, "*batch x y z"]
    mask_camera: Bool[Tensor, "*batch x y z"]
    confidence: UInt8[Tensor, "*batch x y z"] | None

    def to(self, device: torch.device | str) -> VoxelLabel:
        return VoxelLabel(
            tokens=self.tokens,
            semantics=self.semantics.to(device),
            mask_camera=self.mask_camera.to(device),
            confidence=None if self.confidence is None else self.confidence.to(device),
        )


class LabelFolder(Dataset[VoxelLabel]):
    """The labels of a folder.

    Only paths are held, so worker processes get a copy for nothing. `collate_labels` makes batches:
    `DataLoader(folder, batch_size=4, collate_fn=collate_labels, num_workers=2)`.

    Args:
        path: the folder.
        tokens: of the samples, in the order of the items, a split for instance; None: all that have a label, in the
            order of scenes and tokens.
        space: grid and classes of the labels.

    Attributes:
        tokens: of the samples, in the order of the items.
        space: grid and classes of the labels.

    Raises:
        ConfigError: the folder's manifest says that its labels are about another grid or other classes.
        DataError: the folder does not exist or holds no label, a token of `tokens` has none, or a token has two.

    >>> labels = LabelFolder(town / "gts")
    >>> len(labels), labels[0].semantics.shape
    (8, torch.Size([200, 200, 16]))
    """

    def __init__(self, path: str | Path, *, tokens: Sequence[str] | None = None, space: LabelSpace = OCC3D) -> None:
        self.path, self.space = Path(path), space
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder; make labels with `occlift label DATA --out {self.path}`")
        self._paths = labels_by_token(self.path)
        if not self._paths:
            raise DataError(f"{self.path}: holds no label; expected files <scene>/<sample token>/labels.npz")
        check_label_space(self.path, space)
        if tokens is not None:
            self._paths = {token: self.file(token) for token in tokens}
        self.tokens = tuple(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, token: object) -> bool:
        return token in self._paths

    def __getitem__(self, index: int) -> VoxelLabel:
        return self.label(self.tokens[index])

    def file(self, token: str) -> Path:
        """Where the label of a sample lies.

        Raises:
            DataError: it has none.
        """
        path = self._paths.get(token)
        if path is None:
            raise DataError(
                f"{self.path}: no label of sample {token!r} among {len(self._paths)}; make it with `occlift label`, or "
                "leave the sample out (`token in folder` tells)"
            )
        return path

    def label(self, token: str) -> VoxelLabel:
        """The label of a sample.

        Raises:
            DataError: it has none, or the file is damaged.
        """
        path = self.file(token)
        label = read_label(path, allow_unknown=True, space=self.space)
        try:
            confidence = torch.from_numpy(read_confidence(path, space=self.space))
        except MissingArray:
            confidence = None
        return VoxelLabel(
            tokens=(token,),
            semantics=torch.from_numpy(label.semantics),
            mask_camera=torch.from_numpy(label.mask_camera),
            confidence=confidence,
        )

    def class_counts(
        self, *, unknown: Literal["ignore", "free"] = "ignore", max_labels: int | None = None
    ) -> Int64[Tensor, " classes"]:
        """Voxels per class over the labels, free last, for class weights.

        Args:
            unknown: as in the loss: unknown voxels count nowhere, or as free.
            max_labels: looks at no more than so many labels, evenly spaced; None: at all.

        Raises:
            ConfigError: `max_labels` is not positive.
            DataError: a label is damaged, or nothing in them is known.
        """
        paths = list(self._paths.values())
        if max_labels is not None and max_labels < 1:
            raise ConfigError(f"max_labels is {max_labels}; expected at least one label to count in")
        if max_labels is not None and max_labels < len(paths):
            paths = [paths[i * len(paths) // max_labels] for i in range(max_labels)]
        return torch.from_numpy(count_classes(paths, unknown=unknown, space=self.space))


def count_classes(
    paths: Sequence[Path], *, unknown: Literal["ignore", "free"] = "ignore", space: LabelSpace = OCC3D
) -> Int64[np.ndarray, " classes"]:
    """Voxels per class, free last, over some label files; unknown ones count nowhere, or as free.

    Raises:
        DataError: a label is missing or damaged, or of another class list (`labels.files.check_some_free`); or every
            voxel of all of them is unknown.
    """
    counts = np.zeros(UNKNOWN + 1, np.int64)
    for path in track(paths, "count classes"):
        semantics = read_label(path, allow_unknown=True, space=space).semantics
        check_some_free(path, semantics, space)
        counts += np.bincount(semantics.ravel(), minlength=UNKNOWN + 1)
    known = counts[: space.taxonomy.num_classes].copy()
    if not known.any():
        raise DataError(f"every voxel of all {len(paths)} labels is unknown; nothing can be learned from them")
    if unknown == "free":
        known[space.taxonomy.free] += counts[UNKNOWN]
    return known


def collate_labels(labels: Sequence[VoxelLabel]) -> VoxelLabel:
    """Several labels as one batch.

    Raises:
        DataError: some have a confidence and others do not.
    """
    confidences = [label.confidence for label in labels if label.confidence is not None]
    if len(confidences) not in (0, len(labels)):
        without = [token for label in labels if label.confidence is None for token in label.tokens]
        raise DataError(
            f"the labels of {', '.join(without)} have no confidence, others of the batch do; make all labels of a "
            "folder with --confidence, or none"
        )
    return VoxelLabel(
        tokens=tuple(token for label in labels for token in label.tokens),
        semantics=torch.stack([label.semantics for label in labels]),
        mask_camera=torch.stack([label.mask_camera for label in labels]),
        confidence=torch.stack(confidences) if confidences else None,
    )
