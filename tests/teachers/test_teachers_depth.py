"""Depth by networks and by lidar: scaling, geometry to the pixel, and what stays open.

The networks are tiny and have random weights, or are ONNX graphs of four nodes; they go through the same loading code
as the published ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frames import key_frame
from PIL import Image

from occlift.datasets.nuscenes.lidar_file import LidarFile
from occlift.errors import ConfigError, DataError
from occlift.scenes.dataset import KeyFrameList
from occlift.scenes.frames import CameraImage, LidarSweep
from occlift.scenes.sources import ImageFile
from occlift.teachers import onnx_spec
from occlift.teachers.images import Placement, inscribed
from occlift.teachers.lidar import LidarDepth, LidarDepthConfig, densified
from occlift.teachers.onnx_depth import OnnxDepth, OnnxDepthConfig
from occlift.teachers.registry import DEPTH_TEACHERS, depth_teacher


def camera_at(
    folder: Path, image: np.ndarray, *, focal_px: tuple[float, float] = (100.0, 100.0), channel: str = "CAM_FRONT"
) -> CameraImage:
    """Writes an image without loss and describes its camera."""
    height, width = image.shape[:2]
    path = folder / f"{channel}.png"
    Image.fromarray(image).save(path)
    return CameraImage(
        camera=channel,
        key=f"{channel} token",
        source=ImageFile(path),
        timestamp_us=0,
        height=height,
        width=width,
        intrinsics_px=np.array([[focal_px[0], 0, width / 2], [0, focal_px[1], height / 2], [0, 0, 1]]),
        ego_at_image_from_camera=np.eye(4),
        global_from_ego_at_image=np.eye(4),
    )


def grey(height: int, width: int, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


# ---------------------------------------------------------------------------------------------------------- Metric3D


def write_onnx(
    path: Path,
    *,
    scale: float = 0.0,
    offset: float = 0.0,
    channel: int = 0,
    image: str = "pixel_values",
    depth: str = "predicted_depth",
    confidence: str = "",
    size: tuple[Any, ...] = ("batch", 3, "height", "width"),
    half: bool = False,
    keep_channel: bool = True,
) -> Path:
    """A graph with Metric3D's inputs and outputs: depth = `scale` · one channel of the input + `offset`."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    number = np.float16 if half else np.float32
    constants = {
        "channel": np.array([channel] if keep_channel else channel, np.int64),
        "scale": np.array(scale, number),
        "offset": np.array(offset, number),
        "percent": np.array(0.01, number),
    }
    nodes = [
        helper.make_node("Gather", [image, "channel"], ["picked"], axis=1),
        helper.make_node("Mul", ["picked", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], [depth]),
        helper.make_node("Mul", ["picked", "percent"], [confidence or "normal_confidence"]),
    ]
    outputs = [depth, confidence or "normal_confidence"]
    rank = ["b", 1, "h", "w"] if keep_channel else ["b", "h", "w"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(image, kind, list(size))],
        [helper.make_tensor_value_info(name, kind, rank) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def metric3d(path: Path, *, size: tuple[int, int] | None = None, **options: Any) -> OnnxDepth:
    """The network as the library's own spec describes it, or with an input of another (height, width)."""
    spec = "metric3d"
    if size is not None:
        text = (Path(onnx_spec.__file__).parent / "onnx_specs/metric3d.toml").read_text()
        text = text.replace("height = 616", f"height = {size[0]}").replace("width = 1064", f"width = {size[1]}")
        spec = f"{path}.spec"
        Path(spec).write_text(text)
    return OnnxDepth(OnnxDepthConfig(model=str(path), spec=spec, device="cpu", **options))


def test_metric3d_scales_by_the_focal_length_of_the_resized_image(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "constant.onnx", offset=20.0)
    # 900 × 1600 fits into 616 × 1064 at 0.665: f_x is 1266.4 · 0.665 there, so 20 m become 20 · 842.156 / 1000.
    nuscenes = camera_at(tmp_path, grey(900, 1600), focal_px=(1266.4, 1266.4))
    # A smaller copy of the same camera is the same camera.
    half = camera_at(tmp_path, grey(450, 800), focal_px=(633.2, 633.2), channel="CAM_BACK")
    # Limited by its height: 616 / 1000.
    tall = camera_at(tmp_path, grey(1000, 700), focal_px=(500.0, 500.0), channel="CAM_BACK_LEFT")
    maps = metric3d(path).depth(key_frame(nuscenes, half, tall))
    for depth, size, expected in zip(
        maps, [(900, 1600), (450, 800), (1000, 700)], [16.84312, 16.84312, 20 * 0.5 * 431 / 700], strict=True
    ):
        assert depth.depth_m.shape == depth.confidence.shape == size
        assert depth.depth_m.dtype == depth.confidence.dtype == np.float32
        assert depth.depth_m == pytest.approx(expected, rel=1e-5)
        assert (depth.confidence == 1).all()


def ramp(height: int, width: int) -> np.ndarray:
    """Red counts columns, green rows, blue is 200."""
    image = np.full((height, width, 3), 200, np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    return image


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [
        # Enlarged by 1.4, padded below by one row: (64 - 63) // 2 = 0 above.
        ((45, 80), (63, 112), (0, 0)),
        # Made smaller by 0.56 (112 / 200), in the middle: (64 - 28) // 2.
        ((50, 200), (28, 112), (18, 0)),
        # Limited by its height, padded left and right: (112 - 64) // 2.
        ((64, 64), (64, 64), (0, 24)),
        ((64, 112), (64, 112), (0, 0)),
    ],
)
@pytest.mark.parametrize("channel", [0, 1])
def test_metric3d_gives_every_pixel_the_depth_of_its_own_place(
    tmp_path: Path, size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int], channel: int
) -> None:
    path = write_onnx(tmp_path / "ramp.onnx", scale=1.0, offset=1.0, channel=channel)
    camera = camera_at(tmp_path, ramp(*size), focal_px=(1000.0, 1000.0))
    teacher = metric3d(path, size=(64, 112))
    depth_m = teacher.depth(key_frame(camera))[0].depth_m / (resized[1] / size[1]) - 1

    # A plain twin along the axis on which the colour changes: which cell of the input the centre of a pixel falls
    # into, and where in the image the centre of that cell lies; a bilinear resize keeps a ramp a ramp, up to its ends.
    axis = 1 - channel
    count, cells = size[axis], resized[axis]
    for pixel in range(count):
        cell = int((pixel + 0.5) * cells / count)
        place = min(max((cell + 0.5) * count / cells - 0.5, 0), count - 1)
        line = depth_m[:, pixel] if axis == 1 else depth_m[pixel]
        assert line == pytest.approx(place, abs=1e-3), pixel

    place = inscribed(camera, 64, 112)
    assert ((place.height, place.width), (place.top, place.left)) == (resized, corner)
    intrinsics_px = place.intrinsics_px(camera.intrinsics_px)
    assert intrinsics_px[0, 0] == pytest.approx(1000 * resized[1] / size[1])
    assert intrinsics_px[1, 1] == pytest.approx(1000 * resized[0] / size[0])
    assert intrinsics_px[0, 2] == pytest.approx(resized[1] / 2 + corner[1])
    assert intrinsics_px[1, 2] == pytest.approx(resized[0] / 2 + corner[0])


