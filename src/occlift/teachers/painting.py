"""From many scored masks of an image, or from scores of classes, to one class per pixel: that of its highest score.

Masks come a few at a time and are forgotten at once. At 900 × 1600 pixels a mask of floats takes 6 MB, and an image has
hundreds of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch.nn import functional as F

from occlift.label_space import UNKNOWN
from occlift.teachers.images import Placement
from occlift.teachers.teacher import SemanticMap

_CLASSES_AT_ONCE: Final = 16
"""At 900 × 1600 pixels the scores of 150 classes would take 0.9 GB."""


class ClassPainting:
    """The class map of one image, while masks are painted on it. What no mask covers is 255, with score 0."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        self._class_id = torch.full((height, width), UNKNOWN, dtype=torch.uint8, device=device)
        self._score = torch.zeros((height, width), device=device)

    def paint(
        self,
        masks: Bool[torch.Tensor, "masks height width"],
        class_id: Int[torch.Tensor, "masks"],
        score: Float[torch.Tensor, "masks"],
    ) -> None:
        """Pixels of a mask take its class where its score is above what they have.

        So of equal scores the one painted first stays, and the result depends on nothing but the order.
        """
        for mask, value, confidence in zip(masks, class_id.tolist(), score.float().tolist(), strict=True):
            wins = mask & (self._score < confidence)
            self._class_id.masked_fill_(wins, value)
            self._score.masked_fill_(wins, confidence)

    def result(self) -> SemanticMap:
        """What has been painted so far."""
        return SemanticMap(class_id=self._class_id.cpu().numpy(), score=self._score.cpu().numpy())


def enlarged(
    logits: Float[torch.Tensor, "masks rows columns"],
    height: int,
    width: int,
    *,
    input_size: tuple[int, int],
    used: tuple[int, int],
) -> Bool[torch.Tensor, "masks {height} {width}"]:
    """Masks at the size of an image, where the logits that a network gives at a fraction of it are above 0.

    Args:
        input_size: (height, width) of the network's input, which the logits cover.
        used: the (height, width) of it, from its upper left corner, that the image fills; the rest is padding. Where
            there is some, cells of the logits must be whole pixels of the input wide.
    """
    logits = logits[:, None].float()
    if used != input_size:
        cell = input_size[0] // logits.shape[2]
        assert (logits.shape[2] * cell, logits.shape[3] * cell) == input_size, (logits.shape, input_size)
        rows, columns = -(-used[0] // cell), -(-used[1] // cell)
        # Cells of the padding go first, so that they are not mixed into the image's last pixels.
        logits = logits[:, :, :rows, :columns]
        if (rows * cell, columns * cell) != used:
            logits = F.interpolate(logits, (rows * cell, columns * cell), mode="bilinear", align_corners=False)
            logits = logits[:, :, : used[0], : used[1]]
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)[:, 0] > 0


def most_likely(
    scores: Float[torch.Tensor, "classes rows columns"],
    placement: Placement,
    class_ids: UInt8[np.ndarray, "classes"],
    *,
    logits: bool,
) -> SemanticMap:
    """The class of every pixel of an image whose scores cover a network's input: that of the highest score.

    Args:
        scores: interpolated bilinearly between cells; those of padding are not mixed in.
        class_ids: what each class of the network is called here.
        logits: scores become probabilities by a softmax over the classes, after they are interpolated, as networks are
            trained; otherwise they are taken as they are, up to 1.
    """
    v, u = placement.positions(tuple(scores.shape[1:]))
    rows, columns = (max(count - 1, 1) for count in scores.shape[1:])
    down, right = (torch.from_numpy(axis).to(scores) for axis in (2 * v / rows - 1, 2 * u / columns - 1))
    grid = torch.stack((right.expand(len(down), -1), down[:, None].expand(-1, len(right))), -1)[None]
    best = torch.full(grid.shape[1:3], -torch.inf, device=scores.device)
    total, chosen = best.clone(), torch.zeros_like(best, dtype=torch.long)
    for start in range(0, len(scores), _CLASSES_AT_ONCE):
        part = F.grid_sample(scores[None, start : start + _CLASSES_AT_ONCE], grid, align_corners=True)[0]
        value, index = part.max(0)
        wins = value > best
        best, chosen = torch.where(wins, value, best), torch.where(wins, index + start, chosen)
        total = torch.logaddexp(total, part.logsumexp(0))
    score = (best - total).exp() if logits else best.clamp(0, 1)
    class_id = class_ids[chosen.cpu().numpy()]
    return SemanticMap(
        class_id=class_id, score=np.where(class_id == UNKNOWN, 0, score.cpu().numpy()).astype(np.float32)
    )
