"""The scores as torchmetrics metrics: batches and processes add up to what the pure functions count on everything."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from occlift.errors import ConfigError, DataError
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import FREE, OCC3D, LabelSpace, Taxonomy
from occlift.metrics import bev, depth, occupancy, rays, streaming
from occlift.metrics.bev import BevCounts, bev_counts
from occlift.metrics.depth import DepthSums, depth_sums
from occlift.metrics.occupancy import MASKS, OccupancyCounts, evaluated_voxels, histogram
from occlift.metrics.rays import RayCounts, ray_histogram
from occlift.metrics.streaming import BevScore, DepthScore, OccupancyScore, RayScore, SummedMetric

FRAMES = 7
SPLITS = ((7,), (1, 1, 1, 1, 1, 1, 1), (3, 4), (5, 0, 2))


def bev_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities, truth and ignored cells of two classes; the same in every process."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(FRAMES, 2, 40, 50, generator=generator) < 0.3
    ignored = truth & (torch.rand(truth.shape, generator=generator) < 0.4)
    return torch.rand(truth.shape, generator=generator), truth, ignored


def depth_case() -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and sparse truth of six images per frame."""
    generator = torch.Generator().manual_seed(1)
    truth_m = torch.rand(FRAMES, 6, 12, 20, generator=generator) * 100
    truth_m[torch.rand(truth_m.shape, generator=generator) < 0.7] = torch.nan
    return 1 + 70 * torch.rand(truth_m.shape, generator=generator), truth_m


GRID = VoxelGrid(lower_m=(-8.0, -8.0, -1.0), voxel_size_m=(0.8, 0.8, 0.8), shape=(20, 20, 8))
SPACE = LabelSpace(grid=GRID, taxonomy=OCC3D.taxonomy)


