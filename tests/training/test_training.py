"""From key frames to a trained network, its predictions and their scores, on a data set of a few pixels."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import tiny_easyocc
from PIL import Image

from occlift.datasets.nuscenes.channels import CAMERA_CHANNELS
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.datasets.nuscenes.lidar_file import LidarFile
from occlift.errors import ConfigError, DataError
from occlift.evaluation.baselines import write_labels_as_predictions, write_prior
from occlift.evaluation.bev import evaluate_bev
from occlift.evaluation.occupancy import Evaluation, evaluate
from occlift.geometry.cameras import CameraRig
from occlift.geometry.transforms import rigid_transform, rotation_about_z
from occlift.label_space import CAR, DRIVEABLE_SURFACE, FREE, MANMADE, NUM_CLASSES, UNKNOWN
from occlift.labels.files import OccupancyLabel, label_path, prediction_path, read_label, read_prediction, write_label
from occlift.losses.occupancy import OccupancyLossConfig, class_weights, occupancy_loss
from occlift.metrics.occupancy import histogram, mean_iou
from occlift.models.easyocc import EasyOcc, EasyOccConfig
from occlift.runtime.progress import shown_progress
from occlift.scenes.dataset import DatasetSpec
from occlift.scenes.frames import CameraImage, KeyFrame, LidarSweep
from occlift.scenes.sources import ImageFile
from occlift.training.callbacks import read_scalars
from occlift.training.checkpoint import check_cameras, checkpoint_parts, load_easyocc
from occlift.training.frames import OccupancyFrames, TrainingOrder, collate_frames, fit_image, normalised
from occlift.training.loop import TrainRun, prepare_network
from occlift.training.mean_loss import TrainingDiverged
from occlift.training.occupancy import OccupancyTraining, TrainConfig
from occlift.training.occupancy_task import OccupancyTask, as_hyper_parameters
from occlift.training.optimizer import OptimizerConfig
from occlift.training.predict import predict
from occlift.training.run import run_training
from occlift.viz.bev_pictures import show_prediction

HEIGHT, WIDTH = 36, 64
SPLITS = {"train": ("scene-a",), "val": ("scene-b",)}
TOKENS = {"scene-a": ("a0", "a1", "a2"), "scene-b": ("b0", "b1")}
EGO_FROM_CAMERA_AXES = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])

TINY = tiny_easyocc(channels=16)
CONFIG = TrainConfig(
    model=TINY,
    loss=OccupancyLossConfig(max_voxels=2000, max_lovasz_voxels=500),
    optimizer=OptimizerConfig(steps=4),
    validation_every=2,
    checkpoint_every=2,
    precision="fp32",
)


class FewFrames:
    """A data set of two scenes whose frames differ in a grey value and a block."""

    spec, cameras = DatasetSpec("test", "few frames"), CAMERA_CHANNELS

    def __init__(self, root: Path) -> None:
        self.root = root

    def scenes(self, name: str = "all") -> tuple[str, ...]:
        return SPLITS[name]

    def key_frame_tokens(self, scene: str) -> tuple[str, ...]:
        return TOKENS[scene]

    def key_frame(self, token: str) -> KeyFrame:
        scene = next(scene for scene, tokens in TOKENS.items() if token in tokens)
        cameras = []
        for index, channel in enumerate(CAMERA_CHANNELS):
            rotation = rotation_about_z(math.radians(60 * index)) @ EGO_FROM_CAMERA_AXES
            cameras.append(
                CameraImage(
                    camera=channel,
                    key=f"{token}-{channel}",
                    source=ImageFile(self.root / f"{token}-{channel}.jpg"),
                    timestamp_us=0,
                    height=HEIGHT,
                    width=WIDTH,
                    intrinsics_px=np.array([[50.0, 0, WIDTH / 2], [0, 50, HEIGHT / 2], [0, 0, 1]]),
                    ego_at_image_from_camera=rigid_transform(rotation, [0.0, 0.0, 1.5]),
                    global_from_ego_at_image=np.eye(4),
                )
            )
        lidar = LidarSweep(
            key=f"{token}-lidar",
            source=LidarFile(self.root / "none"),
            timestamp_us=0,
            ego_from_lidar=np.eye(4),
            global_from_ego=np.eye(4),
        )
        return KeyFrame(
            token=token,
            scene=scene,
            index=0,
            timestamp_us=0,
            cameras=tuple(cameras),
            lidar=lidar,
            global_from_ego=lidar.global_from_ego,
        )


def world(block_x: int) -> np.ndarray:
    semantics = np.full((200, 200, 16), FREE, np.uint8)
    semantics[:, :, :2] = DRIVEABLE_SURFACE
    semantics[:, :40, 2:10] = MANMADE
    semantics[block_x : block_x + 20, 110:130, 2:6] = CAR
    return semantics


@pytest.fixture
def few_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with images and `gts`; `NuScenes.open` of it gives `FewFrames`."""
    random = np.random.default_rng(0)
    root = tmp_path / "data"
    root.mkdir()
    data = FewFrames(root)
    for scene, tokens in TOKENS.items():
        for number, token in enumerate(tokens):
            for camera in data.key_frame(token).cameras:
                Image.fromarray(random.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)).save(camera.source.name)
            semantics = world(100 + 10 * number)
            mask = np.ones(semantics.shape, bool)
            mask[:20] = False
            write_label(
                label_path(root / "gts", scene, token),
                OccupancyLabel(semantics=semantics, mask_lidar=mask, mask_camera=mask),
            )
    monkeypatch.setattr(NuScenes, "open", classmethod(lambda cls, path, version=None: FewFrames(path)))
    return root


