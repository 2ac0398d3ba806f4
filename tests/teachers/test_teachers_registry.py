"""Teachers by name: options as text, what is ready, and how little that costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError
from occlift.labels.config import LabelConfig
from occlift.labels.generate import generate_labels
from occlift.scenes.dataset import DrivingDataset, HasTruthMaps, KeyFrameList
from occlift.scenes.truth_maps import truth_maps_path
from occlift.teachers.options import configured
from occlift.teachers.registry import (
    DEPTH_TEACHERS,
    FEATURE_TEACHERS,
    SEMANTICS_TEACHERS,
    depth_teacher,
    feature_teacher,
    semantics_teacher,
    teacher_table,
)


@dataclass(frozen=True, kw_only=True)
class Options:
    root: Path
    count: int = 1
    share: float = 0.5
    fast: bool = True
    mode: Literal["near", "far"] = "near"
    words: tuple[str, ...] = ()
    size: tuple[int, int] = (1, 2)
    limit: float | None = 3.0


def test_options_are_read_by_their_types() -> None:
    written = {
        "root": "a/b",
        "count": "-7",
        "share": "1e-3",
        "fast": "No",
        "mode": "far",
        "words": "traffic cone, bus",
        "size": "4,5",
        "limit": "none",
    }
    assert configured(Options, {"count": 3}, written, teacher="t") == Options(
        root=Path("a/b"),
        count=-7,
        share=0.001,
        fast=False,
        mode="far",
        words=("traffic cone", "bus"),
        size=(4, 5),
        limit=None,
    )
    preset = configured(Options, {"count": 3, "root": Path("c")}, {"limit": "2", "words": ""}, teacher="t")
    assert preset == Options(root=Path("c"), count=3, limit=2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": "2.5"}, r"t: option count is '2\.5'; expected a whole number"),
        ({"share": "half"}, "option share is 'half'; expected a number"),
        ({"fast": "maybe"}, "option fast is 'maybe'; expected true or false"),
        ({"mode": "middle"}, "option mode is 'middle'; expected one of near, far"),
        ({"size": "4"}, "option size is '4'; expected 2 values"),
        ({"size": "4,x"}, "option size is '4,x'; expected a whole number"),
        ({"limit": ""}, "option limit is ''; expected a number"),
        ({"cuont": "1"}, r"t has no option 'cuont' \(did you mean 'count'\?\); it has root, count, share"),
        ({}, "t needs the option root; write root=VALUE, or t:VALUE"),
    ],
)
def test_wrong_options_say_what_was_expected(options: dict[str, str], message: str) -> None:
    preset = {"root": Path("a")} if options else {}
    with pytest.raises(ConfigError, match=message):
        configured(Options, preset, options, teacher="t")


def test_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"depth called 'metric3' \(did you mean 'metric3d'\?\); choose one of"):
        depth_teacher("metric3")
    with pytest.raises(ConfigError, match="features called 'oracle:perfect'"):
        feature_teacher("oracle:perfect")
    with pytest.raises(ConfigError, match="classes called 'grounded-sam:x'"):
        semantics_teacher("grounded-sam:x")
    with pytest.raises(ConfigError, match="files needs the option root"):
        semantics_teacher("files")
    with pytest.raises(ConfigError, match="root is given twice"):
        semantics_teacher(f"files:{tmp_path}", options={"root": "elsewhere"})
    # A folder may have a colon in its name.
    (tmp_path / "a:b").mkdir()
    assert depth_teacher(f"files:{tmp_path / 'a:b'}").settings["root"] == str(tmp_path / "a:b")


def test_the_table_lists_every_teacher_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    table = {(row.kind, row.name): row for row in teacher_table()}
    assert len(table) == len(SEMANTICS_TEACHERS) + len(DEPTH_TEACHERS) + len(FEATURE_TEACHERS)
    assert {name for kind, name in table if kind == "depth"} == {
        "oracle:perfect",
        "oracle:foundation",
        "oracle:measured",
        "metric3d",
        "depth-pro",
        "depth-anything",
        "lidar",
        "files",
    }
    for row in table.values():
        assert row.summary
        assert row.needs
        assert row.ready == (row.note == "")
    assert table["depth", "lidar"].ready
    assert table["semantics", "files"].ready
    assert table["features", "oracle"].ready
    for key in (("semantics", "grounded-sam"), ("semantics", "sam3"), ("depth", "depth-pro"), ("features", "dinov3")):
        assert not table[key].ready
        assert "hf download" in table[key].note
        assert str(tmp_path) in table[key].note


def test_asking_what_is_ready_loads_no_network() -> None:
    code = (
        "import sys; from occlift.teachers.registry import teacher_table; assert teacher_table(); "
        "heavy = {'torch', 'transformers', 'onnxruntime', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("build", "kind", "others"),
    [
        (lambda data: semantics_teacher("oracle:foundation", data), "classes", "grounded-sam, sam3, files"),
        (lambda data: depth_teacher("oracle:perfect", data), "depth", "metric3d, depth-pro, .*, lidar, files"),
        (lambda data: feature_teacher("oracle", data), "features", "dinov2, dinov3"),
        # What labels are made with unless something else is said.
        (
            lambda data: generate_labels(data, Path("never"), LabelConfig()),
            "classes",
            "grounded-sam, sam3, files",
        ),
    ],
)
def test_an_oracle_is_refused_where_nobody_knows_the_truth(
    build: Callable[[DrivingDataset], object], kind: str, others: str, tmp_path: Path, small_town: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tables,) = small_town.glob("v1.0-*")
    without_maps = NuScenes.open(shutil.copytree(tables, tmp_path / "data" / tables.name).parent)
    for data in (KeyFrameList([]), without_maps):
        with pytest.raises(
            ConfigError,
            match=rf"teacher oracle\S*: needs truth maps .*--maps\. Other images need another teacher of {kind}: "
            rf"{others} \(`occlift teachers`",
        ):
            build(data)
    assert not Path("never").exists()
    image = without_maps.key_frame(without_maps.key_frame_tokens(without_maps.scenes()[0])[0]).cameras[2]
    made = truth_maps_path(Path(image.source.name))
    made.parent.mkdir(parents=True)
    made.touch()
    assert isinstance(NuScenes.open(tmp_path / "data"), HasTruthMaps)