def test_metric3d_fills_up_with_the_mean_colour_and_reads_red_first() -> None:
    place = Placement(image_height=2, image_width=4, height=2, width=4, top=1, left=0, input_height=4, input_width=5)
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    whole = place.into_input(image, (123.675, 116.28, 103.53))
    assert whole.shape == (3, 4, 5)
    assert np.array_equal(whole[:, 1:3, :4], image.transpose(2, 0, 1))
    assert whole[:, 0, 0] == pytest.approx([123.675, 116.28, 103.53])
    assert (whole[0, 3] == np.float32(123.675)).all()
    assert (whole[2, :, 4] == np.float32(103.53)).all()


def test_pixels_that_are_not_square_become_square(tmp_path: Path) -> None:
    # f_y = 2 · f_x: a pixel is half as wide an angle high as it is wide. 60 columns become 112, so 60 rows become 56.
    camera = camera_at(tmp_path, grey(60, 60), focal_px=(300.0, 600.0))
    place = inscribed(camera, 64, 112)
    assert (place.height, place.width, place.top, place.left) == (56, 112, 4, 0)
    intrinsics_px = place.intrinsics_px(camera.intrinsics_px)
    assert intrinsics_px[0, 0] == pytest.approx(560)
    assert intrinsics_px[1, 1] == pytest.approx(560)


