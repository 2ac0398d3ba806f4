"""From many scored masks of an image to one class per pixel: every pixel takes the class of its highest score.

Masks come a few at a time and are forgotten at once. At 900 × 1600 pixels a mask of floats takes 6 MB, and an image has
hundreds of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch.nn import functional as F

from occlift.label_space import UNKNOWN
from occlift.teachers.teacher import SemanticMap


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
