"""Grounded-SAM (Ren et al., arXiv 2401.14159): a detector that reads finds boxes, SAM gives each its mask.

Every pixel takes the class of the mask over it whose box scores highest; a pixel under no mask is 255. It is the
teacher of classes of EasyOcc (arXiv 2509.26087) and of OccNeRF (arXiv 2312.09243).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, get_args

from occlift.errors import ConfigError
from occlift.label_space import OCC3D, Taxonomy
from occlift.runtime.devices import AutoPrecision, resolve_precision, torch_device
from occlift.scenes.frames import KeyFrame
from occlift.teachers.captions import Grouping, captions, check_prompts, prompt_settings
from occlift.teachers.network import check_batch, check_score_threshold
from occlift.teachers.teacher import SemanticMap
from occlift.teachers.weights import find_weights, missing_weights, weights_settings

if TYPE_CHECKING:
    from occlift.teachers.detector import Detector
    from occlift.teachers.segmenter import Segmenter


@dataclass(frozen=True, kw_only=True)
class GroundedSamConfig:
    """How Grounded-SAM is run.

    Attributes:
        detector: Grounding DINO or MM Grounding DINO: a name on the Hugging Face Hub or a local folder.
        detector_revision: of the Hub; by default what the cache holds for `main`.
        segmenter: SAM or SAM 2: a name on the Hugging Face Hub or a local folder.
        segmenter_revision: of the Hub; by default what the cache holds for `main`.
        box_threshold: a box stays if its best token scores above it.
        text_threshold: and if the phrase that it fits best scores above it.
        captions: what the detector is asked at once: one `phrase` (slowest, best), all phrases of a `class`, or `all`.
        sky_answer: every caption gets "sky" as one more phrase, and boxes that fit it better than what was asked are
            discarded (ShelfOcc, + 0.39 mIoU). Where the sky itself is asked for nothing is discarded.
        precision: of the multiplications in the detector and in SAM's image encoder; see `occlift.runtime.devices`.
        device: `auto`, or what torch calls it.
        images_per_batch: images that are looked at together, by either network.
        pairs_per_batch: pairs of an image and a caption that the detector answers together.
        masks_per_batch: masks that exist at full size together.
    """

    detector: str = "IDEA-Research/grounding-dino-base"
    detector_revision: str | None = None
    segmenter: str = "facebook/sam-vit-huge"
    segmenter_revision: str | None = None
    box_threshold: float = 0.20
    text_threshold: float = 0.20
    captions: Grouping = "phrase"
    sky_answer: bool = False
    precision: AutoPrecision = "auto"
    device: str = "auto"
    images_per_batch: int = 2
    pairs_per_batch: int = 8
    masks_per_batch: int = 16


class GroundedSam:
    """A `SemanticsTeacher`. Networks are loaded when the first map is asked for.

    Args:
        taxonomy: classes and the phrases that are asked for them.

    Raises:
        ConfigError: weights are missing, an option is out of range, or a prompt cannot be asked.
    """

    def __init__(self, config: GroundedSamConfig, *, taxonomy: Taxonomy = OCC3D.taxonomy) -> None:
        _check(config)
        check_prompts(taxonomy, "grounded-sam")
        self._config = config
        self._taxonomy = taxonomy
        self._detector_weights = find_weights(config.detector, config.detector_revision)
        self._segmenter_weights = find_weights(config.segmenter, config.segmenter_revision)

    @cached_property
    def settings(self) -> Mapping[str, object]:
        """As the protocol says. Device and batch sizes are left out: they change maps by no more than rounding."""
        config = self._config
        return {
            "teacher": "grounded-sam",
            "detector": weights_settings(config.detector, self._detector_weights),
            "segmenter": weights_settings(config.segmenter, self._segmenter_weights),
            "box_threshold": config.box_threshold,
            "text_threshold": config.text_threshold,
            "captions": config.captions,
            "sky_answer": config.sky_answer,
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

        detector, segmenter = self._networks
        images = [camera.read() for camera in frame.cameras]
        found = detector(images)
        paintings = [ClassPainting(image.shape[0], image.shape[1], segmenter.device) for image in images]
        for index, part, masks in segmenter.masks(images, [detections.boxes_px for detections in found]):
            paintings[index].paint(masks, found[index].class_id[part], found[index].score[part])
        return [painting.result() for painting in paintings]

    @cached_property
    def _networks(self) -> tuple[Detector, Segmenter]:
        from occlift.teachers.detector import Detector
        from occlift.teachers.segmenter import Segmenter

        config = self._config
        return (
            Detector(
                self._detector_weights,
                captions(self._taxonomy, config.captions, sky_answer=config.sky_answer),
                box_threshold=config.box_threshold,
                text_threshold=config.text_threshold,
                device=config.device,
                precision=config.precision,
                images_per_batch=config.images_per_batch,
                pairs_per_batch=config.pairs_per_batch,
            ),
            Segmenter(
                self._segmenter_weights,
                device=config.device,
                precision=config.precision,
                images_per_batch=config.images_per_batch,
                masks_per_batch=config.masks_per_batch,
            ),
        )


def missing_grounded_sam(config: GroundedSamConfig) -> str | None:
    """Which weights are missing and how to get them; None if none are. Loads nothing."""
    sentences = [
        sentence
        for name, revision in (
            (config.detector, config.detector_revision),
            (config.segmenter, config.segmenter_revision),
        )
        if (sentence := missing_weights(name, revision)) is not None
    ]
    return "\n".join(sentences) or None


def _check(config: GroundedSamConfig) -> None:
    check_score_threshold("grounded-sam", "box_threshold", config.box_threshold)
    check_score_threshold("grounded-sam", "text_threshold", config.text_threshold)
    for name in ("pairs_per_batch", "images_per_batch", "masks_per_batch"):
        check_batch("grounded-sam", name, getattr(config, name))
    if config.captions not in get_args(Grouping):
        raise ConfigError(
            f"grounded-sam: captions is {config.captions!r}; expected one of {', '.join(get_args(Grouping))}"
        )
