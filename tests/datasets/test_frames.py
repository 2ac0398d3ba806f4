"""The plain folder `frames:`: what it means, what is refused and how it is said, and writing one."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import frames_folder
import jsonschema
import msgspec
import numpy as np
import pytest
from frames_folder import FORWARD, complete, documented, write
from label_runs import contents

from occlift import LabelConfig, generate_labels, open_dataset
from occlift.datasets.frames.layout import Calibration, Frame
from occlift.datasets.frames.writer import write_frames
from occlift.errors import ConfigError, DataError, OccliftError
from occlift.scenes.dataset import DrivingDataset, HasBoxes, HasTruthMaps

SCHEMAS = frames_folder.REPOSITORY / "src" / "occlift" / "datasets" / "frames"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete folder; not to be changed."""
    return write(tmp_path_factory.mktemp("rig"), complete())


def test_the_documented_example_means_what_it_says(tmp_path: Path) -> None:
    calibration, lines = documented()
    root = write(tmp_path, {"monday/calibration.json": calibration, "monday/frames.jsonl": lines})
    data = open_dataset(f"frames:{root}")
    assert isinstance(data, DrivingDataset)
    assert data.cameras == ("front", "left", "right")
    assert data.key_frame_tokens("monday") == ("monday_0", "monday_500000", "monday_1000000")
    frame = data.key_frame("monday_1000000")
    assert frame.global_from_ego[:3, 3].tolist() == [4.0, 0.0, 0.0]
    front, left, right = frame.cameras
    assert front.read().shape == (400, 640, 3)
    # Ten metres ahead at the height of the camera, and ten metres to the left: in the middle of their images.
    for image, point_ego in ((front, [11.8, 0.0, 1.4]), (left, [1.04, 10.9, 1.2]), (right, [1.0, -10.9, 1.2])):
        point_camera = np.linalg.inv(frame.ego_from_camera(image)) @ [*point_ego, 1.0]
        assert point_camera[2] == pytest.approx(10.0)
        uvw = image.intrinsics_px @ point_camera[:3]
        # The example's principal point is in OpenCV's convention: the middle of 640 columns is 319.5 there.
        np.testing.assert_allclose(uvw[:2] / uvw[2], [image.width / 2, image.height / 2], atol=1e-9)
    assert left.timestamp_us == 1_010_000
    assert left.global_from_ego_at_image[0, 3] == 4.04
    assert right.global_from_ego_at_image is not left.global_from_ego_at_image
    valid = front.source.valid()
    assert valid is not None
    assert valid[0, 0]
    assert not valid[-1, 0]
    assert left.source.valid() is None
    assert frame.lidar is None
    assert not isinstance(data, HasBoxes)
    assert not isinstance(data, HasTruthMaps)
    with pytest.raises(DataError, match="no scene 'friday'"):
        data.key_frame_tokens("friday")
    with pytest.raises(DataError, match="no key frame 'friday_0'"):
        data.key_frame("friday_0")


def test_lidar_boxes_and_splits_are_read(rig: Path) -> None:
    data = open_dataset(f"frames:{rig}")
    assert (data.scenes("train"), data.scenes("val"), data.scenes()) == (("monday",), ("tuesday",), data.scenes("all"))
    with pytest.raises(ConfigError, match="train, val, all"):
        data.scenes("test")
    frame = data.key_frame("monday_500000")
    sweep = frame.lidar_sweep()
    assert sweep.timestamp_us == 520_000
    assert sweep.source.read().shape == (50, 4)
    assert isinstance(data, HasBoxes)
    (box,) = data.boxes("monday_500000")
    assert box.global_from_box[:3, 3].tolist() == [12.0, 2.0, 0.8]
    assert (box.size_lwh_m, box.category, box.visibility) == ((4.5, 1.9, 1.6), "vehicle.car", 0.8)
    again = pickle.loads(pickle.dumps(data))
    assert str(again.spec) == str(data.spec) == f"frames:{rig}"
    assert again.key_frame_tokens("tuesday") == data.key_frame_tokens("tuesday")


