"""Grounded-SAM and SAM 3 through their real loading code, on tiny networks of the real classes with random weights.

What a random network cannot show (which word becomes which class, where a box and its mask land) is shown with outputs
made by hand.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from frames import key_frame
from PIL import Image

from occlift.errors import ConfigError, DataError
from occlift.label_space import CAR, FREE, OCC3D, OTHER_FLAT, TRUCK, UNKNOWN, VEGETATION, Taxonomy
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.sources import ImageFile
from occlift.teachers.captions import NO_CLASS, Caption, Grouping, captions, class_prompts
from occlift.teachers.detector import Detections, Detector, answers, phrase_of_token, to_pixels
from occlift.teachers.grounded_sam import GroundedSam, GroundedSamConfig, missing_grounded_sam
from occlift.teachers.painting import ClassPainting, enlarged
from occlift.teachers.phrase_segmenter import PhraseSegmenter
from occlift.teachers.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, read_preprocessing
from occlift.teachers.pretrained import load_network, load_tokenizer
from occlift.teachers.sam3 import Sam3, Sam3Config, missing_sam3
from occlift.teachers.segmenter import Segmenter
from occlift.teachers.weights import find_weights, missing_weights, weights_digest

PROMPTS = {
    CAR: ("car",),
    TRUCK: ("truck",),
    OTHER_FLAT: ("traffic island", "river"),
    VEGETATION: ("tree",),
    FREE: ("sky",),
}


def asked_for(prompts: dict[int, tuple[str, ...]]) -> Taxonomy:
    """Occ3D's classes with other prompts."""
    names = {OCC3D.taxonomy.name_of(class_id): phrases for class_id, phrases in prompts.items() if class_id != FREE}
    return replace(OCC3D.taxonomy, prompts=names, sky_prompts=prompts.get(FREE, ()))


ASKED = asked_for(PROMPTS)
CPU = torch.device("cpu")
SIZES = ((45, 80), (60, 70), (45, 80))
"""Heights and widths of the three test images: two sizes, none of them a network's."""

SIDE = 64
"""Pixels of the inputs of the tiny SAM and SAM 2."""


# --- tiny networks ---------------------------------------------------------------------------------------------------


def save_bert_tokenizer(folder: Path) -> int:
    """A vocabulary of whole words, with the ids that Grounding DINO's code knows; returns its length."""
    from transformers import BertTokenizer

    words = [f"word{i}" for i in range(1030)]
    for token, position in {
        "[PAD]": 0,
        "[UNK]": 100,
        "[CLS]": 101,
        "[SEP]": 102,
        "[MASK]": 103,
        ".": 1012,
        "?": 1029,
    }.items():
        words[position] = token
    words[200:208] = ["car", "truck", "traffic", "island", "river", "tree", "sky", "road"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return len(words)


def save_detector(folder: Path, family: str) -> None:
    import transformers

    folder.mkdir()
    vocabulary = save_bert_tokenizer(folder)
    config = getattr(transformers, f"{family}Config")(
        backbone_config=transformers.SwinConfig(
            image_size=64,
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 4],
            window_size=4,
            out_indices=[2, 3, 4],
        ),
        text_config=transformers.BertConfig(
            vocab_size=vocabulary, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ),
        num_queries=12,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=4,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=4,
        d_model=32,
        max_text_len=24,
    )
    getattr(transformers, f"{family}ForObjectDetection")(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 96, "longest_edge": 192}}
    (folder / "preprocessor_config.json").write_text(json.dumps(size))


def save_sam(folder: Path) -> None:
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    vision = SamVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
        window_size=4,
        global_attn_indexes=[0],
        num_pos_feats=8,
        mlp_dim=32,
    )
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=SIDE, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ).save_pretrained(folder)


def save_sam2(folder: Path) -> None:
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 2, 2, 2],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=16,
    )
    prompt = Sam2PromptEncoderConfig(hidden_size=16, image_size=SIDE, patch_size=16, mask_input_channels=4)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    Sam2Model(
        Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ).save_pretrained(folder)


def save_clip_tokenizer(folder: Path) -> int:
    """Letters are all the tokens there are; returns the number of tokens."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: position for position, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    return len(tokens)


def save_sam3(folder: Path) -> None:
    from transformers import CLIPTextConfig, Sam3Config, Sam3Model, Sam3VisionConfig, Sam3ViTConfig
    from transformers.models.sam3.configuration_sam3 import (
        Sam3DETRDecoderConfig,
        Sam3DETREncoderConfig,
        Sam3GeometryEncoderConfig,
        Sam3MaskDecoderConfig,
    )

    folder.mkdir()
    tokens = save_clip_tokenizer(folder)
    small: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2}
    backbone = Sam3ViTConfig(
        **small,
        intermediate_size=64,
        num_hidden_layers=2,
        image_size=56,
        window_size=2,
        global_attn_indexes=[1],
        pretrain_image_size=28,
    )
    config = Sam3Config(
        vision_config=Sam3VisionConfig(
            backbone_config=backbone, fpn_hidden_size=32, backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]]
        ),
        text_config=CLIPTextConfig(
            **small,
            vocab_size=tokens,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=1,
            max_position_embeddings=32,
            bos_token_id=tokens - 2,
            eos_token_id=tokens - 1,
            pad_token_id=tokens - 1,
        ),
        geometry_encoder_config=Sam3GeometryEncoderConfig(**small, num_layers=1, intermediate_size=32),
        detr_encoder_config=Sam3DETREncoderConfig(**small, num_layers=1, intermediate_size=32),
        detr_decoder_config=Sam3DETRDecoderConfig(**small, num_layers=2, num_queries=6, intermediate_size=32),
        mask_decoder_config=Sam3MaskDecoderConfig(**small),
    )
    Sam3Model(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders `dino`, `mmdino`, `sam`, `sam2` and `sam3`."""
    root = tmp_path_factory.mktemp("networks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_detector(root / "dino", "GroundingDino")
        save_detector(root / "mmdino", "MMGroundingDino")
        save_sam(root / "sam")
        save_sam2(root / "sam2")
        save_sam3(root / "sam3")
    return root


# --- images ----------------------------------------------------------------------------------------------------------


def camera(path: Path, height: int, width: int) -> CameraImage:
    return CameraImage(
        camera=path.stem,
        key=path.stem,
        source=ImageFile(path),
        timestamp_us=0,
        height=height,
        width=width,
        intrinsics_px=np.eye(3),
        ego_at_image_from_camera=np.eye(4),
        global_from_ego_at_image=np.eye(4),
    )


@pytest.fixture(scope="session")
def frame(tmp_path_factory: pytest.TempPathFactory) -> KeyFrame:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    cameras = []
    for index, (height, width) in enumerate(SIZES):
        path = folder / f"camera{index}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        cameras.append(camera(path, height, width))
    return key_frame(*cameras)


@pytest.fixture(scope="session")
def images(frame: KeyFrame) -> list[np.ndarray]:
    return [np.array(Image.open(view.source.name)) for view in frame.cameras]


def config_of(networks: Path, detector: str = "dino", segmenter: str = "sam2", **options: Any) -> GroundedSamConfig:
    return GroundedSamConfig(
        **{
            "detector": str(networks / detector),
            "segmenter": str(networks / segmenter),
            "device": "cpu",
            "box_threshold": 0.5,
            **options,
        }
    )


def detector_of(networks: Path, name: str = "dino", grouping: Grouping = "phrase", **options: Any) -> Detector:
    asked = captions(asked_for(options.pop("prompts", PROMPTS)), grouping, sky_answer=options.pop("sky_answer", False))
    settings: dict[str, Any] = {
        "box_threshold": 0.5,
        "text_threshold": 0.2,
        "device": "cpu",
        "precision": "float32",
        "images_per_batch": 2,
        "pairs_per_batch": 4,
    }
    return Detector(networks / name, asked, **{**settings, **options})


# --- prompts and captions --------------------------------------------------------------------------------------------


def test_every_class_but_others_is_asked_for_and_no_word_means_two_classes() -> None:
    prompts = class_prompts(OCC3D.taxonomy)
    assert set(prompts) == set(range(OCC3D.taxonomy.num_classes)) - {OCC3D.taxonomy.id_of("others")}
    assert prompts[FREE] == ("sky",)
    phrases = [phrase for phrases in prompts.values() for phrase in phrases]
    assert len(phrases) == len(set(phrases))


def test_captions_hold_one_phrase_or_a_class_or_everything() -> None:
    prompts = asked_for({CAR: ("Car", "sedan"), FREE: ("sky",)})
    assert captions(prompts, "phrase", sky_answer=False) == (
        Caption(phrases=("car",), class_ids=(CAR,)),
        Caption(phrases=("sedan",), class_ids=(CAR,)),
        Caption(phrases=("sky",), class_ids=(FREE,)),
    )
    assert captions(prompts, "class", sky_answer=False) == (
        Caption(phrases=("car", "sedan"), class_ids=(CAR, CAR)),
        Caption(phrases=("sky",), class_ids=(FREE,)),
    )
    everything = Caption(phrases=("car", "sedan", "sky"), class_ids=(CAR, CAR, FREE))
    assert captions(prompts, "all", sky_answer=False) == (everything,)
    assert everything.text == "car. sedan. sky."


def test_sky_is_a_second_answer_where_it_is_not_asked_for() -> None:
    asked = captions(asked_for({CAR: ("car", "sedan"), FREE: ("sky",)}), "class", sky_answer=True)
    assert [caption.text for caption in asked] == ["car. sedan. sky.", "sky."]
    assert asked[0].class_ids == (CAR, CAR, NO_CLASS)


@pytest.mark.parametrize("prompts", [{CAR: ("a. b",)}, {CAR: ("is it?",)}, {CAR: (" ",)}, {CAR: ()}, {FREE: ("sky",)}])
def test_prompts_that_cannot_be_asked_are_refused(networks: Path, prompts: dict[int, tuple[str, ...]]) -> None:
    with pytest.raises(ConfigError, match="prompt"):
        GroundedSam(config_of(networks), taxonomy=asked_for(prompts))


def test_a_caption_longer_than_the_detector_reads_is_refused(networks: Path) -> None:
    with pytest.raises(ConfigError, match=r"26 tokens, the detector reads 24; ask for fewer things"):
        detector_of(networks, grouping="all", prompts={CAR: ("car",) * 12})


# --- from tokens to classes ------------------------------------------------------------------------------------------


def test_tokens_belong_to_the_phrase_between_full_stops() -> None:
    # [CLS] traffic island . sky . [SEP] [PAD] and [CLS] car . [SEP] [PAD]...
    ids = torch.tensor([[101, 202, 203, 1012, 206, 1012, 102, 0], [101, 200, 1012, 102, 0, 0, 0, 0]])
    inside = (ids > 0).long()
    assert phrase_of_token(ids, inside).tolist() == [[-1, 0, 0, -1, 1, -1, -1, -1], [-1, 0, -1, -1, -1, -1, -1, -1]]


def test_a_box_is_what_its_best_phrase_says() -> None:
    phrase = torch.tensor([-1, 0, 0, -1, 1, -1])
    scores = torch.tensor(
        [
            [0.1, 0.3, 0.7, 0.0, 0.6, 0.0],  # the second word of the first phrase
            [0.1, 0.3, 0.2, 0.0, 0.4, 0.0],  # the second phrase
            [0.9, 0.3, 0.2, 0.8, 0.1, 0.0],  # best token: [CLS], which is no phrase
            [0.0, 0.5, 0.1, 0.0, 0.5, 0.0],  # equal: the first phrase
        ]
    )
    box, phrase_score, class_id = answers(scores, phrase, torch.tensor([OTHER_FLAT, FREE]))
    torch.testing.assert_close(box, torch.tensor([0.7, 0.4, 0.9, 0.5]))
    torch.testing.assert_close(phrase_score, torch.tensor([0.7, 0.4, 0.3, 0.5]))
    assert class_id.tolist() == [OTHER_FLAT, FREE, OTHER_FLAT, OTHER_FLAT]


def test_boxes_are_fractions_of_the_image_and_end_at_its_border() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.0, 1.0, 0.2, 0.5]])
    expected = torch.tensor([[400.0, 225.0, 1200.0, 675.0], [0.0, 675.0, 160.0, 900.0]])
    torch.testing.assert_close(to_pixels(boxes, 900, 1600), expected)


