"""The pseudo-loss in a network that knows nothing of this project, and labels by token."""

from __future__ import annotations

import importlib.util
import math
import re
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from occlift.errors import ConfigError, DataError
from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.label_space import FREE, NUM_CLASSES, UNKNOWN
from occlift.labels.files import OccupancyLabel, label_path, write_label
from occlift.labels.folder import LabelFolder, VoxelLabel, collate_labels, count_classes
from occlift.losses import OccupancyLossConfig, PseudoLoss, class_weights, occupancy_loss, pseudo_loss

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPE = OCC3D_GRID.shape
ENTROPY = OccupancyLossConfig(class_weighting="none", lovasz=0.0)
COARSE = VoxelGrid(lower_m=(-40.0, -40.0, -1.0), voxel_size_m=(8.0, 8.0, 1.6), shape=(10, 10, 4))
# Smaller than Occ3D's on some sides, larger on others, and no voxel in common.
SHIFTED = VoxelGrid(lower_m=(-51.3, -20.1, -3.0), voxel_size_m=(3.1, 2.3, 0.7), shape=(31, 16, 9))


def sparse_labels(frames: int, known: int, *, seed: int) -> torch.Tensor:
    """Labels in which all but a few voxels are unknown."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((frames, *SHAPE), UNKNOWN, dtype=torch.uint8)
    index = torch.randperm(labels.numel(), generator=generator)[:known]
    labels.view(-1)[index] = torch.randint(0, NUM_CLASSES, (known,), generator=generator).to(torch.uint8)
    return labels


def random_logits(frames: int, grid: VoxelGrid, *, seed: int) -> torch.Tensor:
    return 3 * torch.randn(frames, NUM_CLASSES, *grid.shape, generator=torch.Generator().manual_seed(seed))


def as_they_have_it(logits: torch.Tensor, axes: str, free: int) -> torch.Tensor:
    """[batch, 18, x, y, z] with free last → their order of axes and classes."""
    order = list(range(FREE))
    order.insert(free, FREE)
    return logits[:, order].permute(["bcxyz".index(axis) for axis in axes]).contiguous()


def slow_sample(volume: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Trilinear interpolation between voxel centres, [18]; beyond the outermost centres the border value."""
    low, share = [], []
    for axis in range(3):
        x = min(max(position[axis] - 0.5, 0.0), volume.shape[1 + axis] - 1.0)
        low.append(min(math.floor(x), volume.shape[1 + axis] - 2))
        share.append(x - low[-1])
    value = np.zeros(NUM_CLASSES)
    for corner in product((0, 1), repeat=3):
        weight = math.prod(share[i] if corner[i] else 1 - share[i] for i in range(3))
        value += weight * volume[:, low[0] + corner[0], low[1] + corner[1], low[2] + corner[2]]
    return value


def slow_entropy(
    logits: torch.Tensor, labels: torch.Tensor, grid: VoxelGrid, grid_from_ego: np.ndarray
) -> tuple[float, int]:
    """The mean of −log p over the labelled voxels inside the grid, and how many those are."""
    total, count = 0.0, 0
    volumes = logits.double().numpy()
    for frame, x, y, z in (labels != UNKNOWN).nonzero().tolist():
        center_ego = [-40 + 0.4 * (x + 0.5), -40 + 0.4 * (y + 0.5), -1 + 0.4 * (z + 0.5), 1.0]
        center = (grid_from_ego[frame] @ center_ego)[:3]
        position = (center - np.array(grid.lower_m)) / np.array(grid.voxel_size_m)
        if not all(0 <= position[i] < grid.shape[i] for i in range(3)):
            continue
        row = slow_sample(volumes[frame], position)
        total += math.log(np.exp(row).sum()) - row[int(labels[frame, x, y, z])]
        count += 1
    return total / count, count


@pytest.mark.parametrize(("axes", "free"), [("bcxyz", 17), ("bxyzc", 17), ("bczyx", 0), ("bzyxc", 0), ("cbxyz", 5)])
def test_on_the_grid_of_the_labels_it_is_the_occupancy_loss(axes: str, free: int) -> None:
    logits, labels = random_logits(1, OCC3D_GRID, seed=0), sparse_labels(1, 500, seed=1)
    counts = labels.flatten().long().bincount(minlength=256)[:NUM_CLASSES]
    config = OccupancyLossConfig(lovasz_form="split", geo_scal=1.0, sem_scal=1.0)
    confidence = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(2))
    expected = occupancy_loss(
        logits, labels, weights=class_weights(counts, "inverse_sqrt"), config=config, confidence=confidence
    )
    loss = PseudoLoss(class_counts=counts, config=config, axes=axes, free=free)
    theirs = as_they_have_it(logits, axes, free)
    assert loss.terms(theirs, labels, confidence) == expected
    assert float(loss(theirs, labels.long(), confidence)) == pytest.approx(float(sum(expected.values())))


