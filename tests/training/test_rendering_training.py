"""Training by rendering on a small town: it learns, resumes, takes labels as well, and is scored."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from networks import tiny_easyocc
from test_rendering import frames_of
from truth import TRUTH

from occlift.cli.rendering import train_rendering as train_rendering_command
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError, DataError
from occlift.evaluation.rendering import _ground_depth_m, _most_frequent, _sample_at_pixels, evaluate_rendering
from occlift.label_space import OCC3D
from occlift.labels.files import label_path, prediction_path, read_label, read_prediction, write_label
from occlift.losses.occupancy import OccupancyLossConfig
from occlift.models.rendering import RenderingConfig, RenderingModel
from occlift.scenes.dataset import DrivingDataset, split_tokens
from occlift.scenes.frames import KeyFrame
from occlift.scenes.rigs import rig_of
from occlift.teachers.oracle import FOUNDATION_DEPTH, OracleDepth
from occlift.teachers.teacher import DepthMap
from occlift.training.callbacks import read_scalars
from occlift.training.checkpoint import load_easyocc
from occlift.training.draws import frame_generator
from occlift.training.loaders import CachedTrainingData
from occlift.training.loop import TrainRun
from occlift.training.occupancy import OccupancyTraining, TrainConfig
from occlift.training.optimizer import OptimizerConfig
from occlift.training.predict import predict
from occlift.training.rendering import RenderingTrainConfig, RenderingTraining
from occlift.training.rendering_frames import collate_rendering
from occlift.training.rendering_task import RenderingLossConfig, RenderingTask
from occlift.training.run import TrainingSpec, run_training

TINY = tiny_easyocc(image=(48, 88), channels=16)
CONFIG = RenderingTrainConfig(
    model=RenderingConfig(network=TINY, ray_height=12, ray_width=22, samples=96, reach_m=48.0),
    optimizer=OptimizerConfig(steps=4, learning_rate=5e-3),
    checkpoint_every=2,
    precision="fp32",
)


def train_rendering(
    root: Path, out: Path, config: RenderingTrainConfig, *, labels: Path | None = None, **how_far: Any
) -> TrainRun:
    return run_training(RenderingTraining(data=NuScenes.open(root), config=config, labels=labels), out, **how_far)


def task_of(loss: RenderingLossConfig, counts: list[int]) -> RenderingTask:
    torch.manual_seed(0)
    return RenderingTask(
        model=CONFIG.model.to_dict(), loss=asdict(loss), pseudo=None, optimizer=asdict(OptimizerConfig()),
        ray_counts=counts, label_counts=None, seed=0, mirror=False,
    )  # fmt: skip


def test_class_and_depth_maps_of_one_frame_are_learned_by_heart(small_town: Path) -> None:
    """If a volume cannot repeat the maps of one frame, rays, samples and losses do not fit together."""
    frames = frames_of(small_town, neighbours=None, rows=12, columns=22)
    batch = frames[1]
    assert batch.depth_m is not None
    task = task_of(RenderingLossConfig.of_maps(), frames.class_counts([1]).tolist())
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=2e-2)
    for step in range(50):
        volume = task.model.volume(batch.frame.images, batch.frame.rig)
        generator = frame_generator(0, step, 0)
        terms = task.losses(volume, batch, generator, task.rendered(volume, batch, generator))
        optimizer.zero_grad()
        torch.stack(tuple(terms.values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        rendering = task.model.render(task.model.volume(batch.frame.images, batch.frame.rig), batch.frame.rig)
    inside = task.model.ends_inside(batch.depth_m, batch.frame.rig)
    truth_m = batch.depth_m[inside]
    error = ((rendering.depth_m[inside] - truth_m).abs() / truth_m).median()
    guess = ((truth_m.median() - truth_m).abs() / truth_m).median()
    assert error < 0.65 * guess, (error, guess)
    surface = inside & (batch.class_id < 17)
    right = rendering.class_logits.argmax(-1)[surface] == batch.class_id[surface]
    most_frequent = batch.class_id[surface].long().bincount().max() / surface.sum()
    assert right.float().mean() > 1.3 * most_frequent, (right.float().mean(), most_frequent)
    assert rendering.opacity[batch.class_id == 17].mean() < 0.2


def test_the_loss_of_a_batch_is_the_mean_over_its_frames(small_town: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not their sum, and not what a mean over the rays of all frames would be: `training_step` itself is asked."""
    frames = frames_of(small_town, rows=12, columns=22)
    task = task_of(RenderingLossConfig(), frames.class_counts([1, 2]).tolist()).eval()
    logged: dict[str, float] = {}
    monkeypatch.setattr(task, "log", lambda name, value: logged.update({name: float(value)}))
    names = {"photometric", "smoothness", "semantic", "entropy", "distortion"}
    expected = dict.fromkeys(names, 0.0)
    with torch.no_grad():
        for place, index in enumerate((1, 2)):
            alone = frames[index]
            volume = task.model.volume(alone.frame.images, alone.frame.rig)
            generator = frame_generator(0, 0, place)
            terms = task.losses(volume, alone, generator, task.rendered(volume, alone, generator))
            assert terms.keys() == names
            for name, term in terms.items():
                expected[name] += float(term) / 2
        loss = task.training_step(collate_rendering([frames[1], frames[2]]), 0)
    assert float(loss) == pytest.approx(sum(expected.values()), rel=1e-4)
    assert logged == pytest.approx({"loss": float(loss), **{f"loss_{n}": e for n, e in expected.items()}}, rel=1e-4)


