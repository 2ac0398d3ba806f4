"""The option --space: a chain of commands in classes and a grid of one's own, and what contradicts them."""

from __future__ import annotations

import json
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from networks import tiny_easyocc

from occlift.cli import load_command, main
from occlift.cli.commands import COMMANDS
from occlift.label_space import OCC3D, LabelSpace, read_space, to_toml
from occlift.labels.files import prediction_path, read_prediction
from occlift.labels.manifest import open_manifest, recorded_space
from occlift.models.rendering import RenderingConfig
from occlift.training.checkpoint import load_easyocc
from occlift.training.occupancy import TrainConfig

MINE = """
[grid]
lower_m = [-12.8, -12.8, -1]
voxel_size_m = 0.8
shape = [32, 32, 8]

[[class]]
name = "road"
ground = true

[[class]]
name = "other ground"
ground = true

[[class]]
name = "vehicle"
moving = true

[[class]]
name = "person"
moving = true
thin = true

[[class]]
name = "structure"

[[class]]
name = "vegetation"
"""

MAPPING = """
others = "unknown"
barrier = "structure"
bicycle = "vehicle"
bus = "vehicle"
car = "vehicle"
construction_vehicle = "vehicle"
motorcycle = "vehicle"
pedestrian = "person"
traffic_cone = "structure"
trailer = "vehicle"
truck = "vehicle"
driveable_surface = "road"
other_flat = "other ground"
sidewalk = "other ground"
terrain = "other ground"
manmade = "structure"
"""


class Shell:
    """Runs commands in a folder, as from a command line."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capsys = patch, capsys

    def __call__(self, words: str) -> str:
        """What a command prints; it has to succeed."""
        self._patch.setattr(sys, "argv", ["occlift", *words.split()])
        main()
        return self._capsys.readouterr().out

    def refused(self, words: str) -> str:
        """The one sentence with which a command ends that cannot do what it is asked."""
        self._patch.setattr(sys, "argv", ["occlift", *words.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        said = self._capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("occlift: ")
        return said


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_a_chain_of_commands_works_in_a_space_of_ones_own(
    shell: Shell, small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("occlift.cli.training._recipes", lambda: {"easyocc-demo": TrainConfig(model=tiny_easyocc())})
    town = f"nuscenes:{small_town}"
    (tmp_path / "mine.toml").write_text(MINE)
    (tmp_path / "from_occ3d.toml").write_text(MAPPING)
    mine = read_space("mine.toml")
    label = f"label {town} --out labels --frames 1 --semantics-option mapping=from_occ3d.toml"
    assert "8 labels made" in shell(f"{label} --space mine.toml")
    assert recorded_space(tmp_path / "labels") == mine
    # What a folder says about itself needs not be said again, and cannot be unsaid.
    assert "8 were there already" in shell(label)
    said = shell.refused(f"{label} --space occ3d")
    assert "--space occ3d and the labels in labels are not about the same grid and classes" in said

    said = shell.refused(f"train easyocc-demo {town} --labels labels --space semantickitti --out run --steps 2")
    assert "--space semantickitti and the labels in labels" in said
    shell(f"train easyocc-demo {town} --labels labels --out run --steps 2")
    assert load_easyocc(tmp_path / "run/last.ckpt").config.space == mine
    assert LabelSpace.from_dict(json.loads((tmp_path / "run/run.json").read_text())["config"]["model"]["space"]) == mine

    shell(f"predict run/last.ckpt {town} --out predictions")
    token = sorted(path.stem for path in (tmp_path / "predictions").glob("*.npz"))[0]
    assert read_prediction(prediction_path(tmp_path / "predictions", token), space=mine).shape == (32, 32, 8)

    assert "driveable_surface → road" in shell(
        f"convert-labels {small_town}/gts --to mine.toml --mapping from_occ3d.toml --out truth"
    )
    assert recorded_space(tmp_path / "truth") == mine
    printed = shell(
        f"evaluate --predictions predictions --truth truth --mask camera lidar --rays --root {town} --json a.json"
    )
    assert "mIoU 6" in printed
    assert LabelSpace.from_dict(json.loads((tmp_path / "a.json").read_text())["space"]) == mine
    said = shell.refused("evaluate --predictions predictions --truth truth --mask camera --space occ3d")
    assert "--space occ3d and the labels in truth" in said

    printed = shell(f"audit labels --truth truth --mask camera --root {town} --json b.json")
    assert "vegetation" in printed
    audited = json.loads((tmp_path / "b.json").read_text())
    assert audited["scores_unknown_as_free"]["iou_camera"] > 60
    assert audited["class_iou_camera"]["road"] > 60

    printed = shell(f"show {town} {token} --labels labels --out show")
    assert (tmp_path / "show/occupancy.png").stat().st_size > 1000
    said = shell.refused(f"show {town} {token} --labels labels --out show --space occ3d")
    assert "--space occ3d and the labels in labels" in said
    said = shell.refused(f"pretrain occfeat-demo {town} --space mine.toml")
    assert "--space says what labels are about: it needs --labels" in said


def test_published_spaces_are_mapped_from_what_the_oracle_sees(shell: Shell, small_town: Path, tmp_path: Path) -> None:
    """Without a mapping file, since the classes are a preset's; on a grid that is made smaller here."""
    kitti = read_space("semantickitti")
    grid = type(kitti.grid)(lower_m=(0, -12.8, -1), voxel_size_m=(0.8, 0.8, 0.8), shape=(16, 32, 8))
    (tmp_path / "kitti.toml").write_text(to_toml(LabelSpace(grid=grid, taxonomy=kitti.taxonomy)))
    shell(
        f"label {small_town} --out labels --frames 1 --space kitti.toml --semantics oracle:perfect "
        "--depth oracle:perfect"
    )
    shell(f"convert-labels {small_town}/gts --to kitti.toml --out truth")
    shell("audit labels --truth truth --mask camera --json a.json")
    audited = json.loads((tmp_path / "a.json").read_text())
    assert audited["scores_known"]["iou_camera"] > 75
    assert audited["class_iou_camera"]["road"] > 60
    assert audited["class_iou_camera"]["building"] > 10
    (tmp_path / "mine.toml").write_text(MINE)
    said = shell.refused(f"label {small_town} --out others --space mine.toml")
    assert (
        "teacher oracle:foundation, from Occ3D's classes, without its option mapping=FILE: there is no class for"
        in said
    )


