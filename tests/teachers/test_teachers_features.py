"""Features by vision transformers: which cell lies where in the image, and which tokens count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frames import key_frame
from PIL import Image

from occlift.errors import ConfigError
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.sources import ImageFile
from occlift.teachers.dinov2 import feature_map
from occlift.teachers.images import Placement
from occlift.teachers.registry import feature_teacher

PATCH = 14


def frame_with(folder: Path, *images: np.ndarray) -> KeyFrame:
    cameras = []
    for number, image in enumerate(images):
        path = folder / f"{number}.png"
        Image.fromarray(image).save(path)
        cameras.append(
            CameraImage(
                camera=("CAM_FRONT", "CAM_BACK")[number],
                key=f"token{number}",
                source=ImageFile(path),
                timestamp_us=0,
                height=image.shape[0],
                width=image.shape[1],
                intrinsics_px=np.array([[80.0, 0, 50], [0, 80.0, 28], [0, 0, 1]]),
                ego_at_image_from_camera=np.eye(4),
                global_from_ego_at_image=np.eye(4),
            )
        )
    return key_frame(*cameras)


def save_brightness(folder: Path) -> Path:
    """A DINOv2 whose first channel is the mean brightness of a patch, before its layer norm, and that mixes nothing."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, image_size=28, patch_size=PATCH)
    network = Dinov2Model(config)
    with torch.no_grad():
        embeddings, layer = network.embeddings, network.encoder.layer[0]
        embeddings.position_embeddings.zero_()
        projection = embeddings.patch_embeddings.projection
        projection.weight.zero_()
        projection.weight[0] = 1 / (3 * PATCH**2)
        projection.bias.zero_()
        projection.bias[1] = 1.0
        for scale in (layer.layer_scale1, layer.layer_scale2):
            scale.lambda1.zero_()
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_brightness(tmp_path_factory.mktemp("brightness"))


def peak_px(found: Any) -> tuple[float, float]:
    """(u, v) of the centre of the brightest cell."""
    row, column = np.unravel_index(found.features[0].argmax(), found.features.shape[1:])
    return found.offset_px[0] + column * found.stride_px[0], found.offset_px[1] + row * found.stride_px[1]


def test_stretched_cells_lie_where_they_say(tmp_path: Path, brightness: Path) -> None:
    image = np.zeros((56, 168, 3), np.uint8)
    image[28:56, 84:126] = 255
    options = {"model": str(brightness), "device": "cpu", "input_height": "28", "input_width": "56"}
    (found,) = feature_teacher("dinov2", options=options).features(frame_with(tmp_path, image))
    # 2 × 4 cells over 56 × 168 pixels: 28 high, 42 wide; the first has its centre at (21, 14).
    assert found.features.shape == (8, 2, 4)
    assert found.features.dtype == np.float32
    assert found.stride_px == pytest.approx((42, 28))
    assert found.offset_px == pytest.approx((21, 14))
    # The bright patch is the cell in row 1 and column 2, whose centre is (105, 42).
    assert peak_px(found) == pytest.approx((105, 42))
    # All other cells are equal, but for what the resize spreads over a border.
    dark = np.delete(found.features[0].ravel(), [6, 5, 7, 2])
    assert np.ptp(dark) < 1e-3
    assert found.features[0, 1, 2] > dark.max() + 0.5


def test_padded_cells_lie_where_they_say(tmp_path: Path, brightness: Path) -> None:
    image = np.zeros((40, 100, 3), np.uint8)
    # 84 / 100 = 0.84: 40 rows become 34 (33.6), 4 rows of padding above. Cell (1, 2) covers input rows 14..28, columns
    # 28..42, in the image rows (14 - 4) / 0.85 = 11.8 to 28.2 and columns 33.3 to 50.
    image[12:28, 34:50] = 255
    options = {"model": str(brightness), "device": "cpu", "fit": "pad", "input_height": "42", "input_width": "84"}
    (found,) = feature_teacher("dinov2", options={**options, "half": "true"}).features(frame_with(tmp_path, image))
    assert found.features.shape == (8, 3, 6)
    assert found.features.dtype == np.float16
    assert found.stride_px == pytest.approx((14 / 0.84, 14 / 0.85))
    assert found.offset_px == pytest.approx((7 / 0.84, (7 - 4) / 0.85))
    u, v = peak_px(found)
    assert (u, v) == pytest.approx((35 / 0.84, (21 - 4) / 0.85))
    assert (image[int(v), int(u)] == 255).all()