def test_a_resumed_run_repeats_the_uninterrupted_one(small_town: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, pseudo=OccupancyLossConfig(max_voxels=2000, max_lovasz_voxels=500))
    labels = small_town / "gts"
    whole = train_rendering(small_town, tmp_path / "whole", config, labels=labels)
    half = train_rendering(small_town, tmp_path / "half", config, labels=labels, max_steps=2)
    rest = train_rendering(small_town, tmp_path / "half", config, labels=labels, resume=half.checkpoint)
    assert (whole.steps, half.steps, rest.steps) == (4, 2, 4)
    expected = [row for row in read_scalars(whole.losses) if row[1] != "step_seconds"]
    assert [row for row in read_scalars(rest.losses) if row[1] != "step_seconds"] == expected
    names = {name for _, name, _ in expected}
    assert {"loss", "loss_photometric", "loss_semantic", "loss_pseudo_cross_entropy", "loss_pseudo_lovasz"} <= names
    one, other = (load_easyocc(run.checkpoint).state_dict() for run in (whole, rest))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_kept_maps_are_asked_for_once_and_change_nothing(
    small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Counted(OracleDepth):
        def depth(self, frame: KeyFrame) -> list[DepthMap]:
            asked.append(frame.token)
            return super().depth(frame)

    def teacher(*_: Any, **__: Any) -> Counted:
        return Counted(truth=TRUTH, corruption=FOUNDATION_DEPTH, seed=0)

    def two_tokens(data: DrivingDataset, split: str) -> list[str]:
        return list(split_tokens(data, split)[:2])

    monkeypatch.setattr("occlift.training.rendering.depth_teacher", teacher)
    monkeypatch.setattr("occlift.training.rendering.split_tokens", two_tokens)

    def losses(name: str, map_cache: Path | None, *, workers: int) -> list[tuple[int, str, float]]:
        model = replace(CONFIG.model, ray_height=6, ray_width=11, samples=24)
        config = replace(CONFIG, model=model, loss=RenderingLossConfig.of_maps(), cache_bytes=0, workers=workers)
        spec = RenderingTraining(data=NuScenes.open(small_town), config=config, map_cache=map_cache)
        found = run_training(spec, tmp_path / name, max_steps=3)
        return [row for row in read_scalars(found.losses) if row[1] != "step_seconds"]

    first = losses("first", tmp_path / "maps", workers=0)
    assert first[-1][0] > len(asked) == len(set(asked)) == 2, "the second epoch reads"
    assert losses("second", tmp_path / "maps", workers=1) == first
    assert len(asked) == 2, "a second run reads"
    assert losses("without", None, workers=0) == first
    assert len(asked) > 4


def test_kept_maps_are_made_before_workers_start(
    small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a teacher that runs a network may be asked: only in the training process."""
    (tmp_path / "my_map_teachers.py").write_text(
        "from truth import TRUTH\n"
        "from occlift.teachers.oracle import OracleDepth, FOUNDATION_DEPTH\n"
        "def depth():\n"
        "    return OracleDepth(truth=TRUTH, corruption=FOUNDATION_DEPTH, seed=0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = replace(CONFIG, loss=RenderingLossConfig.of_maps(), workers=1, depth="my_map_teachers:depth")
    spec = RenderingTraining(data=NuScenes.open(small_town), config=config)
    with pytest.raises(ConfigError, match=r"my_map_teachers:depth: runs a network .*--map-cache"):
        spec.frames()
    spec = replace(spec, map_cache=tmp_path / "maps")
    frames = spec.frames()
    data = CachedTrainingData(frames, collate_rendering, config)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    data.setup("fit")
    assert len(list((tmp_path / "maps").glob("*/*/*.npz"))) == 2 * 6 * len(frames)


def test_a_checkpoint_predicts_and_what_it_shows_is_scored(small_town: Path, tmp_path: Path) -> None:
    run = train_rendering(small_town, tmp_path / "run", CONFIG, max_steps=1)
    model = load_easyocc(run.checkpoint)
    assert isinstance(model, RenderingModel)
    assert model.config == CONFIG.model
    assert (model.decided_on, float(model.free_offset) != 0) == (1, True), "the training says what is occupied"
    data = NuScenes.open(small_town)
    (token, *_) = split_tokens(data, "val")
    predict(data, tmp_path / "predictions", checkpoint=run.checkpoint, tokens=[token], precision="fp32")
    found = read_prediction(prediction_path(tmp_path / "predictions", token))
    assert found.shape == (200, 200, 16)
    shown = evaluate_rendering(NuScenes.open(small_town), run.checkpoint, tokens=[token], precision="fp32")
    assert shown.frames == 1
    assert shown.depth.pixels == shown.constant.pixels == shown.ground.pixels > 500
    written = json.loads(shown.to_json())
    ground = shown.ground.measures("per_image", "metric")
    assert written["depth"]["ground"]["per_image_abs_rel_metric"] == ground["abs_rel"]
    # A flat town: the ground explains most of what the lidar sees near the vehicle, one depth for all does not.
    assert shown.ground.measures("pooled", "metric")["a1"] > shown.constant.measures("pooled", "metric")["a1"] + 10
    assert shown.classes.sum() == shown.frequent.sum() <= 6 * 12 * 22
    assert written["classes"]["frequent"]["right"] > 30


@pytest.mark.parametrize(
    "factors",
    [
        {"depth": math.nan},
        {"photometric": math.inf},
        {"semantic": -1.0},
        dict.fromkeys(asdict(RenderingLossConfig()), 0.0),
    ],
)
def test_factors_that_cannot_work_are_refused(factors: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="finite and not negative, and one must be positive"):
        RenderingLossConfig(**factors)


def test_labels_and_the_pseudo_loss_come_together(small_town: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give both or neither"):
        train_rendering(small_town, tmp_path / "run", CONFIG, labels=small_town / "gts")
    with pytest.raises(ConfigError, match="give both or neither"):
        train_rendering(small_town, tmp_path / "run", replace(CONFIG, pseudo=OccupancyLossConfig()))
    assert not (tmp_path / "run").exists()


def test_confidence_is_read_with_the_labels(small_town: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="confidence is that of labels, and none are given"):
        train_rendering(small_town, tmp_path / "run", replace(CONFIG, confidence=True))
    data = NuScenes.open(small_town)
    config = replace(CONFIG, pseudo=OccupancyLossConfig(), confidence=True, loss=RenderingLossConfig(photometric=0.0))
    first, *_ = split_tokens(data, "train")
    scene = data.key_frame(first).scene
    label = read_label(label_path(small_town / "gts", scene, first))
    confidence = np.random.default_rng(0).integers(0, 256, label.semantics.shape, dtype=np.uint8)
    write_label(label_path(tmp_path / "labels", scene, first), replace(label, confidence=confidence))
    spec = RenderingTraining(data=data, config=config, labels=tmp_path / "labels")
    read = spec.frames()[0].frame.confidence
    assert read is not None
    assert np.array_equal(read[0], confidence)
    assert replace(spec, config=replace(config, confidence=False)).frames()[0].frame.confidence is None
    with pytest.raises(DataError, match="occlift label --confidence"):
        replace(spec, labels=small_town / "gts").frames()[0]


def test_a_run_without_confidence_is_the_run_that_it_was() -> None:
    """Its configuration is its identity, by which it is resumed: a choice that was not made is no part of it."""
    assert "confidence" not in CONFIG.to_dict()
    assert replace(CONFIG, confidence=True).to_dict()["confidence"] is True


def test_the_command_passes_on_what_teachers_and_labels_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def train(spec: TrainingSpec[Any, Any], out: Path, **how_far: object) -> TrainRun:
        asked.append(spec.config)
        return TrainRun(checkpoint=out, steps=0, seconds=0.0, losses=out, train_frames=0)

    monkeypatch.setattr("occlift.scenes.dataset.open_dataset", lambda root: None)
    monkeypatch.setattr("occlift.training.run.run_training", train)
    words = (
        f"rendering-demo town --labels {tmp_path} --confidence --semantics sam3 --semantics-option device=cpu "
        "min_score=0.4 --depth lidar --depth-option window_px=5 --teacher-seed 3"
    )
    tyro.cli(train_rendering_command, args=words.split())
    (config,) = asked
    assert config.semantics_options == {"device": "cpu", "min_score": "0.4"}
    assert config.depth_options == {"window_px": "5"}
    assert (config.semantics, config.depth, config.teacher_seed, config.confidence) == ("sam3", "lidar", 3, True)
    with pytest.raises(ConfigError, match="'cpu' is no setting; expected name=value"):
        tyro.cli(train_rendering_command, args=["rendering-demo", "town", "--depth-option", "cpu"])


def test_only_a_rendering_model_shows_anything(small_town: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        model=TINY, loss=OccupancyLossConfig(max_voxels=500, max_lovasz_voxels=100),
        optimizer=OptimizerConfig(steps=1), precision="fp32",
    )  # fmt: skip
    spec = OccupancyTraining(data=NuScenes.open(small_town), labels=small_town / "gts", config=config)
    run = run_training(spec, tmp_path / "run")
    with pytest.raises(ConfigError, match="expected a rendering model"):
        evaluate_rendering(NuScenes.open(small_town), run.checkpoint)


def test_rendered_depth_is_read_at_the_pixels_of_the_whole_image() -> None:
    """Rays cover the lower right quarter of the image, two pixels each; depth grows by 1 m per ray to the right."""
    depth_m = torch.arange(4.0)[None].expand(3, 4) + 10
    cells_from_full = torch.tensor([[0.5, 0, -4.0], [0, 0.5, -3.0], [0, 0, 1]], dtype=torch.float64)
    found, inside = _sample_at_pixels(depth_m, cells_from_full, 12, 16)
    expected = np.zeros((12, 16), bool)
    expected[6:, 8:] = True
    assert np.array_equal(inside, expected)
    # Pixel centres lie a quarter of a cell beside the centres of the cells.
    assert np.allclose(found[8, 8:], [10, 10.25, 10.75, 11.25, 11.75, 12.25, 12.75, 13])


def test_the_ground_lies_at_zero(small_town: Path) -> None:
    data = NuScenes.open(small_town)
    rig = rig_of(data.key_frame(split_tokens(data, "val")[0]))
    depth_m = torch.from_numpy(_ground_depth_m(rig))
    origins, directions = rig.rays(rig.height, rig.width)
    heights = (origins[:, None, None] + depth_m[..., None] * directions)[..., 2]
    near = depth_m < 79.9
    assert near.float().mean() > 0.3
    assert heights[near].abs().max() < 1e-6
    assert bool((depth_m[~near] <= 80.0).all())


def test_the_guess_is_what_a_ray_shows_most_often(small_town: Path) -> None:
    frames = frames_of(small_town, neighbours=None)
    found = _most_frequent(frames, OCC3D.taxonomy)
    maps = np.stack([frames[i].class_id[0].numpy() for i in range(len(frames))])
    for at in ((0, 5, 3), (2, 0, 7), (4, 3, 10)):
        values, counts = np.unique(maps[(slice(None), *at)], return_counts=True)
        known = values != 255
        assert found[at] == values[known][counts[known].argmax()]
