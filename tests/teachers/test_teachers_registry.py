"""Teachers by name: options as text, what is ready, and how little that costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from frames import key_frame

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError, DataError
from occlift.labels.config import LabelConfig
from occlift.labels.generate import generate_labels
from occlift.scenes.dataset import DrivingDataset, HasTruthMaps, KeyFrameList
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.sources import ImageFile
from occlift.scenes.truth_maps import truth_maps_path
from occlift.teachers.options import configured
from occlift.teachers.registry import (
    DEPTH_TEACHERS,
    FEATURE_TEACHERS,
    SEMANTICS_TEACHERS,
    depth_teacher,
    feature_teacher,
    semantics_teacher,
    teacher_options,
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


def test_a_teacher_whose_packages_are_missing_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("occlift.runtime.extras.find_spec", lambda package: None)
    table = {row.name: row for row in teacher_table() if row.name in ("segmenter", "onnx-classes", "onnx-depth")}
    assert len(table) == 3
    assert not any(row.ready for row in table.values())
    assert all("pip install 'occlift[teachers]'" in row.note for row in table.values())


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
        "onnx-depth",
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


@pytest.mark.parametrize("name", sorted({*SEMANTICS_TEACHERS, *DEPTH_TEACHERS, *FEATURE_TEACHERS}))
def test_every_option_of_every_teacher_is_explained(name: str) -> None:
    for teacher in teacher_options(name):
        assert teacher.summary
        for option in teacher.options:
            assert option.values, option
            assert len(option.help.split()) > 1, option
            # A reader of the table cannot look into another class.
            assert "as in `" not in option.help, option
            for end, unit in (("_m", "metres"), ("_px", "pixels"), ("_rad", "radians")):
                assert option.unit == unit or not option.name.endswith(end), option


def test_options_are_listed_with_values_unit_and_default() -> None:
    (metric3d,) = teacher_options("metric3d")
    listed = {option.name: (option.values, option.unit, option.default) for option in metric3d.options}
    assert listed["max_depth_m"] == ("a number", "metres", "300.0")
    assert listed["upsampling"] == ("nearest, bilinear", "", "nearest")
    assert listed["model"] == ("a text", "", "onnx-community/metric3d-vit-giant2")
    assert listed["revision"] == ("a text, or none", "", "none")
    assert {option.name: option.default for option in teacher_options("onnx-depth")[0].options}["model"] == ""
    assert [teacher.kind for teacher in teacher_options("files")] == ["semantics", "depth"]
    with pytest.raises(ConfigError, match=r"no teacher called 'metric3' \(did you mean 'metric3d'\?\)"):
        teacher_options("metric3")


def test_asking_what_is_ready_loads_no_network() -> None:
    code = (
        "import sys; from occlift.teachers.registry import teacher_table; assert teacher_table(); "
        "heavy = {'torch', 'transformers', 'onnxruntime', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("build", "kind", "others"),
    [
        (
            lambda data: semantics_teacher("oracle:foundation", data),
            "classes",
            "grounded-sam, sam3, segmenter, onnx-classes, files",
        ),
        (
            lambda data: depth_teacher("oracle:perfect", data),
            "depth",
            "metric3d, onnx-depth, depth-pro, .*, lidar, files",
        ),
        (lambda data: feature_teacher("oracle", data), "features", "dinov2, dinov3"),
        # What labels are made with unless something else is said.
        (
            lambda data: generate_labels(data, Path("never"), LabelConfig()),
            "classes",
            "grounded-sam, sam3, segmenter, onnx-classes, files",
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


OWN_TEACHERS = """
from types import SimpleNamespace
import numpy as np
from occlift.teachers.teacher import DepthMap, SemanticMap


class Flat:
    def __init__(self, settings, value):
        self.settings, self.value = settings, value

    def depth(self, frame):
        shapes = [(camera.height, camera.width) for camera in frame.cameras]
        return [DepthMap(depth_m=np.full(s, self.value), confidence=np.ones(s, np.float32)) for s in shapes]

    def semantics(self, frame):
        shapes = [(camera.height, camera.width) for camera in frame.cameras][int(self.value == 3):]
        return [SemanticMap(class_id=np.zeros(s, np.uint8), score=np.ones(s, np.float32)) for s in shapes]