def test_metric3d_reads_both_exports(tmp_path: Path) -> None:
    camera = camera_at(tmp_path, ramp(64, 112), focal_px=(1000.0, 1000.0))
    frame = key_frame(camera, camera_at(tmp_path, ramp(64, 112), focal_px=(1000.0, 1000.0), channel="CAM_BACK"))
    expected = np.broadcast_to(np.arange(112) + 1.0, (64, 112))

    # A repository's folder; half precision; several images in a call.
    folder = write_onnx(tmp_path / "hub/onnx/model.onnx", scale=1.0, offset=1.0, half=True).parent.parent
    for options in ({}, {"batch": 6}):
        maps = metric3d(folder, size=(64, 112), **options).depth(frame)
        assert len(maps) == 2
        assert all(np.array_equal(depth.depth_m, expected) for depth in maps)

    # The authors' names, a size that is fixed (and wins over the options), and no axis for the one channel.
    fixed = write_onnx(
        tmp_path / "authors.onnx",
        scale=1.0,
        offset=1.0,
        image="image",
        depth="pred_depth",
        confidence="confidence",
        size=(1, 3, 64, 112),
        keep_channel=False,
    )
    for depth in metric3d(fixed, batch=6).depth(frame):
        assert np.array_equal(depth.depth_m, expected)
        # Its own confidence is red · 0.01, which goes beyond 1 and is cut there.
        assert depth.confidence[5] == pytest.approx(np.minimum(np.arange(112) * 0.01, 1), abs=1e-6)


def test_depths_are_clamped_and_zero_is_unknown(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "ramp.onnx", scale=1.0)
    frame = key_frame(camera_at(tmp_path, ramp(64, 112), focal_px=(1000.0, 1000.0)))
    options: dict[str, Any] = {"size": (64, 112)}
    depth_m = metric3d(path, max_depth_m=50.0, **options).depth(frame)[0].depth_m
    assert np.isnan(depth_m[:, 0]).all()
    assert np.array_equal(depth_m[3, 1:], np.minimum(np.arange(1, 112), 50))
    with pytest.raises(ConfigError, match="min_depth_m is 60"):
        metric3d(path, min_depth_m=60.0, max_depth_m=50.0)
    with pytest.raises(ConfigError, match=r"edge_ratio is 1\.0; expected a factor above 1"):
        metric3d(path, edge_ratio=1.0)


def test_bilinear_keeps_planes_and_leaves_edges_open() -> None:
    place = Placement(image_height=8, image_width=32, height=4, width=16, top=0, left=0, input_height=4, input_width=16)
    column = np.arange(16) + 0.5
    # A wall seen at an angle: its inverse depth changes linearly. It ends at column 10; behind it, 40 m away, another.
    depth = np.broadcast_to(np.where(column < 10, 1 / (0.2 - 0.01 * column), 40.0), (4, 16)).astype(np.float32)
    result = place.depth_onto_image(depth, "bilinear", edge_ratio=1.2)
    u = (np.arange(32) + 0.5) / 2
    for pixel in range(1, 32):
        if pixel in (19, 20):
            # Between the last cell of the one (centre 9.5) and the first of the other (10.5).
            assert np.isnan(result[:, pixel]).all()
        elif pixel < 19:
            assert result[:, pixel] == pytest.approx(1 / (0.2 - 0.01 * u[pixel]), rel=1e-5)
        else:
            assert result[:, pixel] == pytest.approx(40)
    nearest = place.depth_onto_image(depth, "nearest", edge_ratio=1.2)
    assert np.array_equal(nearest, depth.repeat(2, 0).repeat(2, 1))


