"""SAM 3 (Carion et al., arXiv 2511.16719): one network from a phrase to the masks of everything it names.

It looks at an image once and answers any number of phrases about it. Of every phrase it says how likely the image shows
it at all (presence), and of every mask how well it fits the phrase; the product is the mask's score, as its authors use
it. Every pixel takes the class of the mask over it that scores highest; a pixel under no mask is 255.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from occlift.label_space import OCC3D, Taxonomy
from occlift.runtime.devices import AutoPrecision, resolve_precision, torch_device
from occlift.scenes.frames import KeyFrame
from occlift.teachers.captions import check_prompts, class_prompts, prompt_settings
from occlift.teachers.network import check_batch, check_score_threshold
from occlift.teachers.teacher import SemanticMap
from occlift.teachers.weights import find_weights, missing_weights, weights_settings

if TYPE_CHECKING:
    from occlift.teachers.phrase_segmenter import PhraseSegmenter


@dataclass(frozen=True, kw_only=True)
class Sam3Config:
    """How SAM 3 is run.

    Attributes:
        model: a name on the Hugging Face Hub or a local folder.
        revision: of the Hub; by default what the cache holds for `main`.
        threshold: masks stay that score above it. The default is that of the library, not tuned for street scenes.
        precision: of the multiplications; see `occlift.runtime.devices`.
        device: `auto`, or what torch calls it.
        images_per_batch: images that are looked at together.
        pairs_per_batch: pairs of an image and a phrase that are answered together.
        masks_per_batch: masks that exist at full size together.
    """

    model: str = "facebook/sam3"
    revision: str | None = None
    threshold: float = 0.3
    precision: AutoPrecision = "auto"
    device: str = "auto"
    images_per_batch: int = 2
    pairs_per_batch: int = 8
    masks_per_batch: int = 16


class Sam3:
    """A `SemanticsTeacher`. The network is loaded when the first map is asked for.

    Args:
        taxonomy: classes and the phrases that are asked for them.

    Raises:
        ConfigError: weights are missing, an option is out of range, or a prompt cannot be asked.
    """

    def __init__(self, config: Sam3Config, *, taxonomy: Taxonomy = OCC3D.taxonomy) -> None:
        check_score_threshold("sam3", "threshold", config.threshold)
        for name in ("images_per_batch", "pairs_per_batch", "masks_per_batch"):
            check_batch("sam3", name, getattr(config, name))
        check_prompts(taxonomy, "sam3")
        self._config = config
        self._taxonomy = taxonomy
        self._weights = find_weights(config.model, config.revision)

    @cached_property
    def settings(self) -> Mapping[str, object]:
        """As the protocol says. Device and batch sizes are left out: they change maps by no more than rounding."""
        config = self._config
        return {
            "teacher": "sam3",
            "model": weights_settings(config.model, self._weights),
            "threshold": config.threshold,
            "precision": resolve_precision(config.precision, torch_device(config.device)),
            "prompts": prompt_settings(self._taxonomy),
        }

    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        """The class of every pixel, at the size of the images.

        Raises:
            ConfigError: the weights are those of another network, or damaged; the device is not there.
            DataError: an image is missing, damaged or of the wrong size.
        """
        from occlift.teachers.painting import ClassPainting

        segmenter = self._segmenter
        images = [camera.read() for camera in frame.cameras]
        paintings = [ClassPainting(image.shape[0], image.shape[1], segmenter.device) for image in images]
        for index, masks, class_id, score in segmenter.masks(images):
            paintings[index].paint(masks, class_id, score)
        return [painting.result() for painting in paintings]

    @cached_property
    def _segmenter(self) -> PhraseSegmenter:
        from occlift.teachers.phrase_segmenter import PhraseSegmenter

        config = self._config
        return PhraseSegmenter(
            self._weights,
            class_prompts(self._taxonomy),
            threshold=config.threshold,
            device=config.device,
            precision=config.precision,
            images_per_batch=config.images_per_batch,
            pairs_per_batch=config.pairs_per_batch,
            masks_per_batch=config.masks_per_batch,
        )


def missing_sam3(config: Sam3Config) -> str | None:
    """Which weights are missing and how to get them; None if none are. Loads nothing."""
    return missing_weights(config.model, config.revision)
