"""What each teacher multiplies per image: floating point operations, counted without weights and without computing.

    python benchmarks/teacher_cost.py

Networks of the published sizes are built on torch's meta device, where tensors have shapes and no values, so neither
hardware nor weights matter. Counted are matrix products, convolutions and attention, two operations per product; what
samples, normalises and resizes is not. Inputs have the size that the teacher resizes an image to. Published files say
sizes of their own for networks of fixed lists of classes; here the shorter edge is what the option `shortest_edge_px`
in the table says.

Grounding DINO is asked the phrases of Occ3D's classes. Without its tokenizer, a word counts as one token.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args
from unittest.mock import patch

import torch
import transformers
from torch import nn
from torch.fx.experimental import _config as fx_config
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_outputs import BaseModelOutputWithPooling

from occlift import OCC3D
from occlift.teachers.captions import Caption, Grouping, captions, class_prompts
from occlift.teachers.detector import PUBLISHED as DETECTOR_INPUT
from occlift.teachers.grounded_sam import GroundedSamConfig
from occlift.teachers.hf_depth import DepthAnythingConfig, DepthProConfig
from occlift.teachers.phrase_segmenter import TOKENS_PER_PHRASE
from occlift.teachers.preprocessing import Preprocessing

_META: Final = torch.device("meta")
_STAGES: Final = ["stage1", "stage2", "stage3", "stage4"]
_SWIN_BASE: Final[dict[str, Any]] = {
    "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12, "image_size": 384,
}  # fmt: skip
_SWIN_LARGE: Final = {**_SWIN_BASE, "embed_dim": 192, "num_heads": [6, 12, 24, 48]}
_VIT_SMALL: Final = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
_VIT_LARGE: Final = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
_VIT_GIANT: Final = {
    "hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A row of the table.

    Attributes:
        kind: what it is a teacher of.
        teacher: name, with the options that matter.
        model: names on the Hub.
        input_size: of the network's input, pixels, height × width.
        gflop: per image.
        parameters_m: millions.
    """

    kind: str
    teacher: str
    model: str
    input_size: str
    gflop: float
    parameters_m: float


@contextmanager
def without_values() -> Iterator[None]:
    """Tensors that are made are on the meta device, and nobody minds that they have no values."""
    # Checks of transformers read values. OneFormer asks where a mask is empty; nothing is multiplied by the answer.
    unchecked = patch.dict(os.environ, TRANSFORMERS_DISABLE_TORCH_CHECK="1")
    with unchecked, fx_config.patch(meta_nonzero_assume_all_nonzero=True), torch.inference_mode(), _META:
        yield


def gflop(call: Callable[[], object]) -> float:
    """Billions of floating point operations of a call."""
    counter = FlopCounterMode(display=False)
    with counter, without_values():
        call()
    return counter.get_total_flops() / 1e9


def network(kind: type[nn.Module], config: Any) -> Any:
    """A network without weights. What attention multiplies is written out, so that it is counted everywhere."""
    config._attn_implementation = "eager"
    with _META:
        made = kind(config)
    # Some parameters are made by a call that does not heed the device.
    return made.eval().requires_grad_(False).to(_META)


def parameters_m(*networks: nn.Module) -> float:
    """Millions of parameters."""
    return sum(parameter.numel() for one in networks for parameter in one.parameters()) / 1e6


def empty(*shape: int) -> torch.Tensor:
    """A float tensor of this shape."""
    return torch.empty(shape, device=_META)


def ids(count: int) -> torch.Tensor:
    """Ids of so many tokens."""
    return torch.empty(1, count, dtype=torch.long, device=_META)


def tokens_of(asked: tuple[Caption, ...]) -> int:
    """Tokens of the longest caption, to which all are padded: words, full stops, a start and an end."""
    return max(sum(len(phrase.split()) + 1 for phrase in caption.phrases) for caption in asked) + 2