def test_poses_may_be_matrices_or_objects_and_rounded_rotations_become_exact(tmp_path: Path) -> None:
    files = complete()
    camera = files["monday/calibration.json"]["cameras"]["front"]
    camera["ego_from_camera"] = [[0, 0, 1, 1.8], [-1, 0, 0, 0], [0, -1, 0, 1.4], [0, 0, 0, 1]]
    line = files["monday/frames.jsonl"][1]
    line["global_from_ego"] = {"translation_m": [2, 0, 0], "rotation": [[0.866, -0.5, 0], [0.5, 0.866, 0], [0, 0, 1]]}
    data = open_dataset(f"frames:{write(tmp_path, files, pixels=False)}")
    frame = data.key_frame("monday_500000")
    assert frame.cameras[0].ego_at_image_from_camera[:3, 3].tolist() == [1.8, 0.0, 1.4]
    rotation = frame.global_from_ego[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation[:2, 0], [0.866, 0.5], atol=1e-3)


def test_bin_sweeps_have_the_stated_number_of_columns(tmp_path: Path) -> None:
    files = complete()
    files["monday/calibration.json"]["lidar"]["columns"] = 5
    files["monday/frames.jsonl"][0]["lidar"] = "lidar/0.bin"
    root = write(tmp_path, files)
    points = np.arange(30, dtype="<f4").reshape(6, 5)
    points.tofile(root / "monday" / "lidar" / "0.bin")
    sweep = open_dataset(f"frames:{root}").key_frame("monday_0").lidar_sweep()
    np.testing.assert_array_equal(sweep.source.read(), points)
    (root / "monday" / "lidar" / "0.bin").write_bytes(bytes(24))
    with pytest.raises(DataError, match=r"0\.bin: expected 5 float32 numbers per point.*got 6 numbers"):
        sweep.source.read()


def test_a_folder_without_splits_is_split_by_name(tmp_path: Path) -> None:
    files = complete()
    del files["splits.json"]
    data = open_dataset(f"frames:{write(tmp_path, files, pixels=False)}")
    assert (data.scenes("train"), data.scenes("val")) == (("monday",), ("tuesday",))


# What is done to a complete folder: file, keys, new value (`GONE`: taken away) → what the error must name.
GONE = object()
CALIBRATION, LINES = "monday/calibration.json", "monday/frames.jsonl"
FRONT = (CALIBRATION, "cameras", "front")
FIRST = (LINES, 0)
IDENTITY = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]

