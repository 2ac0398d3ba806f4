"""Networks as ONNX: the answer of torch, whatever the batch and the calibration."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import tiny_easyocc
from torch import nn

from occlift.cli.training import export as export_command
from occlift.errors import ConfigError, DataError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import LabelSpace, Taxonomy
from occlift.losses.occupancy import OccupancyLossConfig
from occlift.models.easyocc import EasyOcc, EasyOccConfig
from occlift.models.export import dense_lift
from occlift.models.lift import lift, visible_pairs
from occlift.models.rendering import RenderingConfig
from occlift.training import export as export_module
from occlift.training.checkpoint import load_easyocc
from occlift.training.export import ExportDiffers, export, random_inputs, to_onnx
from occlift.training.occupancy_task import OccupancyTask, as_hyper_parameters
from occlift.training.optimizer import OptimizerConfig
from occlift.training.rendering_task import RenderingLossConfig, RenderingTask

TINY = tiny_easyocc(residual_pair=True)


def lively(config: EasyOccConfig) -> EasyOcc:
    """A network in evaluation mode whose tables and statistics are not those of the first step."""
    torch.manual_seed(0)
    model = EasyOcc(config)
    with torch.no_grad():
        for table in (model.ground_embedding, model.height_embedding, model.views_embedding):
            table.normal_()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def checkpoint_of(model: EasyOcc, path: Path, *, cameras: tuple[str, ...] = ()) -> Path:
    """What `occlift train` would have written, without the state of the optimiser."""
    hyper_parameters = {
        **as_hyper_parameters(model.config, OccupancyLossConfig(), OptimizerConfig()),
        "class_counts": [1] * model.config.space.taxonomy.num_classes, "seed": 0, "mirror": False, "blind": False,
        **({"cameras": list(cameras)} if cameras else {}),
    }  # fmt: skip
    OccupancyTask(**hyper_parameters)  # it must be one that a task takes
    state = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": hyper_parameters}, path)
    return path


def answer(file: Path | bytes, images: torch.Tensor, rig: CameraRig) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    feeds = {"images": images, "intrinsics_px": rig.intrinsics_px, "ego_from_camera": rig.ego_from_camera}
    return session.run(["logits"], {name: feed.numpy() for name, feed in feeds.items()})[0]


def test_the_dense_twin_equals_the_sparse_lift_forward_and_backward() -> None:
    _, rig = random_inputs(TINY, batch=2, cameras=6, seed=3)
    generator = torch.Generator().manual_seed(0)
    points_ego = torch.rand(4000, 3, generator=generator) * 40 - 20
    features = torch.randn(2, 6, 5, 4, 8, generator=generator, requires_grad=True)
    pairs = visible_pairs(rig, points_ego)
    assert {0, 1, 2} <= set(pairs.views.unique().tolist())
    dense, views = dense_lift(features, rig, points_ego)
    sparse = lift(features, pairs)
    assert torch.equal(views, pairs.views)
    torch.testing.assert_close(dense, sparse)
    weight = torch.randn(dense.shape, generator=generator)
    (one,), (other,) = (torch.autograd.grad((lifted * weight).sum(), features) for lifted in (dense, sparse))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_an_exported_file_answers_as_torch_for_any_batch_and_calibration(tmp_path: Path) -> None:
    model = lively(TINY)
    run = export(checkpoint_of(model, tmp_path / "last.ckpt"), tmp_path / "new/tiny.onnx")
    assert run.max_difference < 1e-3
    assert run.num_bytes == run.onnx.stat().st_size
    assert [path.name for path in run.onnx.parent.iterdir()] == ["tiny.onnx"]
    answers = []
    for batch in (1, 2, 3):
        images, rig = random_inputs(TINY, batch=batch, cameras=6, seed=10 + batch)
        with torch.no_grad():
            expected = model(images, rig).numpy()
        found = answer(run.onnx, images, rig)
        assert found.shape == (batch, 18, 200, 200, 16)
        np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
        answers.append(answer(run.onnx, images, random_inputs(TINY, batch=batch, cameras=6, seed=50)[1]) - found)
    # The calibration decides: it was not frozen into the file.
    assert min(np.abs(difference).max() for difference in answers) > 0.1


def test_the_demo_s_network_is_exported(tmp_path: Path) -> None:
    model = lively(EasyOccConfig.demo())
    serialized = to_onnx(model, opset=20, cameras=6)
    for batch in (1, 2):
        images, rig = random_inputs(model.config, batch=batch, cameras=6, seed=batch)
        with torch.no_grad():
            expected = model(images, rig).numpy()
        np.testing.assert_allclose(answer(serialized, images, rig), expected, atol=1e-3, rtol=0)


def test_the_file_says_what_goes_in(tmp_path: Path) -> None:
    export(checkpoint_of(lively(TINY), tmp_path / "last.ckpt"), tmp_path / "tiny.onnx", cameras=2)
    proto = onnx.load(tmp_path / "tiny.onnx")
    onnx.checker.check_model(proto)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {
        "images": ["batch", 2, 3, 32, 64],
        "intrinsics_px": ["batch", 2, 3, 3],
        "ego_from_camera": ["batch", 2, 4, 4],
        "logits": ["batch", 18, 200, 200, 16],
    }
    assert "ego frame (x forward, y left, z up)" in proto.graph.input[2].doc_string
    metadata = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert metadata["classes"][4] == "car"
    assert metadata["classes"][17] == "free"
    assert metadata["grid_lower_m"] == [-40, -40, -1]
    assert max(value.version for value in proto.opset_import) == 20


def test_the_file_says_which_space_and_cameras_it_is_for(tmp_path: Path) -> None:
    grid = VoxelGrid(lower_m=(-2.0, -3.0, -0.6), voxel_size_m=(0.2, 0.2, 0.2), shape=(32, 32, 16))
    space = LabelSpace(grid=grid, taxonomy=Taxonomy(names=("floor", "wall")))
    model = lively(tiny_easyocc(space=space))
    run = export(checkpoint_of(model, tmp_path / "last.ckpt", cameras=("left", "right")), tmp_path / "two.onnx")
    proto = onnx.load(run.onnx)
    metadata = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert LabelSpace.from_dict(metadata["space"]) == space
    assert (metadata["classes"], metadata["cameras"]) == (["floor", "wall", "free"], ["left", "right"])
    assert metadata["grid_lower_m"] == [-2.0, -3.0, -0.6]
    shape = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 2, 3, 32, 64]
    assert proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 3


def test_nothing_is_written_that_was_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_of(lively(TINY), tmp_path / "last.ckpt")
    with pytest.raises(DataError, match="no such checkpoint"):
        export_command(tmp_path / "none.ckpt", tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match="opset 17"):
        export(checkpoint, tmp_path / "x.onnx", opset=17)
    with pytest.raises(ConfigError, match=r"answered with opset \d+ instead of 99"):
        export(checkpoint, tmp_path / "x.onnx", opset=99)
    assert not (tmp_path / "x.onnx").exists()
    with pytest.raises(ConfigError, match="camera"):
        export(checkpoint, tmp_path / "x.onnx", cameras=0)
    correct: Callable[..., bytes] = to_onnx

    def other_weights(model: EasyOcc, **options: Any) -> bytes:
        torch.manual_seed(1)
        return correct(EasyOcc(model.config).eval(), **options)

    monkeypatch.setattr(export_module, "to_onnx", other_weights)
    with pytest.raises(ExportDiffers, match=r"differ from torch's by up to .* was not written"):
        export(checkpoint, tmp_path / "x.onnx")
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"export needs onnx, onnxscript: .*occlift\[export\]"):
        export(checkpoint, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_of_a_rendering_model_the_network_is_exported_whose_logits_are_its_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checkpoint(config: RenderingConfig, name: str) -> Path:
        torch.manual_seed(3)
        task = RenderingTask(
            model=config.to_dict(), loss=asdict(RenderingLossConfig()), pseudo=None, seed=0, mirror=False,
            optimizer=asdict(OptimizerConfig()), ray_counts=[1] * 18, label_counts=None,
        )  # fmt: skip
        task.model.decide_by(torch.tensor([-2.5]))
        torch.save({"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}, tmp_path / name)
        return tmp_path / name

    exported: list[EasyOcc] = []
    monkeypatch.setattr(export_module, "to_onnx", lambda model, **options: exported.append(model) or b"onnx")
    monkeypatch.setattr(export_module, "_difference", lambda *_: 0.0)
    config = RenderingConfig(network=TINY, ray_height=2, ray_width=3, samples=8, reach_m=48.0)
    path = checkpoint(config, "rendering.ckpt")
    export(path, tmp_path / "x.onnx", cameras=2)
    images, rig = random_inputs(TINY, batch=1, cameras=2, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(exported[0](images, rig), load_easyocc(path)(images, rig))
    stretched = replace(config, network=replace(TINY, grid_shape=(40, 40, 8)), inner_share=0.6)
    with pytest.raises(ConfigError, match=r"contracted.ckpt: a contracted volume.*without --contracted"):
        export(checkpoint(stretched, "contracted.ckpt"), tmp_path / "y.onnx")


def test_another_seed_is_another_calibration() -> None:
    one, other = (random_inputs(replace(TINY), batch=1, cameras=6, seed=seed)[1] for seed in (0, 1))
    assert float((one.ego_from_camera - other.ego_from_camera).abs().max()) > 0.01
    rotation = one.ego_from_camera[0, :, :3, :3]
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(6))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(6, 3, 3), rtol=0, atol=1e-5)