@pytest.mark.parametrize("grid", [COARSE, SHIFTED], ids=["coarse", "shifted"])
@pytest.mark.parametrize(("axes", "free"), [("bcxyz", 17), ("bzyxc", 0)])
def test_logits_of_another_grid_are_sampled_at_the_labelled_voxels(grid: VoxelGrid, axes: str, free: int) -> None:
    logits, labels = random_logits(2, grid, seed=3), sparse_labels(2, 300, seed=4)
    expected, count = slow_entropy(logits, labels, grid, np.stack([np.eye(4)] * 2))
    assert (count == 300) == (grid is COARSE)
    loss = PseudoLoss(grid, config=ENTROPY, axes=axes, free=free)
    assert float(loss(as_they_have_it(logits, axes, free), labels)) == pytest.approx(expected, rel=1e-5)


def lidar_from_ego(yaw: float) -> np.ndarray:
    """A sensor above the vehicle that looks a little down, its x axis to the right of the vehicle."""
    c, s, pitch = math.cos(yaw), math.sin(yaw), 0.03
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    nod = np.array([[math.cos(pitch), 0, math.sin(pitch)], [0, 1, 0], [-math.sin(pitch), 0, math.cos(pitch)]])
    transform = np.eye(4)
    transform[:3, :3] = nod @ turn
    transform[:3, 3] = (0.3, -0.9, -1.8)
    return transform


@pytest.mark.parametrize("grid", [SHIFTED, OCC3D_GRID], ids=["shifted", "occ3d"])
def test_grids_in_the_frame_of_the_lidar(grid: VoxelGrid) -> None:
    logits, labels = random_logits(2, grid, seed=5), sparse_labels(2, 300, seed=6)
    transforms = np.stack([lidar_from_ego(math.pi / 2), lidar_from_ego(1.4)])
    loss = PseudoLoss(grid, config=ENTROPY)
    expected, count = slow_entropy(logits, labels, grid, transforms)
    assert 0 < count < 300
    assert float(loss(logits, labels, grid_from_ego=torch.from_numpy(transforms))) == pytest.approx(expected, rel=1e-5)
    expected, _ = slow_entropy(logits, labels, grid, transforms[[0, 0]])
    assert float(loss(logits, labels, grid_from_ego=torch.from_numpy(transforms[0]))) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("unknown", ["ignore", "free"])
def test_voxels_outside_of_their_grid_take_no_part(unknown: Any) -> None:
    labels = torch.full((1, *SHAPE), 11, dtype=torch.uint8)
    x, y, z = np.moveaxis(OCC3D_GRID.centers(), -1, 0)
    inside = (x < SHIFTED.upper_m[0]) & (abs(y + 1.7) < 18.4) & (z < SHIFTED.upper_m[2])
    assert 0.1 < inside.mean() < 0.9
    labels[0][torch.from_numpy(~inside)] = UNKNOWN
    changed = labels.clone()
    changed[0][torch.from_numpy(~inside)] = 3
    logits = random_logits(1, SHIFTED, seed=7)
    loss = PseudoLoss(SHIFTED, config=replace(ENTROPY, unknown=unknown))
    assert float(loss(logits, labels)) == float(loss(logits, changed))


def test_unknown_voxels_as_free() -> None:
    logits, labels = random_logits(1, COARSE, seed=8), sparse_labels(1, 300_000, seed=9)
    written = labels.where(labels != UNKNOWN, torch.tensor(FREE, dtype=torch.uint8))
    ignored = PseudoLoss(COARSE, config=ENTROPY)
    counted = PseudoLoss(COARSE, config=replace(ENTROPY, unknown="free"))
    assert float(counted(logits, labels)) == float(ignored(logits, written))
    assert float(counted(logits, labels)) != float(ignored(logits, labels))


