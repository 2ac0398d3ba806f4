"""Options are the fields of configurations: nothing asked for changes nothing, and what is asked for arrives."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

import occlift.cli
from occlift.cli import load_command, main
from occlift.cli.commands import COMMANDS
from occlift.cli.options import greedy_options
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
    assert asked("label root --out labels --recipe easyocc") == LabelConfig.easyocc()
    assert asked("town out") == TownConfig()
    assert asked("train easyocc-demo root --labels labels") == TrainConfig()
    assert asked("train easyocc root --labels labels") == TrainConfig.full()
    assert asked("train-rendering rendering-demo root") == RenderingTrainConfig.demo()
    assert asked("train-rendering rendering root") == RenderingTrainConfig.full()
    for network in ("simple_bev", "bevformer", "lift_splat"):
        assert asked(f"pretrain occfeat root --network {network}") == PretrainConfig.full(network)
        assert asked(f"pretrain occfeat-demo root --network {network}") == PretrainConfig.demo(network)
        assert asked(f"finetune bev root --network {network}") == FinetuneConfig.full(network)
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
    config = asked("label root --out labels --recipe easyocc --outside drop --frames 3")
    assert config == replace(LabelConfig.easyocc(), outside="drop", frames=3)
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
    config = asked("finetune bev root --label-share 1% --classes vehicle crossing --backbone resnet50")
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare --names a b A.json B.json", "--names: 4 names (a, b, A.json, B.json) for 0 files"),
        ("compare A.json --mask camera B.json", "--mask takes all words up to the next option, here camera, B.json"),
        ("label --semantics_option a=b root --out out", "--semantics-option takes all words .*, here a=b, root"),
        ("finetune bev --classes vehicle crossing root --seed 1", "--classes takes .*, here vehicle, crossing, root"),
        ("evaluate --mask camera lidar", "--mask takes all words up to the next option, here camera, lidar"),
        ("compare A.json --absent never B.json", ""),
    ],
)
def test_options_that_took_other_words_are_named(
    words: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["occlift", *words.split()])
    with pytest.raises(SystemExit):
        main()
    said = " ".join(capsys.readouterr().err.split("occlift: ")[1:])
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), said) if message else not said


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("train easyocc-dmo root --labels x", "easyocc-dmo: did you mean easyocc-demo or easyocc?"),
        ("label root --out x --recipe easyoc", "easyoc: did you mean easyocc?"),
        ("label root --out x --fusion vote", "vote: did you mean votes?"),
        ("pretrain nothing root", ""),
    ],
)
def test_a_choice_that_is_near_what_was_written_is_named(
    words: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["occlift", *words.split()])
    with pytest.raises(SystemExit):
        main()
    assert " ".join(capsys.readouterr().err.split("occlift: ")[1:]).strip() == hint


def test_options_of_many_values_are_known() -> None:
    assert greedy_options(load_command("compare")) == {"--names", "--mask"}
    assert greedy_options(load_command("audit")) == {"--mask", "--depth-option"}, "--sweep is repeated"
    assert greedy_options(load_command("label")) == {"--semantics-option", "--depth-option", "--class-min-points"}
    assert greedy_options(load_command("predict")) == {"--tokens"}
    for command in COMMANDS:
        greedy_options(load_command(command))


def test_results_are_written_before_they_are_printed() -> None:
    """Whoever reads what is printed may close the pipe, and all that comes after is lost."""
    writers = re.compile(r"write_\w+|picture")
    for path in sorted(Path(occlift.cli.__file__).parent.glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            calls: dict[str, list[int]] = {"print": [], "write": []}
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    name = ast.unparse(node.func).rpartition(".")[2]
                    kind = "print" if name.startswith("print") else "write" if writers.fullmatch(name) else ""
                    calls.get(kind, []).append(node.lineno)
            for printed in calls["print"]:
                # What is printed where the function returns stands in a branch of its own.
                late = [line for line in calls["write"] if line > printed]
                assert not late or function.name in ("show", "view"), f"{path.name}: {function.name}: line {late}"


def test_help_is_the_docstring_of_the_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(load_command("train"), args=["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "number of steps of the schedule (default: 400 for easyocc-demo, 84000 for easyocc)" in shown
    assert "--class-weighting {none,inverse_sqrt,inverse_log} class weights of the cross-entropy" in shown
