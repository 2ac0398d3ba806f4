"""From boxes to masks: SAM (Kirillov et al., arXiv 2304.02643) and SAM 2 (Ravi et al., arXiv 2408.00714).

Both look at a square. SAM resizes an image until its longer edge fits and pads the rest with zeros after normalising;
SAM 2 stretches it. Looking at the image is what takes time, and runs in half precision; prompts and masks, which know
where things are, stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch.nn import functional as F

from occlift.runtime.devices import AutoPrecision, autocast, resolve_precision
from occlift.teachers.painting import enlarged
from occlift.teachers.preprocessing import Preprocessing, read_preprocessing
from occlift.teachers.pretrained import load_network

NETWORKS: Final = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
"""From the kind of network to its class in transformers. SAM 2 is published with its tracker, as `sam2_video`."""


class Segmenter:
    """SAM or SAM 2, asked for the one mask of every box.

    Args:
        folder: of the weights.
        images_per_batch: images that are looked at together.
        masks_per_batch: masks that exist at full size together.

    Raises:
        ConfigError: the folder holds something else or is incomplete.
        DataError: a configuration file of the network is damaged.
    """

    def __init__(
        self, folder: Path, *, device: str, precision: AutoPrecision, images_per_batch: int, masks_per_batch: int
    ) -> None:
        self._network, self.device = load_network(folder, NETWORKS, device=device)
        self._precision = resolve_precision(precision, self.device)
        self._preprocessing = read_preprocessing(folder, Preprocessing())
        self._side_px: int = self._network.prompt_encoder.input_image_size
        self._keeps_proportions = self._network.config.model_type == "sam"
        self._images_per_batch = images_per_batch
        self._masks_per_batch = masks_per_batch

    @torch.inference_mode()
    def masks(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], boxes_px: Sequence[Float[torch.Tensor, "_ 4"]]
    ) -> Iterator[tuple[int, slice, Bool[torch.Tensor, "masks height width"]]]:
        """The mask of every box at the size of its image, a few at a time, in order.

        Args:
            boxes_px: per image, left, top, right, bottom in pixels of the image.

        Yields:
            The position of the image, the boxes, and their masks.
        """
        # An image without a box need not be looked at.
        wanted = [index for index, boxes in enumerate(boxes_px) if len(boxes)]
        for start in range(0, len(wanted), self._images_per_batch):
            members = wanted[start : start + self._images_per_batch]
            embeddings = self._embeddings([images[index] for index in members])
            for position, index in enumerate(members):
                height, width = images[index].shape[:2]
                used = self._used(height, width)
                scale = boxes_px[index].new_tensor([used[1] / width, used[0] / height]).repeat(2)
                # SAM has one map of an image, SAM 2 one per scale.
                own = [level[position : position + 1] for level in embeddings]
                for first in range(0, len(boxes_px[index]), self._masks_per_batch):
                    part = slice(first, min(first + self._masks_per_batch, len(boxes_px[index])))
                    logits = self._network(
                        image_embeddings=own[0] if self._keeps_proportions else own,
                        input_boxes=(boxes_px[index][part] * scale)[None],
                        multimask_output=False,
                    ).pred_masks[0, :, 0]
                    input_size = (self._side_px, self._side_px)
                    yield index, part, enlarged(logits, height, width, input_size=input_size, used=used)

    def _used(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of the input that an image fills, pixels."""
        if not self._keeps_proportions:
            return self._side_px, self._side_px
        scale = self._side_px / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def _embeddings(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Float[torch.Tensor, "images _ _ _"]]:
        inputs = []
        for image in images:
            height, width = self._used(*image.shape[:2])
            pixels = self._preprocessing([image], height, width, self.device)
            inputs.append(F.pad(pixels, (0, self._side_px - width, 0, self._side_px - height)))
        with autocast(self._precision, self.device):
            embeddings: Any = self._network.get_image_embeddings(torch.cat(inputs))
        levels = [embeddings] if self._keeps_proportions else embeddings
        return [level.float() for level in levels]
