"""Pictures of bird's-eye-view networks: what they are asked for, and what they answer."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occlift.cli import main
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError
from occlift.evaluation.bev import evaluate_bev
from occlift.geometry.grids import BevGrid
from occlift.models.bev_network import BevNetworkConfig
from occlift.scenes.dataset import split_tokens
from occlift.training.bev import BevFinetuning, FinetuneConfig
from occlift.training.checkpoint import trained_blind
from occlift.training.corrupt import Corruption
from occlift.training.optimizer import OptimizerConfig
from occlift.training.run import run_training
from occlift.viz.bev_maps import AGREEMENT, agreement_image, probability_image
from occlift.viz.bev_pictures import Targets, show_prediction, show_targets

GRID = BevGrid(lower_m=(-10.0, -10.0), cell_size_m=(1.0, 1.0), shape=(20, 20))


def pixels(picture: Image.Image, x: int, y: int) -> list[int]:
    """The colour of cell [x, y] in a picture of five pixels a cell: forward is up, left is left."""
    return np.asarray(picture)[(19 - x) * 5 + 2, (19 - y) * 5 + 2].tolist()


def test_cells_are_found_missed_and_invented_where_they_lie() -> None:
    predicted, truth, ignored = (np.zeros((20, 20), bool) for _ in range(3))
    truth[18, 3] = predicted[18, 3] = True
    truth[17, 4] = True
    predicted[16, 5] = True
    truth[15, 18] = predicted[15, 18] = ignored[15, 18] = True
    picture = agreement_image(predicted, truth, ignored, GRID, pixels_per_cell=5)
    cells = ((18, 3), (17, 4), (16, 5), (15, 18))
    for (name, color), cell in zip(AGREEMENT, cells, strict=True):
        assert pixels(picture, *cell) == list(color), name
    assert pixels(picture, 18, 18) == [255, 255, 255]
    shades = probability_image(np.linspace(0, 1, 400).reshape(20, 20), GRID, pixels_per_cell=5)
    light, middle, dark = (sum(pixels(shades, x, 18)) for x in (0, 8, 19))
    assert light > middle > dark


def test_targets_are_drawn_on_the_images_and_from_above(
    small_town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = split_tokens(NuScenes.open(small_town), "all")[0]
    run = show_targets(
        NuScenes.open(small_town), token, tmp_path, Targets(teacher="oracle", teacher_options={"channels": "8"})
    )
    assert [path.name for path in run.paths] == [
        "occupancy_on_images.png", "occupancy.png", "features_on_images.png", "features.png"
    ]  # fmt: skip
    assert run.occupied + run.open + run.unknown == 200 * 200 * 8
    assert 0 < run.with_features < run.occupied
    drawn = [np.asarray(Image.open(path)).astype(int) for path in run.paths]
    # Where no image looks there is no feature: other pictures than those of occupancy.
    assert drawn[0].shape == drawn[2].shape
    assert (drawn[0] != drawn[2]).any()
    paper = [(picture == 255).all(-1).mean() for picture in (drawn[1], drawn[3])]
    assert paper[0] < paper[1] < 1
    command = ["occlift", "show-targets", str(small_town), token, "--out", str(tmp_path / "cli")]
    monkeypatch.setattr(sys, "argv", [*command, "--teacher", "oracle", "--teacher-option", "channels=8"])
    main()
    assert f"{run.occupied} voxels occupied" in capsys.readouterr().out
    assert (tmp_path / "cli/features.png").read_bytes() == (tmp_path / "features.png").read_bytes()
    monkeypatch.setattr(sys, "argv", [*command, "--teacher-option", "channels=8"])
    with pytest.raises(SystemExit):
        main()
    assert "--teacher-option needs --teacher" in capsys.readouterr().err


def test_a_network_is_drawn_and_a_blind_one_is_given_grey_images(small_town: Path, tmp_path: Path) -> None:
    network = replace(BevNetworkConfig.demo("simple_bev"), image_height=48, image_width=88, classes=("vehicle",))
    config = replace(FinetuneConfig.demo(), model=network, blind=True, split="all", optimizer=OptimizerConfig(steps=2))
    data = NuScenes.open(small_town)
    run = run_training(BevFinetuning(data=data, config=config), tmp_path / "run")
    token, another, *_ = split_tokens(data, "all")
    path = show_prediction(data, run.checkpoint, token, tmp_path)
    show_prediction(data, run.checkpoint, another, tmp_path)
    assert {file.name for file in tmp_path.glob("*.png")} == {f"bev-{token}.png", f"bev-{another}.png"}
    picture = np.asarray(Image.open(path))
    assert picture.shape[0] > 600
    missed, colors = AGREEMENT[1][1], picture.reshape(-1, 3)
    assert (colors == missed).all(1).sum() > 100, "after two steps nothing is found"
    assert trained_blind(run.checkpoint)
    with pytest.raises(ConfigError, match="blind"):
        evaluate_bev(data, run.checkpoint, split="all", corruptions=(Corruption(name="fog", strength=1),))