Mutation = tuple[tuple[Any, ...], Any, str]
MUTATIONS: dict[str, Mutation] = {
    # Missing.
    "no calibration": ((CALIBRATION,), GONE, "monday/calibration.json: no such file"),
    "no frames": ((LINES,), GONE, "monday/frames.jsonl: no such file"),
    "no cameras": ((CALIBRATION, "cameras"), GONE, "cameras"),
    "empty cameras": ((CALIBRATION, "cameras"), {}, "cameras"),
    "no width": ((*FRONT, "width"), GONE, "field cameras.front.*width"),
    "no height": ((*FRONT, "height"), GONE, "field cameras.front.*height"),
    "no intrinsics": ((*FRONT, "intrinsics_px"), GONE, "field cameras.front.*intrinsics_px"),
    "no fx": ((*FRONT, "intrinsics_px", "fx"), GONE, "field cameras.front.intrinsics_px.*fx"),
    "no cy": ((*FRONT, "intrinsics_px", "cy"), GONE, "field cameras.front.intrinsics_px.*cy"),
    "no mounting": ((*FRONT, "ego_from_camera"), GONE, "field cameras.front.*ego_from_camera"),
    "no translation": ((*FRONT, "ego_from_camera", "translation_m"), GONE, "front.ego_from_camera.*translation"),
    "no rotation": ((*FRONT, "ego_from_camera", "rotation"), GONE, "cameras.front.ego_from_camera.*rotation"),
    "no lidar mounting": ((CALIBRATION, "lidar", "ego_from_lidar"), GONE, "field lidar.*ego_from_lidar"),
    "no lidar in the calibration": ((CALIBRATION, "lidar"), GONE, "line 1: field lidar: .*has no lidar"),
    "no time": ((*FIRST, "timestamp_us"), GONE, "line 1.*timestamp_us"),
    "no pose": ((*FIRST, "global_from_ego"), GONE, "line 1.*global_from_ego"),
    "no images": ((*FIRST, "images"), GONE, "line 1.*images"),
    "empty images": ((*FIRST, "images"), {}, "line 1: field images"),
    "no path": ((LINES, 2, "images", "left", "path"), GONE, "line 3: field images.left.*path"),
    "no lidar path": ((*FIRST, "lidar", "path"), GONE, "line 1: field lidar.*path"),
    "no box category": ((*FIRST, "boxes", 0, "category"), GONE, r"line 1: field boxes\[0\].*category"),
    "no box place": ((*FIRST, "boxes", 0, "ego_from_box"), GONE, r"boxes\[0\].*global_from_box"),
    "no lines": ((LINES,), [], "has no line"),
    # Wrong type.
    "calibration is no JSON": ((CALIBRATION,), "{cameras: 3", "calibration.json: not valid JSON"),
    "calibration is a list": ((CALIBRATION,), "[1, 2]", "calibration.json: expected a JSON object"),
    "calibration is no text": ((CALIBRATION,), b"\xff\xfe\x00", "calibration.json: expected text in UTF-8"),
    "a line is no JSON": ((LINES,), '{"timestamp_us": 0,', "line 1: not valid JSON"),
    "frames are one list": ((LINES,), "[{}]", "line 1: expected a JSON object"),
    "deep nonsense": ((CALIBRATION,), "[" * 100_000, "calibration.json: "),
    "cameras are a list": ((CALIBRATION, "cameras"), [1], "field cameras"),
    "camera is a number": (FRONT, 3, "field cameras.front"),
    "width is text": ((*FRONT, "width"), "640", "field cameras.front.width.*int.*str"),
    "width is a fraction": ((*FRONT, "width"), 640.5, "field cameras.front.width"),
    "width is zero": ((*FRONT, "width"), 0, "field cameras.front.width"),
    "intrinsics are a matrix": ((*FRONT, "intrinsics_px"), [[1, 0, 0]], "field cameras.front.intrinsics_px"),
    "mounting is text": ((*FRONT, "ego_from_camera"), "forward", "field cameras.front.ego_from_camera"),
    "mask is a number": ((*FRONT, "mask"), 1, "field cameras.front.mask"),
    "time is text": ((*FIRST, "timestamp_us"), "0", "line 1: field timestamp_us"),
    "time is a fraction": ((*FIRST, "timestamp_us"), 0.5, "line 1: field timestamp_us"),
    "time is negative": ((*FIRST, "timestamp_us"), -1, "line 1: field timestamp_us"),
    "images are a list": ((*FIRST, "images"), ["images/front/0.jpg"], "line 1: field images"),
    "image is a number": ((*FIRST, "images", "front"), 3, "line 1: field images.front"),
    "image is null": ((*FIRST, "images", "front"), None, "line 1: field images.front"),
    "boxes are an object": ((*FIRST, "boxes"), {}, "line 1: field boxes"),
    "box is a number": ((*FIRST, "boxes", 0), 1, r"line 1: field boxes\[0\]"),
    "box size is short": ((*FIRST, "boxes", 0, "size_lwh_m"), [1, 2], r"boxes\[0\].size_lwh_m"),
    "box size is negative": ((*FIRST, "boxes", 0, "size_lwh_m"), [1, -2, 1], r"boxes\[0\].size_lwh_m"),
    "visibility above 1": ((*FIRST, "boxes", 0, "visibility"), 80, r"boxes\[0\].visibility"),
    "splits is a list": (("splits.json",), "[]", "splits.json: expected a JSON object"),
    "split is a name": (("splits.json", "train"), "monday", "splits.json: field "),
    # Not finite, no rotation.
    "focal length NaN": ((*FRONT, "intrinsics_px", "fx"), float("nan"), "calibration.json: NaN"),
    "principal point infinite": ((*FRONT, "intrinsics_px", "cx"), float("inf"), "calibration.json: Infinity"),
    "number too large": ((CALIBRATION,), '{"cameras": {"a": {"width": 1e999}}}', "cameras.a"),
    "position overflows": (
        (LINES,),
        '{"timestamp_us": 0, "global_from_ego": {"translation_m": [1e999, 0, 0], "rotation": [1, 0, 0, 0]}, '
        '"images": {"front": "a.jpg"}}',
        "line 1: field global_from_ego.translation_m: expected finite numbers",
    ),
    "focal length zero": ((*FRONT, "intrinsics_px", "fy"), 0, "field cameras.front.intrinsics_px.fy"),
    "focal length in millimetres": ((*FRONT, "intrinsics_px", "fx"), 0.5, "front.intrinsics_px: expected .* focal"),
    "focal length negative": ((*FRONT, "intrinsics_px", "fx"), -500, "field cameras.front.intrinsics_px.fx"),
    "scaled rotation": (
        (*FRONT, "ego_from_camera", "rotation"), [[0, 0, 2], [-2, 0, 0], [0, -2, 0]],
        "field cameras.front.ego_from_camera.rotation: expected a rotation",
    ),
    "skewed rotation": (
        (*FRONT, "ego_from_camera", "rotation"), [[0, 0.1, 1], [-1, 0, 0], [0, -1, 0]],
        "field cameras.front.ego_from_camera.rotation: expected a rotation",
    ),
    "mirrored rotation": (
        (*FRONT, "ego_from_camera", "rotation"), [[0, 0, 1], [1, 0, 0], [0, -1, 0]],
        "field cameras.front.ego_from_camera.rotation: .*mirror image",
    ),
    "rotation of zeros": ((*FIRST, "global_from_ego", "rotation"), [0, 0, 0, 0], "global_from_ego.rotation"),
    "long quaternion": ((*FIRST, "global_from_ego", "rotation"), [2, 0, 0, 0], "which has the length 2"),
    "three numbers": ((*FIRST, "global_from_ego", "rotation"), [0, 0, 1.5], "3×3 matrix.*or a unit quaternion"),
    "ragged rotation": ((*FIRST, "global_from_ego", "rotation"), [[1, 0], [0, 1]], "global_from_ego.rotation"),
    "last row": ((*FIRST, "global_from_ego"), [*IDENTITY[:3], [0, 0, 1, 1]], "the last row.*\\[0, 0, 0, 1\\]"),
    "three rows": ((*FIRST, "global_from_ego"), IDENTITY[:3], "line 1: field global_from_ego"),
    "transposed pose": (
        (*FIRST, "global_from_ego"), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [2, 0, 0, 1]], "the last row",
    ),
    "no rotation in an image's pose": (
        (LINES, 2, "images", "left", "global_from_ego", "rotation"), [0.5, 0, 0, 0],
        "line 3: field images.left.global_from_ego.rotation",
    ),
    # Unknown and duplicated.
    "misspelt field": ((*FRONT, "widht"), 3, "field cameras.front: .*widht.*known: width"),
    "misspelt field of a frame": ((*FIRST, "timestamp"), 3, "line 1: .*timestamp.*known: timestamp_us"),
    "unknown camera": ((*FIRST, "images", "back"), "b.jpg", "line 1: field images.back: .*front, left, right"),
    "unknown lens": ((*FRONT, "distortion"), {"model": "magic"}, "field cameras.front.distortion: .*magic"),
    "unknown parameter": ((*FRONT, "distortion"), {"model": "mei", "k9": 1}, "field cameras.front.distortion: .*k9"),
    "both frames of a box": ((*FIRST, "boxes", 0, "global_from_box"), FORWARD, r"boxes\[0\]: expected one of"),
    "field twice": ((CALIBRATION,), '{"cameras": {"a": 1, "a": 2}}', "'a' stands twice"),
    "image twice in a frame": ((*FIRST, "images", "left"), "images/front/0.jpg", "images.left: the file .* too"),
    "image twice in a scene": ((LINES, 1, "images", "front"), "images/front/0.jpg", "line 2: field images.front: the"),
    "token twice": ((LINES, 1, "token"), "monday_0", "line 2: field token: .*line 1"),
    "token of another scene": ((LINES, 1, "token"), "tuesday_0", "token tuesday_0 stands at .*monday"),
    "object twice": ((*FIRST, "boxes"), "twice", r"line 1: field boxes\[1\].instance: '7' stands twice"),
    "scene twice in a split": (("splits.json", "train"), ["monday", "monday"], "field train: monday stands twice"),
    "scene in train and val": (("splits.json", "val"), ["monday"], "monday is in train and in val"),
    "unknown scene": (("splits.json", "val"), ["friday"], "field val: there is no scene friday; the scenes are"),
    "split named all": (("splits.json", "all"), ["monday"], "field all"),
    # Out of order.
    "same time": ((LINES, 1, "timestamp_us"), 0, "line 2: field timestamp_us: 0 does not come after 0"),
    "backwards": ((LINES, 2, "timestamp_us"), 400_000, "line 3: field timestamp_us: 400000 does not come"),
    "image times": (
        (LINES, 2, "images", "left", "timestamp_us"), 3, "line 3: field images.left.timestamp_us: 3 does not",
    ),
    # Outside the folder, unsafe names.
    "path goes up": ((*FIRST, "images", "front"), "../../etc/passwd", "line 1: field images.front: .*not lie inside"),
    "path is absolute": ((*FIRST, "images", "front"), "/etc/passwd", "line 1: field images.front: .*not lie inside"),
    "path of Windows": ((*FIRST, "images", "front"), "C:\\a.jpg", "line 1: field images.front: .*not lie inside"),
    "path is empty": ((*FIRST, "images", "front"), "", "line 1: field images.front"),
    "path is a dot": ((*FIRST, "images", "front"), ".", "line 1: field images.front: .*not lie inside"),
    "path goes up in an object": (
        (LINES, 2, "images", "left", "path"), "a/../../b.jpg", "line 3: field images.left.path: .*does not lie inside",
    ),
    "lidar goes up": ((*FIRST, "lidar", "path"), "../x.npy", "line 1: field lidar.path: .*does not lie inside"),
    "lidar of another kind": ((*FIRST, "lidar", "path"), "lidar/0.pcd", r"line 1: field lidar: .*\.npy or \.bin"),
    "mask goes up": ((*FRONT, "mask"), "../mask.png", "field cameras.front.mask: .*does not lie inside"),
    "token with a slash": ((*FIRST, "token"), "a/b", "line 1: field token 'a/b' cannot be used"),
    "camera with a slash": ((CALIBRATION, "cameras", "a/b"), {}, "camera 'a/b' cannot be used"),
}  # fmt: skip