def test_padding_at_the_sides_moves_cells_out_of_the_image() -> None:
    # 60 columns are 30 of the input, after 13 of padding: cell 0 (input 0 to 14, centre 7) lies at (7 - 13) / 0.5.
    place = Placement(
        image_height=84, image_width=60, height=42, width=30, top=0, left=13, input_height=42, input_width=56
    )
    found = feature_map(np.zeros((1, 3, 4), np.float32), place, PATCH)
    assert found.stride_px == (28, 28)
    assert found.offset_px == (-12, 14)


def test_images_of_their_own_size_and_batches(tmp_path: Path, brightness: Path) -> None:
    rng = np.random.default_rng(0)
    frame = frame_with(tmp_path, *rng.integers(0, 256, (2, 45, 100, 3), np.uint8))
    # 45 / 14 = 3.2 and 100 / 14 = 7.1 patches.
    single = feature_teacher(f"dinov2:{brightness}", options={"device": "cpu"}).features(frame)
    both = feature_teacher(f"dinov2:{brightness}", options={"device": "cpu", "batch": "2"}).features(frame)
    for one, other in zip(single, both, strict=True):
        assert one.features.shape == (8, 3, 7)
        assert one.stride_px == other.stride_px == pytest.approx((100 / 7, 15))
        assert one.features == pytest.approx(other.features, abs=1e-5)
    assert not np.allclose(single[0].features, single[1].features)


@pytest.mark.parametrize("name", ["Dinov2Model", "Dinov2WithRegistersModel", "DINOv3ViTModel"])
def test_tokens_that_are_no_patches_are_dropped(tmp_path: Path, name: str) -> None:
    import torch
    import transformers

    network_class = getattr(transformers, name)
    registers = {} if name == "Dinov2Model" else {"num_register_tokens": 4}
    patch = 16 if "v3" in name else PATCH
    torch.manual_seed(0)
    config = network_class.config_class(
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=32,
        image_size=2 * patch,
        patch_size=patch,
        **registers,
    )
    network_class(config).save_pretrained(tmp_path / "weights")
    network = network_class.from_pretrained(tmp_path / "weights").eval()
    image = np.random.default_rng(0).integers(0, 256, (2 * patch, 3 * patch, 3), np.uint8)
    with torch.no_grad():
        pixels = (image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        inputs = torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)
        tokens = network(pixel_values=inputs).last_hidden_state[0].numpy()
    assert len(tokens) == 7 + len(registers) * 4
    teacher = "dinov3" if "v3" in name else "dinov2"
    options = {"model": str(tmp_path / "weights"), "device": "cpu"}
    (found,) = feature_teacher(teacher, options=options).features(frame_with(tmp_path, image))
    # The last six tokens, row by row.
    for index, token in enumerate(tokens[-6:]):
        assert found.features[:, index // 3, index % 3] == pytest.approx(token, abs=1e-4)


def test_errors(tmp_path: Path, brightness: Path) -> None:
    frame = frame_with(tmp_path, np.zeros((28, 28, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"30 × 28 pixels is no whole number of patches.*multiples of 14"):
        feature_teacher(
            f"dinov2:{brightness}", options={"device": "cpu", "input_height": "30", "input_width": "28"}
        ).features(frame)
    with pytest.raises(ConfigError, match="hf download facebook/dinov2-none"):
        feature_teacher("dinov2:facebook/dinov2-none")
    with pytest.raises(ConfigError, match="batch, input_height and input_width are 0"):
        feature_teacher(f"dinov2:{brightness}", options={"batch": "0"})