def test_it_computes_in_float32_under_autocast_and_its_gradient_fits_the_logits() -> None:
    logits, labels = random_logits(1, SHIFTED, seed=10).bfloat16(), sparse_labels(1, 2000, seed=11)
    loss = PseudoLoss(
        SHIFTED, config=OccupancyLossConfig(class_weighting="none", lovasz_form="both", geo_scal=1, sem_scal=1)
    )
    transform = torch.from_numpy(lidar_from_ego(math.pi / 2)).float()
    expected = loss(logits.float(), labels, grid_from_ego=transform)
    logits.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, labels, grid_from_ego=transform)
    assert value.dtype == torch.float32
    assert float(value.detach()) == float(expected)
    value.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16
    assert bool(logits.grad.isfinite().all())
    assert float(logits.grad.float().abs().sum()) > 0


def test_a_limit_is_drawn_from_the_seed_of_torch() -> None:
    logits, labels = random_logits(1, COARSE, seed=12), sparse_labels(1, 5000, seed=13)
    loss = PseudoLoss(COARSE, config=replace(ENTROPY, max_voxels=100))
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(float(loss(logits, labels)))
    assert values[0] == values[1] != values[2]


def test_weights_follow_from_counts_and_stay_out_of_checkpoints() -> None:
    counts = [0, 5, *range(100, 116)]
    assert torch.equal(PseudoLoss().class_weight, torch.ones(NUM_CLASSES))
    given = PseudoLoss(class_counts=counts)
    assert given.config.class_weighting == "inverse_log"
    weights = class_weights(torch.tensor(counts), "inverse_log")
    assert torch.equal(given.class_weight[1:], weights[1:])
    assert weights[0] == 0
    assert given.class_weight[0] == weights[1] == weights.max(), "what was not counted weighs as the rarest class"
    for other in (torch.tensor(counts), np.array(counts)):
        assert torch.equal(PseudoLoss(class_counts=other).class_weight, given.class_weight)
    assert not given.state_dict()
    assert not list(given.parameters())
    halved = PseudoLoss(COARSE, class_counts=counts).half()
    assert bool(halved(random_logits(1, COARSE, seed=14).half(), sparse_labels(1, 100, seed=15)).isfinite())


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"axes": "bcxy"}, "axes is 'bcxy'; expected the letters b, c, x, y, z"),
        ({"axes": "bcxyzz"}, "axes is"),
        ({"free": 18}, "free is 18"),
        ({"free": -1}, "free is -1"),
        ({"class_counts": [1] * 17}, "18 whole numbers"),
        ({"class_counts": [0.5] * 18}, "18 whole numbers"),
        ({"class_counts": [-1] * 18}, "18 whole numbers"),
        ({"class_counts": [0] * 18}, "18 whole numbers.*not all 0"),
        ({"config": OccupancyLossConfig()}, "inverse_sqrt need class_counts"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PseudoLoss(**arguments)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": torch.zeros(1, 10, 10, 4, 18)}, ConfigError, r"18, 10, 10, 4\].*are.*\[1, 10, 10, 4, 18\]"),
        ({"logits": torch.zeros(1, 17, 10, 10, 4)}, ConfigError, r"\[batch, 18, 10, 10, 4\]"),
        ({"logits": torch.zeros(18, 10, 10, 4)}, ConfigError, r"\[batch, 18, 10, 10, 4\]"),
        ({"logits": torch.zeros(1, 18, 10, 10, 4, dtype=torch.int64)}, ConfigError, "floating-point"),
        ({"labels": torch.zeros(1, 16, 200, 200, dtype=torch.uint8)}, DataError, r"labels .*\[1, 200, 200, 16\]"),
        ({"labels": torch.zeros(2, *SHAPE, dtype=torch.uint8)}, DataError, r"has \[2, 200, 200, 16\]"),
        ({"labels": torch.zeros(1, *SHAPE)}, DataError, "labels should be integers"),
        ({"labels": torch.full((1, *SHAPE), 18)}, DataError, "labels hold 18"),
        ({"labels": torch.full((1, *SHAPE), -1)}, DataError, "labels hold -1"),
        ({"labels": torch.full((1, *SHAPE), 273)}, DataError, "labels hold 273"),
        ({"confidence": torch.zeros(1, 200, 200)}, DataError, r"confidence should have .*\[1, 200, 200\]"),
        ({"confidence": torch.full((1, *SHAPE), 200.0)}, DataError, "floats 0..1"),
        ({"confidence": torch.full((1, *SHAPE), math.nan)}, DataError, "floats 0..1"),
        ({"confidence": torch.full((1, *SHAPE), -1)}, DataError, "integers 0..255"),
        ({"confidence": torch.ones(1, *SHAPE, dtype=torch.uint8)}, DataError, r"uint8 of at most 1.*mask\.bool\(\)"),
        ({"grid_from_ego": torch.eye(3)}, ConfigError, r"\[4, 4\] or \[1, 4, 4\]"),
        ({"grid_from_ego": torch.eye(4).expand(2, 4, 4)}, ConfigError, r"\[4, 4\] or \[1, 4, 4\]"),
        ({"grid_from_ego": torch.full((4, 4), math.nan)}, DataError, "grid_from_ego should be finite"),
    ],
)  # fmt: skip
def test_wrong_tensors_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    tensors = {"logits": torch.zeros(1, 18, 10, 10, 4), "labels": torch.zeros(1, *SHAPE, dtype=torch.uint8), **change}
    with pytest.raises(error, match=message):
        PseudoLoss(COARSE)(**tensors)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.uint16, torch.uint32, torch.uint64])