def test_padding_is_never_mixed_into_the_image() -> None:
    # An image of 8 × 8 pixels is 4 × 4 of the input; around it, 100 m of nothing.
    place = Placement(image_height=8, image_width=8, height=4, width=4, top=1, left=3, input_height=6, input_width=10)
    depth = np.full((6, 10), 100, np.float32)
    depth[1:5, 3:7] = 5
    assert (place.onto_image(depth) == 5).all()
    assert place.depth_onto_image(depth, "bilinear", edge_ratio=1.1) == pytest.approx(5)
    # The same for a map at half the resolution: columns 1.5 to 3.5 of it are the image, only column 2 is that alone.
    place = Placement(image_height=8, image_width=8, height=4, width=4, top=0, left=3, input_height=4, input_width=10)
    coarse = np.full((2, 5), 100, np.float32)
    coarse[:, 2] = 5
    assert (place.onto_image(coarse) == 5).all()


def test_metric3d_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ConfigError, match=r"nobody/metric3d.*hf download nobody/metric3d"):
        depth_teacher("metric3d", options={"model": "nobody/metric3d"})
    write_onnx(tmp_path / "hub/other.onnx")
    with pytest.raises(ConfigError, match=r"onnx/model\.onnx: no such file.*file="):
        depth_teacher("metric3d", options={"model": str(tmp_path / "hub")})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'occlift\[teachers\]'"):
        depth_teacher(f"metric3d:{tmp_path / 'hub/other.onnx'}")


def test_metric3d_refuses_other_graphs(tmp_path: Path) -> None:
    frame = key_frame(camera_at(tmp_path, grey(64, 112)))
    wrong = write_onnx(tmp_path / "wrong.onnx", depth="logits")
    with pytest.raises(ConfigError, match=r"outputs \['logits'.*is the spec that of this"):
        metric3d(wrong).depth(frame)
    batches = write_onnx(tmp_path / "six.onnx", size=(6, 3, 64, 112))
    with pytest.raises(ConfigError, match="1 or any"):
        metric3d(batches).depth(frame)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(ConfigError, match=r"broken\.onnx: onnxruntime cannot load it"):
        metric3d(broken).depth(frame)


def test_images_of_another_size_than_the_tables_say(tmp_path: Path) -> None:
    camera = replace(camera_at(tmp_path, grey(64, 112)), height=128)
    with pytest.raises(DataError, match=r"64×112 pixels.*says 128×112"):
        metric3d(write_onnx(tmp_path / "a.onnx")).depth(key_frame(camera))


def test_metric3d_settings_name_the_weights_and_not_the_machine(tmp_path: Path) -> None:
    one = write_onnx(tmp_path / "a/model.onnx", offset=1.0)
    copy = write_onnx(tmp_path / "b/model.onnx", offset=1.0)
    other = write_onnx(tmp_path / "c/model.onnx", offset=2.0)
    assert metric3d(one).settings == metric3d(copy, batch=3).settings
    assert metric3d(one).settings != metric3d(other).settings
    assert metric3d(one).settings != metric3d(one, max_depth_m=80.0).settings
    # Weights outside of the graph count, too.
    copy.with_name("model.onnx_data").write_bytes(b"weights")
    assert metric3d(one).settings != metric3d(copy).settings


# ------------------------------------------------------------------------------------ Depth Pro and Depth Anything V2


def tiny_vit(**options: Any) -> Any:
    from transformers import Dinov2Config

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "mlp_ratio": 2}
    return Dinov2Config(**{**sizes, **options})


@pytest.fixture(scope="module")
def depth_pro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import DepthProConfig, DepthProForDepthEstimation

    torch.manual_seed(0)
    vit = {"image_size": 16, "patch_size": 4, "num_hidden_layers": 2}
    config = DepthProConfig(
        patch_size=16,
        fusion_hidden_size=16,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.25, 0.5, 1],
        scaled_images_overlap_ratios=[0.0, 0.5, 0.25],
        scaled_images_feature_dims=[8, 8, 8],
        use_fov_model=True,
        image_model_config=tiny_vit(**vit),
        patch_model_config=tiny_vit(**vit),
        fov_model_config=tiny_vit(**vit),
    )
    network = DepthProForDepthEstimation(config)
    # Inverse depths around 3, and above zero everywhere.
    torch.nn.init.normal_(network.head.layers[-2].weight, std=1e-3)
    torch.nn.init.constant_(network.head.layers[-2].bias, 3.0)
    folder = tmp_path_factory.mktemp("depth-pro")
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def depth_anything_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_depth_anything(tmp_path_factory.mktemp("depth-anything"), "metric")


