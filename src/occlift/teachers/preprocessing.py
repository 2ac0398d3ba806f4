"""What published vision networks do to an image before they look at it: resize, scale to 0..1, normalise.

The numbers come from the `preprocessor_config.json` (or `processor_config.json`) beside the weights. The few lines are
here because some networks (SAM 2, SAM 3) come with a processor that needs torchvision, and because boxes and masks must
know exactly what happened to the pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, UInt8

from occlift.errors import DataError
from occlift.teachers.weights import read_json

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

_BILINEAR: Final = 2
"""PIL's number of its bilinear filter, which smooths before it makes an image smaller."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What happens to an image.

    Attributes:
        mean, std: of RGB values in 0..1, per channel.
        shortest_edge_px: the image is resized, keeping its proportions, until its shorter edge has this length;
        longest_edge_px: but its longer edge no more than this. None for networks whose input has a fixed size.
        fixed_size: (height, width) that images are stretched to instead.
        resample: PIL's number of the filter.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    shortest_edge_px: int | None = None
    longest_edge_px: int | None = None
    fixed_size: tuple[int, int] | None = None
    resample: int = _BILINEAR

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image is resized to, pixels."""
        if self.fixed_size is not None:
            return self.fixed_size
        assert self.shortest_edge_px is not None, self
        shorter, longer = min(height, width), max(height, width)
        scale = self.shortest_edge_px / shorter
        if self.longest_edge_px is not None:
            scale = min(scale, self.longest_edge_px / longer)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def __call__(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], height: int, width: int, device: torch.device
    ) -> Float[torch.Tensor, "images 3 {height} {width}"]:
        """Images, all stretched to one size, as a network reads them."""
        import torch
        from PIL import Image

        resized = [
            np.array(Image.fromarray(image).resize((width, height), Image.Resampling(self.resample)))
            for image in images
        ]
        # Bytes travel to the device; they become four times as large there.
        pixels = torch.from_numpy(np.stack(resized)).to(device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std).contiguous()


def read_preprocessing(folder: Path, default: Preprocessing) -> Preprocessing:
    """The preprocessing that the files beside the weights state; `default` for what they leave open.

    Raises:
        DataError: a file is damaged, or states something that is not understood.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        stated = read_json(path)
    else:
        path = folder / "processor_config.json"
        nested = read_json(path).get("image_processor") if path.is_file() else None
        if not isinstance(nested, dict):
            return default
        stated = nested
    fixed_size = None if default.shortest_edge_px is None else _fixed_size(stated)
    shortest_edge_px, longest_edge_px = (None, None) if fixed_size else _edges(stated, default, path)
    resample = stated.get("resample", default.resample)
    if not isinstance(resample, int) or resample not in range(6):
        raise DataError(f"{path}: resample is {resample!r}; expected the number of a filter of PIL, 0..5")
    return Preprocessing(
        mean=_channels(stated, "image_mean", default.mean, path),
        std=_channels(stated, "image_std", default.std, path),
        shortest_edge_px=shortest_edge_px,
        longest_edge_px=longest_edge_px,
        fixed_size=fixed_size,
        resample=resample,
    )


def of_one_size(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], most: int) -> list[list[int]]:
    """The positions of images in batches of at most so many, each of one size."""
    by_size: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        by_size[image.shape[0], image.shape[1]].append(index)
    return [members[start : start + most] for members in by_size.values() for start in range(0, len(members), most)]


def _fixed_size(stated: Mapping[str, object]) -> tuple[int, int] | None:
    size = stated.get("size")
    if not isinstance(size, dict) or not all(isinstance(size.get(side), int) for side in ("height", "width")):
        return None
    return size["height"], size["width"]


def _edges(stated: Mapping[str, object], default: Preprocessing, path: Path) -> tuple[int | None, int | None]:
    if default.shortest_edge_px is None:
        return None, None
    size = stated.get("size")
    if size is None:
        return default.shortest_edge_px, default.longest_edge_px
    # Files of old give the shorter edge as a number, and the longer one under another name.
    shortest, longest = (
        (size.get("shortest_edge"), size.get("longest_edge"))
        if isinstance(size, dict)
        else (size, stated.get("max_size", default.longest_edge_px))
    )
    if not isinstance(shortest, int) or not isinstance(longest, int | None):
        raise DataError(
            f"{path}: size is {size!r}; expected shortest_edge and longest_edge, or height and width, in pixels"
        )
    return shortest, longest


def _channels(stated: Mapping[str, object], key: str, default: tuple[float, ...], path: Path) -> tuple[float, ...]:
    values = stated.get(key)
    if values is None:
        return default
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise DataError(f"{path}: {key} is {values!r}; expected three numbers, one per channel")
    return tuple(float(value) for value in values)