def test_labels_are_of_any_integer_type(dtype: torch.dtype) -> None:
    logits, labels = random_logits(1, COARSE, seed=16), sparse_labels(1, 500, seed=17)
    if dtype == torch.int8:  # has no 255
        labels = labels.where(labels != UNKNOWN, FREE)
    loss = PseudoLoss(COARSE, config=ENTROPY)
    assert float(loss(logits, labels.to(dtype))) == float(loss(logits, labels))
    if dtype == torch.uint16:
        sure = torch.full(labels.shape, 255, dtype=torch.uint8)
        assert float(loss(logits, labels, sure.to(dtype))) == float(loss(logits, labels, sure))
        with pytest.raises(DataError, match="labels hold 273"):
            loss(logits, torch.full(labels.shape, 273, dtype=dtype))


@pytest.mark.parametrize("grid", [OCC3D_GRID, COARSE], ids=["occ3d", "coarse"])
def test_an_empty_batch_costs_nothing_and_has_a_gradient(grid: VoxelGrid) -> None:
    logits = torch.zeros(0, NUM_CLASSES, *grid.shape, requires_grad=True)
    config = OccupancyLossConfig(class_weighting="none", lovasz_form="split", geo_scal=1.0, sem_scal=1.0)
    confidence = torch.zeros(0, *SHAPE, dtype=torch.uint8)
    loss = PseudoLoss(grid, config=config)(logits, torch.zeros(0, *SHAPE, dtype=torch.uint8), confidence)
    assert float(loss.detach()) == 0
    loss.backward()
    assert logits.grad is not None


def test_a_class_that_was_not_counted_is_learned_all_the_same() -> None:
    counts = [100] * NUM_CLASSES
    counts[4] = 0
    loss = PseudoLoss(COARSE, class_counts=counts, config=OccupancyLossConfig(lovasz=0.0))
    logits = random_logits(1, COARSE, seed=18)
    only_that = torch.full((1, *SHAPE), 4, dtype=torch.uint8)
    assert float(loss(logits, only_that)) == float(PseudoLoss(COARSE, config=ENTROPY)(logits, only_that)) > 0


@pytest.mark.parametrize("change", ["labels", "confidence"])
def test_tensors_of_another_device_are_refused_by_name(change: str) -> None:
    tensors = {"labels": torch.zeros(1, *SHAPE, dtype=torch.uint8), "confidence": torch.ones(1, *SHAPE)}
    tensors[change] = tensors[change].to("meta")
    with pytest.raises(DataError, match=rf"{change} should be on the device of the logits, cpu, but .* on meta"):
        PseudoLoss(COARSE)(torch.zeros(1, 18, 10, 10, 4), **tensors)


def test_class_weights_follow_the_logits_to_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody moves a loss to the GPU. The device without data stands in for one; what it cannot do is left out."""
    loss = PseudoLoss(class_counts=[100] * NUM_CLASSES, config=OccupancyLossConfig(lovasz=0.0))
    monkeypatch.setattr(PseudoLoss, "_check_labels", lambda *tensors: None)
    monkeypatch.setattr(pseudo_loss, "known_voxels", lambda labels, **options: labels.flatten()[:50].long())
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    logits = torch.empty(1, NUM_CLASSES, *SHAPE, device="meta")
    assert loss(logits, torch.empty(1, *SHAPE, dtype=torch.uint8, device="meta")).device == logits.device


class SomebodysModel(nn.Module):
    """A network of another project: a dictionary in, logits [batch, z, y, x, classes] out, free first."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 4 * 10 * 10 * 18))

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"volume": self.layers(batch["image_features"]).view(-1, 4, 10, 10, 18)}