def flat(depth_m="10", *, taxonomy, seed):
    return Flat({"depth_m": depth_m, "seed": seed, "classes": taxonomy.num_classes}, np.float32(depth_m))


class Double(Flat):
    def depth(self, frame):
        return [SimpleNamespace(depth_m=np.full((4, 6), 1.0), confidence=None) for camera in frame.cameras]


def double():
    return Double({}, 1)


def nameless():
    return Flat({"what": object()}, np.float32(1))


def nothing():
    return 3


def failing():
    raise KeyError("weights")
"""


def six_images() -> KeyFrame:
    """A key frame whose images nobody opens."""
    return key_frame(*(
        CameraImage(
            camera=f"C{number}", key=f"C{number}", source=ImageFile(Path("none.png")), timestamp_us=0, height=4,
            width=6, intrinsics_px=np.eye(3), ego_at_image_from_camera=np.eye(4), global_from_ego_at_image=np.eye(4),
        )
        for number in range(6)
    ))  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_teachers_of_a_test.py").write_text(OWN_TEACHERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_teachers_of_a_test", raising=False)


@pytest.mark.usefixtures("own")
def test_a_teacher_of_ones_own_is_named_by_module_and_factory() -> None:
    frame = six_images()
    data = KeyFrameList([frame])
    module = "own_teachers_of_a_test"
    teacher = depth_teacher(f"{module}:flat", data, seed=7, options={"depth_m": "20"})
    assert teacher.settings == {
        "teacher": f"{module}:flat", "settings": {"depth_m": "20", "seed": 7, "classes": 18}
    }  # fmt: skip
    assert [one.depth_m.max() for one in teacher.depth(frame)] == [20] * len(frame.cameras)
    assert len(semantics_teacher(f"{module}:flat", data).semantics(frame)) == len(frame.cameras)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no_module_of_mine:flat", {}, "No module named 'no_module_of_mine'; expected module:factory"),
        ("own_teachers_of_a_test:round", {}, "has no attribute 'round'"),
        ("own_teachers_of_a_test:flat", {"depht_m": "1"}, "unexpected keyword argument 'depht_m'; check its options"),
        ("own_teachers_of_a_test:nameless", {}, "its settings are .*expected a mapping of JSON values"),
        ("own_teachers_of_a_test:nothing", {}, r"made a int, which has no method depth\(frame\)"),
        ("own_teachers_of_a_test:failing", {}, "the factory failed: KeyError: 'weights'"),
        ("metric3e:flat", {}, "No module named 'metric3e'"),
    ],
)
def test_a_teacher_of_ones_own_that_is_none(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        depth_teacher(name, options=options)


@pytest.mark.usefixtures("own")
def test_answers_of_ones_own_teacher_are_checked() -> None:
    frame = six_images()
    data = KeyFrameList([frame])
    with pytest.raises(DataError, match=r"depth_m of C0 in key frame .* is float64 .*an array of float32"):
        depth_teacher("own_teachers_of_a_test:double", data).depth(frame)
    teacher = semantics_teacher("own_teachers_of_a_test:flat", data, options={"depth_m": "3"})
    with pytest.raises(DataError, match=r"returned 5 maps for key frame .*expected a list of 6"):
        teacher.semantics(frame)


@pytest.mark.usefixtures("own")
def test_workers_of_a_training_are_never_given_a_teacher_that_runs_a_network(tmp_path: Path) -> None:
    from occlift.training.rendering import RenderingTrainConfig, RenderingTraining

    frames = [replace(six_images(), token=f"t{scene}", scene=f"s{scene}") for scene in range(5)]
    config = replace(
        RenderingTrainConfig.demo(), semantics="own_teachers_of_a_test:flat", semantics_options={"depth_m": "1"},
        pseudo=None,
    )  # fmt: skip
    training = RenderingTraining(data=KeyFrameList(frames), config=replace(config, workers=2))
    with pytest.raises(ConfigError, match=r"flat: runs a network .*the 2 workers .*--map-cache.*--workers 0"):
        training.frames()
    assert len(replace(training, config=replace(config, workers=0)).frames()) == 4
    files = replace(config, workers=2, semantics=f"files:{tmp_path}", semantics_options={})
    assert len(replace(training, config=files).frames()) == 4