def occupancy_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions, truth, and two masks."""
    generator = torch.Generator().manual_seed(2)
    shape = (FRAMES, *GRID.shape)
    occupied = torch.rand(2, *shape, generator=generator) < 0.05
    classes = torch.where(occupied, torch.randint(0, 5, (2, *shape), generator=generator), FREE).to(torch.uint8)
    mask_lidar = torch.rand(shape, generator=generator) < 0.6
    return classes[0], classes[1], mask_lidar & (torch.rand(shape, generator=generator) < 0.5), mask_lidar


def origins_case() -> list[torch.Tensor]:
    """Up to three places per frame."""
    generator = torch.Generator().manual_seed(3)
    return [4 * torch.rand(1 + i % 3, 3, generator=generator, dtype=torch.float64) - 1 for i in range(FRAMES)]


def score_occupancy(occupancy: OccupancyScore, rays: RayScore, frames: slice) -> None:
    prediction, truth, mask_camera, mask_lidar = (tensor[frames] for tensor in occupancy_case())
    occupancy.update(truth=truth, prediction=prediction, mask_camera=mask_camera, mask_lidar=mask_lidar)
    rays.update(truth=truth, prediction=prediction, origins_m=origins_case()[frames])


def occupancy_integers(occupancy: OccupancyScore, rays: RayScore) -> dict[str, Any]:
    found = {mask: h.tolist() for mask, h in occupancy.counts.histograms.items()}
    return found | {"rays": rays.counts.histogram.tolist()}


def whole_occupancy() -> tuple[dict[str, Any], dict[str, float]]:
    """Counts and scores by the pure functions, frame by frame."""
    prediction, truth, mask_camera, mask_lidar = (tensor.numpy() for tensor in occupancy_case())
    masks = evaluated_voxels(MASKS, truth=truth, stored={"camera": mask_camera, "lidar": mask_lidar})
    counts = OccupancyCounts(
        histograms={mask: histogram(truth=truth, prediction=prediction, evaluated=m) for mask, m in masks.items()}
    )
    rays = RayCounts.zero()
    for frame, origins in enumerate(origins_case()):
        rays += RayCounts(
            histogram=ray_histogram(
                truth=truth[frame], prediction=prediction[frame], origins_m=origins.numpy(), space=SPACE
            )
        )
    integers = {mask: h.tolist() for mask, h in counts.histograms.items()} | {"rays": rays.histogram.tolist()}
    return integers, counts.named() | rays.named()


@pytest.mark.parametrize("sizes", SPLITS)
def test_batches_of_volumes_add_up(sizes: tuple[int, ...]) -> None:
    occupancy, rays = OccupancyScore(), RayScore(space=SPACE)
    start = 0
    for size in sizes:
        score_occupancy(occupancy, rays, slice(start, start + size))
        start += size
    integers, scores = whole_occupancy()
    assert occupancy_integers(occupancy, rays) == integers
    assert occupancy.compute() | rays.compute() == scores
    assert 0 < scores["ray_iou_17"] < 100


def test_a_volume_needs_the_masks_that_are_scored() -> None:
    prediction, truth, mask_camera, _ = occupancy_case()
    with pytest.raises(
        ConfigError, match=r"mask_lidar is needed for a score with the masks camera, near_surface, lidar, none: give"
    ):
        OccupancyScore().update(truth=truth, prediction=prediction, mask_camera=mask_camera)
    camera = OccupancyScore(masks=("camera",))
    camera.update(truth=truth, prediction=prediction, mask_camera=mask_camera)
    assert set(camera.counts.histograms) == {"camera"}
    assert camera.compute()["iou_camera"] == whole_occupancy()[1]["iou_camera"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: BevScore(("a",), threshold=0.2), lambda: BevScore(("a",), threshold=0.8)),
        (lambda: BevScore(("a",), visibility_filter=True), lambda: BevScore(("b",), visibility_filter=True)),
        (lambda: OccupancyScore(masks=("camera",)), lambda: OccupancyScore(masks=("lidar",))),
        (lambda: OccupancyScore(), lambda: OccupancyScore(taxonomy=Taxonomy(names=OCC3D.taxonomy.names, vague=()))),
        (
            lambda: RayScore(space=SPACE),
            lambda: RayScore(
                space=LabelSpace(
                    grid=VoxelGrid(lower_m=(0.0, 0.0, 0.0), voxel_size_m=(0.8, 0.8, 0.8), shape=(20, 20, 8)),
                    taxonomy=OCC3D.taxonomy,
                )
            ),
        ),
    ],
    ids=["threshold", "classes", "masks", "taxonomy", "grid"],
)
def test_metrics_of_other_settings_stay_apart_in_a_collection(
    first: Callable[[], SummedMetric], second: Callable[[], SummedMetric]
) -> None:
    def groups(*scores: SummedMetric) -> int:
        collection = MetricCollection({str(number): score for number, score in enumerate(scores)})
        # Nothing counted yet: as equal as counts can be.
        collection._merge_compute_groups()
        return len(collection.compute_groups)

    assert groups(first(), second()) == 2
    assert groups(first(), first()) == 1


def test_thresholds_of_one_collection_have_scores_of_their_own() -> None:
    sure, unsure = (torch.full((1, 1, 2, 2), value) for value in (0.9, 0.5))
    truth = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    low, high = (BevScore(visibility_filter=False, threshold=threshold) for threshold in (0.2, 0.8))
    both = MetricCollection({"low": low, "high": high})
    for prediction in (sure, unsure):  # the same for both thresholds, then not
        both.update(truth=truth, prediction=prediction)
    assert low.compute() == {"bev_iou_vehicle_unfiltered": 100.0}
    assert high.compute() == {"bev_iou_vehicle_unfiltered": 50.0}


def test_counts_of_other_settings_do_not_add_up() -> None:
    truth = np.ones((1, 1, 2, 2), bool)
    low, high = (bev_counts(truth=truth, prediction=truth, ignored=None, threshold=t) for t in (0.2, 0.8))
    with pytest.raises(ConfigError, match=r"threshold are the same: .*0\.2\) and .*0\.8\)"):
        low + high
    with pytest.raises(ConfigError, match="masks, classes and vague classes are the same"):
        OccupancyCounts.zero(("camera",)) + OccupancyCounts.zero(("none",))
    with pytest.raises(ConfigError, match="counts of rays add up only if"):
        RayCounts.zero() + RayCounts.zero(Taxonomy(names=("ground",)))


@pytest.mark.parametrize("name", ["truth", "prediction"])
def test_only_class_ids_are_counted(name: str) -> None:
    volumes = {"truth": torch.full((1, *GRID.shape), FREE), "prediction": torch.full((1, *GRID.shape), FREE)}
    OccupancyScore(masks=("none",)).update(**volumes)
    # As bytes, 256 would be class 0.
    for wrong, found in (
        (torch.full((1, *GRID.shape), 256), "holds 256 to 256"),
        (torch.zeros(1, *GRID.shape), "torch.float32"),
    ):
        for score in (OccupancyScore(masks=("none",)), RayScore(space=SPACE)):
            more = {} if isinstance(score, OccupancyScore) else {"origins_m": [torch.zeros(1, 3)]}
            with pytest.raises(DataError, match=rf"the {name} should hold class ids.*{found}"):
                score.update(**(volumes | {name: wrong}), **more)


def test_rays_need_places_for_every_volume() -> None:
    volume = torch.full((2, *GRID.shape), FREE, dtype=torch.uint8)
    with pytest.raises(DataError, match="expected as many predictions and origins_m as truths, got 2, 1 and 2"):
        RayScore(space=SPACE).update(truth=volume, prediction=volume, origins_m=[torch.zeros(1, 3)])


@pytest.mark.parametrize("module", [bev, depth, occupancy, rays, streaming])
def test_truth_and_prediction_are_never_told_apart_by_their_order(module: ModuleType) -> None:
    """Whoever exchanges them gets another score, and no error."""
    own = [one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__]
    public = [one for one in own if not one.__name__.startswith("_")]
    functions = [*filter(inspect.isfunction, public), *(one.update for one in public if hasattr(one, "update"))]
    sides = ("truth", "prediction", "truth_m", "prediction_m")
    parameters = [
        parameter for one in functions for name, parameter in inspect.signature(one).parameters.items() if name in sides
    ]
    assert len(parameters) >= 2
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)


def test_the_metrics_are_found_where_readers_look() -> None:
    import occlift.metrics

    assert occlift.metrics.OccupancyScore is OccupancyScore
    assert occlift.metrics.BevScore is BevScore
    with pytest.raises(AttributeError, match="MeanScore"):
        occlift.metrics.MeanScore  # noqa: B018


def bev_integers(counts: BevCounts) -> dict[str, Any]:
    return {name: cells.tolist() for name, cells in counts.cells.items()}


def depth_integers(sums: DepthSums) -> dict[str, Any]:
    within = {name: counts.tolist() for name, counts in sums.within.items()}
    return {"images": sums.images, "pixels": sums.pixels, "within": within}


def whole() -> tuple[BevCounts, DepthSums]:
    """What the pure functions say about everything at once."""
    prediction, truth, ignored = (tensor.numpy() for tensor in bev_case())
    bev = bev_counts(truth=truth, prediction=prediction, ignored=ignored, classes=("vehicle", "walker"))
    prediction_m, truth_m = (tensor.numpy() for tensor in depth_case())
    return bev, depth_sums(truth_m=truth_m, prediction_m=prediction_m)


def metrics() -> tuple[BevScore, DepthScore]:
    return BevScore(("vehicle", "walker")), DepthScore()


def update(bev: BevScore, depth: DepthScore, frames: slice) -> None:
    prediction, truth, ignored = (tensor[frames] for tensor in bev_case())
    bev.update(truth=truth, prediction=prediction, ignored=ignored)
    prediction_m, truth_m = (tensor[frames] for tensor in depth_case())
    depth.update(truth_m=truth_m, prediction_m=prediction_m)


@pytest.mark.parametrize("sizes", SPLITS)
def test_batches_add_up(sizes: tuple[int, ...]) -> None:
    bev, depth = metrics()
    start = 0
    for size in sizes:
        update(bev, depth, slice(start, start + size))
        start += size
    expected_bev, expected_depth = whole()
    assert bev.cells.dtype == torch.int64
    assert bev_integers(bev.counts) == bev_integers(expected_bev)
    # Equal integers, equal scores to the last bit.
    assert bev.compute() == expected_bev.named()
    assert depth_integers(depth.counts) == depth_integers(expected_depth)
    assert depth.compute() == pytest.approx(expected_depth.named(), rel=1e-12)
    bev.reset()
    depth.reset()
    assert int(bev.cells.sum()) == depth.counts.pixels == 0


def test_a_step_returns_its_own_score_and_counts_on() -> None:
    prediction, truth, ignored = bev_case()
    bev = BevScore(("vehicle", "walker"))
    for frames in torch.arange(FRAMES).split(2):
        step = bev(truth=truth[frames], prediction=prediction[frames], ignored=ignored[frames])
        alone = bev_counts(
            prediction=prediction[frames].numpy(),
            truth=truth[frames].numpy(),
            ignored=ignored[frames].numpy(),
            classes=bev.classes,
        )
        assert step == alone.named()
    assert bev.compute() == whole()[0].named()


def test_half_precision_and_decisions_are_taken_as_they_are() -> None:
    prediction, truth, ignored = bev_case()
    low = prediction.bfloat16()
    bev = BevScore(("vehicle", "walker"))
    bev.update(truth=truth, prediction=low.requires_grad_(), ignored=ignored)
    decided = BevScore(("vehicle", "walker"))
    decided.update(truth=truth, prediction=low.float() > 0.5, ignored=ignored)
    assert torch.equal(bev.cells, decided.cells)
    # Sums do not follow the precision of a model that the metric belongs to.
    model = torch.nn.ModuleList((bev, DepthScore())).half()
    assert bev.cells.dtype == torch.int64
    assert model[1].errors.dtype == torch.float64


def test_without_visibility_there_is_no_filtered_score() -> None:
    prediction, truth, ignored = bev_case()
    bev = BevScore(("road", "crossing"), visibility_filter=False)
    bev.update(truth=truth, prediction=prediction)
    assert bev.compute().keys() == {"bev_iou_road_unfiltered", "bev_iou_crossing_unfiltered"}
    with pytest.raises(ConfigError, match="make it with visibility_filter=True"):
        bev.update(truth=truth, prediction=prediction, ignored=ignored)
    with pytest.raises(ConfigError, match="give `ignored` to update, or make the score with visibility_filter=False"):
        BevScore(("vehicle", "walker")).update(truth=truth, prediction=prediction)


def _score_share(rank: int, folder: str) -> None:
    """One of two processes: scores its share of the frames and writes what it finds."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    share = slice(0, 3) if rank == 0 else slice(3, FRAMES)
    bev, depth = metrics()
    update(bev, depth, share)
    occupancy, rays = OccupancyScore(), RayScore(space=SPACE)
    score_occupancy(occupancy, rays, share)
    found = {"own": bev_integers(bev.counts), "bev": bev.compute(), "depth": depth.compute()}
    with bev.sync_context(), depth.sync_context():
        found["all"] = bev_integers(bev.counts) | depth_integers(depth.counts)
    assert bev_integers(bev.counts) == found["own"]
    found["occupancy_scores"] = occupancy.compute() | rays.compute()
    with occupancy.sync_context(), rays.sync_context():
        found["occupancy"] = occupancy_integers(occupancy, rays)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_processes_add_up(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_score_share, (str(tmp_path),), nprocs=2)
    bev, depth = whole()
    shares = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for share in shares:
        assert share["bev"] == bev.named()
        assert share["depth"] == pytest.approx(depth.named(), rel=1e-12)
        assert share["all"] == bev_integers(bev) | depth_integers(depth)
        integers, scores = whole_occupancy()
        assert share["occupancy"] == integers
        assert share["occupancy_scores"] == scores
    # Neither did all of it alone.
    parts = [np.array(share["own"]["filtered"]) for share in shares]
    assert (parts[0] > 0).all()
    assert (parts[1] > 0).all()
    assert (parts[0] + parts[1]).tolist() == bev_integers(bev)["filtered"]
