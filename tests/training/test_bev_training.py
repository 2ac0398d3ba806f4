"""Pretraining, fine-tuning and scores of bird's-eye-view networks."""

from __future__ import annotations

import json
import pickle
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from occlift.cli import main
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError, DataError
from occlift.evaluation.bev import evaluate_bev
from occlift.losses.bev import BevLossConfig
from occlift.losses.occfeat import OccFeatLossConfig
from occlift.models.bev_network import BevNetworkConfig
from occlift.runtime.progress import shown_progress
from occlift.scenes.dataset import split_tokens
from occlift.teachers.registry import feature_teacher
from occlift.training.bev import BevFinetuning, FinetuneConfig
from occlift.training.callbacks import read_scalars
from occlift.training.checkpoint import checkpoint_parts, load_bev_network, load_easyocc
from occlift.training.corrupt import Corruption
from occlift.training.label_share import labelled_tokens
from occlift.training.loop import TrainRun
from occlift.training.occfeat import OccFeatPretraining, PretrainConfig
from occlift.training.optimizer import OptimizerConfig
from occlift.training.predict import predict
from occlift.training.pretrained import LoadReport
from occlift.training.run import TrainingSpec, run_training

NETWORK = replace(BevNetworkConfig.demo("simple_bev"), image_height=48, image_width=88)
PRETRAIN = replace(
    PretrainConfig.demo(), model=NETWORK, optimizer=OptimizerConfig(steps=4), teacher_options={"channels": "8"}
)
FINETUNE = replace(FinetuneConfig.demo(), model=NETWORK, optimizer=OptimizerConfig(steps=2))


def pretrain(root: Path, out: Path, config: PretrainConfig, **options: Any) -> TrainRun:
    how_far = {name: options.pop(name) for name in ("resume", "max_steps") if name in options}
    return run_training(OccFeatPretraining(data=NuScenes.open(root), config=config, **options), out, **how_far)


def finetune(root: Path, out: Path, config: FinetuneConfig, pretrained: Path | None = None) -> TrainRun:
    return run_training(BevFinetuning(data=NuScenes.open(root), config=config, pretrained=pretrained), out)


def repeatable(path: Path) -> list[tuple[int, str, float]]:
    """What was logged, without the clock."""
    return [row for row in read_scalars(path) if row[1] != "step_seconds"]