class HandMadeDetector:
    """Stands for a network: `scores` per word of the caption; for all the same two boxes, one outside of the image."""

    def __init__(self, vocabulary: Any, scores: dict[str, float]) -> None:
        self.scores = {vocabulary.convert_tokens_to_ids(word): score for word, score in scores.items()}

    def __call__(self, *, pixel_values: torch.Tensor, input_ids: torch.Tensor, **_: torch.Tensor) -> SimpleNamespace:
        tokens = torch.full(input_ids.shape, -20.0)
        for token, score in self.scores.items():
            tokens[input_ids == token] = torch.tensor(score).logit()
        logits = torch.full((len(pixel_values), 2, 24), -torch.inf)
        logits[:, :, : tokens.shape[1]] = tokens[:, None]
        boxes = torch.tensor([[1.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
        return SimpleNamespace(logits=logits, pred_boxes=boxes.expand(len(pixel_values), 2, 4))


def hand_made(networks: Path, scores: dict[str, float], **options: Any) -> Detector:
    detector = detector_of(networks, **options)
    detector._network = HandMadeDetector(load_tokenizer(networks / "dino"), scores)
    return detector


def test_words_become_classes_in_the_order_of_the_prompts(networks: Path, images: list[np.ndarray]) -> None:
    scores = {"car": 0.6, "island": 0.9, "river": 0.7, "sky": 0.8, "tree": 0.4}
    for found, (height, width) in zip(hand_made(networks, scores)(images), SIZES, strict=True):
        assert found.class_id.tolist() == [CAR, OTHER_FLAT, OTHER_FLAT, FREE]
        torch.testing.assert_close(found.score, torch.tensor([0.6, 0.9, 0.7, 0.8]))
        box = torch.tensor([width / 4, height / 4, width * 3 / 4, height * 3 / 4])
        torch.testing.assert_close(found.boxes_px, box.expand(4, 4))
    (all_at_once,) = hand_made(networks, scores, grouping="all")(images[:1])
    assert all_at_once.class_id.tolist() == [OTHER_FLAT]
    per_class = hand_made(networks, scores, grouping="class")(images[:1])[0]
    assert per_class.class_id.tolist() == [CAR, OTHER_FLAT, FREE]


def test_what_fits_sky_better_than_the_question_is_discarded(networks: Path, images: list[np.ndarray]) -> None:
    scores = {"car": 0.6, "truck": 0.9, "sky": 0.8}
    prompts = {CAR: ("car",), TRUCK: ("truck",), FREE: ("sky",)}
    (found,) = hand_made(networks, scores, sky_answer=True, prompts=prompts)(images[:1])
    # The car's box fits sky better; the question for the sky itself finds it all the same.
    assert found.class_id.tolist() == [TRUCK, FREE]
    (found,) = hand_made(networks, scores, prompts=prompts)(images[:1])
    assert found.class_id.tolist() == [CAR, TRUCK, FREE]


def test_thresholds_bound_the_box_and_its_phrase(networks: Path, images: list[np.ndarray]) -> None:
    scores = {"car": 0.6, "truck": 0.3, ".": 0.55}

    def classes(**options: float) -> list[int]:
        return hand_made(networks, scores, **options)(images[:1])[0].class_id.tolist()

    assert classes(box_threshold=0.5, text_threshold=0.4) == [CAR]
    assert classes(box_threshold=0.58, text_threshold=0.2) == [CAR]
    # The full stop lifts the box of "truck" over the threshold of boxes; its phrase then counts.
    assert classes(box_threshold=0.5, text_threshold=0.2) == [CAR, TRUCK]
    assert classes(box_threshold=0.7, text_threshold=0.2) == []


def test_an_output_that_is_no_number_is_said(networks: Path, images: list[np.ndarray]) -> None:
    detector = hand_made(networks, {"car": float("nan")})
    with pytest.raises(ConfigError, match="not a number in float32"):
        detector(images)


# --- the detector with random weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dino", "mmdino"])
def test_a_caption_is_answered_as_by_the_plain_network(networks: Path, images: list[np.ndarray], name: str) -> None:
    """The plain twin looks at one image for one caption, without padding."""
    threshold = 0.5 if name == "dino" else 0.02
    found = detector_of(networks, name, box_threshold=threshold, text_threshold=0.0)(images)
    classes = {"dino": "GroundingDinoForObjectDetection", "mmdino": "MMGroundingDinoForObjectDetection"}
    kinds = {"grounding-dino": classes["dino"], "mm-grounding-dino": classes["mmdino"]}
    plain, _ = load_network(networks / name, kinds, device="cpu")
    total = 0
    for image, detections in zip(images, found, strict=True):
        size = Preprocessing(shortest_edge_px=96, longest_edge_px=192).size_of(*image.shape[:2])
        for caption in captions(ASKED, "phrase", sky_answer=False):
            tokens = load_tokenizer(networks / name)([caption.text], return_tensors="pt")
            with torch.inference_mode():
                outputs = plain(pixel_values=Preprocessing()([image], *size, CPU), **tokens)
            score = outputs.logits[0].sigmoid().amax(1)
            kept = score > threshold
            total += int(kept.sum())
            boxes_px = to_pixels(outputs.pred_boxes[0][kept], *image.shape[:2])
            # Of the class's captions this one; the class of two phrases has two.
            own = _of_caption(detections, score[kept])
            torch.testing.assert_close(detections.boxes_px[own], boxes_px, rtol=1e-4, atol=1e-3)
            assert set(detections.class_id[own].tolist()) <= set(caption.class_ids)
    assert total == sum(len(detections.score) for detections in found) > 10


def _of_caption(detections: Detections, scores: torch.Tensor) -> list[int]:
    """The positions of the detections with these scores, which are all different."""
    distance = (detections.score[:, None] - scores[None]).abs()
    assert len(scores) == 0 or distance.amin(0).max() < 1e-4
    return distance.argmin(0).tolist() if len(scores) else []


@pytest.mark.parametrize("grouping", ["phrase", "class", "all"])
def test_boxes_do_not_depend_on_what_shares_a_batch(
    networks: Path, images: list[np.ndarray], grouping: Grouping
) -> None:
    together = detector_of(networks, grouping=grouping, images_per_batch=3, pairs_per_batch=16)(images)
    alone = detector_of(networks, grouping=grouping, images_per_batch=1, pairs_per_batch=1)(images)
    assert sum(len(found.score) for found in together) > 5
    for one, many in zip(alone, together, strict=True):
        torch.testing.assert_close(one.boxes_px, many.boxes_px, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.score, many.score, rtol=1e-4, atol=1e-5)
        assert one.class_id.tolist() == many.class_id.tolist()


# --- masks -----------------------------------------------------------------------------------------------------------


class HandMadeSegmenter:
    """Draws, at a quarter of the input's size, the boxes that it is given; keeps the input it looked at."""

    def __init__(self, model_type: str) -> None:
        self.config = SimpleNamespace(model_type=model_type)
        self.seen: list[torch.Tensor] = []

    def get_image_embeddings(self, pixels: torch.Tensor) -> Any:
        self.seen.append(pixels)
        return pixels if self.config.model_type == "sam" else [pixels]

    def __call__(self, *, input_boxes: torch.Tensor, **_: object) -> SimpleNamespace:
        centres = (torch.arange(SIDE // 4) + 0.5) * 4
        left, top, right, bottom = input_boxes[0].T[:, :, None]
        across = torch.minimum(centres - left, right - centres)
        down = torch.minimum(centres - top, bottom - centres)
        return SimpleNamespace(pred_masks=torch.minimum(down[:, :, None], across[:, None])[None, :, None])


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_masks_land_on_their_boxes(networks: Path, images: list[np.ndarray], name: str) -> None:
    segmenter = Segmenter(networks / name, device="cpu", precision="float32", images_per_batch=2, masks_per_batch=1)
    network = segmenter._network = HandMadeSegmenter(name)
    boxes = [torch.tensor([[0.0, 0, 40, 20], [30, 10, 70, 40]]), torch.zeros(0, 4), torch.tensor([[40.0, 5, 80, 45]])]
    seen = []
    for index, part, masks in segmenter.masks(images, boxes):
        height, width = SIZES[index]
        assert masks.shape == (1, height, width)
        seen.append((index, part.start))
        left, top, right, bottom = boxes[index][part][0].tolist()
        expected = np.zeros((height, width), bool)
        expected[int(top) : int(bottom), int(left) : int(right)] = True
        mask = masks[0].numpy()
        # Corners of a mask are rounded off at the coarse size, a few pixels each.
        assert (mask & expected).sum() / (mask | expected).sum() > 0.9
    assert seen == [(0, 0), (0, 1), (2, 0)]
    # The image without a box was not looked at; the others were, together.
    (pixels,) = network.seen
    assert pixels.shape == (2, 3, SIDE, SIDE)
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[: 36 if name == "sam" else SIDE] = True  # 45 / 80 of 64
    assert (pixels[0, 0][inside].abs() > 0.01).float().mean() > 0.9
    assert (pixels[0, 0][~inside] == 0).all()


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_half_precision_is_for_looking_only(networks: Path, images: list[np.ndarray], name: str) -> None:
    options: dict[str, Any] = {"device": "cpu", "images_per_batch": 2, "masks_per_batch": 4}
    exact, half = (Segmenter(networks / name, precision=p, **options) for p in ("float32", "bfloat16"))
    with torch.inference_mode():
        for one, other in zip(exact._embeddings(images), half._embeddings(images), strict=True):
            assert other.dtype == torch.float32
            assert 0 < float((one - other).abs().max()) < 0.1 * float(one.std())
    boxes = [torch.tensor([[10.0, 5, 40, 20]])] * 3
    masks, others = ([mask for *_, mask in segmenter.masks(images, boxes)] for segmenter in (exact, half))
    assert np.mean([(mask == other).float().mean() for mask, other in zip(masks, others, strict=True)]) > 0.97


def test_masks_are_enlarged_about_pixel_centres_and_without_the_padding() -> None:
    logits = torch.tensor([[-1.0, -1, 1, 1]]).expand(4, 4)[None].clone()
    right_half = np.zeros((8, 16), bool)
    right_half[:, 8:] = True
    whole = enlarged(logits, 8, 16, input_size=(8, 8), used=(8, 8))[0].numpy()
    np.testing.assert_array_equal(whole, right_half)
    # Of the input's 8 rows the image fills 4: the lower two rows of cells are padding, and say something else.
    logits[:, 2:] = 100.0
    padded = enlarged(logits, 8, 16, input_size=(8, 8), used=(4, 8))[0].numpy()
    np.testing.assert_array_equal(padded, right_half)
    # It fills 3: a cell is half padding. The image's first row lies in the first row of cells all the same.
    padded = enlarged(logits, 6, 16, input_size=(8, 8), used=(3, 8))[0].numpy()
    np.testing.assert_array_equal(padded, right_half[:6])


def test_the_highest_score_wins_and_the_first_of_equal_ones() -> None:
    masks = torch.zeros(4, 1, 5, dtype=torch.bool)
    for mask, columns in zip(masks, ([0, 1], [1, 2], [2, 3], [0]), strict=True):
        mask[0, columns] = True
    class_id, score = torch.tensor([CAR, TRUCK, FREE, VEGETATION]), torch.tensor([0.5, 0.8, 0.8, 0.4])
    for chunk in (1, 3, 4):
        painting = ClassPainting(1, 5, CPU)
        for start in range(0, 4, chunk):
            part = slice(start, start + chunk)
            painting.paint(masks[part], class_id[part], score[part])
        result = painting.result()
        assert result.class_id.tolist() == [[CAR, TRUCK, TRUCK, FREE, UNKNOWN]]
        np.testing.assert_allclose(result.score, [[0.5, 0.8, 0.8, 0.8, 0]])
        assert (result.class_id.dtype, result.score.dtype) == (np.uint8, np.float32)


# --- Grounded-SAM, whole ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("detector", "segmenter", "threshold"), [("dino", "sam", 0.5), ("mmdino", "sam2", 0.02)])
def test_maps_have_the_size_of_their_images(
    networks: Path, frame: KeyFrame, detector: str, segmenter: str, threshold: float
) -> None:
    config = config_of(networks, detector, segmenter, box_threshold=threshold, text_threshold=0.0)
    maps = GroundedSam(config, taxonomy=ASKED).semantics(frame)
    assert [found.class_id.shape for found in maps] == list(SIZES)
    for found in maps:
        assert found.score.shape == found.class_id.shape
        assert set(np.unique(found.class_id)) <= {*PROMPTS, UNKNOWN}
        labelled = found.class_id != UNKNOWN
        assert labelled.any()
        assert (found.score[labelled] > threshold).all()
        assert (found.score[~labelled] == 0).all()


def test_maps_are_the_same_every_time_and_one_by_one(networks: Path, frame: KeyFrame) -> None:
    teacher = GroundedSam(config_of(networks), taxonomy=ASKED)
    maps, again = teacher.semantics(frame), teacher.semantics(frame)
    small = config_of(networks, images_per_batch=1, pairs_per_batch=1, masks_per_batch=1)
    one_by_one = GroundedSam(small, taxonomy=ASKED)
    for index, (first, second) in enumerate(zip(maps, again, strict=True)):
        np.testing.assert_array_equal(first.class_id, second.class_id)
        np.testing.assert_array_equal(first.score, second.score)
        (single,) = one_by_one.semantics(replace(frame, cameras=frame.cameras[index : index + 1]))
        assert (single.class_id == first.class_id).mean() > 0.99
        assert np.quantile(np.abs(single.score - first.score), 0.99) < 1e-3


def test_an_image_without_any_box_is_an_empty_map(networks: Path, frame: KeyFrame) -> None:
    for found, size in zip(
        GroundedSam(config_of(networks, box_threshold=0.999999), taxonomy=ASKED).semantics(frame), SIZES, strict=True
    ):
        np.testing.assert_array_equal(found.class_id, np.full(size, UNKNOWN, np.uint8))
        np.testing.assert_array_equal(found.score, np.zeros(size, np.float32))


def test_the_sky_gets_masks_of_its_own(networks: Path, frame: KeyFrame) -> None:
    maps = GroundedSam(config_of(networks), taxonomy=asked_for({CAR: ("car",), FREE: ("sky",)})).semantics(frame)
    found = set(np.unique(maps[0].class_id))
    assert FREE in found
    assert found <= {CAR, FREE, UNKNOWN}


def test_half_precision_keeps_boxes_where_they_are(networks: Path, frame: KeyFrame, images: list[np.ndarray]) -> None:
    # Every box, in the order of the queries, so that they can be compared one by one.
    options: dict[str, Any] = {"box_threshold": 0.0, "text_threshold": 0.0, "prompts": {CAR: ("car",)}}
    exact, half = (detector_of(networks, precision=name, **options)(images) for name in ("float32", "bfloat16"))
    off_px = torch.cat([(a.boxes_px - b.boxes_px).abs().amax(1) for a, b in zip(exact, half, strict=True)])
    assert off_px.max() > 0
    # A random network orders a few of its proposals differently in half precision; those are other boxes.
    assert off_px.median() < 0.5
    maps = GroundedSam(config_of(networks, precision="bfloat16"), taxonomy=ASKED).semantics(frame)
    assert [found.class_id.shape for found in maps] == list(SIZES)


def test_a_broken_image_is_named(networks: Path, frame: KeyFrame, tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8 and no more")
    broken = replace(frame, cameras=(frame.cameras[0], camera(path, 45, 80)))
    for teacher in (
        GroundedSam(config_of(networks), taxonomy=ASKED),
        Sam3(Sam3Config(model=str(networks / "sam3"), device="cpu"), taxonomy=ASKED),
    ):
        with pytest.raises(DataError, match=r"broken\.jpg"):
            teacher.semantics(broken)


# --- SAM 3 -----------------------------------------------------------------------------------------------------------


def sam3_of(networks: Path, **options: Any) -> Sam3:
    prompts = options.pop("prompts", PROMPTS)
    settings: dict[str, Any] = {"model": str(networks / "sam3"), "device": "cpu", "threshold": 0.2}
    return Sam3(Sam3Config(**{**settings, **options}), taxonomy=asked_for(prompts))


def test_sam3_maps_have_the_size_of_their_images(networks: Path, frame: KeyFrame) -> None:
    maps = sam3_of(networks).semantics(frame)
    assert [found.class_id.shape for found in maps] == list(SIZES)
    small = sam3_of(networks, images_per_batch=1, pairs_per_batch=1, masks_per_batch=1).semantics(frame)
    for found, alone in zip(maps, small, strict=True):
        labelled = found.class_id != UNKNOWN
        assert set(np.unique(found.class_id)) <= {*PROMPTS, UNKNOWN}
        assert labelled.any()
        assert (found.score[labelled] > 0.2).all()
        assert (found.score[~labelled] == 0).all()
        assert (alone.class_id == found.class_id).mean() > 0.99
        np.testing.assert_allclose(np.median(alone.score), np.median(found.score), atol=1e-5)
    empty = sam3_of(networks, threshold=0.99).semantics(frame)
    assert all((found.class_id == UNKNOWN).all() and (found.score == 0).all() for found in empty)


def phrase_segmenter_of(networks: Path, prompts: dict[int, Sequence[str]], precision: str = "float32") -> Any:
    return PhraseSegmenter(
        networks / "sam3",
        prompts,
        threshold=0.2,
        device="cpu",
        precision=precision,  # type: ignore[arg-type]
        images_per_batch=2,
        pairs_per_batch=3,
        masks_per_batch=4,
    )


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_sam3_answers_as_the_plain_network_does(
    networks: Path, images: list[np.ndarray], precision: str, tolerance: float
) -> None:
    """The plain twin looks at one image for one phrase; ours looks once, and in half precision if it is told to."""
    from transformers import Sam3Model

    plain = Sam3Model.from_pretrained(networks / "sam3", dtype=torch.float32).eval()
    segmenter = phrase_segmenter_of(networks, {CAR: ("car",), TRUCK: ("a truck",)}, precision)
    with torch.inference_mode():
        vision = segmenter._network.get_vision_features(Preprocessing(**HALVES)(images, 56, 56, CPU))
        logits, scores = segmenter._outputs(vision, torch.tensor([2, 0]), torch.tensor([1, 0]))
        for row, (image, phrase) in enumerate(((images[2], "a truck"), (images[0], "car"))):
            tokens = load_tokenizer(networks / "sam3")(
                [phrase], padding="max_length", max_length=32, return_tensors="pt"
            )
            outputs = plain(pixel_values=Preprocessing(**HALVES)([image], 56, 56, CPU), **tokens)
            expected = outputs.pred_logits[0].sigmoid() * outputs.presence_logits[0].sigmoid()
            torch.testing.assert_close(scores[row], expected, rtol=0, atol=tolerance)
            spread = float(outputs.pred_masks[0].std())
            torch.testing.assert_close(logits[row].float(), outputs.pred_masks[0], rtol=0, atol=tolerance * 10 * spread)


HALVES: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def test_sam3_scores_are_presence_times_fit_and_phrases_are_classes(
    networks: Path, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = phrase_segmenter_of(networks, {CAR: ("car", "sedan"), FREE: ("sky",)})

    def forward(*, text_embeds: Any, **_: object) -> SimpleNamespace:
        pairs = len(text_embeds.pooler_output)
        # Two queries; the first fits (0.8), the second does not (0.1). Masks: the left half, and everything.
        masks = torch.ones(pairs, 2, 4, 4)
        masks[:, 0, :, 2:] = -1.0
        return SimpleNamespace(
            pred_logits=torch.tensor([0.8, 0.1]).logit().expand(pairs, 2),
            presence_logits=torch.tensor([[0.5]]).logit().expand(pairs, 1),
            pred_masks=masks,
        )

    monkeypatch.setattr(segmenter._network, "forward", forward)
    seen = list(segmenter.masks(images))
    assert [(index, class_id.tolist()) for index, _, class_id, _ in seen] == [
        (index, [class_id]) for index in range(3) for class_id in (CAR, CAR, FREE)
    ]
    for index, masks, _, score in seen:
        height, width = SIZES[index]
        left = np.zeros((height, width), bool)
        left[:, : width // 2] = True
        np.testing.assert_array_equal(masks[0].numpy(), left)
        torch.testing.assert_close(score, torch.tensor([0.4]))


def test_a_phrase_too_long_for_sam3_is_named(networks: Path) -> None:
    with pytest.raises(ConfigError, match=r"32 tokens; 'a{40}' is too long"):
        phrase_segmenter_of(networks, {CAR: ("a" * 40,)})


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hugging Face Hub."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def put_in_cache(cache: Path, name: str, source: Path, commit: str = "0123abcd" * 5) -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(source, snapshot)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(commit)
    return snapshot


def test_missing_weights_are_named_with_their_place_and_their_command(cache: Path, networks: Path) -> None:
    config = GroundedSamConfig(detector="IDEA-Research/grounding-dino-base", segmenter="facebook/sam-vit-huge")
    with pytest.raises(ConfigError) as raised:
        GroundedSam(config)
    for part in ("IDEA-Research/grounding-dino-base", str(cache), "`hf download IDEA-Research/grounding-dino-base`"):
        assert part in str(raised.value)
    sentences = missing_grounded_sam(config)
    assert sentences is not None
    assert "hf download IDEA-Research/grounding-dino-base" in sentences
    assert "hf download facebook/sam-vit-huge" in sentences
    revised = missing_sam3(Sam3Config(revision="abc"))
    assert revised is not None
    assert "hf download facebook/sam3 --revision abc" in revised
    assert missing_grounded_sam(config_of(networks)) is None


def test_weights_are_found_in_the_cache_and_known_by_their_commit(cache: Path, networks: Path, frame: KeyFrame) -> None:
    snapshot = put_in_cache(cache, "someone/tiny", networks / "sam3")
    assert find_weights("someone/tiny") == snapshot
    assert find_weights("someone/tiny", snapshot.name) == snapshot
    assert missing_weights("someone/tiny", "another-branch") is not None
    teacher = sam3_of(networks, model="someone/tiny")
    assert teacher.settings["model"] == {"name": "someone/tiny", "digest": snapshot.name}
    assert teacher.semantics(frame)[0].class_id.shape == SIZES[0]


def test_half_a_download_is_not_taken_for_weights(cache: Path, networks: Path, tmp_path: Path) -> None:
    snapshot = put_in_cache(cache, "someone/tiny", networks / "sam")
    (snapshot / "model.safetensors").unlink()
    assert "only a part of it" in str(missing_weights("someone/tiny"))
    # A link of the cache that leads nowhere is no file.
    (snapshot / "model.safetensors").symlink_to(cache / "gone")
    assert "only a part of it" in str(missing_weights("someone/tiny"))
    folder = tmp_path / "sharded"
    shutil.copytree(networks / "sam", folder)
    shards = {"a": "model.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ConfigError, match=r"names 1 files that are not there, the first model-2\.safetensors"):
        find_weights(str(folder))


def test_a_name_that_is_none_is_said(cache: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder, and no name"):
        find_weights("./no/such/folder")


def test_the_digest_of_a_folder_is_of_its_content(networks: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(networks / "sam", copy)
    (copy / ".cache").mkdir()
    (copy / ".cache/bookkeeping").write_text("of a download")
    assert weights_digest(copy) == weights_digest(networks / "sam")
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert weights_digest(copy) != weights_digest(networks / "sam")


def test_another_network_and_incomplete_weights_are_refused(networks: Path, frame: KeyFrame, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of type 'sam'; expected one of grounding-dino, mm-grounding-dino"):
        GroundedSam(config_of(networks, detector="sam"), taxonomy=ASKED).semantics(frame)
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "lacking"
    shutil.copytree(networks / "sam", folder)
    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 weights of SamModel are not in it, the first mask_decoder\.iou_token"):
        Segmenter(folder, device="cpu", precision="auto", images_per_batch=1, masks_per_batch=1)
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Segmenter(folder, device="cpu", precision="auto", images_per_batch=1, masks_per_batch=1)


def test_networks_published_with_a_tracker_are_read(networks: Path, frame: KeyFrame, tmp_path: Path) -> None:
    """SAM 2 and SAM 3 are published as `sam2_video` and `sam3_video`: more weights, and SAM 3's under another name."""
    from safetensors.torch import load_file, save_file

    for name in ("sam2", "sam3"):
        shutil.copytree(networks / name, tmp_path / name)
    path = tmp_path / "sam2/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "sam2_video"}))
    path = tmp_path / "sam3/config.json"
    path.write_text(json.dumps({"model_type": "sam3_video", "detector_config": json.loads(path.read_text())}))
    weights = load_file(tmp_path / "sam3/model.safetensors")
    renamed = {f"detector_model.{name}": tensor for name, tensor in weights.items()}
    save_file(
        {**renamed, "tracker_model.more": torch.zeros(3)},
        tmp_path / "sam3/model.safetensors",
        metadata={"format": "pt"},
    )
    makers: tuple[Callable[[Path], GroundedSam | Sam3], ...] = (
        lambda root: GroundedSam(config_of(networks, segmenter=str(root / "sam2")), taxonomy=ASKED),
        lambda root: sam3_of(root),
    )
    for make in makers:
        for published, plain in zip(make(tmp_path).semantics(frame), make(networks).semantics(frame), strict=True):
            np.testing.assert_array_equal(published.class_id, plain.class_id)


# --- options ---------------------------------------------------------------------------------------------------------

NO_SETTINGS = {"device", "images_per_batch", "pairs_per_batch", "masks_per_batch"}
"""Options that change how maps are made, not what they are."""


def test_settings_change_with_every_option_that_maps_depend_on(networks: Path) -> None:
    base = GroundedSam(config_of(networks), taxonomy=ASKED).settings
    json.dumps(base)
    changes: dict[str, dict[str, Any]] = {
        "detector": {"detector": "mmdino"},
        "segmenter": {"segmenter": "sam"},
        "box_threshold": {"box_threshold": 0.3},
        "text_threshold": {"text_threshold": 0.3},
        "captions": {"captions": "class"},
        "sky_answer": {"sky_answer": True},
        "precision": {"precision": "bfloat16"},
    }
    revisions = {"detector_revision", "segmenter_revision"}  # in the digest of the weights
    assert set(changes) | NO_SETTINGS | revisions == {field.name for field in fields(GroundedSamConfig)}
    for change in changes.values():
        assert GroundedSam(config_of(networks, **change), taxonomy=ASKED).settings != base, change
    assert GroundedSam(config_of(networks), taxonomy=asked_for({CAR: ("car",)})).settings != base
    same = config_of(networks, images_per_batch=5, pairs_per_batch=5, masks_per_batch=5, precision="float32")
    assert GroundedSam(same, taxonomy=ASKED).settings == base


def test_settings_of_sam3_change_with_every_option_that_maps_depend_on(networks: Path, tmp_path: Path) -> None:
    base = sam3_of(networks).settings
    json.dumps(base)
    other = tmp_path / "sam3"
    shutil.copytree(networks / "sam3", other)
    (other / "processor_config.json").write_text("{}")
    changes: dict[str, dict[str, Any]] = {
        "model": {"model": str(other)},
        "threshold": {"threshold": 0.3},
        "precision": {"precision": "bfloat16"},
    }
    assert set(changes) | NO_SETTINGS | {"revision"} == {field.name for field in fields(Sam3Config)}
    for change in changes.values():
        assert sam3_of(networks, **change).settings != base, change
    assert sam3_of(networks, prompts={CAR: ("car",)}).settings != base
    assert sam3_of(networks, images_per_batch=5, pairs_per_batch=5, masks_per_batch=5).settings == base


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("box_threshold", 1.5),
        ("text_threshold", -0.1),
        ("captions", "word"),
        ("pairs_per_batch", 0),
        ("images_per_batch", 0),
        ("masks_per_batch", -1),
    ],
)
def test_options_out_of_range_are_named(networks: Path, option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"grounded-sam: {option} is"):
        GroundedSam(config_of(networks, **{option: value}))


def test_unknown_precision_and_device_are_named(networks: Path, frame: KeyFrame) -> None:
    with pytest.raises(ConfigError, match="precision is 'int8'"):
        sam3_of(networks, precision="int8").semantics(frame)
    with pytest.raises(ConfigError, match="abacus"):
        sam3_of(networks, device="abacus").semantics(frame)


# --- preprocessing ---------------------------------------------------------------------------------------------------


def test_preprocessing_is_read_from_the_files_beside_the_weights(tmp_path: Path) -> None:
    default = Preprocessing(shortest_edge_px=800, longest_edge_px=1333)
    assert read_preprocessing(tmp_path, default) == default
    stated = {"image_mean": [0.5, 0.5, 0.5], "resample": 3, "size": {"shortest_edge": 480, "longest_edge": 800}}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": stated}))
    expected = Preprocessing(mean=(0.5, 0.5, 0.5), resample=3, shortest_edge_px=480, longest_edge_px=800)
    assert read_preprocessing(tmp_path, default) == expected
    # A network of fixed input size keeps it, whatever the file says.
    assert read_preprocessing(tmp_path, Preprocessing()).shortest_edge_px is None
    for wrong in ({"image_mean": [0.5]}, {"resample": "bicubic"}, {"size": {"height": 3}}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"preprocessor_config\.json: .* expected"):
            read_preprocessing(tmp_path, default)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(DataError, match="not a readable JSON file"):
        read_preprocessing(tmp_path, default)


def test_the_longer_edge_bounds_the_shorter_one() -> None:
    published = Preprocessing(shortest_edge_px=800, longest_edge_px=1333)
    assert published.size_of(900, 1600) == (750, 1333)
    assert published.size_of(900, 1000) == (800, 889)


def test_pixels_are_normalised_per_channel() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[:] = (255, 0, 51)
    pixels = Preprocessing()([image, image], 4, 6, CPU)
    assert pixels.shape == (2, 3, 4, 6)
    for channel, value in enumerate((1.0, 0.0, 0.2)):
        expected = (value - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        np.testing.assert_allclose(pixels[1, channel].numpy(), expected, rtol=1e-5)


def test_listing_teachers_loads_no_heavy_library() -> None:
    code = (
        "import sys, occlift.teachers.grounded_sam as g, occlift.teachers.sam3 as s\n"
        "g.missing_grounded_sam(g.GroundedSamConfig()), s.missing_sam3(s.Sam3Config())\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
