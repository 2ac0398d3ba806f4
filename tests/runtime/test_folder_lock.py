"""Two runs that were started into one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from occlift.datasets.frames.writer import write_frames
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.demo import DemoConfig, run_demo
from occlift.errors import OccliftError
from occlift.evaluation.audit import write_shifted
from occlift.evaluation.baselines import write_labels_as_predictions, write_prior
from occlift.label_space import OCC3D
from occlift.labels.layouts import convert_labels
from occlift.models.easyocc import EasyOccConfig
from occlift.runtime.folder_lock import sole_run, sole_writer
from occlift.town.config import TownConfig
from occlift.town.write import write_town
from occlift.training.occupancy import OccupancyTraining, TrainConfig
from occlift.training.predict import predict
from occlift.training.run import run_training

WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "town": lambda town, out: write_town(out, TownConfig(scenes=1, frames=1)),
    "demo": lambda town, out: run_demo(out, DemoConfig.smoke(), command=""),
    "train": lambda town, out: run_training(
        OccupancyTraining(data=NuScenes.open(town), labels=town / "gts", config=TrainConfig()), out
    ),
    "predict": lambda town, out: predict(NuScenes.open(town), out, model=EasyOccConfig.demo()),
    "prior": lambda town, out: write_prior(NuScenes.open(town), town / "gts", out),
    "labels as predictions": lambda town, out: write_labels_as_predictions(NuScenes.open(town), town / "gts", out),
    "shift": lambda town, out: write_shifted(town / "gts", out, 1),
    "convert": lambda town, out: convert_labels(town / "gts", out, source=OCC3D, target=OCC3D, layout="npz"),
    "frames": lambda town, out: write_frames(NuScenes.open(town), out),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_that_another_run_writes_into_is_refused(writer: str, small_town: Path, tmp_path: Path) -> None:
    with sole_run(tmp_path), pytest.raises(OccliftError, match=r"another run is writing here \(process \d+ on "):
        WRITERS[writer](small_town, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def test_what_a_killed_run_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.17.ab.tmp").touch()
    (tmp_path / "last.ckpt").touch()
    with sole_writer(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".locks", "last.ckpt"]
