"""What a plan says against what the run then does."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from occlift.cli import call
from occlift.evaluation.label_plan import LabelPlan, plan_labels
from occlift.evaluation.timed_teachers import TeacherTime
from occlift.labels.config import LabelConfig
from occlift.labels.generate import generate_labels
from occlift.scenes import open_dataset

CONFIG = LabelConfig(semantics="oracle:perfect", depth="oracle:perfect", frames=3)


def test_a_plan_counts_what_is_missing_and_the_images_around_it(small_town: Path, tmp_path: Path) -> None:
    data = open_dataset(str(small_town))
    scenes = data.scenes()
    plan = plan_labels(data, tmp_path, CONFIG, scenes=scenes)
    assert (plan.labels, plan.there, plan.images, plan.probed) == (8, 0, 8 * 6, 3)
    assert not list(tmp_path.iterdir())
    generate_labels(data, tmp_path, CONFIG, scenes=scenes[:1])
    made = [path.parent for path in tmp_path.glob("*/*/labels.npz")]
    on_disk = sum(path.stat().st_size for folder in made for path in folder.iterdir()) / len(made)
    assert plan.label_bytes == pytest.approx(on_disk, rel=0.2)
    # The last label of the first scene is gone: it needs the maps of its own key frame and of the one before.
    shutil.rmtree(tmp_path / scenes[0] / data.key_frame_tokens(scenes[0])[-1])
    left = plan_labels(data, tmp_path, CONFIG, scenes=scenes)
    assert (left.labels, left.there, left.images) == (5, 3, (4 + 2) * 6)


def test_hours_and_memory_follow_from_images_labels_and_processes() -> None:
    classes = TeacherTime(first_s=30.0, per_image_s=2.0, images=12, only_first=False)
    plan = LabelPlan(
        labels=100, there=0, images=600, semantics=classes, depth=replace(classes, per_image_s=0.5), probed=3,
        fuse_s=21.0, label_bytes=1e5, maps_bytes=1e9, probe_bytes=2e9, cores=4,
    )  # fmt: skip
    assert plan.hours(1) == pytest.approx((600 * 2.5 + 100 * 21) / 3600)
    assert plan.hours(3) == pytest.approx(plan.hours(1) / 3)
    assert plan.hours(9) == pytest.approx(plan.hours(1) / 4)
    assert plan.peak_bytes(2) == 6e9


def test_the_command_prints_a_plan_and_writes_nothing(
    small_town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels"
    call("label", [str(small_town), "--out", str(out), "--split", "val", "--workers", "2", "--plan"])
    printed = capsys.readouterr().out
    assert printed.startswith("4 labels to make; 24 images through the teachers\n")
    assert re.search(r"oracle:foundation \(classes\): \S+ s per image\n", printed)
    assert re.search(r"time: \S+ (s|min) with one process, \S+ (s|min) with 2", printed)
    assert re.search(r"disk: \S+ [MG]B \(\d+ kB a label in the probe\)", printed)
    assert not out.exists()