def test_somebody_elses_network_learns_what_the_labels_say() -> None:
    torch.manual_seed(0)
    coarse = torch.where(torch.rand(2, 10, 10, 4) < 0.7, FREE, torch.randint(0, 17, (2, 10, 10, 4)))
    labels = coarse.repeat_interleave(20, 1).repeat_interleave(20, 2).repeat_interleave(4, 3).to(torch.uint8)
    batch = {"image_features": torch.tensor([[1.0, 0.0, 0.3], [0.0, 1.0, -0.2]])}
    model = SomebodysModel()
    config = OccupancyLossConfig(class_weighting="none", max_voxels=4000)
    pseudo_loss = PseudoLoss(COARSE, config=config, axes="bzyxc", free=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)

    def right() -> float:
        predicted = (model(batch)["volume"].argmax(-1) - 1) % NUM_CLASSES
        return float((predicted.permute(0, 3, 2, 1) == coarse).float().mean())

    losses, before = [], right()
    for _ in range(25):
        output = model(batch)
        loss = output["volume"].square().mean() * 1e-4 + pseudo_loss(output["volume"], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert before < 0.3
    assert losses[-1] < losses[0] / 4
    assert right() > 0.9


def _label(seed: int, *, confidence: bool = False) -> OccupancyLabel:
    generator = np.random.default_rng(seed)
    semantics = generator.choice([3, 11, FREE, UNKNOWN], SHAPE, p=[0.02, 0.08, 0.5, 0.4]).astype(np.uint8)
    return OccupancyLabel(
        semantics=semantics,
        mask_lidar=semantics != UNKNOWN,
        mask_camera=generator.random(SHAPE) < 0.3,
        confidence=generator.integers(0, 256, SHAPE, dtype=np.uint8) if confidence else None,
    )


@pytest.fixture(scope="module")
def labels_by_token() -> dict[str, OccupancyLabel]:
    return {"bb": _label(0, confidence=True), "aa": _label(1, confidence=True), "cc": _label(2)}


@pytest.fixture(scope="module")
def folder(labels_by_token: dict[str, OccupancyLabel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes; no tables of a data set anywhere."""
    path = tmp_path_factory.mktemp("labels")
    for token, label in labels_by_token.items():
        write_label(label_path(path, "scene-0002" if token == "aa" else "scene-0001", token), label)
    (path / "manifest.json").write_text("{}")
    return path


def test_labels_are_found_by_token(folder: Path, labels_by_token: dict[str, OccupancyLabel]) -> None:
    labels = LabelFolder(str(folder))
    assert labels.tokens == ("bb", "cc", "aa")
    assert len(labels) == len(list(labels)) == 3
    assert "aa" in labels
    assert "dd" not in labels
    for index, token in enumerate(labels.tokens):
        for label in (labels[index], labels.label(token)):
            written = labels_by_token[token]
            assert label.tokens == (token,)
            np.testing.assert_array_equal(label.semantics.numpy(), written.semantics)
            np.testing.assert_array_equal(label.mask_camera.numpy(), written.mask_camera)
            assert (label.semantics.dtype, label.mask_camera.dtype) == (torch.uint8, torch.bool)
            assert (label.confidence is None) == (token == "cc")
            if label.confidence is not None:
                np.testing.assert_array_equal(label.confidence.numpy(), written.confidence)


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    labels = LabelFolder(folder)
    with pytest.raises(DataError, match=rf"{folder}: no label of sample 'dd' among 3; make it with `occlift label`"):
        labels.label("dd")
    with pytest.raises(DataError, match="no label of sample 'dd'"):
        LabelFolder(folder, tokens=["aa", "dd"])
    with pytest.raises(DataError, match="nowhere: no such folder"):
        LabelFolder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no label; expected files <scene>/<sample token>"):
        LabelFolder(tmp_path)
    for scene in ("one", "two"):
        write_label(label_path(tmp_path, scene, "twin"), _label(3))
    with pytest.raises(DataError, match=r"two files of twin, .*; remove one"):
        LabelFolder(tmp_path)


def test_worker_processes_read_batches(folder: Path, labels_by_token: dict[str, OccupancyLabel]) -> None:
    labels = LabelFolder(folder, tokens=["aa", "bb"])
    (batch,) = DataLoader(labels, batch_size=2, collate_fn=collate_labels, num_workers=2)
    assert isinstance(batch, VoxelLabel)
    assert batch.tokens == ("aa", "bb")
    batch = batch.to("cpu")
    assert batch.semantics.shape == batch.mask_camera.shape == (2, *SHAPE)
    assert batch.confidence is not None
    for i, token in enumerate(batch.tokens):
        np.testing.assert_array_equal(batch.semantics[i].numpy(), labels_by_token[token].semantics)
        np.testing.assert_array_equal(batch.confidence[i].numpy(), labels_by_token[token].confidence)
    with pytest.raises(DataError, match="labels of cc have no confidence"):
        collate_labels(list(LabelFolder(folder)))
    assert collate_labels([LabelFolder(folder).label("cc")]).confidence is None


def test_classes_are_counted_with_unknown_voxels_either_way(
    folder: Path, labels_by_token: dict[str, OccupancyLabel], tmp_path: Path
) -> None:
    labels = LabelFolder(folder)

    def slow(tokens: list[str], class_id: int) -> int:
        return sum(int((labels_by_token[token].semantics == class_id).sum()) for token in tokens)

    everything = ["aa", "bb", "cc"]
    assert labels.class_counts().tolist() == [slow(everything, c) for c in range(NUM_CLASSES)]
    as_free = [slow(everything, c) + (c == FREE) * slow(everything, UNKNOWN) for c in range(NUM_CLASSES)]
    assert labels.class_counts(unknown="free").tolist() == as_free
    assert labels.class_counts(max_labels=1).tolist() == [slow(["bb"], c) for c in range(NUM_CLASSES)]
    some = LabelFolder(folder, tokens=["cc"])
    assert some.class_counts(max_labels=9).tolist() == [slow(["cc"], c) for c in range(NUM_CLASSES)]
    assert count_classes([labels.file("aa")]).tolist() == [slow(["aa"], c) for c in range(NUM_CLASSES)]
    with pytest.raises(ConfigError, match="max_labels is 0"):
        labels.class_counts(max_labels=0)
    blank = replace(_label(4), semantics=np.full(SHAPE, UNKNOWN, np.uint8))
    write_label(label_path(tmp_path, "scene", "blank"), blank)
    with pytest.raises(DataError, match="every voxel of all 1 labels is unknown"):
        LabelFolder(tmp_path).class_counts()


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pseudo_loss_example", REPOSITORY / "examples/pseudo_loss.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_adds_ten_lines_and_the_rest_knows_nothing_of_occlift(example: ModuleType) -> None:
    lines = Path(str(example.__file__)).read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
    numbers = [int(found[1]) for line in lines if (found := re.search(r"  # (\d+)$", line))]
    assert numbers == list(range(1, 11))
    theirs = "\n".join(line for line in lines if not re.search(r"  # \d+$", line)).split("def agreement")[0]
    assert not re.search(r"import.*occlift|from occlift|LabelFolder\(|PseudoLoss", theirs)


def test_the_example_trains(example: ModuleType, small_town: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = example.train(small_town, small_town / "gts", steps=3)
    assert [set(terms) for terms in history] == [{"lidar", "cross_entropy", "lovasz"}] * 3
    assert history[-1]["cross_entropy"] < history[0]["cross_entropy"]
    assert "after: " in capsys.readouterr().out


def test_the_code_of_the_documentation_runs(folder: Path) -> None:
    """Its Python blocks, one after the other, with a network and tokens in their place."""
    text = (REPOSITORY / "docs/pseudo_loss.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, Any] = {"tokens": ["aa", "bb"], "loss": torch.zeros(()), "torch": torch}
    for block in blocks:
        code = block.replace('"data/labels"', repr(str(folder)))
        shape = re.search(r"logits: \[2, ([\d, ]+)\]", code)
        if shape:
            names["logits"] = torch.zeros(2, *map(int, shape[1].split(",")), requires_grad=True)
        exec(compile(code, "docs/pseudo_loss.md", "exec"), names)
    assert bool(names["loss"].isfinite())