def train(root: Path, labels: Path, out: Path, config: TrainConfig, **options: Any) -> TrainRun:
    how_far = {name: options.pop(name) for name in ("resume", "max_steps", "tensorboard") if name in options}
    spec = OccupancyTraining(data=NuScenes.open(root), labels=labels, config=config, **options)
    return run_training(spec, out, **how_far)


def frames_of(root: Path, tokens: tuple[str, ...] = ("a0", "a1"), **options: Any) -> OccupancyFrames:
    data: Any = FewFrames(root)
    return OccupancyFrames(data, tokens, height=32, width=64, labels=root / "gts", **options)


def test_a_small_network_learns_one_sample_by_heart() -> None:
    """The demo's network, smaller: if it cannot repeat one label, lifting, head and loss do not fit together."""
    torch.manual_seed(0)
    model = EasyOcc(TINY)
    data: Any = FewFrames(Path())
    rig = OccupancyFrames(data, ["a0"], height=32, width=64, blind=True)[0].rig
    images = torch.randn(1, 6, 3, 32, 64)
    labels = torch.from_numpy(world(100))[None]
    counts = labels.flatten().bincount(minlength=NUM_CLASSES)
    weights = class_weights(counts, "inverse_sqrt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    config = OccupancyLossConfig(max_voxels=20_000, max_lovasz_voxels=5_000)
    generator = torch.Generator().manual_seed(0)
    for _ in range(35):
        terms = occupancy_loss(model(images, rig), labels, weights=weights, config=config, generator=generator)
        optimizer.zero_grad()
        torch.stack(tuple(terms.values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        prediction = model(images, rig).argmax(1).to(torch.uint8)
    assert mean_iou(histogram(truth=labels.numpy(), prediction=prediction.numpy())) > 85


def repeatable_scalars(path: Path) -> list[tuple[int, str, float]]:
    """What was logged, without the clock."""
    return [row for row in read_scalars(path) if row[1] != "step_seconds"]


def test_a_resumed_run_repeats_the_uninterrupted_one(few_frames: Path, tmp_path: Path) -> None:
    gts = few_frames / "gts"
    whole = train(few_frames, gts, tmp_path / "whole", CONFIG, validation_labels=gts)
    half = train(few_frames, gts, tmp_path / "half", CONFIG, validation_labels=gts, max_steps=2)
    assert (whole.steps, half.steps) == (4, 2)
    rest = train(few_frames, gts, tmp_path / "half", CONFIG, validation_labels=gts, resume=tmp_path / "half")
    assert rest.steps == 4
    expected = repeatable_scalars(whole.losses)
    assert repeatable_scalars(rest.losses) == expected
    names = {name for _, name, _ in expected}
    assert {"loss", "loss_cross_entropy", "loss_lovasz", "val_miou_17_camera"} <= names
    assert [step for step, name, _ in expected if name == "loss"] == [1, 2, 3, 4]
    assert [step for step, name, _ in expected if name == "val_miou_17_camera"] == [2, 4]
    one, other = (load_easyocc(run).state_dict() for run in (whole.checkpoint, tmp_path / "half"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    (tmp_path / "half/last.ckpt").unlink()
    with pytest.raises(DataError, match=r"half.last.ckpt: no such checkpoint"):
        load_easyocc(tmp_path / "half")


def test_tensorboard_shows_what_the_log_holds(few_frames: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    gts, out = few_frames / "gts", tmp_path / "run"
    train(few_frames, gts, out, CONFIG, validation_labels=gts, tensorboard=True, max_steps=2)
    run = train(few_frames, gts, out, CONFIG, validation_labels=gts, tensorboard=True, resume=out)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    shown = [(event.step, name, event.value) for name in events.Tags()["scalars"] for event in events.Scalars(name)]
    logged = read_scalars(run.losses)
    assert sorted((step, name) for step, name, _ in shown) == sorted((step, name) for step, name, _ in logged)
    values = {(step, name): value for step, name, value in logged}
    assert all(math.isclose(value, values[step, name], rel_tol=1e-6) for step, name, value in shown)


def test_a_training_shows_its_loss_and_says_if_it_will_take_days(
    few_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("occlift.training.callbacks._LONG_S", 0.0)
    monkeypatch.setattr("occlift.training.callbacks._TIMED_STEPS", 1)
    monkeypatch.setattr("occlift.runtime.progress._SHORT_S", 0.0)
    with shown_progress():
        run = train(few_frames, few_frames / "gts", tmp_path / "run", CONFIG)
    lines = capsys.readouterr().err.splitlines()
    (warning,) = (line for line in lines if line.startswith("!"))
    assert re.match(r"! a step takes \S+ s on this CPU, the 2 steps that are left about \S+ (s|min): train", warning)
    last = next(value for step, name, value in read_scalars(run.losses) if (step, name) == (4, "loss"))
    assert lines[-1].endswith(f", loss {last:.3f}")


def test_a_checkpoint_of_other_settings_is_not_resumed(few_frames: Path, tmp_path: Path) -> None:
    gts = few_frames / "gts"
    half = train(few_frames, gts, tmp_path / "half", CONFIG, max_steps=2)
    faster = replace(CONFIG, optimizer=replace(CONFIG.optimizer, learning_rate=0.1))
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate: 0.002 there, 0.1 now"):
        train(few_frames, gts, tmp_path / "faster", faster, resume=half.checkpoint)
    assert not (tmp_path / "faster").exists()
    # Without the record of its run the checkpoint itself is asked.
    alone = shutil.copy(half.checkpoint, tmp_path / "alone.ckpt")
    with pytest.raises(ConfigError, match=r"alone.ckpt.*optimizer.learning_rate: 0.002 there, 0.1 now"):
        train(few_frames, gts, tmp_path / "faster", faster, resume=alone)
    with pytest.raises(ConfigError, match=r"batch_size: 1 there, 2 now"):
        train(few_frames, gts, tmp_path / "wider", replace(CONFIG, batch_size=2), resume=half.checkpoint)


def test_a_folder_of_labels_that_is_not_there_is_said(few_frames: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labesl: no such folder; expected labels"):
        train(few_frames, tmp_path / "labesl", tmp_path / "run", CONFIG)
    assert not (tmp_path / "run").exists()


def test_labels_to_validate_with_that_are_missing_are_said_before_the_training(
    few_frames: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"2 of 2 labels to validate with are missing"):
        train(few_frames, few_frames / "gts", tmp_path / "run", CONFIG, validation_labels=tmp_path)
    assert not (tmp_path / "run").exists()


def test_ctrl_c_says_how_the_training_goes_on(
    few_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(task: OccupancyTask) -> None:
        if task.global_step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(OccupancyTask, "on_after_backward", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt, match=r"interrupted after step 3; go on with --resume .*run/last.ckpt"):
            train(few_frames, few_frames / "gts", tmp_path / "run", CONFIG)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert checkpoint_parts(tmp_path / "run/last.ckpt")["global_step"] == 2


def test_a_gradient_that_is_not_finite_stops_the_training(
    few_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(few_frames, few_frames / "gts", tmp_path / "plain", replace(CONFIG, checkpoint_every=1), max_steps=2)

    def spoil(task: OccupancyTask) -> None:
        if task.global_step == 2:
            assert task.model.head.bias.grad is not None
            task.model.head.bias.grad[3] = math.inf

    monkeypatch.setattr(OccupancyTask, "on_after_backward", spoil)
    config = replace(CONFIG, checkpoint_every=1)
    with pytest.raises(TrainingDiverged, match="step 2: the length of the gradient is inf"):
        train(few_frames, few_frames / "gts", tmp_path / "run", config)
    kept, expected = (checkpoint_parts(tmp_path / run / "last.ckpt") for run in ("run", "plain"))
    assert kept["global_step"] == plain.steps == 2
    assert all(torch.equal(kept["state_dict"][name], value) for name, value in expected["state_dict"].items())


@pytest.mark.parametrize(
    ("changes", "max_steps", "message"),
    [
        ({"batch_size": 0}, None, "batch_size must be at least 1, got 0"),
        ({"checkpoint_every": 0}, None, "checkpoint_every must be at least 1, got 0"),
        ({"workers": -1}, None, "workers must be at least 0, got -1"),
        ({"seed": -1}, None, "seed must be at least 0, got -1"),
        ({}, 0, "max_steps must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(
    few_frames: Path, tmp_path: Path, changes: dict[str, int], max_steps: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(few_frames, few_frames / "gts", tmp_path / "run", replace(CONFIG, **changes), max_steps=max_steps)
    assert not (tmp_path / "run").exists()


def test_averaged_weights_are_kept_validated_predicted_with_and_resumed(few_frames: Path, tmp_path: Path) -> None:
    gts, decay = few_frames / "gts", 0.5
    config = replace(CONFIG, ema_decay=decay)
    whole = train(few_frames, gts, tmp_path / "whole", config, validation_labels=gts)
    half = train(few_frames, gts, tmp_path / "half", config, validation_labels=gts, max_steps=2)
    rest = train(few_frames, gts, tmp_path / "half", config, validation_labels=gts, resume=half.checkpoint)
    assert repeatable_scalars(rest.losses) == repeatable_scalars(whole.losses)
    kept = [checkpoint_parts(run.checkpoint)["averaged_weights"] for run in (whole, rest)]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    # The training itself is that without an average.
    plain = train(few_frames, gts, tmp_path / "plain", CONFIG, validation_labels=gts)
    weights = checkpoint_parts(plain.checkpoint)["state_dict"]
    state = checkpoint_parts(whole.checkpoint)["state_dict"]
    assert all(torch.equal(weights[name], state[name]) for name in weights)
    # By hand: one step after the checkpoint at step 1 the rate is 1 − min(0.5, 3/12).
    one, two = (
        checkpoint_parts(train(few_frames, gts, tmp_path / f"to{stop}", config, max_steps=stop).checkpoint)
        for stop in (1, 2)
    )
    name = "model.head.bias"
    expected = one["averaged_weights"][name].lerp(two["state_dict"][name], 1 - 3 / 12)
    torch.testing.assert_close(two["averaged_weights"][name], expected)
    model = load_easyocc(whole.checkpoint)
    assert torch.equal(model.head.bias, kept[0][name])
    assert not torch.equal(model.head.bias, state[name])
    # What is validated is the average: the last score of the run is that of the loaded network.
    written = predict(
        NuScenes.open(few_frames), tmp_path / "predictions", checkpoint=whole.checkpoint, precision="fp32"
    )
    scored = evaluate(written.out, gts, tokens=TOKENS["scene-b"])
    assert scored.counts.geometric_iou("camera") == pytest.approx(
        {(step, name): value for step, name, value in read_scalars(whole.losses)}[4, "val_iou_camera"]
    )
    alone = shutil.copy(plain.checkpoint, tmp_path / "alone.ckpt")
    with pytest.raises(DataError, match="holds no averaged weights"):
        train(few_frames, gts, tmp_path / "other", config, resume=alone)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        train(few_frames, gts, tmp_path / "no", replace(CONFIG, ema_decay=1.0))


def test_options_that_must_not_change_the_training_do_not(few_frames: Path, tmp_path: Path) -> None:
    gts = few_frames / "gts"
    plain = train(few_frames, gts, tmp_path / "plain", CONFIG, max_steps=2)
    saving = replace(CONFIG, gradient_checkpointing=True)
    saved = train(few_frames, gts, tmp_path / "saving", saving, max_steps=2)
    assert repeatable_scalars(saved.losses) == repeatable_scalars(plain.losses)
    with pytest.raises(ConfigError, match="exclude each other"):
        train(few_frames, gts, tmp_path / "both", replace(saving, compile=True))


def test_compile_without_a_compiler_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        prepare_network(EasyOcc(TINY), devices=1, compiled=True)


def test_confidence_reaches_the_loss_and_must_be_there(few_frames: Path, tmp_path: Path) -> None:
    gts = few_frames / "gts"
    config = replace(CONFIG, confidence=True, loss=replace(CONFIG.loss, lovasz=0.0), optimizer=OptimizerConfig(steps=1))
    with pytest.raises(DataError, match=r"a0/labels.npz: has no array confidence.*occlift label --confidence"):
        frames_of(few_frames, confidence=True)[0]
    losses = {}
    for name, surely in (("even", 255), ("ground", 0)):
        for token in TOKENS["scene-a"]:
            label = read_label(label_path(gts, "scene-a", token))
            confidence = np.full((200, 200, 16), surely, np.uint8)
            confidence[:, :, :2] = 255
            write_label(label_path(tmp_path / name, "scene-a", token), replace(label, confidence=confidence))
        run = train(few_frames, tmp_path / name, tmp_path / f"run-{name}", config)
        losses[name] = {n: v for _, n, v in read_scalars(run.losses)}["loss_cross_entropy"]
    plain = train(few_frames, gts, tmp_path / "run", replace(config, confidence=False))
    without = {n: v for _, n, v in read_scalars(plain.losses)}["loss_cross_entropy"]
    assert losses["even"] == pytest.approx(without, rel=1e-5)
    assert losses["ground"] != pytest.approx(without, rel=1e-2)


def test_unknown_voxels_are_counted_as_the_loss_takes_them(few_frames: Path, tmp_path: Path) -> None:
    semantics = world(100)
    semantics[:50] = UNKNOWN
    mask = semantics != UNKNOWN
    for token in TOKENS["scene-a"]:
        label = OccupancyLabel(semantics=semantics, mask_lidar=mask, mask_camera=mask)
        write_label(label_path(tmp_path / "labels", "scene-a", token), label)
    data: Any = FewFrames(few_frames)
    spec = OccupancyTraining(data=data, labels=tmp_path / "labels", config=CONFIG)
    ignored = np.array(spec.counts(spec.frames()))
    spec = replace(spec, config=replace(CONFIG, loss=replace(CONFIG.loss, unknown="free")))
    free = np.array(spec.counts(spec.frames()))
    assert ignored.sum() == 3 * 150 * 200 * 16
    assert free.sum() == 3 * 200 * 200 * 16
    assert free[FREE] - ignored[FREE] == 3 * 50 * 200 * 16
    assert (free[:FREE] == ignored[:FREE]).all()


def test_a_checkpoint_holds_nothing_but_data_and_predicts(few_frames: Path, tmp_path: Path) -> None:
    run = train(few_frames, few_frames / "gts", tmp_path / "run", replace(CONFIG, blind=True), max_steps=1)
    parts = torch.load(run.checkpoint, weights_only=True)
    assert EasyOccConfig.from_dict(parts["hyper_parameters"]["model"]) == TINY
    assert parts["hyper_parameters"]["blind"] is True
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["config"] == replace(CONFIG, blind=True).to_dict()
    assert {"torch", "occlift"} <= record["versions"].keys()

    written = predict(NuScenes.open(few_frames), tmp_path / "predictions", checkpoint=run.checkpoint, precision="fp32")
    assert (written.frames, written.random_weights) == (2, False)
    assert written.peak_memory_bytes > 50e6
    # A blind network is shown grey images again: it cannot tell two frames with one rig apart.
    one, two = (read_prediction(prediction_path(tmp_path / "predictions", token)) for token in ("b0", "b1"))
    np.testing.assert_array_equal(one, two)
    frame = frames_of(few_frames, ("b0",), blind=True)[0]
    with torch.no_grad():
        logits = load_easyocc(run.checkpoint)(frame.images, frame.rig)
    np.testing.assert_array_equal(logits[0].argmax(0).numpy(), one)


def test_a_checkpoint_of_another_kind_is_told_before_its_cameras(few_frames: Path, tmp_path: Path) -> None:
    run = train(few_frames, few_frames / "gts", tmp_path / "run", CONFIG, max_steps=1)
    data: Any = FewFrames(few_frames)
    data.cameras = ("left", "right")
    kind = r"expected a checkpoint of `occlift finetune`, got one of `occlift train`"
    with pytest.raises(DataError, match=kind):
        evaluate_bev(data, run.checkpoint)
    with pytest.raises(DataError, match=kind):
        show_prediction(data, run.checkpoint, "b0", tmp_path / "picture")


def test_runs_from_before_cameras_were_recorded_go_on(few_frames: Path, tmp_path: Path) -> None:
    half = train(few_frames, few_frames / "gts", tmp_path / "run", CONFIG, max_steps=1)
    record = tmp_path / "run/run.json"
    plain = json.loads(record.read_text())
    assert plain.pop("cameras") == list(CAMERA_CHANNELS)
    record.write_text(json.dumps(plain))
    parts = torch.load(half.checkpoint, weights_only=True)
    assert parts["hyper_parameters"].pop("cameras") == list(CAMERA_CHANNELS)
    torch.save(parts, half.checkpoint)
    check_cameras(half.checkpoint, NuScenes.open(few_frames))
    rest = train(few_frames, few_frames / "gts", tmp_path / "run", CONFIG, resume=half.checkpoint, max_steps=2)
    assert rest.steps == 2


def test_a_run_folder_is_not_overwritten(few_frames: Path, tmp_path: Path) -> None:
    run = train(few_frames, few_frames / "gts", tmp_path / "run", CONFIG, max_steps=1)
    before = run.checkpoint.read_bytes()
    with pytest.raises(ConfigError, match="another configuration"):
        train(few_frames, few_frames / "gts", tmp_path / "run", replace(CONFIG, seed=1))
    with pytest.raises(ConfigError, match="resume"):
        train(few_frames, few_frames / "gts", tmp_path / "run", CONFIG)
    assert run.checkpoint.read_bytes() == before


def test_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such checkpoint"):
        checkpoint_parts(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("text")
    with pytest.raises(DataError, match="not a readable checkpoint"):
        checkpoint_parts(tmp_path / "text.ckpt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match="something else"):
        load_easyocc(tmp_path / "other.ckpt")


def test_a_loss_that_is_not_finite_names_step_and_term(few_frames: Path) -> None:
    task = OccupancyTask(
        **as_hyper_parameters(TINY, CONFIG.loss, CONFIG.optimizer),
        class_counts=[1] * NUM_CLASSES,
        seed=0,
        mirror=False,
        blind=False,
    )
    with torch.no_grad():
        task.model.height_embedding.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"step 0: the term cross_entropy .* is nan \(samples a0\)"):
        task.training_step(frames_of(few_frames)[0], 0)


def test_baselines_and_their_scores(few_frames: Path, tmp_path: Path) -> None:
    gts = few_frames / "gts"
    assert write_prior(NuScenes.open(few_frames), gts, tmp_path / "prior") == 2
    assert write_labels_as_predictions(NuScenes.open(few_frames), gts, tmp_path / "labels") == 2
    perfect = evaluate(tmp_path / "labels", gts, tokens=TOKENS["scene-b"])
    assert perfect.frames == 2
    assert {v for n, v in perfect.counts.named().items() if "zero" not in n} == {100.0}

    prior = read_prediction(prediction_path(tmp_path / "prior", "b0"))
    # The three training blocks start at 100, 110 and 120: two of them cover x = 110..130.
    assert set(np.flatnonzero(prior[:, 115, 3] == CAR)) == set(range(110, 130))
    scored = evaluate(tmp_path / "prior", gts)
    assert scored.counts.mean_iou("camera") < 100
    again = Evaluation.from_json(scored.to_json())
    assert again.counts.named() == pytest.approx(scored.counts.named(), nan_ok=True)
    assert json.loads(scored.to_json())["scores"]["miou_17_camera_absent_skipped"] < 100


def test_the_prior_does_not_count_unknown_and_labels_decide(few_frames: Path, tmp_path: Path) -> None:
    for scene, tokens in TOKENS.items():
        for number, token in enumerate(tokens):
            semantics = np.full((200, 200, 16), UNKNOWN, np.uint8)
            semantics[0, 0, 0] = CAR if number == 0 else UNKNOWN
            mask = semantics != UNKNOWN
            label = OccupancyLabel(semantics=semantics, mask_lidar=mask, mask_camera=mask)
            write_label(label_path(tmp_path / "sparse", scene, token), label)
    write_prior(NuScenes.open(few_frames), tmp_path / "sparse", tmp_path / "prior")
    write_labels_as_predictions(NuScenes.open(few_frames), tmp_path / "sparse", tmp_path / "labels")
    for folder in ("prior", "labels"):
        prediction = read_prediction(prediction_path(tmp_path / folder, "b0"))
        assert prediction[0, 0, 0] == CAR
        assert (prediction.ravel()[1:] == FREE).all()


def test_predictions_must_be_complete(few_frames: Path, tmp_path: Path) -> None:
    write_labels_as_predictions(NuScenes.open(few_frames), few_frames / "gts", tmp_path / "labels")
    prediction_path(tmp_path / "labels", "b1").rename(prediction_path(tmp_path / "labels", "z9"))
    with pytest.raises(DataError, match=r"1 without a prediction in .*: b1"):
        evaluate(tmp_path / "labels", few_frames / "gts", tokens=TOKENS["scene-b"])
    with pytest.raises(DataError, match=r"1 without a truth in .*: z9"):
        evaluate(tmp_path / "labels", few_frames / "gts")
    with pytest.raises(DataError, match="no such folder"):
        evaluate(tmp_path / "nothing", few_frames / "gts")


def test_mirrored_frames_are_frames_of_the_mirrored_world(few_frames: Path) -> None:
    frame = frames_of(few_frames)[0]
    mirrored = frame.mirrored()
    points_ego = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 40 - 20
    reflected = points_ego * torch.tensor([1.0, -1.0, 1.0])
    pixels, depth_m, visible = frame.rig.project(points_ego)
    mirrored_pixels, mirrored_depth_m, mirrored_visible = mirrored.rig.project(reflected)
    assert torch.equal(visible, mirrored_visible)
    assert int(visible.sum()) > 50
    torch.testing.assert_close(depth_m, mirrored_depth_m)
    torch.testing.assert_close(
        torch.stack((frame.rig.width - pixels[..., 0], pixels[..., 1]), -1)[visible],
        mirrored_pixels[visible],
        rtol=1e-4,
        atol=1e-3,
    )
    torch.testing.assert_close(
        torch.linalg.det(mirrored.rig.ego_from_camera), torch.linalg.det(frame.rig.ego_from_camera)
    )
    assert torch.equal(mirrored.images[..., 0], frame.images[..., -1])
    assert mirrored.semantics is not None
    assert frame.semantics is not None
    assert torch.equal(mirrored.semantics[:, :, 0], frame.semantics[:, :, -1])
    again = mirrored.mirrored()
    assert torch.equal(again.images, frame.images)
    torch.testing.assert_close(again.rig.intrinsics_px, frame.rig.intrinsics_px)
    torch.testing.assert_close(again.rig.ego_from_camera, frame.rig.ego_from_camera)


@pytest.mark.parametrize(("height", "width"), [(40, 100), (60, 60), (90, 160)])
def test_the_camera_follows_the_image(height: int, width: int) -> None:
    """A bright square, drawn where a point projects, is found where the new camera projects the point."""
    intrinsics_px = torch.tensor([[[200.0, 0, 160], [0, 200, 90], [0, 0, 1]]])
    camera = CameraRig(intrinsics_px=intrinsics_px, ego_from_camera=torch.eye(4)[None], height=180, width=320)
    point = torch.tensor([[0.21, 0.2, 1.0]])
    (u, v), _, _ = (tensor[0, 0] for tensor in camera.project(point))
    image = np.zeros((180, 320, 3), np.uint8)
    image[int(v) - 8 : int(v) + 8, int(u) - 8 : int(u) + 8] = 255
    resized, new_camera = fit_image(image, camera, height=height, width=width)
    assert resized.shape == (height, width, 3)
    (new_u, new_v), _, _ = (tensor[0, 0] for tensor in new_camera.project(point))
    weight = resized[..., 0].astype(float)
    rows, columns = np.mgrid[:height, :width] + 0.5
    assert (weight * columns).sum() / weight.sum() == pytest.approx(float(new_u), abs=0.3)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(float(new_v), abs=0.3)


def test_frames_are_normalised_collated_and_cached(few_frames: Path) -> None:
    frames = frames_of(few_frames, cache_bytes=1_000_000)
    batch = collate_frames([frames[0], frames[1]])
    assert batch.images.shape == (2, 6, 3, 32, 64)
    assert batch.rig.intrinsics_px.shape == (2, 6, 3, 3)
    assert batch.tokens == ("a0", "a1")
    assert batch.semantics is not None
    assert (batch.semantics[1].numpy() == world(110)).all()
    grey = frames_of(few_frames, blind=True)[0].images
    assert torch.equal(grey, normalised(torch.full((1, 6, 3, 32, 64), 127, dtype=torch.uint8)))
    # The first frame and its label (1.3 MB) do not fit into the cache, so a missing file is noticed.
    roomy = frames_of(few_frames, cache_bytes=10_000_000)
    assert torch.equal(roomy[0].images, frames[0].images)
    (few_frames / "a0-CAM_BACK.jpg").unlink()
    assert torch.equal(roomy[0].images, batch.images[:1])
    with pytest.raises(DataError, match="a0-CAM_BACK"):
        frames[0]


def test_a_key_frame_without_all_cameras_is_refused(few_frames: Path) -> None:
    class NoBack(FewFrames):
        def key_frame(self, token: str) -> KeyFrame:
            key_frame = super().key_frame(token)
            return replace(key_frame, cameras=tuple(c for c in key_frame.cameras if c.camera != "CAM_BACK"))

    data: Any = NoBack(few_frames)
    with pytest.raises(DataError, match=r"key frame a0 .* has no CAM_BACK;"):
        OccupancyFrames(data, ["a0"], height=32, width=64)[0]


def test_key_frames_whose_cameras_the_data_set_does_not_list_are_refused(few_frames: Path) -> None:
    class Renamed(FewFrames):
        def key_frame(self, token: str) -> KeyFrame:
            key_frame = super().key_frame(token)
            more = replace(key_frame.cameras[0], camera="CAM_TOP")
            return replace(key_frame, cameras=(*key_frame.cameras, more))

    class Reordered(FewFrames):
        def key_frame(self, token: str) -> KeyFrame:
            key_frame = super().key_frame(token)
            return replace(key_frame, cameras=key_frame.cameras[::-1])

    for kind, message in (
        (Renamed, r"key frame a0 .* has CAM_TOP, which the data set does not list; a surround network needs"),
        (
            Reordered,
            r"key frame a0 .* has its cameras in another order \(CAM_BACK_RIGHT, .*\); .* needs the cameras CAM_FR",
        ),
    ):
        data: Any = kind(few_frames)
        with pytest.raises(DataError, match=message):
            OccupancyFrames(data, ["a0"], height=32, width=64)[0]


def test_an_image_of_another_size_than_its_table_says_is_refused(few_frames: Path) -> None:
    Image.new("RGB", (10, 10)).save(few_frames / "a0-CAM_BACK.jpg")
    with pytest.raises(DataError, match="10×10"):
        frames_of(few_frames)[0]


def test_the_order_depends_on_seed_and_step_alone() -> None:
    def order(**options: int) -> list[list[int]]:
        return list(TrainingOrder(**{"num_frames": 10, "batch_size": 2, "steps": 10, "seed": 0, **options}))

    whole = order()
    assert sorted(np.ravel(whole[:5])) == list(range(10)) == sorted(np.ravel(whole[5:]))
    assert whole[:5] != whole[5:]
    assert order(first_step=3) == whole[3:]
    assert order(seed=1) != whole
    shares = [order(rank=rank, world_size=2, batch_size=1) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole
