"""Segmenters of a fixed list of classes: names to classes, and tiny networks of the real classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frames import key_frame
from PIL import Image
from torch.nn import functional as F

from occlift.errors import ConfigError, DataError
from occlift.label_space import FREE, OCC3D, UNKNOWN, Taxonomy, preset_names, read_space
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.sources import ImageFile
from occlift.teachers.image_classes import _groups, image_class_mapping
from occlift.teachers.images import Placement
from occlift.teachers.painting import most_likely
from occlift.teachers.preprocessing import Preprocessing
from occlift.teachers.registry import semantics_teacher

KINDS = ("mask2former", "oneformer", "eomt", "segformer", "upernet")
CLASSES = {0: "road", 1: "Sky", 2: "building", 3: "car", 4: "vegetation"}
SIZES = ((45, 80), (60, 70), (45, 80))
NORMAL = Preprocessing()


def save(folder: Path, kind: str) -> None:
    """A tiny network with random weights."""
    import transformers

    backbone = transformers.SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    few: dict[str, Any] = {
        "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_attention_heads": 2, "num_queries": 6,
        "encoder_layers": 1, "decoder_layers": 2, "dim_feedforward": 16, "encoder_feedforward_dim": 16,
    }  # fmt: skip
    named = {"id2label": CLASSES, "label2id": {name: number for number, name in CLASSES.items()}}
    config: Any
    if kind == "mask2former":
        config = transformers.Mask2FormerConfig(backbone_config=backbone, **few, **named)
    elif kind == "oneformer":
        few = {**few, "conv_dim": 32, "mask_dim": 32, "task_seq_len": 8, "text_encoder_width": 32}
        config = transformers.OneFormerConfig(backbone_config=backbone, is_training=False, **few, **named)
    elif kind == "eomt":
        config = transformers.EomtConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32,
            patch_size=8, num_blocks=1, num_queries=6, **named,
        )  # fmt: skip
    elif kind == "segformer":
        config = transformers.SegformerConfig(
            hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8,
            **named,
        )  # fmt: skip
    else:
        config = transformers.UperNetConfig(
            backbone_config=backbone, hidden_size=8, pool_scales=[1], use_auxiliary_head=False, **named
        )
    classes = {
        "mask2former": "Mask2FormerForUniversalSegmentation",
        "oneformer": "OneFormerForUniversalSegmentation",
        "eomt": "EomtForUniversalSegmentation",
        "segformer": "SegformerForSemanticSegmentation",
        "upernet": "UperNetForSemanticSegmentation",
    }
    network = getattr(transformers, classes[kind])(config)
    with torch.no_grad():
        for weights in network.parameters():
            # As they are initialised, some say the same of every pixel.
            weights.add_(0.2 * torch.randn_like(weights))
    network.save_pretrained(folder)
    if kind == "oneformer":
        from test_teachers_semantics import save_clip_tokenizer

        save_clip_tokenizer(folder)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("closed-set")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for kind in KINDS:
            save(root / kind, kind)
    return root


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> KeyFrame:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    cameras = []
    for index, (height, width) in enumerate(SIZES):
        path = folder / f"camera{index}.png"
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)
        cameras.append(
            CameraImage(
                camera=path.stem, key=path.stem, source=ImageFile(path), timestamp_us=0, height=height, width=width,
                intrinsics_px=np.eye(3), ego_at_image_from_camera=np.eye(4), global_from_ego_at_image=np.eye(4),
            )
        )  # fmt: skip
    return key_frame(*cameras)


def teacher_of(networks: Path, kind: str, **options: str) -> Any:
    given = {"device": "cpu", "shortest_edge_px": "32", **options}
    return semantics_teacher(f"segmenter:{networks / kind}", options=given)


def plain_scores(network: Any, kind: str, image: np.ndarray, folder: Path) -> torch.Tensor:
    """Scores of the five classes, at a size of the network's own: a plain twin that looks at one image."""
    height, width = image.shape[:2]
    size = (32, round(width * 32 / height)) if height <= width else (round(height * 32 / width), 32)
    pixels = NORMAL([image], *size, torch.device("cpu"))
    if kind == "eomt":
        # Two squares, at both ends of the longer edge; what they share is averaged.
        total, seen = torch.zeros(5, *size), torch.zeros(*size)
        for start in (0, size[1] - 32):
            total[:, :, start : start + 32] += F.interpolate(
                masked(network(pixel_values=pixels[..., start : start + 32]))[None], (32, 32), mode="bilinear"
            )[0]
            seen[:, start : start + 32] += 1
        return total / seen
    if kind == "oneformer":
        from occlift.teachers.pretrained import load_tokenizer

        tokens = load_tokenizer(folder)(
            ["the task is semantic"], padding="max_length", max_length=8, truncation=True, return_tensors="pt"
        )
        return masked(network(pixel_values=pixels, task_inputs=tokens["input_ids"] * tokens["attention_mask"]))
    outputs = network(pixel_values=pixels)
    return masked(outputs) if kind == "mask2former" else outputs.logits[0]


def masked(outputs: Any) -> torch.Tensor:
    found = torch.zeros(5, *outputs.masks_queries_logits.shape[2:])
    for query in range(6):
        chance = outputs.class_queries_logits[0, query].softmax(0)[:5]
        found += chance[:, None, None] * outputs.masks_queries_logits[0, query].sigmoid()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_what_the_plain_network_says(networks: Path, frame: KeyFrame, kind: str) -> None:
    import transformers

    maps = teacher_of(networks, kind, images_per_batch="3").semantics(frame)
    config = transformers.AutoConfig.from_pretrained(networks / kind)
    network = getattr(transformers, config.architectures[0]).from_pretrained(networks / kind).eval()
    becomes = np.array([OCC3D.taxonomy.id_of(name) for name in
                        ("driveable_surface", "free", "manmade", "car", "vegetation")])  # fmt: skip
    found = set()
    for camera, seen in zip(frame.cameras, maps, strict=True):
        with torch.inference_mode():
            scores = plain_scores(network, kind, camera.read(), networks / kind)
            size = (camera.height, camera.width)
            scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
        if kind in ("segformer", "upernet"):
            scores = scores.softmax(0)
        best = scores.max(0)
        assert seen.class_id.shape == size
        # Two classes may be equally likely but for rounding.
        assert (seen.class_id == becomes[best.indices.numpy()]).mean() > 0.995
        np.testing.assert_allclose(seen.score, best.values.clamp(0, 1).numpy(), rtol=0, atol=1e-3)
        found |= set(np.unique(seen.class_id).tolist())
    assert len(found) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_finer_than_half_precision(networks: Path, frame: KeyFrame, kind: str) -> None:
    exact = teacher_of(networks, kind).semantics(frame)[0]
    half = teacher_of(networks, kind, precision="bfloat16").semantics(frame)[0]
    assert len(np.unique(half.score)) > 0.8 * len(np.unique(exact.score)) > 150
    np.testing.assert_allclose(np.median(half.score), np.median(exact.score), atol=0.03)


def test_settings_and_options(networks: Path, frame: KeyFrame, tmp_path: Path) -> None:
    base = teacher_of(networks, "segformer")
    assert base.settings["classes"]["Sky"] == "free"
    assert base.settings == teacher_of(networks, "segformer", images_per_batch="1").settings
    mapping = tmp_path / "mapping.toml"
    mapping.write_text('building = "unknown"\n')
    changes: tuple[Mapping[str, str], ...] = (
        {"shortest_edge_px": "64"}, {"precision": "bfloat16"}, {"mapping": str(mapping)}
    )  # fmt: skip
    for change in changes:
        assert teacher_of(networks, "segformer", **change).settings != base.settings
    seen = [np.unique(one.class_id) for one in teacher_of(networks, "segformer", mapping=str(mapping)).semantics(frame)]
    assert OCC3D.taxonomy.id_of("manmade") not in np.concatenate(seen)
    with pytest.raises(ConfigError, match="images_per_batch is 0"):
        teacher_of(networks, "segformer", images_per_batch="0")
    with pytest.raises(ConfigError, match="shortest_edge_px is 0"):
        teacher_of(networks, "segformer", shortest_edge_px="0")
    with pytest.raises(ConfigError, match="segmenter needs the option model; write model=VALUE, or segmenter:VALUE"):
        semantics_teacher("segmenter")
    with pytest.raises(ConfigError, match="hf download nobody/segmenter"):
        semantics_teacher("segmenter:nobody/segmenter")


def test_a_network_without_names_of_classes_is_refused(networks: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    with pytest.raises(DataError, match=r"config\.json: id2label is None; expected .*is this a segmenter"):
        semantics_teacher(f"segmenter:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "segformer", "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}')
    with pytest.raises(ConfigError, match=r"there is no class for 'LABEL_0', 'LABEL_1' among .*mapping file"):
        semantics_teacher(f"segmenter:{tmp_path}")


def test_padding_and_classes_in_parts_do_not_change_what_is_most_likely() -> None:
    # 40 classes in 4 × 6 cells, of which the image fills the middle 2 × 4; 20 pixels a cell.
    scores = torch.randn(40, 4, 6, generator=torch.Generator().manual_seed(0))
    place = Placement(
        image_height=40, image_width=80, height=20, width=40, top=10, left=10, input_height=40, input_width=60
    )
    seen = most_likely(scores, place, np.arange(40, dtype=np.uint8), logits=True)
    inner = (
        F.interpolate(scores[None, :, 1:3, 1:5], (40, 80), mode="bilinear", align_corners=False)[0].softmax(0).max(0)
    )
    np.testing.assert_array_equal(seen.class_id, inner.indices.numpy())
    np.testing.assert_allclose(seen.score, inner.values.numpy(), rtol=1e-5)


# --- names of classes ------------------------------------------------------------------------------------------------

MAPILLARY = {"Curb", "Guard Rail", "Lane Marking - General", "On Rails", "Traffic Sign (Front)", "Ego Vehicle", "Sky"}
ADE20K = {"earth, ground", "minibike, motorbike", "windowpane", "streetlight", "chest of drawers", "sky", "van"}
CITYSCAPES = (*read_space("cityscapes").taxonomy.names, "sky")


def test_names_become_classes() -> None:
    found = image_class_mapping(sorted(MAPILLARY | ADE20K), OCC3D.taxonomy, file="mapping")
    assert found == {
        "Curb": "sidewalk", "Ego Vehicle": "unknown", "Guard Rail": "manmade", "On Rails": "others", "Sky": "free",
        "Lane Marking - General": "driveable_surface", "Traffic Sign (Front)": "manmade", "earth, ground": "terrain",
        "minibike, motorbike": "motorcycle", "windowpane": "manmade", "streetlight": "manmade",
        "chest of drawers": "unknown", "sky": "free", "van": "car",
    }  # fmt: skip


@pytest.mark.parametrize("preset", preset_names())
def test_every_known_name_has_a_class_in_every_preset(preset: str) -> None:
    taxonomy = read_space(preset).taxonomy
    found = image_class_mapping(list(_groups()), taxonomy, file="mapping")
    assert set(found.values()) <= {*taxonomy.all_names, "unknown"}
    assert found["sky"] == "free"
    for name in ("road", "car", "person", "building", "vegetation"):
        assert found[name] not in ("free", "unknown")
    assert {"unknown": UNKNOWN, "free": FREE}["free"] == OCC3D.taxonomy.free


@pytest.mark.parametrize("preset", preset_names())
def test_the_classes_of_cityscapes_become_what_its_preset_says(preset: str) -> None:
    from occlift.label_space import class_mapping

    source, target = read_space("cityscapes").taxonomy, read_space(preset).taxonomy
    found = image_class_mapping(CITYSCAPES, target, file="mapping")
    assert found == {**class_mapping(source, target), "sky": "free"}


def test_classes_of_ones_own_are_named_or_asked_for() -> None:
    own = Taxonomy(names=("ground", "car", "person", "structure"))
    with pytest.raises(ConfigError, match=r"there is no class for 'road', 'wall' among ground, car"):
        image_class_mapping(["road", "car", "wall", "bed"], own, file="mapping")
    given = {"road": "ground", "wall": "structure"}
    found = image_class_mapping(["road", "car", "wall", "bed"], own, given, file="mapping")
    assert found == {"road": "ground", "car": "car", "wall": "structure", "bed": "unknown"}
    assert replace(own, names=("ground",)).free == 1
