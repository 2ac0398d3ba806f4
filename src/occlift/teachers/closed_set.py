"""Segmenters of a fixed list of classes: one look at an image says what every pixel shows, and nothing is asked.

Mask2Former (Cheng et al., arXiv 2112.01527), OneFormer (Jain et al., arXiv 2211.06220), EoMT (Kerssies et al., arXiv
2503.19108), SegFormer (Xie et al., arXiv 2105.15203) and UPerNet (Xiao et al., arXiv 1807.10221), as they are published
for Cityscapes, Mapillary Vistas and ADE20K. Where the classes of labels are among theirs, they multiply
some ten times less than a network that is asked phrase by phrase (`benchmarks/teacher_cost.py`), and say what *every*
pixel shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from occlift.errors import ConfigError
from occlift.label_space import OCC3D, Taxonomy, read_mapping
from occlift.runtime.devices import AutoPrecision, resolve_precision, torch_device
from occlift.scenes.frames import KeyFrame
from occlift.teachers.image_classes import image_class_mapping, image_class_table
from occlift.teachers.network import check_batch
from occlift.teachers.teacher import SemanticMap
from occlift.teachers.weights import class_names, find_weights, weights_settings

if TYPE_CHECKING:
    from occlift.teachers.closed_set_network import ClosedSetNetwork


@dataclass(frozen=True, kw_only=True)
class ClosedSetConfig:
    """How a segmenter of a fixed list of classes is run.

    Attributes:
        model: a name on the Hugging Face Hub or a local folder.
        revision: of the Hub; by default what the cache holds for `main`.
        shortest_edge_px: shorter edge of the images in the network's input, whose proportions are kept; by default what
            the files beside the weights say.
        mapping: TOML file, a line per class of the network: its name = "class", "free" or "unknown"; for classes that
            are not known by their names.
        precision: of the multiplications; see `occlift.runtime.devices`. What a class scores is float32.
        device: `auto`, or what torch calls it.
        images_per_batch: images that are looked at together.
    """

    model: str
    revision: str | None = None
    shortest_edge_px: int | None = None
    mapping: Path | None = None
    precision: AutoPrecision = "auto"
    device: str = "auto"
    images_per_batch: int = 2


class ClosedSetSegmenter:
    """A `SemanticsTeacher`. The network is loaded when the first map is asked for.

    Args:
        taxonomy: classes of the maps.

    Raises:
        ConfigError: weights are missing, an option is out of range, or a class of the network has no counterpart.
        DataError: the configuration of the network is damaged.
    """

    def __init__(self, config: ClosedSetConfig, *, taxonomy: Taxonomy = OCC3D.taxonomy) -> None:
        check_batch("segmenter", "images_per_batch", config.images_per_batch)
        if config.shortest_edge_px is not None and config.shortest_edge_px < 1:
            raise ConfigError(f"segmenter: shortest_edge_px is {config.shortest_edge_px}; expected 1 or more pixels")
        self._config = config
        self._weights = find_weights(config.model, config.revision)
        names = class_names(self._weights)
        given = None if config.mapping is None else read_mapping(config.mapping)
        file = str(config.mapping or f"{config.model}, without its option mapping=FILE")
        self._becomes = image_class_mapping(names, taxonomy, given, file=file)
        self._class_ids = image_class_table(names, taxonomy, self._becomes)

    @cached_property
    def settings(self) -> Mapping[str, object]:
        """As the protocol says. Device and batch size are left out: they change maps by no more than rounding."""
        config = self._config
        return {
            "teacher": "segmenter",
            "model": weights_settings(config.model, self._weights),
            "shortest_edge_px": config.shortest_edge_px,
            "precision": resolve_precision(config.precision, torch_device(config.device)),
            "classes": self._becomes,
        }

    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        """The class of every pixel, at the size of the images.

        Raises:
            ConfigError: the weights are those of another network, or damaged; the device is not there.
            DataError: an image is missing, damaged or of the wrong size.
        """
        return self._network(frame.cameras)

    @cached_property
    def _network(self) -> ClosedSetNetwork:
        from occlift.teachers.closed_set_network import ClosedSetNetwork

        config = self._config
        return ClosedSetNetwork(
            self._weights,
            self._class_ids,
            shortest_edge_px=config.shortest_edge_px,
            device=config.device,
            precision=config.precision,
            images_per_batch=config.images_per_batch,
        )
