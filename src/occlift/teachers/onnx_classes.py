"""Classes by any network in an ONNX file, of which a small TOML file says what it wants and says (`onnx_spec`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from occlift.errors import ConfigError
from occlift.label_space import OCC3D, UNKNOWN, Taxonomy, read_mapping
from occlift.scenes.frames import KeyFrame
from occlift.teachers.image_classes import image_class_mapping, image_class_table
from occlift.teachers.images import Placement
from occlift.teachers.network import settings_of
from occlift.teachers.onnx_network import Device, ModelFile, OnnxNetwork
from occlift.teachers.onnx_spec import read_classes_spec, spec_settings
from occlift.teachers.teacher import SemanticMap


@dataclass(frozen=True, kw_only=True)
class OnnxClassesConfig:
    """How a network of classes in an ONNX file is run.

    Attributes:
        model: an `.onnx` file; or a repository name or a local folder that holds `file`.
        spec: what the network wants and says, a TOML file; by default the TOML file beside the model that has its name.
        mapping: TOML file, a line per class of the network: its name = "class", "free" or "unknown"; for classes that
            are not known by their names.
        file: within the repository or folder.
        revision: of the repository; by default what the cache holds for `main`.
        device: `auto` takes CUDA where onnxruntime has it.
        batch: images per call, for exports that allow more than one.
    """

    model: str
    spec: str = ""
    mapping: Path | None = None
    file: str = "onnx/model.onnx"
    revision: str | None = None
    device: Device = "auto"
    batch: int = 1


class OnnxClasses:
    """A `SemanticsTeacher`. The network is loaded when the first map is asked for.

    Args:
        taxonomy: classes of the maps.

    Raises:
        ConfigError: onnxruntime, the file or its spec is missing, an option is out of range, or a class of the network
            has no counterpart.
    """

    def __init__(self, config: OnnxClassesConfig, *, taxonomy: Taxonomy = OCC3D.taxonomy) -> None:
        if config.batch < 1:
            raise ConfigError(f"onnx-classes: batch is {config.batch}; expected 1 or more images")
        if (missing := missing_onnx_classes(config)) is not None:
            raise ConfigError(missing)
        self._config = config
        self._file = _model_file(config)
        self._spec = read_classes_spec(config.spec, self._file.path())
        given = None if config.mapping is None else read_mapping(config.mapping)
        file = str(config.mapping or f"{config.model}, without its option mapping=FILE")
        self._becomes = image_class_mapping(self._spec.names, taxonomy, given, file=file)
        self._class_ids = image_class_table(self._spec.names, taxonomy, self._becomes)

    @cached_property
    def settings(self) -> Mapping[str, object]:
        options = {**settings_of(self._config), "mapping": self._becomes, "spec": spec_settings(self._spec)}
        return {"teacher": "onnx-classes", **options, **self._file.settings()}

    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        """The class of every pixel, at the size of the images. Scores are 1 where the network gives only ids.

        Raises:
            ConfigError: the file has not the inputs and outputs that its spec names, or CUDA was asked for and is not
                there.
            DataError: an image is missing, damaged or of the wrong size.
        """
        name = self._spec.output[0]
        read = self._of_ids if self._spec.holds == "ids" else self._of_scores
        return [read(placement, outputs[name]) for _, placement, outputs in self._network.answers(frame.cameras)]

    @cached_property
    def _network(self) -> OnnxNetwork:
        return OnnxNetwork(
            self._file.path(), self._spec.input, wanted=[self._spec.output], device=self._config.device,
            batch=self._config.batch, teacher="onnx-classes",
        )  # fmt: skip

    def _of_scores(self, placement: Placement, scores: Shaped[np.ndarray, "..."]) -> SemanticMap:
        import torch

        from occlift.teachers.painting import most_likely

        if scores.ndim != 3 or len(scores) != len(self._class_ids):
            expected = f"[{len(self._class_ids)}, rows, columns], a score for each class"
            raise self._network.misfit(self._spec.output[0], scores, expected)
        values = torch.from_numpy(scores.astype(np.float32))
        return most_likely(values, placement, self._class_ids, logits=self._spec.holds == "logits")

    def _of_ids(self, placement: Placement, ids: Shaped[np.ndarray, "..."]) -> SemanticMap:
        if ids.ndim < 2 or ids.size != ids.shape[-1] * ids.shape[-2] or not np.issubdtype(ids.dtype, np.integer):
            expected = "[rows, columns], a whole number for each cell"
            raise self._network.misfit(self._spec.output[0], ids, expected)
        ids = ids.reshape(ids.shape[-2:])
        known = (ids >= 0) & (ids < len(self._class_ids))
        class_id = np.where(known, self._class_ids[np.where(known, ids, 0)], UNKNOWN).astype(np.uint8)
        on_image = placement.onto_image(class_id)
        return SemanticMap(class_id=on_image, score=(on_image != UNKNOWN).astype(np.float32))


def missing_onnx_classes(config: OnnxClassesConfig) -> str | None:
    """What is missing to run the network and how to get it; None if nothing is. Loads nothing."""
    return _model_file(config).missing()


def _model_file(config: OnnxClassesConfig) -> ModelFile:
    return ModelFile(teacher="onnx-classes", model=config.model, file=config.file, revision=config.revision)
