"""Grounding DINO (Liu et al., arXiv 2303.05499): from phrases to boxes.

The network says of every box how well it fits every *token* of a caption. Which phrase a token belongs to follows from
the full stops alone, so the way from a box back to a class is exact: no comparing of words.

Images of one size go through the network together, so nothing is ever padded and boxes are fractions of the whole
image. The network is built to look at an image anew for every caption; here it looks once, and all captions are asked
about what it saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import nn

from occlift.errors import ConfigError
from occlift.runtime.devices import AutoPrecision, autocast, resolve_precision
from occlift.teachers.captions import NO_CLASS, Caption
from occlift.teachers.preprocessing import Preprocessing, of_one_size, read_preprocessing
from occlift.teachers.pretrained import keep_float32, load_network, load_tokenizer

NETWORKS: Final = {
    "grounding-dino": "GroundingDinoForObjectDetection",
    "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
}
"""From the kind of network to its class in transformers."""

PUBLISHED: Final = Preprocessing(shortest_edge_px=800, longest_edge_px=1333)
"""What the published weights were trained with."""

FULL_STOP_ID: Final = 1012
DELIMITER_IDS: Final = (101, 102, FULL_STOP_ID, 1029)
"""BERT's [CLS], [SEP], full stop and question mark: what Grounding DINO parts phrases by, in its code."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """Boxes in one image, in the order of the captions.

    Attributes:
        boxes_px: left, top, right, bottom, in continuous pixel coordinates of the image, within it.
        class_id: what the box is taken for.
        score: 0..1, above the threshold.
    """

    boxes_px: Float[torch.Tensor, "boxes 4"]
    class_id: Int[torch.Tensor, "boxes"]
    score: Float[torch.Tensor, "boxes"]


class Detector:
    """Grounding DINO or MM Grounding DINO, asked always the same.

    Args:
        folder: of the weights.
        asked: the captions.
        box_threshold: boxes stay whose best token scores above it.
        text_threshold: of these, the ones whose phrase scores above it.
        images_per_batch: images that are looked at together.
        pairs_per_batch: (image, caption) pairs that are answered together.

    Raises:
        ConfigError: the folder holds something else or is incomplete, or a caption is too long.
        DataError: a configuration file of the network is damaged.
    """

    def __init__(
        self,
        folder: Path,
        asked: Sequence[Caption],
        *,
        box_threshold: float,
        text_threshold: float,
        device: str,
        precision: AutoPrecision,
        images_per_batch: int,
        pairs_per_batch: int,
    ) -> None:
        self._network, self.device = load_network(folder, NETWORKS, device=device)
        self._backbone = _SharedBackbone(self._network.model.backbone.conv_encoder)
        self._network.model.backbone.conv_encoder = self._backbone
        keep_float32([self._network.class_embed[-1]], self.device)
        self._precision = resolve_precision(precision, self.device)
        self._preprocessing = read_preprocessing(folder, PUBLISHED)
        self._captions = tokenized(asked, load_tokenizer(folder), max_tokens=self._network.config.max_text_len).to(
            self.device
        )
        self._box_threshold = box_threshold
        self._text_threshold = text_threshold
        self._images_per_batch = images_per_batch
        self._pairs_per_batch = pairs_per_batch

    @torch.inference_mode()
    def __call__(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Detections]:
        """What is found in each image."""
        found: dict[int, Detections] = {}
        for batch in of_one_size(images, self._images_per_batch):
            height, width = images[batch[0]].shape[:2]
            found.update(zip(batch, self._found([images[index] for index in batch], height, width), strict=True))
        return [found[index] for index in range(len(images))]

    def _found(
        self, images: Sequence[UInt8[np.ndarray, "height width 3"]], height: int, width: int
    ) -> list[Detections]:
        pixels = self._preprocessing(images, *self._preprocessing.size_of(height, width), self.device)
        with autocast(self._precision, self.device):
            self._backbone.compute(pixels)
        pairs = torch.cartesian_prod(torch.arange(len(images)), torch.arange(len(self._captions.token_ids)))
        per_image: list[list[Detections]] = [[] for _ in images]
        for batch in torch.split(pairs.to(self.device), self._pairs_per_batch):
            self._backbone.pairs = batch[:, 0]
            # Of the pixels no more than the shape is read again.
            logits, boxes = self._outputs(pixels[:1].expand(len(batch), -1, -1, -1), batch[:, 1])
            for (image, caption), token_logits, box in zip(batch.tolist(), logits, boxes, strict=True):
                per_image[image].append(self._kept(token_logits, box, caption, height, width))
        return [
            Detections(
                boxes_px=torch.cat([part.boxes_px for part in parts]),
                class_id=torch.cat([part.class_id for part in parts]),
                score=torch.cat([part.score for part in parts]),
            )
            for parts in per_image
        ]

    def _outputs(
        self, pixels: Float[torch.Tensor, "pairs 3 h w"], captions: Int[torch.Tensor, "pairs"]
    ) -> tuple[Float[torch.Tensor, "pairs queries tokens"], Float[torch.Tensor, "pairs queries 4"]]:
        token_ids = self._captions.token_ids[captions]
        with autocast(self._precision, self.device):
            outputs = self._network(
                pixel_values=pixels,
                input_ids=token_ids,
                attention_mask=self._captions.inside[captions],
                token_type_ids=torch.zeros_like(token_ids),
            )
        # The network fills up with -inf to the longest caption that it could read.
        logits, boxes = outputs.logits[..., : token_ids.shape[1]].float(), outputs.pred_boxes.float()
        if logits.isnan().any() or boxes.isnan().any():
            raise ConfigError(
                f"the detector's output is not a number in {self._precision}; use precision=bfloat16 or "
                "precision=float32, and if that does not help fetch its weights again"
            )
        return logits, boxes

    def _kept(
        self,
        token_logits: Float[torch.Tensor, "queries tokens"],
        boxes: Float[torch.Tensor, "queries 4"],
        caption: int,
        height: int,
        width: int,
    ) -> Detections:
        score, phrase_score, class_id = answers(
            token_logits.sigmoid(), self._captions.phrase_of_token[caption], self._captions.class_of_phrase[caption]
        )
        boxes_px = to_pixels(boxes, height, width)
        has_area = (boxes_px[:, 2] > boxes_px[:, 0]) & (boxes_px[:, 3] > boxes_px[:, 1])
        keep = (score > self._box_threshold) & (phrase_score > self._text_threshold) & has_area & (class_id != NO_CLASS)
        return Detections(boxes_px=boxes_px[keep], class_id=class_id[keep], score=score[keep])


class _SharedBackbone(nn.Module):
    """Stands where Grounding DINO's image backbone stood, and gives the features that it computed last.

    The backbone does not know the caption, and is a third of the work for one (base model, measured on a CPU).

    Attributes:
        pairs: the position, among the images computed last, of the image of each pair that is asked about.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self._backbone = backbone
        self._computed: list[tuple[Float[torch.Tensor, "images _ _ _"], Bool[torch.Tensor, "images _ _"]]] = []
        self.pairs = torch.empty(0, dtype=torch.long)

    def compute(self, pixels: Float[torch.Tensor, "images 3 h w"]) -> None:
        inside = torch.ones_like(pixels[:, 0], dtype=torch.long)
        self._computed = self._backbone(pixels, inside)

    def forward(
        self, pixel_values: Float[torch.Tensor, "pairs 3 h w"], pixel_mask: Int[torch.Tensor, "pairs h w"]
    ) -> list[tuple[Float[torch.Tensor, "pairs _ _ _"], Bool[torch.Tensor, "pairs _ _"]]]:
        return [(features[self.pairs], inside[self.pairs]) for features, inside in self._computed]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizedCaptions:
    """Captions as a network reads them, all padded to one length.

    Attributes:
        token_ids, inside: per caption; what is not `inside` is padding.
        phrase_of_token: the position of the phrase in its caption; −1 for delimiters and padding.
        class_of_phrase: the class ids, padded with 0.
    """

    token_ids: Int[torch.Tensor, "captions tokens"]
    inside: Int[torch.Tensor, "captions tokens"]
    phrase_of_token: Int[torch.Tensor, "captions tokens"]
    class_of_phrase: Int[torch.Tensor, "captions phrases"]

    def to(self, device: torch.device) -> TokenizedCaptions:
        return TokenizedCaptions(
            token_ids=self.token_ids.to(device),
            inside=self.inside.to(device),
            phrase_of_token=self.phrase_of_token.to(device),
            class_of_phrase=self.class_of_phrase.to(device),
        )