def save_depth_anything(folder: Path, kind: str) -> Path:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

    torch.manual_seed(0)
    backbone = tiny_vit(
        image_size=28, patch_size=14, num_hidden_layers=4, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type=kind,
        max_depth=80,
    )
    network = DepthAnythingForDepthEstimation(config)
    # As the class initialises it, it says the same of every pixel.
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.2)
    network.save_pretrained(folder)
    return folder


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def predicted_by(network: Any, image: np.ndarray, size: tuple[int, int], mean: Any, std: Any, resample: int) -> Any:
    """What a network says about an image: a plain twin of the preprocessing, one image at a time."""

    small = np.array(Image.fromarray(image).resize(size[::-1], resample))
    pixels = (small / 255 - np.array(mean)) / np.array(std)
    with torch.no_grad():
        inputs = torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)
        return network(pixel_values=inputs).predicted_depth[0].numpy()


def nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(int)
    return values[rows][:, columns]


def test_depth_pro_takes_the_focal_length_that_is_known(tmp_path: Path, depth_pro_folder: Path) -> None:
    from transformers import DepthProForDepthEstimation

    image = noise(60, 100)
    camera = camera_at(tmp_path, image, focal_px=(90.0, 90.0))
    longer = camera_at(tmp_path, image, focal_px=(180.0, 180.0), channel="CAM_BACK")
    network = DepthProForDepthEstimation.from_pretrained(depth_pro_folder).eval()
    # 16 / 0.25: the coarsest copy of the input is one patch.
    half = (0.5, 0.5, 0.5)
    inverse = predicted_by(network, image, (64, 64), half, half, Image.Resampling.BILINEAR)
    expected = nearest(90 / (100 * inverse), 60, 100)
    assert expected.std() > 0.01 * expected.mean()
    for batch in ("1", "2"):
        options = {"model": str(depth_pro_folder), "device": "cpu", "batch": batch}
        first, second = depth_teacher("depth-pro", options=options).depth(key_frame(camera, longer))
        assert first.depth_m.shape == (60, 100)
        assert first.depth_m == pytest.approx(expected, rel=1e-4)
        assert second.depth_m == pytest.approx(2 * first.depth_m, rel=1e-4)
        assert (first.confidence == 1).all()


def test_depth_anything_is_metres(tmp_path: Path, depth_anything_folder: Path) -> None:
    from transformers import DepthAnythingForDepthEstimation

    image = noise(60, 100)
    network = DepthAnythingForDepthEstimation.from_pretrained(depth_anything_folder).eval()
    # 42 rows are 3 patches, 42 · 100 / 60 = 70 columns are 5.
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = nearest(predicted_by(network, image, (42, 70), mean, std, Image.Resampling.BICUBIC), 60, 100)
    assert 0 < expected.min() < expected.max() < 80
    options = {"model": str(depth_anything_folder), "device": "cpu", "input_height": "42"}
    teacher = depth_teacher("depth-anything", options=options)
    (depth,) = teacher.depth(key_frame(camera_at(tmp_path, image)))
    assert depth.depth_m == pytest.approx(expected, rel=1e-4)
    assert teacher.settings["precision"] == "float32"
    clamped = depth_teacher("depth-anything", options={**options, "max_depth_m": f"{np.median(expected)}"})
    (depth,) = clamped.depth(key_frame(camera_at(tmp_path, image)))
    assert depth.depth_m == pytest.approx(np.minimum(expected, np.median(expected)), rel=1e-4)


