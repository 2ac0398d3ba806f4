"""The scores as `torchmetrics.Metric`s, for training loops: what is counted so far, on any device, over any processes.

Each class holds nothing but sums. `update` hands a batch to the pure function that counts it
(`occupancy.histograms`, `rays.ray_histogram`, `bev.bev_counts`, `depth.depth_sums`; on the host, but for rays, so that
the answer does not depend on the device) and adds what comes back; `compute`
adds the sums of all processes and returns every score by name, `counts` what is behind them. Integers stay integers:
any way to cut a split into batches and processes gives the same counts to the last bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.label_space import NUM_CLASSES
from occlift.metrics.bev import THRESHOLD, VEHICLE, VISIBILITIES, BevCounts, Visibility, bev_counts
from occlift.metrics.depth import ERRORS, MEASURES, SCALINGS, WITHIN, DepthSums, depth_sums
from occlift.metrics.occupancy import MASKS, Mask, OccupancyCounts, histograms
from occlift.metrics.rays import RAY_HISTOGRAM_SHAPE, RayCounts, ray_histogram


class NamedScores(Protocol):
    """Something from which scores follow."""

    def named(self) -> dict[str, float]:
        """Every score by its full name."""
        ...


class SummedMetric(Metric, ABC):
    """A metric whose states are sums.

    A subclass declares its states with `add_sum`, adds to them in `update`, and builds `counts` from them.
    """

    # A step's own value (`forward`) needs one update, not two: sums of batches add up.
    full_state_update = False
    is_differentiable = False

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
    """Occupancy scores of what was seen so far; the definition is in `occlift.metrics.occupancy`.

    Args:
        masks: evaluated voxels; `update` needs the masks of these names.
    """

    higher_is_better = True
    histograms: Tensor

    def __init__(self, masks: Sequence[Mask] = MASKS) -> None:
        super().__init__()
        self.masks: Final = tuple(masks)
        self.add_sum("histograms", len(self.masks), NUM_CLASSES, NUM_CLASSES)

    def update(
        self,
        prediction: UInt8[Tensor, "*batch x y z"],
        truth: UInt8[Tensor, "*batch x y z"],
        *,
        mask_camera: Bool[Tensor, "*batch x y z"] | None = None,
        mask_lidar: Bool[Tensor, "*batch x y z"] | None = None,
    ) -> None:
        """Counts a batch of class volumes, 0..17 (free); errors as in `histograms`.

        Args:
            mask_camera, mask_lidar: needed where `masks` names them.
        """
        given = {"camera": mask_camera, "lidar": mask_lidar, "none": None}
        missing = [mask for mask in self.masks if mask != "none" and given[mask] is None]
        assert not missing, f"mask_{missing[0]} is needed for the scores {', '.join(self.masks)}"
        evaluated: dict[Mask, NDArray[np.bool_] | None] = {}
        for name in self.masks:
            mask = given[name]
            evaluated[name] = None if mask is None else _on_host(mask).astype(np.bool_)
        counted = histograms(_on_host(truth).astype(np.uint8), _on_host(prediction).astype(np.uint8), evaluated)
        self.histograms += self.histograms.new_tensor(np.stack([counted[mask] for mask in self.masks]))

    @property
    def counts(self) -> OccupancyCounts:
        return OccupancyCounts(histograms=dict(zip(self.masks, _on_host(self.histograms), strict=True)))


class RayScore(SummedMetric):
    """RayIoU of what was seen so far; the definition is in `occlift.metrics.rays`.

    Args:
        grid: of the volumes, in the ego frame.
    """

    higher_is_better = True
    histogram: Tensor

    def __init__(self, grid: VoxelGrid = OCC3D_GRID) -> None:
        super().__init__()
        self.grid: Final = grid
        self.add_sum("histogram", *RAY_HISTOGRAM_SHAPE)

    def update(
        self,
        prediction: UInt8[Tensor, "batch x y z"],
        truth: UInt8[Tensor, "batch x y z"],
        origins_m: Sequence[Float[Tensor, "origins 3"]],
    ) -> None:
        """Casts the rays of a batch on the device of the prediction; errors as in `ray_histogram`.

        Args:
            prediction, truth: classes 0..17 (free).
            origins_m: per key frame where its rays start (`ray_origins`), ego frame.
        """
        assert len(prediction) == len(truth) == len(origins_m), (len(prediction), len(truth), len(origins_m))
        device = str(prediction.device)
        for predicted, true, origins in zip(prediction, truth, origins_m, strict=True):
            h = ray_histogram(
                _on_host(true).astype(np.uint8),
                _on_host(predicted).astype(np.uint8),
                _on_host(torch.as_tensor(origins)).astype(np.float64),
                grid=self.grid,
                device=device,
            )
            self.histogram += self.histogram.new_tensor(h)

    @property
    def counts(self) -> RayCounts:
        return RayCounts(histogram=_on_host(self.histogram).astype(np.int64))


class BevScore(SummedMetric):
    """Bird's-eye-view IoU of what was seen so far; the definition is in `occlift.metrics.bev`.

    Args:
        classes: names along the class axis.
        visibility_filter: count both with and without the filter; `update` needs `ignored` then. Without, there is
            no filtered score: a score cannot be filtered by nothing.
        threshold: a cell is predicted if its probability is greater.
    """

    higher_is_better = True
    cells: Tensor

    def __init__(
        self, classes: Sequence[str] = VEHICLE, *, visibility_filter: bool = True, threshold: float = THRESHOLD
    ) -> None:
        super().__init__()
        self.classes: Final = tuple(classes)
        self.visibilities: Final[tuple[Visibility, ...]] = VISIBILITIES if visibility_filter else ("unfiltered",)
        self.threshold: Final = threshold
        self.add_sum("cells", len(self.visibilities), len(self.classes), 3)

    def update(
        self,
        prediction: Float[Tensor, "*batch classes x y"] | Bool[Tensor, "*batch classes x y"],
        truth: Bool[Tensor, "*batch classes x y"],
        ignored: Bool[Tensor, "*batch classes x y"] | None = None,
    ) -> None:
        """Counts a batch; arguments and errors as in `bev_counts`."""
        assert (ignored is not None) == ("filtered" in self.visibilities), (
            f"ignored cells {'missing' if ignored is None else 'given'} for the scores {self.visibilities}"
        )
        batch = bev_counts(
            _on_host(prediction),
            _on_host(truth),
            None if ignored is None else _on_host(ignored),
            classes=self.classes,
            threshold=self.threshold,
        )
        self.cells += self.cells.new_tensor(np.stack([batch.cells[name] for name in self.visibilities]))

    @property
    def counts(self) -> BevCounts:
        cells = dict(zip(self.visibilities, _on_host(self.cells), strict=True))
        return BevCounts(classes=self.classes, cells=cells)


class DepthScore(SummedMetric):
    """Depth errors of what was seen so far; the definition is in `occlift.metrics.depth`.

    The numbers of images and pixels are integers; errors are added in double precision, so that another order of images
    changes their last digits.
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
        self, prediction_m: Float[Tensor, "*images height width"], truth_m: Float[Tensor, "*images height width"]
    ) -> None:
        """Adds the errors of a batch of images; arguments and errors as in `depth_sums`."""
        batch = depth_sums(_on_host(prediction_m), _on_host(truth_m))
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


def _on_host(tensor: Tensor) -> NDArray[np.generic]:
    """A copy as an array; NumPy has no bfloat16, and single precision holds its values exactly."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy().copy()