def to_pixels(boxes: Float[torch.Tensor, "boxes 4"], height: int, width: int) -> Float[torch.Tensor, "boxes 4"]:
    """Left, top, right, bottom in pixels, cut at the image's border, of boxes given as fractions of the image: centre
    (to the right, down), width, height."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    size = torch.tensor([width, height], device=boxes.device)
    corners = torch.cat((centre - half, centre + half), dim=1).clamp(0, 1)
    return corners * size.repeat(2)


def tokenized(asked: Sequence[Caption], tokenizer: Any, *, max_tokens: int) -> TokenizedCaptions:
    """Captions in tokens.

    All are padded to the longest, so that what a caption is answered does not depend on its neighbours in a batch.

    Raises:
        ConfigError: a caption is longer than the detector reads.
    """
    tokens = tokenizer([caption.text for caption in asked], padding="longest", return_tensors="pt")
    token_ids, inside = tokens["input_ids"], tokens["attention_mask"]
    if token_ids.shape[1] > max_tokens:
        longest = asked[int(inside.sum(1).argmax())]
        raise ConfigError(
            f"a caption of {len(longest.phrases)} phrases has {token_ids.shape[1]} tokens, the detector reads "
            f"{max_tokens}; ask for fewer things at once (captions=class or captions=phrase)"
        )
    phrases = max(len(caption.phrases) for caption in asked)
    return TokenizedCaptions(
        token_ids=token_ids,
        inside=inside,
        phrase_of_token=phrase_of_token(token_ids, inside),
        class_of_phrase=torch.tensor(
            [caption.class_ids + (0,) * (phrases - len(caption.phrases)) for caption in asked]
        ),
    )


def phrase_of_token(
    token_ids: Int[torch.Tensor, "captions tokens"], inside: Int[torch.Tensor, "captions tokens"]
) -> Int[torch.Tensor, "captions tokens"]:
    """Which phrase of its caption a token belongs to: the number of full stops before it. −1: to none."""
    belongs = (inside > 0) & ~torch.isin(token_ids, torch.tensor(DELIMITER_IDS, device=token_ids.device))
    return (token_ids == FULL_STOP_ID).cumsum(1).where(belongs, -1)


def answers(
    token_scores: Float[torch.Tensor, "boxes tokens"],
    phrase_of_token: Int[torch.Tensor, "tokens"],
    class_of_phrase: Int[torch.Tensor, "phrases"],
) -> tuple[Float[torch.Tensor, "boxes"], Float[torch.Tensor, "boxes"], Int[torch.Tensor, "boxes"]]:
    """What boxes are taken for.

    Args:
        token_scores: 0..1, how well each box fits each token of one caption.

    Returns:
        The score of the box, its best token, delimiters included; the score of its phrase, the best token of the
        phrase that fits best; and the class of that phrase. Of phrases that fit equally well the first is taken.
    """
    phrases = len(class_of_phrase)
    # Delimiters gather in one more phrase, which is dropped.
    slot = phrase_of_token.where(phrase_of_token >= 0, phrases).expand(token_scores.shape)
    per_phrase = torch.zeros(len(token_scores), phrases + 1, dtype=token_scores.dtype, device=token_scores.device)
    per_phrase = per_phrase.scatter_reduce(1, slot, token_scores, "amax")[:, :phrases]
    best = per_phrase.argmax(1)
    phrase_score = per_phrase.gather(1, best[:, None])[:, 0]
    return token_scores.amax(1), phrase_score, class_of_phrase[best]
