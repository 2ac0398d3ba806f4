"""The pseudo-loss of EasyOcc (arXiv 2509.26087), for anybody's occupancy network.

EasyOcc adds the loss against pseudo-labels to networks that were trained by rendering. All that it needs of a
network is a volume of 18 logits per voxel, before anything is rendered. `PseudoLoss` takes that volume as it is: in any
order of axes, with free first or last, on a grid of its own. Where that grid is not the one of the labels, the logits
are sampled trilinearly at the centres of the labelled voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from occlift.errors import ConfigError, DataError
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace
from occlift.losses.occupancy import (
    OccupancyLossConfig,
    class_weights,
    known_voxels,
    voxel_rows,
    voxel_terms,
    with_unknown_as,
)


class PseudoLoss(nn.Module):
    """The loss of a network's logits against labels on the Occ3D grid.

    It has no parameters and adds nothing to a checkpoint. It computes on the device of the logits, wherever it was made
    itself, and in float32, under autocast too. Where `config` limits the number of voxels, they are drawn from torch's
    global generator of the CPU.

    Args:
        grid: of the logits: lower corner and voxel size in metres and the number of voxels along x, y, z, in the ego
            frame at the lidar's time stamp (x forward, y left, z up), or in the frame that `grid_from_ego` leads to.
            None: that of the labels.
        space: grid and classes of the labels.
        class_counts: voxels per class, free last, in the training labels, from which the class weights come:
            `occlift.labels.folder.LabelFolder.class_counts`. A class that was not counted weighs as much as the
            rarest that was. None: all classes weigh the same.
        config: which terms; None: cross-entropy and Lovász-softmax, with weights 1/log f if there are counts.
        axes: of the logits: `b` batch, `c` classes, and the grid's `x`, `y`, `z`, in the order they are in.
        free: index of free among the logits, the last (None) or 0 as a rule; the others are the space's classes in
            order.

    Raises:
        ConfigError: an argument is not of these, or class weights are asked for without counts.

    >>> grid = VoxelGrid(lower_m=(-40.0, -40.0, -1.0), voxel_size_m=(3.2, 3.2, 1.6), shape=(25, 25, 4))
    >>> loss = PseudoLoss(grid)
    >>> labels = torch.full((1, 200, 200, 16), 17, dtype=torch.uint8)
    >>> round(float(loss(torch.zeros(1, 18, 25, 25, 4), labels)), 3) > 0
    True
    """

    class_weight: Tensor

    def __init__(
        self,
        grid: VoxelGrid | None = None,
        *,
        space: LabelSpace = OCC3D,
        class_counts: Sequence[int] | Integer[Tensor, "classes"] | Integer[np.ndarray, "classes"] | None = None,
        config: OccupancyLossConfig | None = None,
        axes: str = "bcxyz",
        free: int | None = None,
    ) -> None:
        super().__init__()
        if sorted(axes) != sorted("bcxyz"):
            raise ConfigError(f"axes is {axes!r}; expected the letters b, c, x, y, z in the order of the logits' axes")
        num_classes = space.taxonomy.num_classes
        free = space.taxonomy.free if free is None else free
        if not 0 <= free < num_classes:
            raise ConfigError(f"free is {free}; expected the index of the free class among {num_classes} logits")
        if config is None:
            config = OccupancyLossConfig(class_weighting="none" if class_counts is None else "inverse_log")
        if class_counts is None and config.class_weighting != "none":
            raise ConfigError(
                f"class weights {config.class_weighting} need class_counts (LabelFolder.class_counts gives them); "
                'pass them, or a config with class_weighting="none"'
            )
        counts = torch.ones(num_classes, dtype=torch.long) if class_counts is None else torch.as_tensor(class_counts)
        is_whole = counts.shape == (num_classes,) and not counts.is_floating_point()
        if not is_whole or bool((counts < 0).any()) or not bool(counts.any()):
            raise ConfigError(
                f"class_counts should be {num_classes} whole numbers of voxels, 0 or more, not all 0, but is {counts}"
            )
        self.grid, self.space = space.grid if grid is None else grid, space
        self.config, self.axes, self.free = config, axes, free
        counts = counts.cpu()
        weights = class_weights(counts, config.class_weighting)
        # Counts of some labels may lack a class that others have. With weight 0 its voxels would be lost unnoticed.
        self.register_buffer("class_weight", weights.where(counts > 0, weights.max()), persistent=False)

    def forward(
        self,
        logits: Float[Tensor, "..."],
        labels: Integer[Tensor, "batch x y z"],
        confidence: Shaped[Tensor, "batch x y z"] | None = None,
        *,
        grid_from_ego: Float[Tensor, "*batch 4 4"] | None = None,
    ) -> Float[Tensor, ""]:
        """The sum of the `terms`."""
        return torch.stack(tuple(self.terms(logits, labels, confidence, grid_from_ego=grid_from_ego).values())).sum()

    def terms(
        self,
        logits: Float[Tensor, "..."],
        labels: Integer[Tensor, "batch x y z"],
        confidence: Shaped[Tensor, "batch x y z"] | None = None,
        *,
        grid_from_ego: Float[Tensor, "*batch 4 4"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss by name, each with its factor applied, as `occupancy_loss` names them.

        Args:
            logits: on `grid`, their axes as `axes` says; any floating-point type.
            labels: [batch, x, y, z] on the space's grid, any integer type: class ids, 255 unknown. On the device of the
                logits, as `confidence`. An empty batch costs 0.
            confidence: of the labels: bool (a mask: only voxels that are true take part), integers 0..255 for 0..1 as
                in label files, or floats 0..1. Integers 0 and 1 are refused: they are a mask that is not bool.
            grid_from_ego: the transform from the ego frame at the lidar's time stamp to the frame in which `grid` is
                given, for grids in the lidar's frame; [4, 4] or [batch, 4, 4], metres. None: that frame is the ego
                frame.

        Raises:
            ConfigError: the logits or the transform do not have the shape that `axes`, `grid` and the labels ask for.
            DataError: labels or confidence have another shape, lie on another device, or hold what they must not; the
                transform is not finite.
        """
        logits = self._arranged(logits)
        self._check_labels(labels, confidence, logits)
        # In half precision, products of coordinates would be off by a voxel.
        with torch.autocast(logits.device.type, enabled=False):
            known, confidence = with_unknown_as(
                self.config.unknown, labels.to(torch.uint8), confidence, free=self.space.taxonomy.free
            )
            if self.grid == self.space.grid and grid_from_ego is None:
                positions = None
            else:
                positions = self._grid_positions(logits, grid_from_ego)
                counts = positions.new_tensor(self.grid.shape)
                inside_grid = ((positions >= 0) & (positions < counts)).all(-1).view(-1, *self.space.grid.shape)
                known = known.where(inside_grid, UNKNOWN)
            index = known_voxels(known, confidence=confidence, limit=self.config.max_voxels)
            return voxel_terms(
                voxel_rows(logits, index) if positions is None else _sampled_rows(logits, positions, index),
                known.flatten()[index].long(),
                confidence=None if confidence is None else confidence.flatten()[index],
                weights=self.class_weight.to(logits.device, torch.float32),
                config=self.config,
            )

    def _arranged(self, logits: Tensor) -> Float[Tensor, "batch classes x y z"]:
        """The logits as [batch, classes, x, y, z] with free last."""
        sizes = dict(zip("cxyz", (self.space.taxonomy.num_classes, *self.grid.shape), strict=True))
        expected = [sizes.get(axis) for axis in self.axes]
        fits = logits.ndim == 5 and all(size in (None, n) for size, n in zip(expected, logits.shape, strict=True))
        if not fits or not logits.is_floating_point():
            wanted = ", ".join("batch" if size is None else str(size) for size in expected)
            raise ConfigError(
                f"logits should be floating-point numbers of shape [{wanted}] (axes {self.axes!r} of a grid of "
                f"{self.grid.shape} voxels x, y, z), but are {logits.dtype} of {list(logits.shape)}; give the grid and "
                "the axes that your network has"
            )
        logits = logits.permute([self.axes.index(axis) for axis in "bcxyz"])
        if self.free == self.space.taxonomy.free:
            return logits
        return torch.cat((logits[:, : self.free], logits[:, self.free + 1 :], logits[:, self.free, None]), 1)

    def _check_labels(self, labels: Tensor, confidence: Tensor | None, logits: Tensor) -> None:
        expected = (logits.shape[0], *self.space.grid.shape)
        for name, tensor in (("labels", labels), ("confidence", confidence)):
            if tensor is not None and tensor.shape != expected:
                raise DataError(
                    f"{name} should have the shape {list(expected)} [batch, x, y, z], frames as many as the logits' on "
                    f"the grid of the labels, but has {list(tensor.shape)}"
                )
            if tensor is not None and tensor.device != logits.device:
                raise DataError(
                    f"{name} should be on the device of the logits, {logits.device}, but are on {tensor.device}; move "
                    "them with .to(logits.device)"
                )
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise DataError(f"labels should be integers (class ids, 255 unknown), but are {labels.dtype}")
        labels = labels.long()  # wide unsigned integers cannot be compared
        wrong = ((labels < 0) | (labels > self.space.taxonomy.free)) & (labels != UNKNOWN)
        if bool(wrong.any()):
            raise DataError(
                f"labels hold {int(labels[wrong][0])}; expected 0..{self.space.taxonomy.free} (the last is free) or "
                "255 unknown"
            )
        if confidence is not None and confidence.dtype != torch.bool and len(confidence):
            numbers = confidence if confidence.is_floating_point() else confidence.long()
            low, high = (value.item() for value in numbers.aminmax())
            # Not `low < 0 or high > ...`: that would let through what is not a number.
            if not 0 <= low <= high <= (1 if confidence.is_floating_point() else 255):
                raise DataError(f"confidence is {low} to {high}; expected floats 0..1, or integers 0..255")
            if high == 1 and not confidence.is_floating_point():
                raise DataError(
                    f"confidence holds {confidence.dtype} of at most 1, and integers mean 0..255 for 0..1: next to "
                    "nothing; a mask of 0 and 1, such as those of Occ3D's files, should be given as mask.bool()"
                )

    def _grid_positions(self, logits: Tensor, grid_from_ego: Tensor | None) -> Float[Tensor, "frames voxels 3"]:
        """Where the centres of the Occ3D voxels lie, in voxels of the grid; one frame if all have the same place."""
        axes = (
            lower_m + (torch.arange(count, device=logits.device, dtype=torch.float32) + 0.5) * size_m
            for lower_m, size_m, count in zip(
                self.space.grid.lower_m, self.space.grid.voxel_size_m, self.space.grid.shape, strict=True
            )
        )
        centers = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(1, -1, 3)
        if grid_from_ego is not None:
            if grid_from_ego.shape not in ((4, 4), (len(logits), 4, 4)):
                raise ConfigError(
                    f"grid_from_ego should have the shape [4, 4] or [{len(logits)}, 4, 4], but has "
                    f"{list(grid_from_ego.shape)}"
                )
            if not bool(grid_from_ego.isfinite().all()):
                # It would lead every voxel out of the grid, and the loss would be 0.
                raise DataError(f"grid_from_ego should be finite, but is {grid_from_ego}")
            transform = grid_from_ego.to(centers).view(-1, 4, 4)
            centers = centers @ transform[:, :3, :3].mT + transform[:, None, :3, 3]
        return (centers - centers.new_tensor(self.grid.lower_m)) / centers.new_tensor(self.grid.voxel_size_m)

    def extra_repr(self) -> str:
        return f"grid={self.grid}, config={self.config}, axes={self.axes!r}, free={self.free}"


def _sampled_rows(
    logits: Float[Tensor, "batch classes x y z"],
    positions: Float[Tensor, "frames voxels 3"],
    index: Int[Tensor, "n"],
) -> Float[Tensor, "n classes"]:
    """Trilinear samples of the logits, whose voxel i has its centre at i + 0.5; beyond the outermost centres the border
    value is kept.

    Args:
        positions: of the labelled voxels; one frame: the same for every frame of the batch.
        index: ascending, into the flattened [batch · voxels].
    """
    # grid_sample counts the last axis first, from −1 to 1 between the outer faces.
    size = positions.new_tensor(logits.shape[2:])
    where = (2 * positions / size - 1).flip(-1)
    frame, voxel = index // positions.shape[1], index % positions.shape[1]
    rows = []
    for number, volume in enumerate(logits):
        points = where[number % len(where)][voxel[frame == number]]
        sampled = F.grid_sample(
            volume.float()[None], points[None, :, None, None], padding_mode="border", align_corners=False
        )
        rows.append(sampled.view(logits.shape[1], -1).T)
    # Without frames there is nothing to put together, but a gradient still has its way.
    return torch.cat(rows) if rows else voxel_rows(logits, index)