def detector_gflop(detector: Any, height: int, width: int, tokens: int) -> tuple[float, float]:
    """What a Grounding DINO multiplies: to look at an image, and to answer one caption of so many tokens about it."""
    pixels, inside = empty(1, 3, height, width), torch.ones(1, height, width, dtype=torch.long, device=_META)
    looking = gflop(lambda: detector.model.backbone.conv_encoder(pixels, inside))
    both = gflop(
        lambda: detector(
            pixel_values=pixels, input_ids=ids(tokens), attention_mask=ids(tokens), token_type_ids=ids(tokens)
        )
    )
    return looking, both - looking


def grounded_sam(height: int, width: int, boxes: int) -> Iterator[Cost]:
    """Grounding DINO and SAM: the detector's encoder for every caption as its own code does it, and once as here."""
    swin = transformers.SwinConfig(**_SWIN_BASE, out_indices=[2, 3, 4])
    detector = network(
        transformers.GroundingDinoForObjectDetection, transformers.GroundingDinoConfig(backbone_config=swin)
    )
    vit = transformers.SamVisionConfig(
        hidden_size=1280,
        num_hidden_layers=32,
        num_attention_heads=16,
        mlp_dim=5120,
        global_attn_indexes=[7, 15, 23, 31],
    )
    segmenter = network(transformers.SamModel, transformers.SamConfig(vision_config=vit))
    masks = gflop(lambda: segmenter.get_image_embeddings(empty(1, 3, 1024, 1024))) + gflop(
        lambda: segmenter(
            image_embeddings=empty(1, 256, 64, 64), input_boxes=empty(1, boxes, 4), multimask_output=False
        )
    )
    size = DETECTOR_INPUT.size_of(height, width)
    config = GroundedSamConfig()
    for grouping in get_args(Grouping):
        asked = captions(OCC3D.taxonomy, grouping, sky_answer=False)
        looking, answering = detector_gflop(detector, *size, tokens_of(asked))
        ways = {
            f"`grounded-sam`, `captions={grouping}`: one look, captions: {len(asked)}": looking + len(asked) * answering
        }
        if grouping == "phrase":
            # What the networks' own code does.
            ways[f"Grounded-SAM with a look for each of {len(asked)} phrases"] = len(asked) * (looking + answering)
        for name, detecting in ways.items():
            yield Cost(
                kind="classes", teacher=name, model=f"{config.detector}, {config.segmenter}",
                input_size=f"{size[0]} × {size[1]}, 1024 × 1024", gflop=detecting + masks,
                parameters_m=parameters_m(detector, segmenter),
            )  # fmt: skip


def sam3() -> Iterator[Cost]:
    """One look at an image, and an answer per phrase; the text is encoded once a run."""
    config = transformers.Sam3Config()
    model, side = network(transformers.Sam3Model, config), config.image_size
    cells = side // config.vision_config.backbone_config.patch_size
    # It asks values of tensors how large a map is.
    model.detr_decoder._get_coords = lambda *_, **__: (empty(cells), empty(cells))
    looking = gflop(lambda: model.get_vision_features(empty(1, 3, side, side)))
    with without_values():
        seen = model.get_vision_features(empty(1, 3, side, side))
    phrase = BaseModelOutputWithPooling(
        pooler_output=empty(1, TOKENS_PER_PHRASE, config.detr_encoder_config.hidden_size)
    )
    answering = gflop(lambda: model(vision_embeds=seen, text_embeds=phrase))
    phrases = sum(map(len, class_prompts(OCC3D.taxonomy).values()))
    yield Cost(
        kind="classes", teacher=f"`sam3` ({phrases} phrases)", model="facebook/sam3", input_size=f"{side} × {side}",
        gflop=looking + phrases * answering, parameters_m=parameters_m(model),
    )  # fmt: skip