def test_networks_of_another_kind_are_refused(
    tmp_path: Path, depth_anything_folder: Path, depth_pro_folder: Path
) -> None:
    frame = key_frame(camera_at(tmp_path, noise(60, 100)))
    relative = save_depth_anything(tmp_path / "relative", "relative")
    with pytest.raises(ConfigError, match=r"depth_estimation_type 'relative'.*use a metric model"):
        depth_teacher(f"depth-anything:{relative}", options={"device": "cpu"}).depth(frame)
    with pytest.raises(ConfigError, match=r"depth_anything.*depth_pro"):
        depth_teacher(f"depth-pro:{depth_anything_folder}", options={"device": "cpu"}).depth(frame)
    with pytest.raises(ConfigError, match="hf download apple/NoDepth"):
        depth_teacher("depth-pro:apple/NoDepth")
    with pytest.raises(ConfigError, match="device 'gpu9'"):
        depth_teacher(f"depth-pro:{depth_pro_folder}", options={"device": "gpu9"}).depth(frame)
    with pytest.raises(ConfigError, match="batch is 0"):
        depth_teacher(f"depth-pro:{depth_pro_folder}", options={"batch": "0"})


# ---------------------------------------------------------------------------------------------------- fine enough


def depth_ramp(height: int = 120, width: int = 400) -> np.ndarray:
    """Depths of 20 to 60 m, all different along a row."""
    return np.broadcast_to(np.linspace(20, 60, width, dtype=np.float32), (height, width))


def ramp_by_metric3d(folder: Path) -> np.ndarray:
    # Red counts columns, so depths are 20.0, 20.1, ... on an input of the image's size.
    path = write_onnx(folder / "ramp.onnx", scale=0.1, offset=20.0)
    frame = key_frame(camera_at(folder, ramp(64, 224), focal_px=(1000.0, 1000.0)))
    return metric3d(path, size=(64, 224)).depth(frame)[0].depth_m


def ramp_by_files(folder: Path) -> np.ndarray:
    (folder / "maps/CAM_FRONT").mkdir(parents=True)
    np.save(folder / "maps/CAM_FRONT/CAM_FRONT.npy", depth_ramp())
    frame = key_frame(camera_at(folder, grey(120, 400)))
    return depth_teacher(f"files:{folder / 'maps'}").depth(frame)[0].depth_m


def ramp_by_oracle(folder: Path) -> np.ndarray:
    from occlift.scenes.truth_maps import TruthMaps

    class WithTruth(KeyFrameList):
        def truth_maps(self, image: CameraImage) -> TruthMaps:
            zeros = np.zeros((120, 400), np.uint8)
            return TruthMaps(semantics=zeros, depth_m=depth_ramp().copy(), instance=zeros.astype(np.uint16))

    frame = key_frame(camera_at(folder, grey(120, 400)))
    return depth_teacher("oracle:perfect", WithTruth([frame])).depth(frame)[0].depth_m


def ramp_by_lidar(folder: Path) -> np.ndarray:
    return filled(EVERYWHERE, 20 + EVERYWHERE[:, 0] / 10)[40:460, 20:380]


def ramp_by_network(name: str, folder: Path, weights: Path) -> np.ndarray:
    """What a network with random weights says of a smooth image; its arithmetic is half precision."""
    image = np.stack(np.broadcast_arrays(np.arange(0, 240, 0.6)[None], np.arange(120)[:, None], 99.0), -1)
    frame = key_frame(camera_at(folder, image.astype(np.uint8), focal_px=(9e3, 9e3)))
    options = {"model": str(weights), "device": "cpu", "precision": "bfloat16"}
    return depth_teacher(name, options=options).depth(frame)[0].depth_m