def mutate(files: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    """Changes one value in the files."""
    *outer, last = path
    owner: Any = files
    for key in outer:
        owner = owner[key]
    if value is GONE:
        del owner[last]
    elif value == "twice":
        owner[last] = owner[last] * 2
    else:
        owner[last] = value


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_an_error_that_names_file_and_field(name: str, tmp_path: Path) -> None:
    path, value, expected = MUTATIONS[name]
    files = complete()
    mutate(files, path, value)
    root = write(tmp_path / "rig", files, pixels=False)
    with pytest.raises(DataError, match=expected):
        open_dataset(f"frames:{root}")


def test_every_mutation_is_a_mutation(rig: Path) -> None:
    assert len(MUTATIONS) >= 60
    open_dataset(f"frames:{rig}")


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda rig: (rig / "images/front/1.jpg").unlink(), "1.jpg: no such file"),
        (lambda rig: (rig / "images/front/1.jpg").write_bytes(b"no image"), "front/1.jpg: not a readable image"),
        (lambda rig: frames_folder._save(rig / "images/front/1.jpg", np.zeros((8, 8), np.uint8)), "8×8 .*400×640"),
        (lambda rig: frames_folder._save(rig / "masks/front.png", np.zeros((8, 8), np.uint8)), "mask has 8×8.*400×640"),
        (lambda rig: frames_folder._save(rig / "masks/front.png", np.full((400, 640), 255, np.uint8)), "leaves 0%"),
        (lambda rig: (rig / "masks/front.png").unlink(), "masks/front.png: no such file"),
        (lambda rig: (rig / "lidar/1.npy").write_bytes(b"no array"), "lidar/1.npy: not a readable sweep"),
        (lambda rig: (rig / "lidar/1.npy").unlink(), "lidar/1.npy: no such file"),
        (lambda rig: np.save(rig / "lidar/1.npy", np.zeros((0, 4), np.float32)), "lidar/1.npy: the sweep has no point"),
        (lambda rig: np.save(rig / "lidar/1.npy", np.zeros(8, np.float32)), "lidar/1.npy: expected numbers"),
    ],
)  # fmt: skip
def test_check_names_broken_files(break_it: Callable[[Path], object], expected: str, tmp_path: Path) -> None:
    root = write(tmp_path / "rig", complete())
    break_it(root / "monday")
    command = [sys.executable, "-m", "occlift", "check", f"frames:{root}", "--out", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run
    assert "Traceback" not in run.stderr
    assert re.search(expected, run.stdout), run.stdout
    assert "  train: 1 scene (monday)\n  val: " in run.stdout, "which scenes a split has"


def test_a_bare_folder_of_frames_is_told_apart(rig: Path) -> None:
    with pytest.raises(DataError, match=rf"it can be opened as frames:{rig}"):
        open_dataset(rig)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(f"frames:{tmp_path}/nothing")
    with pytest.raises(DataError, match=r"calibration\.json and frames\.jsonl, but it has no folder"):
        open_dataset(f"frames:{tmp_path}")


@pytest.mark.parametrize(("name", "kind"), [("calibration", Calibration), ("frames", Frame)])
def test_the_schemas_say_what_the_reader_does(name: str, kind: type) -> None:
    path = SCHEMAS / f"{name}.schema.json"
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
    assert json.loads(path.read_text()) == schema, f"write it anew: {json.dumps(schema, indent=2)}"
    calibration, lines = documented()
    for value in [calibration] if kind is Calibration else lines:
        jsonschema.validate(value, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"cameras": {"front": {}}}, schema)


