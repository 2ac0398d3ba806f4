"""Networks in ONNX files, read by a small TOML: what the focal length does, to the pixel; and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frames import key_frame
from PIL import Image

from occlift.errors import ConfigError
from occlift.label_space import CAR, DRIVEABLE_SURFACE, FREE, OCC3D, UNKNOWN
from occlift.scenes.frames import CameraImage
from occlift.scenes.sources import ImageFile
from occlift.teachers import onnx_spec
from occlift.teachers.onnx_depth import shift_of
from occlift.teachers.onnx_spec import read_depth_spec, spec_names
from occlift.teachers.registry import depth_teacher, semantics_teacher

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

HEIGHT, WIDTH = 24, 40
FOCAL_PX = (50.0, 55.0)


def camera(folder: Path, image: np.ndarray | None = None, *, name: str = "FRONT") -> CameraImage:
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8) if image is None else image
    path = folder / f"{name}.png"
    Image.fromarray(image).save(path)
    return CameraImage(
        camera=name, key=name, source=ImageFile(path), timestamp_us=0, height=image.shape[0], width=image.shape[1],
        intrinsics_px=np.array([[FOCAL_PX[0], 0, WIDTH / 2], [0, FOCAL_PX[1], HEIGHT / 2], [0, 0, 1]]),
        ego_at_image_from_camera=np.eye(4), global_from_ego_at_image=np.eye(4),
    )  # fmt: skip


def write_graph(
    path: Path,
    nodes: Sequence[tuple[str, Sequence[str], str, dict[str, int]]],
    outputs: Sequence[str],
    *,
    image: tuple[Any, ...] = ("b", 3, "h", "w"),
    inputs: dict[str, tuple[Any, ...]] | None = None,
    **constants: np.ndarray,
) -> Path:
    """A graph of nodes (operator, what it reads, what it makes, attributes); `inputs` are those beside the image."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    given = [helper.make_tensor_value_info("image", floats, list(image))]
    for name, shape in (inputs or {}).items():
        kind = onnx.TensorProto.INT64 if name == "num_tokens" else floats
        given.append(helper.make_tensor_value_info(name, kind, list(shape)))
    graph = helper.make_graph(
        [helper.make_node(operator, list(read), [made], **how) for operator, read, made, how in nodes],
        "tiny", given, [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def spec(path: Path, depth: str, read: str = "", more: str = "") -> None:
    """The TOML beside a graph."""
    size = f"height = {HEIGHT}\nwidth = {WIDTH}\n" if "height" not in read else ""
    fit = 'fit = "stretch"\n' if "fit" not in read else ""
    path.with_suffix(".toml").write_text(f"[input]\n{size}{fit}{read}\n{more}\n[depth]\n{depth}\n")


def options(**more: str) -> dict[str, str]:
    return {"device": "cpu", **more}


def test_specs_that_come_with_the_library_can_be_read() -> None:
    assert set(spec_names()) == {"metric3d", "depth-anything-3-metric", "moge-2", "unidepth-v2"}
    focal = {name: read_depth_spec(name, Path("model.onnx")).focal_px for name in spec_names()}
    assert focal == {"metric3d": 1000, "depth-anything-3-metric": 300, "moge-2": None, "unidepth-v2": None}


def test_depth_anything_3_is_metric_by_the_focal_length_of_the_stretched_image(tmp_path: Path) -> None:
    # The sky is where the image is bright; a fixed input of 14 × 28, to which both axes shrink differently.
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[: HEIGHT // 2] = 255
    nodes = [
        ("Gather", ("image", "red"), "sky", {"axis": 1}),
        ("Mul", ("sky", "zero"), "nothing", {}),
        ("Add", ("nothing", "seven"), "depth", {}),
    ]
    path = write_graph(
        tmp_path / "da3.onnx", nodes, ["depth", "sky"], image=(1, 3, 14, 28), red=np.array([0]),
        zero=np.float32(0), seven=np.float32(7),
    )  # fmt: skip
    teacher = depth_teacher(f"onnx-depth:{path}", options=options(spec="depth-anything-3-metric"))
    (found,) = teacher.depth(key_frame(camera(tmp_path, image)))
    focal_px = (FOCAL_PX[0] * 28 / WIDTH + FOCAL_PX[1] * 14 / HEIGHT) / 2
    assert np.isnan(found.depth_m[: HEIGHT // 2 - 2]).all()
    assert found.depth_m[HEIGHT // 2 + 2 :] == pytest.approx(7 * focal_px / 300, rel=1e-6)


def plane(height: int, width: int, focal_px: float) -> np.ndarray:
    """Points of the ground 1.5 m below a camera, and of a wall 30 m before it, at the centres of pixels."""
    v, u = np.meshgrid(np.arange(height) + 0.5 - height / 2, np.arange(width) + 0.5 - width / 2, indexing="ij")
    depth = np.minimum(30, focal_px * 1.5 / np.maximum(v, 1e-6))
    return np.stack((u / focal_px * depth, v / focal_px * depth, depth), -1).astype(np.float32)


def test_moge_2_is_metric_by_the_shift_that_the_focal_length_determines(tmp_path: Path) -> None:
    truth = plane(HEIGHT, WIDTH, 52.5)
    points = (truth - np.array([0, 0, 4.0], np.float32)) / 2.5
    mask = np.ones((1, HEIGHT, WIDTH), np.float32)
    mask[0, :, :3] = 0
    # What the mask leaves out must not move the rest.
    points[:, :3] += 17
    nodes = [
        ("Identity", ("all_points",), "points", {}),
        ("Identity", ("shown",), "mask", {}),
        ("Identity", ("factor",), "metric_scale", {}),
    ]
    path = write_graph(
        tmp_path / "moge.onnx", nodes, ["points", "mask", "metric_scale"], inputs={"num_tokens": ()},
        all_points=points[None], shown=mask, factor=np.array([2.5], np.float32),
    )  # fmt: skip
    teacher = depth_teacher(f"onnx-depth:{path}", options=options(spec="moge-2"))
    image = camera(tmp_path)
    # Of the same size as the image: the spec allows 900 × 1600, and images are not enlarged beyond its proportions.
    (found,) = teacher.depth(key_frame(image))
    expected = plane(HEIGHT, WIDTH, 52.5)[..., 2]
    assert np.isnan(found.depth_m[:, :3]).all()
    assert found.depth_m[:, 3:] == pytest.approx(expected[:, 3:], rel=1e-3)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 5.0])
def test_the_shift_is_found_whatever_the_size_of_the_map(shift: float) -> None:
    truth = plane(200, 300, 250.0)
    moved = truth - np.array([0, 0, shift], np.float32)
    known = np.ones((200, 300), bool)
    assert shift_of(moved, known, 250.0, (200, 300)) == pytest.approx(shift, abs=1e-3)
    # The same rays in an input of half the size.
    assert shift_of(moved, known, 125.0, (100, 150)) == pytest.approx(shift, abs=1e-3)
    assert shift_of(moved, ~known, 250.0, (200, 300)) == 0


def test_unidepth_v2_is_told_the_rays_of_the_padded_input(tmp_path: Path) -> None:
    nodes = [("Mul", ("rays", "ten"), "pts_3d", {})]
    size = (1, 3, 28, 42)
    path = write_graph(
        tmp_path / "unidepth.onnx", nodes, ["pts_3d"], image=size, inputs={"rays": size}, ten=np.float32(10)
    )
    text = (Path(onnx_spec.__file__).parent / "onnx_specs/unidepth-v2.toml").read_text()
    path.with_suffix(".toml").write_text(text.replace('name = "rgbs"', 'name = "image"'))
    (found,) = depth_teacher(f"onnx-depth:{path}", options=options()).depth(key_frame(camera(tmp_path)))
    # 10 m along the ray: nearest at the centre. The input is coarser than the image, so a cell is off by a pixel.
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    ray = np.stack(((u - WIDTH / 2) / FOCAL_PX[0], (v - HEIGHT / 2) / FOCAL_PX[1], np.ones_like(u)))
    assert found.depth_m == pytest.approx(10 / np.linalg.norm(ray, axis=0), rel=0.015)


def test_all_cameras_of_a_key_frame_may_be_views_of_one_input(tmp_path: Path) -> None:
    # Depth is red less the mean of all views: each view needs the others.
    nodes = [
        ("Gather", ("image", "red"), "reds", {"axis": 2}),
        ("ReduceMean", ("reds",), "mean", {}),
        ("Sub", ("reds", "mean"), "above", {}),
        ("Add", ("above", "hundred"), "depth", {}),
    ]
    path = write_graph(
        tmp_path / "views.onnx", nodes, ["depth"], image=(1, "views", 3, "h", "w"), red=np.array([0]),
        hundred=np.float32(100),
    )  # fmt: skip
    spec(path, 'output = "depth"', "views = true")
    frame = key_frame(*(
        camera(tmp_path, np.full((HEIGHT, WIDTH, 3), value, np.uint8), name=f"C{value}") for value in (10, 20, 60)
    ))  # fmt: skip
    maps = depth_teacher(f"onnx-depth:{path}", options=options()).depth(frame)
    assert [float(one.depth_m.mean()) for one in maps] == pytest.approx([80, 90, 130])


def test_inverse_depth_units_and_intrinsics(tmp_path: Path) -> None:
    # 1 / output is depth in centimetres, of a camera of focal length 100; the output is f_x / 1000.
    nodes = [
        ("Gather", ("K", "first"), "rows", {"axis": 1}),
        ("ReduceMax", ("rows",), "f", {}),
        ("Mul", ("f", "thousandth"), "small", {}),
        ("Gather", ("image", "first"), "reds", {"axis": 1}),
        ("Mul", ("reds", "zero"), "nothing", {}),
        ("Add", ("nothing", "small"), "inverse", {}),
    ]
    path = write_graph(
        tmp_path / "inverse.onnx", nodes, ["inverse"], inputs={"K": ("b", 3, 3)}, first=np.array([0]),
        thousandth=np.float32(0.001), zero=np.float32(0),
    )  # fmt: skip
    depth = 'output = "inverse"\nquantity = "inverse depth"\nunit_m = 0.01\nfocal_px = 100'
    spec(path, depth, 'intrinsics = "K"\nname = "image"')
    (found,) = depth_teacher(f"onnx-depth:{path}", options=options()).depth(key_frame(camera(tmp_path)))
    assert found.depth_m == pytest.approx(0.01 * 52.5 / 100 / 0.05, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[depth]\noutput = 'd'", "input is missing"),
        ("[input]\nheight=4\nwidth=4\nfit='crop'\n[depth]\noutput='d'", "fit is 'crop'; expected one of pad, stretch"),
        ("[input]\nheight=0\nwidth=4\nfit='pad'\n[depth]\noutput='d'", "height is 0; expected pixels"),
        ("[input]\nheight=4\nwidth=4\nfit='pad'\nstd=[1,0,1]\n[depth]\noutput='d'", "std is .*above 0"),
        ("[input]\nheight=4\nwidth=4\nfit='pad'\n[depth]\noutput='d'\nfocal=3", "focal means nothing here"),
        ("[input]\nheight=4\nwidth=4\nfit='pad'\n[depth]\noutput='d'\nshift=true", "shift is true; expected quantity"),
        ("[input]\nheight=4\nwidth=4\nfit='pad'\n[depth]\noutput='d'\n[unknown]\noutput='s'", "either above or below"),
        ("[input", "not readable as TOML"),
    ],
)
def test_specs_that_mean_nothing_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write_graph(tmp_path / "a.onnx", [("Identity", ("image",), "d", {})], ["d"])
    path.with_suffix(".toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"a\.toml: .*{message}"):
        depth_teacher(f"onnx-depth:{path}")


def test_what_a_spec_and_an_export_do_not_agree_on_is_said(tmp_path: Path) -> None:
    frame = key_frame(camera(tmp_path))
    path = write_graph(tmp_path / "a.onnx", [("Identity", ("image",), "d", {})], ["d"], inputs={"mystery": ("b",)})
    with pytest.raises(ConfigError, match=r"a\.toml: cannot be read .*spec= one of depth-anything-3-metric, "):
        depth_teacher(f"onnx-depth:{path}")
    for depth, read, more, message in (
        ('output = "d"', "", "", "says what the input mystery is"),
        ('output = "e"', "", "[constants]\nmystery = 1", "expected an output called e"),
        ('output = "d"', 'name = "pixels"', "[constants]\nmystery = 1", "expected an input called pixels"),
        ('output = "d"', 'rays = "r"', "[constants]\nmystery = 1", "expected an input called r"),
        (
            'output = "d"',
            "",
            "[constants]\nmystery = 1",
            r"shape \[3, 24, 40\] per image; expected one number for each",
        ),
    ):
        spec(path, depth, read, more)
        with pytest.raises(ConfigError, match=message):
            depth_teacher(f"onnx-depth:{path}", options=options()).depth(frame)


@pytest.mark.parametrize("holds", ["logits", "probabilities", "ids"])
def test_classes_of_an_export_become_those_of_the_label_space(tmp_path: Path, holds: str) -> None:
    # The network's classes are the channels of the image: red road, green sky, blue car.
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, : WIDTH // 2, 0] = 255
    image[: HEIGHT // 2, WIDTH // 2 :, 1] = 255
    image[HEIGHT // 2 :, WIDTH // 2 :, 2] = 255
    how = ("ArgMax", ("image",), "out", {"axis": 1}) if holds == "ids" else ("Identity", ("image",), "out", {})
    path = write_graph(tmp_path / "classes.onnx", [how], ["out"])
    path.with_suffix(".toml").write_text(
        f'[input]\nheight = {HEIGHT}\nwidth = {WIDTH}\nfit = "stretch"\nstd = [255.0, 255.0, 255.0]\n'
        f'[classes]\noutput = "out"\nholds = "{holds}"\nnames = ["road", "Sky", "vehicle of mine"]\n'
    )
    with pytest.raises(ConfigError, match="there is no class for 'vehicle of mine'"):
        semantics_teacher(f"onnx-classes:{path}")
    mapping = tmp_path / "mapping.toml"
    mapping.write_text('"vehicle of mine" = "car"\n')
    teacher = semantics_teacher(f"onnx-classes:{path}", options=options(mapping=str(mapping)))
    (found,) = teacher.semantics(key_frame(camera(tmp_path, image)))
    assert (found.class_id[:, : WIDTH // 2] == DRIVEABLE_SURFACE).all()
    assert (found.class_id[: HEIGHT // 2, WIDTH // 2 :] == FREE).all()
    assert (found.class_id[HEIGHT // 2 :, WIDTH // 2 :] == CAR).all()
    score = {"logits": np.exp(1) / (np.exp(1) + 2), "probabilities": 1.0, "ids": 1.0}[holds]
    assert found.score == pytest.approx(score, rel=1e-6)
    unknown = tmp_path / "unknown.toml"
    unknown.write_text('"vehicle of mine" = "unknown"\n')
    other = semantics_teacher(f"onnx-classes:{path}", options=options(mapping=str(unknown)))
    (found,) = other.semantics(key_frame(camera(tmp_path, image)))
    assert (found.class_id[HEIGHT // 2 :, WIDTH // 2 :] == UNKNOWN).all()
    assert (found.score[HEIGHT // 2 :, WIDTH // 2 :] == 0).all()
    assert other.settings != teacher.settings
    assert OCC3D.taxonomy.free == FREE