def closed_set(height: int, width: int) -> Iterator[Cost]:
    """Segmenters of a fixed list of classes."""

    def row(model_name: str, model: Any, edge: int, **inputs: torch.Tensor) -> Cost:
        rows, columns = Preprocessing(shortest_edge_px=edge).size_of(height, width)
        squares = -(-columns // rows) if model.config.model_type == "eomt" else 0
        pixels = empty(1, 3, rows, rows if squares else columns)
        return Cost(
            kind="classes", model=model_name,
            teacher="`segmenter`" if squares else f"`segmenter`, `shortest_edge_px={edge}`",
            input_size=f"{squares} × {rows} × {rows}" if squares else f"{rows} × {columns}",
            gflop=max(1, squares) * gflop(lambda: model(pixel_values=pixels, **inputs)),
            parameters_m=parameters_m(model),
        )  # fmt: skip

    segformers = {
        "nvidia/segformer-b0-finetuned-cityscapes-1024-1024": ([2, 2, 2, 2], [32, 64, 160, 256], 256),
        "nvidia/segformer-b5-finetuned-cityscapes-1024-1024": ([3, 6, 40, 3], [64, 128, 320, 512], 768),
    }
    for name, (depths, sizes, decoder) in segformers.items():
        config = transformers.SegformerConfig(
            depths=depths, hidden_sizes=sizes, decoder_hidden_size=decoder, num_labels=19
        )
        yield row(name, network(transformers.SegformerForSemanticSegmentation, config), 1024)

    convnext = transformers.ConvNextConfig(
        hidden_sizes=[192, 384, 768, 1536], depths=[3, 3, 27, 3], out_features=_STAGES
    )
    upernet = transformers.UperNetConfig(backbone_config=convnext, num_labels=150)
    yield row("openmmlab/upernet-convnext-large", network(transformers.UperNetForSemanticSegmentation, upernet), 512)

    swin = transformers.SwinConfig(**_SWIN_LARGE, out_features=_STAGES)
    mask2former = network(
        transformers.Mask2FormerForUniversalSegmentation,
        transformers.Mask2FormerConfig(backbone_config=swin, num_queries=100, num_labels=65),
    )
    for edge in (512, 1024):
        yield row("facebook/mask2former-swin-large-mapillary-vistas-semantic", mask2former, edge)

    oneformer = transformers.OneFormerConfig(backbone_config=swin, num_queries=250, num_labels=19, is_training=False)
    yield row(
        "shi-labs/oneformer_cityscapes_swin_large",
        network(transformers.OneFormerForUniversalSegmentation, oneformer),
        1024,
        task_inputs=ids(oneformer.task_seq_len),
    )

    eomt = network(
        transformers.EomtForUniversalSegmentation,
        transformers.EomtConfig(**_VIT_LARGE, image_size=1024, num_queries=100, num_labels=19),
    )
    # How often it masks what queries look at is a number that it reads; after training, never.
    eomt.attn_mask_probs = torch.zeros(eomt.config.num_blocks)
    yield row("tue-mps/cityscapes_semantic_eomt_large_1024", eomt, 1024)


def depth(height: int, width: int) -> Iterator[Cost]:
    """Networks of depth; of those that come as ONNX files the encoder, which transformers has."""

    def row(teacher: str, model_name: str, model: Any, rows: int, columns: int) -> Cost:
        pixels = empty(1, 3, rows, columns)
        return Cost(
            kind="depth", teacher=teacher, model=model_name, input_size=f"{rows} × {columns}",
            gflop=gflop(lambda: model(pixel_values=pixels)), parameters_m=parameters_m(model),
        )  # fmt: skip

    encoders = (
        ("onnx-depth", "depth-anything-3-metric", "DA3METRIC-LARGE", transformers.Dinov2Model, _VIT_LARGE, 280, 504),
        ("onnx-depth", "unidepth-v2", "UniDepthV2, ViT-L", transformers.Dinov2Model, _VIT_LARGE, 462, 630),
        ("metric3d", "metric3d", "onnx-community/metric3d-vit-giant2",
         transformers.Dinov2WithRegistersModel, _VIT_GIANT, 616, 1064),
    )  # fmt: skip
    for teacher, spec, name, kind, sizes, rows, columns in encoders:
        config = kind.config_class(**sizes, patch_size=14, image_size=518)
        shown = f"`{teacher}`" if teacher == spec else f"`{teacher}`, `spec={spec}`"
        yield row(f"{shown}: encoder alone", name, network(kind, config), rows, columns)

    encoder = transformers.Dinov2Config(
        **_VIT_LARGE, patch_size=14, image_size=518, out_indices=[5, 12, 18, 24], reshape_hidden_states=False
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=encoder, reassemble_hidden_size=1024, neck_hidden_sizes=[256, 512, 1024, 1024],
        fusion_hidden_size=256, depth_estimation_type="metric", max_depth=80,
    )  # fmt: skip
    rows = round(DepthAnythingConfig().input_height / 14)
    columns = round(DepthAnythingConfig().input_height * width / height / 14)
    yield row(
        "`depth-anything`",
        DepthAnythingConfig().model,
        network(transformers.DepthAnythingForDepthEstimation, config),
        14 * rows,
        14 * columns,
    )

    encoders_of_pro = {
        f"{part}_model_config": transformers.Dinov2Config(**_VIT_LARGE, patch_size=16, image_size=384)
        for part in ("image", "patch", "fov")
    }
    model = network(transformers.DepthProForDepthEstimation, transformers.DepthProConfig(**encoders_of_pro))
    yield row("`depth-pro`", DepthProConfig().model, model, 1536, 1536)


def features(height: int, width: int) -> Iterator[Cost]:
    """DINOv2 on the image at its own size and at half of it."""
    model = network(transformers.Dinov2Model, transformers.Dinov2Config(**_VIT_SMALL, patch_size=14, image_size=518))
    for part in (1, 2):
        rows, columns = (14 * round(size / part / 14) for size in (height, width))
        pixels = empty(1, 3, rows, columns)
        yield Cost(
            kind="features", teacher=f"`dinov2`, `input_height={rows}`, `input_width={columns}`",
            model="facebook/dinov2-small", input_size=f"{rows} × {columns}",
            gflop=gflop(lambda pixels=pixels: model(pixel_values=pixels)), parameters_m=parameters_m(model),
        )  # fmt: skip


def table(costs: list[Cost]) -> str:
    """Markdown, the most expensive first; ratios are to the cheapest of its kind."""
    lines = []
    for kind in dict.fromkeys(cost.kind for cost in costs):
        of_kind = sorted((cost for cost in costs if cost.kind == kind), key=lambda cost: -cost.gflop)
        lines += [
            f"| teacher of {kind} | network | input, pixels | GFLOP an image | parameters, millions | ratio |",
            "| --- | --- | --- | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {cost.teacher} | {cost.model} | {cost.input_size} | {cost.gflop:,.0f} | {cost.parameters_m:.0f} | "
            f"{cost.gflop / of_kind[-1].gflop:.1f} |"
            for cost in of_kind
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image-size", type=int, nargs=2, default=(900, 1600), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--boxes", type=int, default=50, help="that the detector finds in an image, for SAM")
    parser.add_argument("--json", type=Path, help="write every number here")
    args = parser.parse_args()
    height, width = args.image_size
    costs = [
        *grounded_sam(height, width, args.boxes),
        *sam3(),
        *closed_set(height, width),
        *depth(height, width),
        *features(height, width),
    ]
    print(f"Image of {height} × {width} pixels, {args.boxes} boxes in it\n\n{table(costs)}")
    if args.json is not None:
        args.json.write_text(json.dumps([dataclasses.asdict(cost) for cost in costs], indent=1) + "\n")


if __name__ == "__main__":
    main()