def test_a_town_written_as_frames_gives_the_same_labels_to_the_byte(small_town: Path, tmp_path: Path) -> None:
    town = open_dataset(small_town)
    write_frames(town, tmp_path / "frames", splits=("train", "val"))
    copy = open_dataset(f"frames:{tmp_path / 'frames'}")
    assert copy.scenes("val") == town.scenes("val")
    assert copy.cameras == town.cameras
    config = LabelConfig(semantics="oracle:foundation", depth="oracle:foundation", frames=3)
    for name, data in (("town", town), ("copy", copy)):
        generate_labels(data, tmp_path / name, config)
    labels, copied = (
        {path: data for path, data in contents(tmp_path / name).items() if path.endswith(".npz")}
        for name in ("town", "copy")
    )
    assert len(labels) == 8
    assert labels == copied
    boxes = [[box.global_from_box.tolist() for box in data.boxes(token)] for data in (town, copy)  # type: ignore[attr-defined]
             for token in town.key_frame_tokens(town.scenes()[0])]  # fmt: skip
    assert boxes[: len(boxes) // 2] == boxes[len(boxes) // 2 :]


def test_writing_refuses_a_folder_that_is_in_use(small_town: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OccliftError, match="is not empty"):
        write_frames(open_dataset(small_town), tmp_path)


def test_masks_survive_writing(rig: Path, tmp_path: Path) -> None:
    write_frames(open_dataset(f"frames:{rig}"), tmp_path / "copy")
    first, second = (open_dataset(f"frames:{root}").key_frame("monday_0") for root in (rig, tmp_path / "copy"))
    for one, other in zip(first.cameras, second.cameras, strict=True):
        np.testing.assert_array_equal(one.source.read(), other.source.read())
        np.testing.assert_array_equal(one.intrinsics_px, other.intrinsics_px)
        np.testing.assert_array_equal(one.source.valid(), other.source.valid())
    np.testing.assert_array_equal(first.lidar_sweep().source.read(), second.lidar_sweep().source.read())
