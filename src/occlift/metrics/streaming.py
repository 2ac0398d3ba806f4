"""The scores as `torchmetrics.Metric`s, for training loops: what is counted so far, on any device, over any processes.

Each class holds nothing but sums. `update` takes keyword arguments only, `truth` and `prediction` among them. `update`
hands a batch to the pure function that counts it (`occupancy.histograms`, `rays.ray_histogram`, `bev.bev_counts`,
`depth.depth_sums`; on the host, but for rays, so that the answer does not depend on the device) and adds what comes
back; `compute` adds the sums of all processes and returns every score by name, `counts` what is behind them. Integers
stay integers: any way to cut a split into batches and processes gives the same counts to the last bit.

In a `torchmetrics.MetricCollection` metrics of different settings stay apart, however equal what they counted is.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from occlift.errors import ConfigError, DataError
from occlift.label_space import OCC3D, LabelSpace, Taxonomy
from occlift.metrics.bev import THRESHOLD, VEHICLE, VISIBILITIES, BevCounts, Visibility, bev_counts
from occlift.metrics.depth import ERRORS, MEASURES, SCALINGS, WITHIN, DepthSums, depth_sums
from occlift.metrics.occupancy import (
    MASKS,
    Mask,
    OccupancyCounts,
    StoredMask,
    evaluated_voxels,
    histograms,
    stored_masks,
)
from occlift.metrics.rays import RayCounts, ray_histogram, ray_histogram_shape


class NamedScores(Protocol):
    """Something from which scores follow."""

    def named(self) -> dict[str, float]:
        """Every score by its full name."""
        ...


class SummedMetric(Metric, ABC):
    """A metric whose states are sums.

    A subclass declares its states with `add_sum`, adds to them in `update`, and builds `counts` from them.

    Args:
        settings: everything else that what is counted depends on; it must have a `repr` that says it all.
    """

    # A step's own value (`forward`) needs one update, not two: sums of batches add up.
    full_state_update = False
    is_differentiable = False

    def __init__(self, **settings: object) -> None:
        super().__init__()
        # A MetricCollection takes metrics for one, for ever, whose states are equal after their first batch.
        digest = hashlib.sha256(repr((type(self).__qualname__, settings)).encode()).digest()
        self.add_state("settings", torch.tensor(list(digest)), dist_reduce_fx="max")

    def add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.int64) -> None:
        """Declares a state of zeros that is added up over batches and processes; int64 unless it cannot be."""
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    @property
    @abstractmethod
    def counts(self) -> NamedScores:
        """What this process counted; of all processes inside `with metric.sync_context():`."""

    def compute(self) -> dict[str, float]:
        """Every score by its full name, over all processes."""
        return self.counts.named()


class OccupancyScore(SummedMetric):
    """IoU and mIoU of the volumes so far, after Occ3D (arXiv 2304.14365); definition: `occlift.metrics.occupancy`.

    Args:
        taxonomy: classes of the volumes.
        masks: evaluated voxels; `update` needs the masks of these names.

    >>> two = Taxonomy(names=("ground", "car"))
    >>> score = OccupancyScore(taxonomy=two, masks=("none",))
    >>> truth = torch.tensor([[[0, 0], [1, 2]]], dtype=torch.uint8)  # [x, y, z]; 2 is free
    >>> prediction = torch.tensor([[[0, 2], [1, 2]]], dtype=torch.uint8)
    >>> score.update(truth=truth, prediction=prediction)
    >>> score.compute()["miou_2_none_absent_skipped"]  # ground 50 %, car 100 %
    75.0
    """

    higher_is_better = True
    histograms: Tensor

    def __init__(self, *, taxonomy: Taxonomy = OCC3D.taxonomy, masks: Sequence[Mask] = MASKS) -> None:
        super().__init__(taxonomy=taxonomy, masks=tuple(masks))
        self.taxonomy: Final = taxonomy
        self.masks: Final = tuple(masks)
        self.add_sum("histograms", len(self.masks), taxonomy.num_classes, taxonomy.num_classes)

    def update(
        self,
        *,
        truth: Shaped[Tensor, "*batch x y z"],
        prediction: Shaped[Tensor, "*batch x y z"],
        mask_camera: Bool[Tensor, "*batch x y z"] | None = None,
        mask_lidar: Bool[Tensor, "*batch x y z"] | None = None,
    ) -> None:
        """Counts a batch of class volumes.

        Args:
            truth: class ids, integers of any kind, the last class is free; may be unknown (255) where no mask of the
                score evaluates it.
            prediction: class ids likewise, none of them unknown.
            mask_camera: voxels to be evaluated; needed where `masks` names it, or `near_surface`.
            mask_lidar: likewise, where `masks` names it.

        Raises:
            ConfigError: a mask is missing.
            DataError: shapes differ, or a value is no class.
        """
        given = {"camera": mask_camera, "lidar": mask_lidar}
        needed: dict[StoredMask, Tensor | None] = {name: given[name] for name in stored_masks(self.masks)}
        if missing := [name for name, mask in needed.items() if mask is None]:
            raise ConfigError(
                f"mask_{missing[0]} is needed for a score with the masks {', '.join(self.masks)}: give it to update, "
                "or make the score without it, such as OccupancyScore(masks=('none',)), which evaluates all voxels"
            )
        truth_ids, classes = _class_ids(truth, "truth"), self.taxonomy.num_classes
        stored = {name: _on_host(mask).astype(np.bool_) for name, mask in needed.items() if mask is not None}
        evaluated = evaluated_voxels(self.masks, truth=truth_ids, stored=stored, num_classes=classes)
        counted = histograms(
            truth=truth_ids,
            prediction=_class_ids(prediction, "prediction"),
            evaluated=evaluated,
            num_classes=classes,
        )
        self.histograms += self.histograms.new_tensor(np.stack([counted[mask] for mask in self.masks]))

    @property
    def counts(self) -> OccupancyCounts:
        per_mask = dict(zip(self.masks, _on_host(self.histograms), strict=True))
        return OccupancyCounts(histograms=per_mask, taxonomy=self.taxonomy)


class RayScore(SummedMetric):
    """RayIoU of the volumes so far, after SparseOcc (arXiv 2312.17118); the definition is in `occlift.metrics.rays`.

    Args:
        space: grid of the volumes, in the ego frame, and their classes.

    >>> from occlift.geometry.grids import VoxelGrid
    >>> grid = VoxelGrid(lower_m=(-4.0, -4.0, 0.0), voxel_size_m=(1.0, 1.0, 1.0), shape=(8, 8, 3))
    >>> score = RayScore(space=LabelSpace(grid=grid, taxonomy=Taxonomy(names=("ground", "car"))))
    >>> truth = torch.full((1, 8, 8, 3), 2, dtype=torch.uint8)  # free
    >>> truth[:, :, :, 0] = 0
    >>> score.update(truth=truth, prediction=truth, origins_m=[torch.tensor([[0.2, 0.1, 1.8]])])
    >>> score.compute()["ray_iou_2"]
    100.0
    """

    higher_is_better = True
    histogram: Tensor

    def __init__(self, *, space: LabelSpace = OCC3D) -> None:
        super().__init__(space=space)
        self.space: Final = space
        self.add_sum("histogram", *ray_histogram_shape(space.taxonomy))

    def update(
        self,
        *,
        truth: Shaped[Tensor, "batch x y z"],
        prediction: Shaped[Tensor, "batch x y z"],
        origins_m: Sequence[Float[Tensor, "_ 3"]],
    ) -> None:
        """Casts the rays of a batch on the device of the prediction.

        Args:
            truth: class ids, integers of any kind, the last class is free.
            prediction: likewise.
            origins_m: per key frame where its rays start (`ray_origins`), metres, ego frame.

        Raises:
            DataError: shapes differ from the grid's, a value is no class, or there are not as many places as volumes.
        """
        if not len(prediction) == len(truth) == len(origins_m):
            raise DataError(
                f"expected as many predictions and origins_m as truths, got {len(prediction)}, {len(origins_m)} and "
                f"{len(truth)}; a single volume has a batch axis too"
            )
        device = str(prediction.device)
        for predicted, true, origins in zip(prediction, truth, origins_m, strict=True):
            h = ray_histogram(
                truth=_class_ids(true, "truth"),
                prediction=_class_ids(predicted, "prediction"),
                origins_m=_on_host(torch.as_tensor(origins)).astype(np.float64),
                space=self.space,
                device=device,
            )
            self.histogram += self.histogram.new_tensor(h)

    @property
    def counts(self) -> RayCounts:
        return RayCounts(histogram=_on_host(self.histogram).astype(np.int64), taxonomy=self.space.taxonomy)


class BevScore(SummedMetric):
    """Bird's-eye-view IoU of the maps so far, after CVT (arXiv 2205.02833); the definition is in `occlift.metrics.bev`.

    Args:
        classes: names along the class axis; not exclusive.
        visibility_filter: count both with and without the filter; `update` needs `ignored` then. Without, there is
            no filtered score: a score cannot be filtered by nothing.
        threshold: a cell is predicted if its probability is greater.

    >>> score = BevScore(("vehicle",), visibility_filter=False)
    >>> truth = torch.tensor([[[[True, True], [False, False]]]])  # [batch, classes, x, y]
    >>> score.update(truth=truth, prediction=torch.tensor([[[[0.9, 0.2], [0.1, 0.0]]]]))
    >>> score.compute()
    {'bev_iou_vehicle_unfiltered': 50.0}
    """

    higher_is_better = True
    cells: Tensor

    def __init__(
        self, classes: Sequence[str] = VEHICLE, *, visibility_filter: bool = True, threshold: float = THRESHOLD
    ) -> None:
        super().__init__(classes=tuple(classes), visibility_filter=visibility_filter, threshold=threshold)
        self.classes: Final = tuple(classes)
        self.visibilities: Final[tuple[Visibility, ...]] = VISIBILITIES if visibility_filter else ("unfiltered",)
        self.threshold: Final = threshold
        self.add_sum("cells", len(self.visibilities), len(self.classes), 3)

    def update(
        self,
        *,
        truth: Bool[Tensor, "*batch classes x y"],
        prediction: Float[Tensor, "*batch classes x y"] | Bool[Tensor, "*batch classes x y"],
        ignored: Bool[Tensor, "*batch classes x y"] | None = None,
    ) -> None:
        """Counts a batch of maps.

        Args:
            truth: which cells are of the class.
            prediction: probabilities 0..1, or decisions.
            ignored: cells that the visibility filter leaves out.

        Raises:
            ConfigError: ignored cells are missing, or given to a score without the filter.
            DataError: shapes or types differ from these, a probability is not in 0..1, or a cell is ignored that is
                not true.
        """
        if (ignored is not None) != ("filtered" in self.visibilities):
            raise ConfigError(
                "the filtered score needs the cells that its filter leaves out: give `ignored` to update, or make the "
                "score with visibility_filter=False"
                if ignored is None
                else "cells are `ignored` in a score without the visibility filter; make it with visibility_filter=True"
            )
        batch = bev_counts(
            truth=_on_host(truth),
            prediction=_on_host(prediction),
            ignored=None if ignored is None else _on_host(ignored),
            classes=self.classes,
            threshold=self.threshold,
        )
        self.cells += self.cells.new_tensor(np.stack([batch.cells[name] for name in self.visibilities]))

    @property
    def counts(self) -> BevCounts:
        cells = dict(zip(self.visibilities, _on_host(self.cells), strict=True))
        return BevCounts(classes=self.classes, cells=cells, threshold=self.threshold)


class DepthScore(SummedMetric):
    """Depth errors of the images so far, after Eigen et al. (arXiv 1406.2283); definition: `occlift.metrics.depth`.

    The numbers of images and pixels are integers; errors are added in double precision, so that another order of images
    changes their last digits.

    >>> score = DepthScore()
    >>> truth_m = torch.tensor([[10.0, 20.0], [float("nan"), 40.0]])
    >>> score.update(truth_m=truth_m, prediction_m=torch.full((2, 2), 20.0))
    >>> round(score.compute()["pooled_abs_rel_metric"], 3)  # the mean of 10/10, 0/20 and 20/40
    0.5
    """

    higher_is_better = False
    images: Tensor
    pixels: Tensor
    within: Tensor
    per_image: Tensor
    errors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("images")
        self.add_sum("pixels")
        self.add_sum("within", len(SCALINGS), len(WITHIN))
        self.add_sum("per_image", len(SCALINGS), len(MEASURES), dtype=torch.float64)
        self.add_sum("errors", len(SCALINGS), len(ERRORS), dtype=torch.float64)

    def update(
        self, *, truth_m: Float[Tensor, "*images height width"], prediction_m: Float[Tensor, "*images height width"]
    ) -> None:
        """Adds the errors of a batch of images.

        Args:
            truth_m: depth along the optical axis, metres; NaN where nothing was measured.
            prediction_m: the same; anything where the truth is not evaluated.

        Raises:
            DataError: the sizes differ, or a prediction is NaN, infinite, zero or negative at an evaluated pixel.
        """
        batch = depth_sums(truth_m=_on_host(truth_m), prediction_m=_on_host(prediction_m))
        self.images += batch.images
        self.pixels += batch.pixels
        for name in ("within", "per_image", "errors"):
            state, sums = getattr(self, name), getattr(batch, name)
            state += state.new_tensor(np.stack([sums[scaling] for scaling in SCALINGS]))

    @property
    def counts(self) -> DepthSums:
        per_image, errors, within = (
            dict(zip(SCALINGS, _on_host(state), strict=True)) for state in (self.per_image, self.errors, self.within)
        )
        return DepthSums(
            images=int(self.images), pixels=int(self.pixels), per_image=per_image, errors=errors, within=within
        )


def _class_ids(tensor: Tensor, name: str) -> UInt8[np.ndarray, "..."]:
    """Class ids as bytes, on the host.

    Raises:
        DataError: they are no integers, or do not fit into a byte.
    """
    if tensor.is_floating_point() or tensor.is_complex():
        raise DataError(f"the {name} should hold class ids, but holds {tensor.dtype}; take the argmax of logits")
    ids = _on_host(tensor)
    if ids.dtype != np.uint8 and ids.size and (ids.min() < 0 or ids.max() > 255):
        raise DataError(f"the {name} should hold class ids 0..255, but holds {ids.min()} to {ids.max()}")
    return ids.astype(np.uint8)


def _on_host(tensor: Tensor) -> NDArray[np.generic]:
    """A copy as an array; NumPy has no bfloat16, and single precision holds its values exactly."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy().copy()
