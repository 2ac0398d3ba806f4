"""Every network, loss, metric and training step on a second device: no tensor may stay behind on the CPU.

The device is simulated (`sim_device`), in a process of its own. Every case also says what the CPU does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from networks import surround_rig, tiny_bev, tiny_easyocc
from sim_device import SUPPORTED, DeviceMismatch, SimTensor, moved, simulated_device
from torch import Tensor

from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.label_space import FREE, NUM_CLASSES, OCC3D, UNKNOWN
from occlift.losses.bev import BevLossConfig
from occlift.losses.occfeat import OccFeatLossConfig
from occlift.losses.occupancy import OccupancyLossConfig
from occlift.losses.pseudo_loss import PseudoLoss
from occlift.metrics.streaming import BevScore, DepthScore, OccupancyScore, RayScore
from occlift.models.bev_network import Architecture
from occlift.models.occfeat import OccFeatHeadConfig
from occlift.models.rendering import RenderingConfig
from occlift.training.augment import AugmentConfig
from occlift.training.bev_frames import BevBatch
from occlift.training.bev_task import BevTask
from occlift.training.frames import FrameBatch
from occlift.training.occfeat_frames import OccFeatBatch
from occlift.training.occfeat_task import OccFeatTask
from occlift.training.occupancy_task import OccupancyTask
from occlift.training.one_cycle import OneCycleTask
from occlift.training.optimizer import OptimizerConfig
from occlift.training.rendering_frames import RenderingBatch
from occlift.training.rendering_task import RenderingLossConfig, RenderingTask

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this torch has no devices written in Python")

BATCH, HEIGHT, WIDTH = 2, 32, 64
OPTIMIZER = asdict(OptimizerConfig())
EVERY_TERM = OccupancyLossConfig(
    focal_gamma=1.0, lovasz_form="split", geo_scal=1.0, sem_scal=1.0, max_voxels=5000, max_lovasz_voxels=2000
)


def frame_batch(*, labels: bool = False) -> FrameBatch:
    volume = (BATCH, *OCC3D_GRID.shape)
    semantics = torch.randint(NUM_CLASSES, volume, dtype=torch.uint8)
    semantics[:, :, :20] = UNKNOWN
    return FrameBatch(
        tokens=("first", "second"),
        images=torch.randn(BATCH, 6, 3, HEIGHT, WIDTH),
        rig=surround_rig(batch=BATCH, height=HEIGHT, width=WIDTH),
        semantics=semantics if labels else None,
        mask_camera=torch.rand(volume) < 0.5 if labels else None,
        confidence=torch.randint(256, volume, dtype=torch.uint8) if labels else None,
    )


def occupancy_step() -> tuple[OneCycleTask, Any]:
    task = OccupancyTask(
        model=tiny_easyocc(image=(HEIGHT, WIDTH), residual_pair=True, hourglass_blocks=1).to_dict(),
        loss=asdict(EVERY_TERM),
        optimizer=OPTIMIZER,
        class_counts=[10] * NUM_CLASSES,
        seed=0,
        mirror=True,
        mirror_front_back=True,
        blind=False,
        augment=asdict(AugmentConfig.usual()),
    )
    return task, frame_batch(labels=True)


def rendering_step(inner_share: float | None) -> tuple[OneCycleTask, Any]:
    model = RenderingConfig(
        network=tiny_easyocc(image=(HEIGHT, WIDTH), channels=16),
        ray_height=8, ray_width=16, samples=16, reach_m=48.0, inner_share=inner_share,
    )  # fmt: skip
    task = RenderingTask(
        model=model.to_dict(),
        loss=asdict(RenderingLossConfig(semantic=1.0, depth=1.0)),
        pseudo=asdict(EVERY_TERM),
        optimizer=OPTIMIZER,
        ray_counts=[10] * NUM_CLASSES,
        label_counts=[10] * NUM_CLASSES,
        seed=0,
        mirror=True,
    )
    rays = (BATCH, 6, model.ray_height, model.ray_width)
    depth_m = 60 * torch.rand(rays)
    depth_m[..., 0], depth_m[..., 1] = torch.nan, torch.inf
    batch = RenderingBatch(
        frame=frame_batch(labels=True),
        neighbours=(frame_batch(), frame_batch()),
        neighbour_ego_from_ego=torch.eye(4).repeat(BATCH, 2, 1, 1),
        exists=torch.tensor([[True, True], [False, True]])[..., None].expand(-1, -1, 6),
        class_id=torch.randint(NUM_CLASSES, rays, dtype=torch.uint8),
        depth_m=depth_m,
    )
    return task, batch


def occfeat_step() -> tuple[OneCycleTask, Any]:
    head = OccFeatHeadConfig(channels=4, blocks=1, heights=2, horizontal_stride=4, feature_channels=6, classes=True)
    task = OccFeatTask(
        model=tiny_bev("simple_bev").to_dict(),
        head=head.to_dict(),
        loss=asdict(OccFeatLossConfig(features=1.0, classes=1.0)),
        optimizer=OPTIMIZER,
        seed=0,
        mirror=True,
    )
    volume = (BATCH, *head.grid.shape)
    semantics = torch.randint(NUM_CLASSES, volume, dtype=torch.uint8)
    voxel = (torch.rand(volume) < 0.01).nonzero()
    batch = OccFeatBatch(
        frame=frame_batch(),
        occupancy=(semantics < FREE).to(torch.uint8),
        semantics=semantics,
        voxel=voxel,
        features=torch.randn(len(voxel), 6).half(),
    )
    return task, batch


def bev_step(architecture: Architecture) -> tuple[OneCycleTask, Any]:
    task = BevTask(
        model=tiny_bev(architecture, classes=("vehicle", "drivable_area")).to_dict(),
        loss=asdict(BevLossConfig()),
        learned_balance=True,
        optimizer=OPTIMIZER,
        prior=[0.01, 0.3],
        seed=0,
        mirror=True,
    )
    truth = torch.rand(BATCH, 2, 200, 200) < 0.1
    batch = BevBatch(
        frame=frame_batch(),
        classes=("vehicle", "drivable_area"),
        truth=truth,
        ignored=truth & (torch.rand(truth.shape) < 0.3),
        centre=torch.rand(BATCH, 1, 200, 200),
        offset_m=torch.randn(BATCH, 2, 200, 200),
        inside_object=truth[:, :1],
    )
    return task, batch


STEPS: Mapping[str, Callable[[], tuple[OneCycleTask, Any]]] = {
    "occupancy": occupancy_step,
    "rendering": partial(rendering_step, None),
    "rendering_contracted": partial(rendering_step, 0.5),
    "occfeat": occfeat_step,
    "simple_bev": partial(bev_step, "simple_bev"),
    "lift_splat": partial(bev_step, "lift_splat"),
    "bevformer": partial(bev_step, "bevformer"),
}


def check_step(name: str) -> None:
    """Forward, loss and backward; and the validation step."""
    torch.manual_seed(0)
    task, batch = STEPS[name]()
    logged: dict[str, Tensor] = {}
    task.log = lambda name, value: logged.update({name: value})  # type: ignore[method-assign, assignment]
    expected = task.training_step(batch, 0)
    with simulated_device():
        batch = batch.to("sim")
        loss = moved(task).training_step(batch, 0)
        loss.backward()
        if isinstance(task, OccupancyTask | BevTask):
            task.on_validation_epoch_start()
            with torch.no_grad():
                task.eval().validation_step(batch, 0)
    torch.testing.assert_close(loss.detach().cpu(), expected.detach(), rtol=1e-4, atol=1e-4)
    assert len(logged) >= 3, logged
    for parameter_name, parameter in task.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, parameter_name
        assert parameter.grad is None or isinstance(parameter.grad, SimTensor), parameter_name


GRID = VoxelGrid(lower_m=(-20.0, -20.0, -1.0), voxel_size_m=(1.0, 1.0, 0.8), shape=(40, 40, 8))


def check_pseudo_loss(grid: VoxelGrid, free: int) -> None:
    torch.manual_seed(0)
    loss = PseudoLoss(grid, class_counts=[10] * NUM_CLASSES, config=replace(EVERY_TERM, max_voxels=None), free=free)
    logits = torch.randn(BATCH, NUM_CLASSES, *grid.shape)
    labels = torch.full((BATCH, *OCC3D_GRID.shape), UNKNOWN, dtype=torch.uint8)
    labels[:, 90:110, 90:110] = torch.randint(NUM_CLASSES, (BATCH, 20, 20, 16), dtype=torch.uint8)
    confidence = torch.rand(labels.shape)
    given = [labels, confidence, torch.eye(4)]
    torch.manual_seed(1)
    expected = loss(logits, *given[:2], grid_from_ego=given[2])
    with simulated_device():
        on_device = logits.to("sim").requires_grad_()
        labels, confidence, grid_from_ego = (tensor.to("sim") for tensor in given)
        torch.manual_seed(1)
        found = loss(on_device, labels, confidence, grid_from_ego=grid_from_ego)
        found.backward()
    torch.testing.assert_close(found.detach().cpu(), expected)
    assert isinstance(on_device.grad, SimTensor)


def check_metric(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    volume = (BATCH, *GRID.shape)
    classes = [torch.randint(NUM_CLASSES, volume, dtype=torch.uint8, generator=generator) for _ in range(2)]
    masks = [torch.rand(volume, generator=generator) < 0.5 for _ in range(2)]
    cells = torch.rand(2, BATCH, 1, 50, 60, generator=generator)
    origins_m = torch.tensor([[0.0, 0.0, 1.0], [1.0, -2.0, 1.5]])
    metrics: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
        "occupancy": (
            OccupancyScore,
            (),
            {"truth": classes[1], "prediction": classes[0], "mask_camera": masks[0], "mask_lidar": masks[1]},
        ),
        "rays": (
            partial(RayScore, space=replace(OCC3D, grid=GRID)),
            (),
            {"truth": classes[1], "prediction": classes[0], "origins_m": [origins_m, origins_m[:1]]},
        ),
        "bev": (BevScore, (), {"truth": cells[1] < 0.2, "prediction": cells[0], "ignored": cells[1] < 0.1}),
        "depth": (DepthScore, (), {"truth_m": 1 + 50 * cells[1, :, 0], "prediction_m": 1 + 50 * cells[0, :, 0]}),
    }
    make, args, kwargs = metrics[name]
    expected = make()
    expected.update(*args, **kwargs)
    with simulated_device():
        found = make()
        for state in found._defaults:
            setattr(found, state, getattr(found, state).to("sim"))
        on_device = torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.to("sim"), (args, kwargs))
        for _ in range(2):
            found.update(*on_device[0], **on_device[1])
        scores = found.compute()
    expected.update(*args, **kwargs)
    for state in found._defaults:
        assert isinstance(getattr(found, state), SimTensor), state
    np.testing.assert_equal(scores, expected.compute())


def mix(mistake: str) -> None:
    """Mistakes that an accelerator refuses."""
    torch.manual_seed(0)
    with simulated_device():
        if mistake == "buffer":
            task, batch = occupancy_step()
            task.log = lambda *_: None  # type: ignore[method-assign, assignment]
            moved(task).class_weight = task.class_weight.cpu()
            task.training_step(batch.to("sim"), 0)
        elif mistake == "rig":
            task, batch = bev_step("lift_splat")
            moved(task).training_step(
                replace(batch.to("sim"), frame=replace(batch.frame.to("sim"), rig=batch.frame.rig)), 0
            )
        elif mistake == "constant":
            torch.zeros(3, device="sim") + torch.ones(3)
        elif mistake == "result":
            torch.zeros(3).add_(torch.ones((), device="sim"))
        elif mistake == "index":
            torch.zeros(3)[torch.zeros(2, dtype=torch.long, device="sim")]
        elif mistake == "join":
            torch.stack([torch.zeros((), device="sim"), torch.zeros(())])
        elif mistake == "numpy":
            torch.zeros(3, device="sim").numpy()


def check_what_is_allowed() -> None:
    """What an accelerator allows, and what its tensors hold."""
    with simulated_device():
        numbers = torch.arange(3.0, device="sim")
        assert str(numbers.device) == "sim:0"
        assert (2 * numbers + torch.tensor(1.0)).tolist() == [1, 3, 5]
        assert numbers[torch.tensor([2, 0])].cpu().tolist() == [2, 0]
        numbers[1:] = 7.0
        numbers.add_(1)
        assert numbers.tolist() == [1, 8, 8]
        assert numbers.sum().item() == 17
        assert torch.zeros(2).copy_(numbers[:2]).tolist() == [1, 8]
        assert [str(tensor.device) for tensor in numbers.max(0)] == ["sim:0", "sim:0"]


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """A process that knows the simulated device."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_stays_on_the_device_and_finds_the_loss_of_the_cpu(
    process: ProcessPoolExecutor, name: str
) -> None:
    process.submit(check_step, name).result()


@pytest.mark.parametrize(("grid", "free"), [(OCC3D_GRID, FREE), (GRID, 0)])
def test_the_pseudo_loss_stays_on_the_device(process: ProcessPoolExecutor, grid: VoxelGrid, free: int) -> None:
    process.submit(check_pseudo_loss, grid, free).result()


@pytest.mark.parametrize("name", ["occupancy", "rays", "bev", "depth"])
def test_a_metric_counts_on_the_device_what_it_counts_on_the_cpu(process: ProcessPoolExecutor, name: str) -> None:
    process.submit(check_metric, name).result()


@pytest.mark.parametrize("mistake", ["buffer", "rig", "constant", "result", "index", "join"])
def test_tensors_of_two_devices_are_refused(process: ProcessPoolExecutor, mistake: str) -> None:
    with pytest.raises(DeviceMismatch, match="sim:0"):
        process.submit(mix, mistake).result()


def test_numpy_cannot_read_the_device(process: ProcessPoolExecutor) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        process.submit(mix, "numpy").result()


def test_what_an_accelerator_allows_is_allowed(process: ProcessPoolExecutor) -> None:
    process.submit(check_what_is_allowed).result()
