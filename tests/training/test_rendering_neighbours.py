"""What a photometric loss compares an image with: sweeps where there are any, else key frames; and runs say which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_rendering_training import CONFIG
from torch import Tensor

from occlift.cli.loop import LoopOptions, train_as
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError
from occlift.losses.rendering import photometric_loss
from occlift.scenes.dataset import split_tokens
from occlift.teachers.registry import depth_teacher, semantics_teacher
from occlift.training.frames import OccupancyFrames
from occlift.training.rendering import RenderingTraining
from occlift.training.rendering_frames import Neighbours, RenderingFrames
from occlift.training.rendering_task import RenderingLossConfig, _colours, _warped


def frames_of(root: Path, neighbours: Neighbours, *, rows: int = 6, columns: int = 11) -> RenderingFrames:
    data = NuScenes.open(root)
    return RenderingFrames(
        data, OccupancyFrames(data, split_tokens(data, "train"), height=48, width=88),
        semantics=semantics_teacher("oracle:perfect", data), depth=depth_teacher("oracle:perfect", data),
        ray_height=rows, ray_width=columns, neighbours=neighbours,
    )  # fmt: skip


def test_neighbours_are_adjacent_images_in_the_frame_of_the_key_frame(town_with_sweeps: Path) -> None:
    data, frames = NuScenes.open(town_with_sweeps), frames_of(town_with_sweeps, "sweeps")
    first, last = frames[0], frames[1]
    assert first.exists.tolist() == [[[False] * 6, [True] * 6]]
    assert last.exists.tolist() == [[[True] * 6, [False] * 6]]
    _, after = data.adjacent_images(first.tokens[0])
    here, image = data.key_frame(first.tokens[0]).cameras[4], after[4]
    assert image is not None
    expected = np.linalg.inv(image.global_from_camera) @ here.global_from_camera
    assert np.allclose(first.neighbour_from_camera()[0, 1, 4], expected, atol=1e-3)
    # What stands in for an image that does not exist is the image itself.
    assert torch.equal(first.neighbours[0].images, first.frame.images)
    assert not torch.equal(first.neighbours[1].images, first.frame.images)
    assert torch.equal(first.mirrored().neighbours[1].images, first.neighbours[1].images.flip(-1))


def test_true_depth_explains_adjacent_images_better_than_a_guess(town_with_sweeps: Path) -> None:
    """Poses, intrinsics and times of the sweeps at once: any of them wrong, and the images do not match."""
    batch = frames_of(town_with_sweeps, "sweeps", rows=48, columns=88)[0]
    assert batch.depth_m is not None
    neighbours = torch.stack([_colours(neighbour) for neighbour in batch.neighbours], 1)
    exists, truth_m = batch.exists.transpose(1, 2).flatten(0, 1), batch.depth_m[0].clamp(max=80.0)

    def loss(depth_m: Tensor) -> float:
        warped, visible = _warped(neighbours, depth_m, batch)
        return float(photometric_loss(_colours(batch.frame), warped, visible, neighbours, exists))

    assert loss(truth_m) < 0.97 * min(loss(truth_m * 0.5), loss(truth_m * 2), loss(torch.full_like(truth_m, 3.0)))


def test_a_run_takes_sweeps_where_there_are_any_and_says_so(
    town_with_sweeps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = RenderingTraining(data=NuScenes.open(town_with_sweeps), config=CONFIG)
    train_as(spec, "rendering-demo", LoopOptions(out=tmp_path, max_steps=1))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["config"]["neighbours"] == "sweeps"
    said = record["remarks"]["neighbours"]
    assert said.startswith("adjacent images of the same camera, 0.083 s and ")
    assert f"neighbours: {said}" in capsys.readouterr().out


def test_which_neighbours_follows_from_the_data_unless_it_is_said(small_town: Path, town_with_sweeps: Path) -> None:
    def resolved(root: Path, **changes: object) -> tuple[str, dict[str, str]]:
        spec = RenderingTraining(data=NuScenes.open(root), config=replace(CONFIG, **changes))  # type: ignore[arg-type]
        frames = spec.frames()
        return spec.resolved(frames).config.neighbours, spec.remarks(frames)

    neighbours, said = resolved(small_town)
    assert neighbours == "key_frames"
    assert said["neighbours"].startswith("the key frames before and after, 0.5")
    assert resolved(town_with_sweeps, neighbours="key_frames")[0] == "key_frames"
    assert resolved(town_with_sweeps, loss=RenderingLossConfig(photometric=0.0)) == ("auto", {})
    with pytest.raises(ConfigError, match="neighbours in time: needs camera images between its key frames"):
        resolved(small_town, neighbours="sweeps")
