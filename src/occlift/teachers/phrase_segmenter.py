"""SAM 3 at work: images and phrases in, scored masks out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from occlift.errors import ConfigError
from occlift.runtime.devices import AutoPrecision, autocast, resolve_precision
from occlift.teachers.painting import enlarged
from occlift.teachers.preprocessing import Preprocessing, read_preprocessing
from occlift.teachers.pretrained import keep_float32, load_network, load_tokenizer

NETWORKS: Final = {"sam3": "Sam3Model", "sam3_video": "Sam3Model"}
"""From the kind of network to its class in transformers. SAM 3 is published with its tracker, as `sam3_video`."""

PUBLISHED: Final = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""What the published weights were trained with."""

TOKENS_PER_PHRASE: Final = 32
"""What phrases are padded to, as in training."""


class PhraseSegmenter:
    """SAM 3, asked always the same phrases.

    Args:
        folder: of the weights.
        prompts: the phrases per class id.
        threshold: masks stay that score above it.
        images_per_batch: images that are looked at together.
        pairs_per_batch: (image, phrase) pairs that are answered together.
        masks_per_batch: masks that exist at full size together.

    Raises:
        ConfigError: the folder holds something else or is incomplete, or a phrase is too long.
        DataError: a configuration file of the network is damaged.
    """

    def __init__(
        self,
        folder: Path,
        prompts: Mapping[int, Sequence[str]],
        *,
        threshold: float,
        device: str,
        precision: AutoPrecision,
        images_per_batch: int,
        pairs_per_batch: int,
        masks_per_batch: int,
    ) -> None:
        self._network, self.device = load_network(folder, NETWORKS, device=device)
        keep_float32([self._network.dot_product_scoring, self._network.detr_decoder.presence_head], self.device)
        self._precision = resolve_precision(precision, self.device)
        self._preprocessing = read_preprocessing(folder, PUBLISHED)
        self._side_px: int = self._network.config.image_size
        self._threshold = threshold
        self._images_per_batch = images_per_batch
        self._pairs_per_batch = pairs_per_batch
        self._masks_per_batch = masks_per_batch
        self._class_ids = [class_id for class_id, phrases in prompts.items() for _ in phrases]
        self._text, self._inside = self._encoded([phrase for phrases in prompts.values() for phrase in phrases], folder)

    @torch.inference_mode()
    def masks(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> Iterator[
        tuple[int, Bool[torch.Tensor, "masks height width"], Int[torch.Tensor, "masks"], Float[torch.Tensor, "masks"]]
    ]:
        """The masks of everything that the phrases name, at the size of the images, a few at a time.

        Yields:
            The position of the image, masks, their class ids and scores; for each image in the order of the phrases.
        """
        input_size = (self._side_px, self._side_px)
        for start in range(0, len(images), self._images_per_batch):
            members = images[start : start + self._images_per_batch]
            pixels = self._preprocessing(members, *input_size, self.device)
            with autocast(self._precision, self.device):
                vision = self._network.get_vision_features(pixels)
            pairs = torch.cartesian_prod(torch.arange(len(members)), torch.arange(len(self._class_ids)))
            for batch in torch.split(pairs.to(self.device), self._pairs_per_batch):
                logits, scores = self._outputs(vision, batch[:, 0], batch[:, 1])
                for (image, phrase), mask_logits, score in zip(batch.tolist(), logits, scores, strict=True):
                    height, width = members[image].shape[:2]
                    kept = (score > self._threshold).nonzero()[:, 0]
                    for part in torch.split(kept, self._masks_per_batch) if len(kept) else ():
                        masks = enlarged(mask_logits[part], height, width, input_size=input_size, used=input_size)
                        class_id = torch.full_like(part, self._class_ids[phrase])
                        yield start + image, masks, class_id, score[part]

    def _outputs(
        self, vision: object, images: Int[torch.Tensor, "pairs"], phrases: Int[torch.Tensor, "pairs"]
    ) -> tuple[Float[torch.Tensor, "pairs queries rows columns"], Float[torch.Tensor, "pairs queries"]]:
        """The logits of masks, and how well each fits its phrase, 0..1."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        with autocast(self._precision, self.device):
            outputs = self._network(
                vision_embeds=_chosen(vision, images),
                text_embeds=BaseModelOutputWithPooling(pooler_output=self._text[phrases]),
                attention_mask=self._inside[phrases],
            )
        scores = outputs.pred_logits.float().sigmoid() * outputs.presence_logits.float().sigmoid()
        if scores.isnan().any():
            raise ConfigError(
                f"sam3: the network's output is not a number in {self._precision}; use precision=bfloat16 or "
                "precision=float32, and if that does not help fetch its weights again"
            )
        return outputs.pred_masks, scores

    @torch.inference_mode()
    def _encoded(
        self, phrases: Sequence[str], folder: Path
    ) -> tuple[Float[torch.Tensor, "phrases tokens channels"], Int[torch.Tensor, "phrases tokens"]]:
        tokens = load_tokenizer(folder)(
            list(phrases), padding="max_length", max_length=TOKENS_PER_PHRASE, return_tensors="pt"
        ).to(self.device)
        if tokens["input_ids"].shape[1] > TOKENS_PER_PHRASE:
            longest = max(phrases, key=len)
            raise ConfigError(f"sam3 reads phrases of {TOKENS_PER_PHRASE} tokens; {longest!r} is too long")
        text = self._network.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], return_dict=True
        )
        return text.pooler_output, tokens["attention_mask"]


def _chosen(vision: object, images: Int[torch.Tensor, "pairs"]) -> object:
    """What the network saw in the image of each pair."""
    from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

    assert isinstance(vision, Sam3VisionEncoderOutput), type(vision)
    return Sam3VisionEncoderOutput(
        fpn_hidden_states=tuple(level[images] for level in vision.fpn_hidden_states),
        fpn_position_encoding=tuple(level[images] for level in vision.fpn_position_encoding),
    )