@pytest.mark.parametrize("name", sorted(DEPTH_TEACHERS))
def test_no_depth_teacher_has_steps_of_half_precision(
    name: str, tmp_path: Path, depth_anything_folder: Path, depth_pro_folder: Path
) -> None:
    makers: dict[str, Callable[[], np.ndarray]] = {
        "metric3d": lambda: ramp_by_metric3d(tmp_path),
        "onnx-depth": lambda: ramp_by_metric3d(tmp_path),
        "files": lambda: ramp_by_files(tmp_path),
        "oracle:perfect": lambda: ramp_by_oracle(tmp_path),
        # Its noise makes all depths different; what it noises is the map above.
        "oracle:foundation": lambda: ramp_by_oracle(tmp_path),
        "oracle:measured": lambda: ramp_by_oracle(tmp_path),
        "lidar": lambda: ramp_by_lidar(tmp_path),
        "depth-anything": lambda: ramp_by_network("depth-anything", tmp_path, depth_anything_folder),
        "depth-pro": lambda: ramp_by_network("depth-pro", tmp_path, depth_pro_folder),
    }
    depth_m = makers[name]()
    distinct = np.unique(depth_m[np.isfinite(depth_m)])
    # bfloat16 has 64 numbers from 16 to 32 m and 64 from 32 to 64 m, whatever the range of the network here.
    rounded = np.unique(torch.from_numpy(distinct).bfloat16().float().numpy())
    assert distinct.dtype == np.float32
    assert len(distinct) > 1.5 * len(rounded)


# ------------------------------------------------------------------------------------------------------------- lidar

FOCAL_PX = 1000.0
HEIGHT, WIDTH = 500, 400


def rings(v_px: np.ndarray, u_px: np.ndarray) -> np.ndarray:
    """Places of lidar points: rows of them, shifted against one another as those of a turning lidar are."""
    u, v = np.meshgrid(u_px, v_px)
    u = u + (np.arange(len(v_px)) * 2.3 % 7)[:, None]
    return np.stack((u.ravel(), v.ravel()), 1)


def filled(pixels_uv: np.ndarray, depth_m: np.ndarray, **options: float) -> np.ndarray:
    return densified(
        pixels_uv,
        depth_m.astype(float),
        height=HEIGHT,
        width=WIDTH,
        focal_px=FOCAL_PX,
        config=LidarDepthConfig(**options),
    )


EVERYWHERE = rings(np.arange(5.0, HEIGHT, 23), np.arange(-20.0, WIDTH + 20, 7))
ROW, COLUMN = np.arange(HEIGHT)[:, None] + 0.5, np.arange(WIDTH) + 0.5


def test_the_road_is_filled_and_exact() -> None:
    # The horizon at row 60, the camera 1.5 m high: rings at 21 and 41 m far away, far apart for their depths.
    road = EVERYWHERE[EVERYWHERE[:, 1] > 90]
    depth_m = filled(road, FOCAL_PX * 1.5 / (road[:, 1] - 60))
    expected = np.broadcast_to(FOCAL_PX * 1.5 / np.maximum(ROW - 60, 1), depth_m.shape)
    known = np.isfinite(depth_m)
    assert known[145:440, 20:380].all()
    assert not known[:95].any()
    assert depth_m[known] == pytest.approx(expected[known], rel=1e-4)
    # It is the plane that tells: by depth alone the far road is torn.
    torn = filled(road, FOCAL_PX * 1.5 / (road[:, 1] - 60), plane_tolerance=0.0)
    assert not np.isfinite(torn[145:200, 20:380]).any()


def test_no_depth_is_invented_across_an_edge() -> None:
    # A car 10 m away, before a wall 30 m away; beside it the wall goes down to the lower border.
    u, v = EVERYWHERE.T
    on_car = (u > 120) & (u < 280) & (v > 200)
    depth_m = filled(EVERYWHERE, np.where(on_car, 10.0, 30.0))
    known = np.isfinite(depth_m)
    assert np.isin(np.round(depth_m[known], 3), (10, 30)).all()
    assert (depth_m[240:470, 145:255] == 10).all()
    assert (depth_m[30:170, 20:380] == 30).all()
    assert not known[240:470, 115:120].any()


