"""Options are the fields of configurations: nothing asked for changes nothing, and what is asked for arrives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tyro

from occlift.cli import load_command
from occlift.errors import ConfigError
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.town.config import TownConfig
from occlift.training.bev import FinetuneConfig
from occlift.training.occfeat import PretrainConfig
from occlift.training.occupancy import TrainConfig
from occlift.training.rendering import RenderingTrainConfig


class _Asked(Exception):
    """Ends a command where its work would begin."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The configuration that a command would work with, from its words."""
    found = []

    def remember(config: Any) -> None:
        found.append(config)
        raise _Asked

    class Data:
        def scenes(self, split: str) -> list[str]:
            return []

    monkeypatch.setattr("occlift.scenes.dataset.open_dataset", lambda root: Data())
    monkeypatch.setattr("occlift.labels.generate.generate_labels", lambda data, out, config, **rest: remember(config))
    monkeypatch.setattr("occlift.town.write.write_town", lambda out, config, **rest: remember(config))
    monkeypatch.setattr("occlift.training.run.run_training", lambda spec, out, **rest: remember(spec.config))

    def config_of(words: str) -> Any:
        name, *rest = words.split()
        with pytest.raises(_Asked):
            tyro.cli(load_command(name), args=rest)
        return found[-1]

    return config_of


def test_a_command_without_options_does_what_the_library_does(asked: Any) -> None:
    assert asked("label root --out labels") == LabelConfig()
    assert asked("town out") == TownConfig()
    assert asked("train easyocc-demo root --labels labels") == TrainConfig()
    assert asked("train easyocc root --labels labels") == TrainConfig.full()
    assert asked("train-rendering rendering-demo root") == RenderingTrainConfig.demo()
    assert asked("train-rendering rendering root") == RenderingTrainConfig.full()
    for network in ("simple_bev", "bevformer", "lift_splat"):
        assert asked(f"pretrain occfeat root --network {network}") == PretrainConfig.paper(network)
        assert asked(f"pretrain occfeat-demo root --network {network}") == PretrainConfig.demo(network)
        assert asked(f"finetune bev root --network {network}") == FinetuneConfig.paper(network)
        assert asked(f"finetune bev-demo root --network {network}") == FinetuneConfig.demo(network)


def test_options_reach_their_fields_those_of_nested_configurations_too(asked: Any) -> None:
    config = asked(
        "label root --out labels --frames 5 --moving still --confidence --fusion votes --carve 2 "
        "--semantics-option a=b c=d=e --class-min-points bus=2 pedestrian=1"
    )
    assert config == LabelConfig(
        frames=5, moving="still", confidence=True, semantics_options={"a": "b", "c": "d=e"},
        decision=DecisionConfig(fusion="votes", carve=2.0, class_min_points={"bus": 2, "pedestrian": 1}),
    )  # fmt: skip
    base = TrainConfig()
    config = asked(
        "train easyocc-demo root --labels labels --lovasz none --geo-scal 1 --ema-decay 0.9 --steps 3 --pretrained net"
    )
    assert config == replace(
        base, loss=replace(base.loss, lovasz=0.0, geo_scal=1.0), ema_decay=0.9,
        optimizer=replace(base.optimizer, steps=3), model=replace(base.model, pretrained="net"),
    )  # fmt: skip
    assert asked("train-rendering rendering root --pretrained net").model.network.pretrained == "net"


def test_options_that_need_each_other_are_given_at_once(asked: Any) -> None:
    config = asked("pretrain occfeat root --class-factor 0.5 --occupancy labels --teacher x --image-size 448 800")
    assert (config.loss.classes, config.occupancy, config.teacher) == (0.5, "labels", "x")
    assert (config.model.image_height, config.model.image_width) == (448, 800)
    config = asked("finetune bev root --labels 1% --classes vehicle crossing --backbone resnet50")
    assert (config.labels, config.model.classes, config.model.backbone) == (0.01, ("vehicle", "crossing"), "resnet50")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--depth-option cpu", "'cpu' is no setting; expected name=value"),
        ("--class-min-points bus=few", "--class-min-points: 'few' is no whole number"),
    ],
)
def test_a_word_that_says_nothing_about_a_setting_is_refused(words: str, message: str, asked: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        tyro.cli(load_command("label"), args=["root", "--out", "labels", *words.split()])


def test_help_is_the_docstring_of_the_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(load_command("train"), args=["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "number of steps of the schedule (default: 400 for easyocc-demo, 84000 for easyocc)" in shown
    assert "--class-weighting {none,inverse_sqrt,inverse_log} class weights of the cross-entropy" in shown
