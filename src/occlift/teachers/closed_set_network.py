"""Segmenters of a fixed list of classes at work: images in, class maps out.

The networks say what an image shows in two ways. SegFormer and UPerNet score every class in every cell. Mask2Former,
OneFormer and EoMT propose masks and say of each what class it is; the score of a class in a cell is the sum over masks
of P(class of mask) · P(cell in mask), as their authors add them up for semantic segmentation. EoMT looks at squares:
the image is resized until its shorter edge fits, and what several overlapping squares say is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional as F

from occlift.runtime.devices import AutoPrecision, autocast, resolve_precision
from occlift.scenes.frames import CameraImage
from occlift.teachers.images import stretched
from occlift.teachers.painting import most_likely
from occlift.teachers.preprocessing import Preprocessing, of_one_size, read_preprocessing
from occlift.teachers.pretrained import keep_float32, load_network, load_tokenizer
from occlift.teachers.teacher import SemanticMap

NETWORKS: Final = {
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "oneformer": "OneFormerForUniversalSegmentation",
    "eomt": "EomtForUniversalSegmentation",
    "eomt_dinov3": "EomtDinov3ForUniversalSegmentation",
    "segformer": "SegformerForSemanticSegmentation",
    "upernet": "UperNetForSemanticSegmentation",
}
"""From the kind of network to its class in transformers."""

_CLASSIFIERS: Final = {
    "mask2former": "class_predictor",
    "oneformer": "model.transformer_module.decoder.class_embed",
    "eomt": "class_predictor",
    "eomt_dinov3": "class_predictor",
    "segformer": "decode_head.classifier",
    "upernet": "decode_head.classifier",
}
_SQUARE: Final = ("eomt", "eomt_dinov3")
_TASK: Final = "the task is semantic"
_USUAL: Final = Preprocessing(shortest_edge_px=512, longest_edge_px=2048)


class ClosedSetNetwork:
    """A segmenter of a fixed list of classes.

    Args:
        folder: of the weights.
        class_ids: what each of its classes is called here.
        shortest_edge_px: of images in its input; None: what the files beside the weights say.
        images_per_batch: images that are looked at together.

    Raises:
        ConfigError: the folder holds something else or is incomplete.
        DataError: a configuration file of the network is damaged.
    """

    def __init__(
        self,
        folder: Path,
        class_ids: UInt8[np.ndarray, "classes"],
        *,
        shortest_edge_px: int | None,
        device: str,
        precision: AutoPrecision,
        images_per_batch: int,
    ) -> None:
        self._network, self._device = load_network(folder, NETWORKS, device=device)
        self._kind: str = self._network.config.model_type
        self._class_ids = class_ids
        keep_float32([self._network.get_submodule(_CLASSIFIERS[self._kind])], self._device)
        self._precision = resolve_precision(precision, self._device)
        self._images_per_batch = images_per_batch
        preprocessing = read_preprocessing(folder, _USUAL)
        if self._kind in _SQUARE:
            shortest_edge_px = self._network.config.image_size
        if shortest_edge_px is not None:
            preprocessing = replace(
                preprocessing, shortest_edge_px=shortest_edge_px, longest_edge_px=None, fixed_size=None
            )
        self._preprocessing = preprocessing
        self._task = self._task_tokens(folder) if self._kind == "oneformer" else None

    @torch.inference_mode()
    def __call__(self, cameras: Sequence[CameraImage]) -> list[SemanticMap]:
        """The class of every pixel, at the size of the images.

        Raises:
            DataError: an image is missing, damaged or of the wrong size.
        """
        images = [camera.read() for camera in cameras]
        maps: dict[int, SemanticMap] = {}
        for members in of_one_size(images, self._images_per_batch):
            size = self._preprocessing.size_of(*images[members[0]].shape[:2])
            pixels = self._preprocessing([images[index] for index in members], *size, self._device)
            for index, scores in zip(members, self._scores(pixels), strict=True):
                placement = stretched(cameras[index], *size)
                maps[index] = most_likely(
                    scores, placement, self._class_ids, logits=self._kind in ("segformer", "upernet")
                )
        return [maps[index] for index in range(len(images))]

    def _scores(
        self, pixels: Float[torch.Tensor, "images 3 h w"]
    ) -> Float[torch.Tensor, "images classes rows columns"]:
        if self._kind not in _SQUARE:
            return self._answered(pixels)
        side, length = min(pixels.shape[2:]), max(pixels.shape[2:])
        starts = np.linspace(0, length - side, -(-length // side)).astype(int).tolist()
        axis = 2 if pixels.shape[2] == length else 3
        squares = [self._answered(pixels.narrow(axis, start, side)) for start in starts]
        whole = pixels.new_zeros(len(pixels), squares[0].shape[1], *pixels.shape[2:])
        seen = pixels.new_zeros(pixels.shape[2:])
        for start, scores in zip(starts, squares, strict=True):
            whole.narrow(axis, start, side).add_(F.interpolate(scores, (side, side), mode="bilinear"))
            seen.narrow(axis - 2, start, side).add_(1)
        return whole / seen

    def _answered(
        self, pixels: Float[torch.Tensor, "images 3 h w"]
    ) -> Float[torch.Tensor, "images classes rows columns"]:
        inputs = {} if self._task is None else {"task_inputs": self._task.expand(len(pixels), -1)}
        with autocast(self._precision, self._device):
            outputs = self._network(pixel_values=pixels, **inputs)
        if hasattr(outputs, "logits"):
            return outputs.logits.float()
        # The last class of a mask is that it is none.
        classes = outputs.class_queries_logits.float().softmax(-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", classes, outputs.masks_queries_logits.float().sigmoid())

    def _task_tokens(self, folder: Path) -> Any:
        """What tells OneFormer that classes are wanted, not objects; padding counts as token 0."""
        length = self._network.config.task_seq_len
        tokens = load_tokenizer(folder)(
            [_TASK], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return (tokens["input_ids"] * tokens["attention_mask"]).to(self._device)