def test_the_commands_about_spaces(shell: Shell, tmp_path: Path) -> None:
    printed = shell("space occ3d")
    (tmp_path / "mine.toml").write_text(printed)
    assert read_space("mine.toml") == OCC3D
    (tmp_path / "mine.toml").write_text(MINE)
    (tmp_path / "again.toml").write_text(shell("space mine.toml"))
    assert read_space("again.toml") == read_space("mine.toml")
    listed = shell("space --list")
    assert (
        "semantickitti: 19 classes on 256×256×32 voxels of 0.2 m, from (0, -25.6, -2) to (51.2, 25.6, 4.4) m" in listed
    )
    assert "0 road, 1 sidewalk, 2 building" in listed
    assert "did you mean 'occ3d'" in shell.refused("space oc3d")
    (tmp_path / "mine.toml").write_text(MINE.replace("0.8", "-0.8"))
    assert "mine.toml: grid: voxel_size_m is -0.8; expected" in shell.refused("space mine.toml")


def test_files_of_other_projects_say_what_they_are(shell: Shell, small_town: Path, tmp_path: Path) -> None:
    town = f"nuscenes:{small_town}"
    said = shell.refused(f"convert-labels {small_town}/gts --to surroundocc --out files")
    assert "the data set is needed (--root)" in said
    shell(f"convert-labels {small_town}/gts --to surroundocc --out files --root {town}")
    assert len(list((tmp_path / "files").glob("*__LIDAR_TOP__*.pcd.bin.npy"))) == 8
    # As they are published, without a word about their classes.
    (tmp_path / "files/manifest.json").unlink()
    assert "8 labels" in shell(f"convert-labels files --to occ3d --layout npz --out plain --root {town}")
    assert recorded_space(tmp_path / "plain") == OCC3D


def test_trainings_get_the_space_that_is_named_or_that_the_labels_have(
    shell: Shell, small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    def remember(spec: Any, out: Path, **rest: Any) -> None:
        raise Asked(spec.config)

    monkeypatch.setattr("occlift.training.run.run_training", remember)

    def config_of(words: str) -> Any:
        with pytest.raises(Asked) as asked:
            shell(words)
        return asked.value.args[0]

    space = read_space("surroundocc")
    open_manifest(tmp_path / "labels", {}, space).write(tmp_path / "labels")
    for options in ("--labels labels", "--labels elsewhere --space surroundocc"):
        assert config_of(f"train easyocc-demo {small_town} {options}").model.space == space
        assert config_of(f"train easyocc {small_town} {options}").model.space == space
        assert config_of(f"train-rendering rendering-demo {small_town} {options}").model.space == space
        assert config_of(f"pretrain occfeat-demo {small_town} {options} --occupancy labels").space == space
    contracted = config_of(f"train-rendering rendering {small_town} --contracted --space semantickitti").model
    assert contracted.space == read_space("semantickitti")
    assert contracted.network.output_shape == (384, 384, 48)
    assert config_of(f"train-rendering rendering {small_town} --contracted").model == RenderingConfig.full(
        contracted=True
    )
    (tmp_path / "odd.toml").write_text(MINE.replace("[32, 32, 8]", "[33, 32, 8]"))
    said = shell.refused(f"train easyocc-demo {small_town} --labels elsewhere --space odd.toml")
    assert "horizontal stride 2 does not divide the output grid (33, 32, 8)" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_data_sets_are_named_by_texts(name: str) -> None:
    """A path would swallow what stands before the folder in `frames:/data`."""
    hints = typing.get_type_hints(load_command(name), include_extras=True)
    for parameter, hint in hints.items():
        words = [getattr(one, "metavar", None) for one in typing.get_args(hint)[1:]]
        if parameter == "root" or "ROOT" in words:
            assert "Path" not in str(typing.get_args(hint)[0]), (name, parameter)
            assert "str" in str(typing.get_args(hint)[0]), (name, parameter)