def test_the_ramp_from_a_roof_to_the_road_behind_it_stays_open() -> None:
    # Behind the car's face (10 m, below row 200) one sees the road, from 14.9 m on: both are flat, the ramp is not.
    v = EVERYWHERE[:, 1]
    on_car = v > 200
    depth_m = filled(EVERYWHERE[v > 90], np.where(on_car, 10.0, FOCAL_PX * 1.5 / np.maximum(v - 90, 1))[v > 90])
    first_ring, last_ring = v[on_car].min(), v[~on_car].max()
    assert not np.isfinite(depth_m[int(last_ring) + 1 : int(first_ring) - 1]).any()
    assert (depth_m[int(first_ring) + 1 : 470, 20:380] == 10).all()
    assert np.isfinite(depth_m[150 : int(last_ring) - 24, 20:380]).all()


def test_points_that_something_nearer_hides_are_dropped() -> None:
    # The lidar sees the wall over the car; between the car's points are some of the wall.
    between = EVERYWHERE[(EVERYWHERE[:, 1] > 220) & (EVERYWHERE[:, 1] < 420)][::5] + np.array([3.0, 9.0])
    places = np.concatenate((EVERYWHERE, between))
    depth_m = np.concatenate((np.full(len(EVERYWHERE), 10.0), np.full(len(between), 30.0)))
    assert (filled(places, depth_m)[40:460, 20:380] == 10).all()
    assert not (filled(places, depth_m, window_rad=0.0)[40:460, 20:380] == 10).all()


def test_gaps_stay_open() -> None:
    u = EVERYWHERE[:, 0]
    kept = (u < 150) | (u > 250)
    depth_m = filled(EVERYWHERE[kept], np.full(kept.sum(), 10.0))
    assert not np.isfinite(depth_m[:, 155:245]).any()
    assert (depth_m[40:460, 20:140] == 10).all()
    wide = filled(EVERYWHERE[kept], np.full(kept.sum(), 10.0), max_gap_rad=0.2)
    assert (wide[40:460, 20:380] == 10).all()


@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_too_few_points_and_points_on_a_line(count: int) -> None:
    places = np.stack((np.linspace(10, 60, count), np.full(count, 33.0)), 1)
    assert np.isnan(filled(places, np.full(count, 10.0))).all()


def test_lidar_depth_of_the_real_frame(real_frame: Path) -> None:
    from occlift.datasets.nuscenes.dataset import NuScenes
    from occlift.scenes.lidar_depth import lidar_depth

    data = NuScenes.open(real_frame)
    frame = data.key_frame(data.key_frame_tokens(data.scenes()[0])[0])
    maps = depth_teacher("lidar").depth(frame)
    points_lidar = frame.lidar_sweep().source.read()[:, :3]
    for camera, depth in zip(frame.cameras, maps, strict=True):
        assert depth.depth_m.shape == (900, 1600)
        assert np.array_equal(depth.confidence == 1, np.isfinite(depth.depth_m))
        assert 0.3 < np.isfinite(depth.depth_m).mean() < 0.7
        # Where a point and a depth meet, they agree, but for a few points in the corners of triangles at an edge.
        pixels_uv, point_m = lidar_depth(frame, camera, points_lidar)
        column, row = np.clip(pixels_uv.astype(int).T, 0, [[1599], [899]])
        both = np.isfinite(depth.depth_m[row, column]) & (point_m > 1)
        assert both.sum() > 1500
        off = np.abs(depth.depth_m[row, column][both] / point_m[both] - 1)
        assert np.median(off) < 0.005
        assert (off > 0.1).mean() < 0.03


def test_lidar_settings_and_options(tmp_path: Path) -> None:
    assert LidarDepth(config=LidarDepthConfig()).settings["max_gap_rad"] == 0.05
    for option, value in (("edge_ratio", "1"), ("window_rad", "-0.1")):
        with pytest.raises(ConfigError, match=f"{option}={value}.*expected"):
            depth_teacher("lidar", options={option: value})
    frame = key_frame(camera_at(tmp_path, grey(4, 4)))
    with pytest.raises(DataError, match="no lidar sweep"):
        depth_teacher("lidar").depth(frame)
    missing = LidarSweep(
        key="sweep", source=LidarFile(tmp_path / "sweep.bin"), timestamp_us=0, ego_from_lidar=np.eye(4),
        global_from_ego=np.eye(4),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"sweep\.bin: no such file"):
        depth_teacher("lidar").depth(replace(frame, lidar=missing))