@pytest.fixture(scope="module")
def pretrained(small_town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained")
    return pretrain(small_town, out / "run", PRETRAIN, feature_cache=out / "features").checkpoint


def test_a_resumed_pretraining_repeats_the_uninterrupted_one(
    small_town: Path, pretrained: Path, tmp_path: Path
) -> None:
    """The second run reads the features that the first one kept."""
    kept = pretrained.parents[1] / "features"
    half = pretrain(small_town, tmp_path / "half", PRETRAIN, feature_cache=kept, max_steps=2)
    rest = pretrain(small_town, tmp_path / "half", PRETRAIN, feature_cache=kept, resume=half.checkpoint)
    expected = repeatable(pretrained.with_name("losses.csv"))
    assert repeatable(rest.losses) == expected
    assert {"loss_occupancy", "loss_features"} <= {name for _, name, _ in expected}
    weights, others = (checkpoint_parts(path)["state_dict"] for path in (pretrained, rest.checkpoint))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert not any(".heads." in name for name in weights)


def test_pretraining_needs_no_lidar(small_town: Path, tmp_path: Path) -> None:
    config = replace(
        PRETRAIN, occupancy="labels", loss=OccFeatLossConfig(features=0.1, classes=0.1),
        optimizer=OptimizerConfig(steps=1),
    )  # fmt: skip
    labels = small_town / "gts"
    hidden = {path: path.rename(path.with_suffix(".away")) for path in (small_town / "samples/LIDAR_TOP").iterdir()}
    try:
        run = pretrain(small_town, tmp_path / "run", config, labels=labels)
    finally:
        for path, away in hidden.items():
            away.rename(path)
    names = {name for _, name, _ in read_scalars(run.losses)}
    assert {"loss_occupancy", "loss_features", "loss_classes"} <= names


def test_pretraining_refuses_what_does_not_go_together(small_town: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="classes need occupancy from labels"):
        replace(PRETRAIN, loss=OccFeatLossConfig(classes=1.0))
    with pytest.raises(ConfigError, match="give both or neither"):
        pretrain(small_town, tmp_path / "run", PRETRAIN, labels=small_town / "gts")
    assert not (tmp_path / "run").exists()


def test_workers_are_refused_a_teacher_on_an_accelerator_without_a_cache(small_town: Path, tmp_path: Path) -> None:
    Dinov2Model(
        Dinov2Config(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, image_size=28)
    ).save_pretrained(tmp_path / "dino")  # fmt: skip
    # A device that is not the CPU, and that every machine has.
    options = {"model": str(tmp_path / "dino"), "device": "meta"}
    config = replace(PRETRAIN, teacher="dinov2", teacher_options=options, workers=2)
    with pytest.raises(ConfigError, match=r"the 2 workers .* cannot use; .*--feature-cache.*--workers 0"):
        pretrain(small_town, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    teacher = feature_teacher("dinov2", options={**options, "device": "cpu", "input_height": "28"})
    data = NuScenes.open(small_town)
    teacher.features(data.key_frame(split_tokens(data, "all")[0]))
    assert len(pickle.dumps(teacher)) < 1000, "the network stays where it is"


def documented_commands() -> list[list[str]]:
    """Those of docs/occfeat.md that train on nuScenes."""
    text = (Path(__file__).parents[2] / "docs/occfeat.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("occlift ")]
    return [command for command in commands if command[2] in ("occfeat", "bev")]


@pytest.mark.parametrize("command", documented_commands(), ids=" ".join)
def test_documented_commands_take_16_key_frames_a_step_and_a_small_input(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []

    def seen(spec: TrainingSpec[Any, Any], out: Path, **rest: object) -> None:
        given.append(spec.config)
        raise ConfigError("seen")

    monkeypatch.setattr("occlift.scenes.dataset.open_dataset", lambda root: None)
    monkeypatch.setattr("occlift.training.run.run_training", seen)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "occlift: seen\n"
    (config,) = given
    assert config.batch_size * config.devices == 16
    assert config.workers == 8
    if isinstance(config, PretrainConfig):
        assert config.teacher_options == {"input_height": "448", "input_width": "784"}


def test_the_schedules_of_the_papers_are_for_16_key_frames_a_step() -> None:
    assert (PretrainConfig.full().batch_size, FinetuneConfig.full().batch_size) == (16, 16)


def test_fine_tuning_begins_with_the_pretrained_weights(
    small_town: Path,
    pretrained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("occlift.runtime.progress._SHORT_S", 0.0)
    still = replace(FINETUNE, optimizer=OptimizerConfig(steps=1, learning_rate=1e-12, weight_decay=0.0))
    with shown_progress():
        finished = finetune(small_town, tmp_path / "run", still, pretrained=pretrained)
    account = json.loads((tmp_path / "run/labelled.json").read_text(encoding="utf-8"))
    assert account["tokens"] == list(labelled_tokens(NuScenes.open(small_town), "train", 1.0, 0))
    loaded = LoadReport(**account["loaded"])
    said = " ".join(capsys.readouterr().err.split())
    assert said.index(loaded.summary()) < said.index("fine-tune:"), "before the training"
    assert loaded.reshaped == []
    assert {name.split(".")[0] for name in loaded.missing} == {"heads"}
    network = load_bev_network(finished.checkpoint)
    before = checkpoint_parts(pretrained)["state_dict"]
    for name, weight in network.named_parameters():
        if not name.startswith("heads."):
            assert torch.allclose(weight, before[f"model.{name}"], atol=1e-6), name


def test_few_labels_are_few_and_another_start_is_another_run(
    small_town: Path, pretrained: Path, tmp_path: Path
) -> None:
    few = replace(FINETUNE, labels=0.1, optimizer=OptimizerConfig(steps=1))
    finished = finetune(small_town, tmp_path / "run", few)
    assert finished.train_frames == 1
    assert json.loads((tmp_path / "run/labelled.json").read_text(encoding="utf-8"))["loaded"] is None
    with pytest.raises(ConfigError, match="another configuration"):
        finetune(small_town, tmp_path / "run", few, pretrained=pretrained)


def test_terms_are_balanced_by_learning(small_town: Path, tmp_path: Path) -> None:
    config = replace(FINETUNE, learned_balance=True, loss=BevLossConfig(segmentation=10, centre=1, offset=1))
    run = finetune(small_town, tmp_path / "run", config)
    assert checkpoint_parts(run.checkpoint)["state_dict"]["balance.log_variance"].abs().min() > 0
    with pytest.raises(ConfigError, match="none of their factors"):
        replace(FINETUNE, learned_balance=True, loss=BevLossConfig(centre=0.0))


def test_scores_follow_from_the_prediction_and_corruptions_change_the_images(small_town: Path, tmp_path: Path) -> None:
    classes = ("vehicle", "drivable_area")
    config = replace(
        FINETUNE, model=replace(NETWORK, classes=classes), validation_every=2, validation_frames=100,
        optimizer=OptimizerConfig(steps=80, learning_rate=3e-3), cache_bytes=10**9,
    )  # fmt: skip
    run = finetune(small_town, tmp_path / "run", config)
    plain, missing = evaluate_bev(
        NuScenes.open(small_town), run.checkpoint, corruptions=(None, Corruption(name="camera_missing", strength=5))
    )
    named = plain.named()
    assert named.keys() == {
        "bev_iou_vehicle_filtered", "bev_iou_vehicle_unfiltered", "bev_iou_drivable_area_unfiltered"
    }  # fmt: skip
    logged = {name: value for _, name, value in read_scalars(run.losses) if name.startswith("val_")}
    assert logged["val_bev_iou_drivable_area_unfiltered"] == pytest.approx(
        named["bev_iou_drivable_area_unfiltered"], abs=1e-3
    )
    road = named["bev_iou_drivable_area_unfiltered"]
    assert road > 40, "a network that sees nothing but the same road finds it"
    assert missing.named()["bev_iou_drivable_area_unfiltered"] != pytest.approx(road, abs=1e-6)
    assert missing.to_dict()["corruption"] == {"name": "camera_missing", "strength": 5, "seed": 0}


def test_a_start_that_cannot_be_read_is_refused_before_anything_is_written(small_town: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothere\.ckpt: no such checkpoint"):
        finetune(small_town, tmp_path / "run", FINETUNE, pretrained=tmp_path / "nothere.ckpt")
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(b"weights")
    with pytest.raises(DataError, match=r"damaged\.ckpt: not a readable checkpoint"):
        finetune(small_town, tmp_path / "run", FINETUNE, pretrained=damaged)
    assert not (tmp_path / "run").exists()


def test_checkpoints_are_not_confused(small_town: Path, pretrained: Path, tmp_path: Path) -> None:
    data = NuScenes.open(small_town)
    with pytest.raises(DataError, match="expected a checkpoint of `occlift finetune`, got one of `occlift pretrain`"):
        evaluate_bev(data, pretrained)
    with pytest.raises(DataError, match="of `occlift pretrain`, which predicts no occupancy: fine-tune it"):
        predict(data, tmp_path, checkpoint=pretrained)
    parts = torch.load(pretrained, weights_only=True)

    def changed(name: str, **settings: Any) -> Path:
        torch.save({**parts, "hyper_parameters": settings}, tmp_path / name)
        return tmp_path / name

    model = parts["hyper_parameters"]["model"]
    occupancy, rendering = changed("a.ckpt", model={"space": {}}), changed("b.ckpt", model={"network": {}})
    foreign, other = (
        changed("c.ckpt", learning_rate=0.1),
        changed("d.ckpt", model={**model, "architecture": "lift_splat"}),
    )
    for start, error, message in (
        (
            occupancy,
            ConfigError,
            r"a\.ckpt: a checkpoint of `occlift train`; bird's-eye-view networks start from one of",
        ),
        (rendering, ConfigError, r"b\.ckpt: a checkpoint of `occlift train-rendering`"),
        (foreign, DataError, r"c\.ckpt: a checkpoint of another project; expected one of occlift train, "),
        (
            other,
            ConfigError,
            r"d\.ckpt: a network of the architecture lift_splat, and this one is simple_bev; .*--network",
        ),
    ):
        with pytest.raises(error, match=message):
            finetune(small_town, tmp_path / "run", FINETUNE, pretrained=start)
        assert not (tmp_path / "run").exists()
    for load in (load_easyocc, load_bev_network):
        with pytest.raises(DataError, match=r"c\.ckpt: a checkpoint of another project"):
            load(foreign)
    with pytest.raises(DataError, match="got one of `occlift train`"):
        load_bev_network(occupancy)
    with pytest.raises(DataError, match="of `occlift finetune`, which predicts no occupancy: use occlift evaluate-bev"):
        load_easyocc(other)
