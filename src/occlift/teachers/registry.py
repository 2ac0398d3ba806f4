"""Teachers by name, as the command line and label configurations call them.

A name may carry one argument after a colon, `files:FOLDER`, and any other option as `name=value`; or it is
`module:factory`, which makes a teacher of the user's own (`occlift.teachers.own`). Nothing here loads a
network: importing this module, or asking what is ready, imports neither transformers nor onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, TypeVar

from occlift.errors import ConfigError
from occlift.label_space import OCC3D, Taxonomy, class_mapping, read_mapping
from occlift.runtime.extras import missing_extra
from occlift.scenes.dataset import DrivingDataset, HasTruthMaps, require, require_lidar
from occlift.teachers.closed_set import ClosedSetConfig, ClosedSetSegmenter
from occlift.teachers.corruption import DepthCorruption
from occlift.teachers.dinov2 import Dino, DinoConfig, Dinov3Config
from occlift.teachers.files import FilesDepth, FilesDepthConfig, FilesSemantics, FilesSemanticsConfig
from occlift.teachers.grounded_sam import GroundedSam, GroundedSamConfig, missing_grounded_sam
from occlift.teachers.hf_depth import DepthAnything, DepthAnythingConfig, DepthPro, DepthProConfig
from occlift.teachers.lidar import LidarDepth, LidarDepthConfig
from occlift.teachers.onnx_classes import OnnxClasses, OnnxClassesConfig, missing_onnx_classes
from occlift.teachers.onnx_depth import OnnxDepth, OnnxDepthConfig, missing_onnx_depth
from occlift.teachers.options import Option, configured, did_you_mean, options_of
from occlift.teachers.oracle import (
    FOUNDATION_DEPTH,
    FOUNDATION_SEMANTICS,
    MEASURED_DEPTH,
    OracleDepth,
    OracleSemantics,
    OracleSemanticsConfig,
)
from occlift.teachers.oracle_features import OracleFeatures, OracleFeaturesConfig
from occlift.teachers.own import OwnTeacher, names_factory
from occlift.teachers.sam3 import Sam3, Sam3Config, missing_sam3
from occlift.teachers.teacher import DepthTeacher, FeatureTeacher, SemanticsTeacher, Teacher
from occlift.teachers.weights import missing_weights

Kind = Literal["semantics", "depth", "features"]

_Teacher = TypeVar("_Teacher", covariant=True)

_KINDS: Final[Mapping[Kind, str]] = {"semantics": "classes", "depth": "depth", "features": "features"}
_READERS: Final = (FilesSemantics, FilesDepth, LidarDepth, OracleSemantics, OracleDepth)
_NO_OPTIONS: Final[Mapping[str, str]] = MappingProxyType({})
_TRUTH_MAPS: Final = "truth maps beside the images (occlift town --maps)"


@dataclass(frozen=True, kw_only=True)
class TeacherContext:
    """What a teacher may need besides its options.

    Attributes:
        name: name of the teacher, for errors.
        kind: what it is a teacher of, for errors.
        data: data set that it will be asked about; None: unknown.
        seed: random seed for the errors of oracles (that of features has its own as an option).
        taxonomy: classes that a teacher of classes is asked for.
    """

    name: str
    kind: Kind
    data: DrivingDataset | None
    seed: int
    taxonomy: Taxonomy = OCC3D.taxonomy

    @property
    def truth(self) -> HasTruthMaps:
        """The data set as one with truth maps; ConfigError if it has none, which says who could be asked instead."""
        try:
            return require(self.data, HasTruthMaps, f"teacher {self.name}")
        except ConfigError as error:
            others = [name for name in _ENTRIES[self.kind] if not name.startswith("oracle")]
            raise ConfigError(
                f"{error}; a town has them that was made with --maps. Other images need another teacher of "
                f"{_KINDS[self.kind]}: {', '.join(others)} (`occlift teachers` says what each needs)"
            ) from error


@dataclass(frozen=True, kw_only=True)
class TeacherEntry(Generic[_Teacher]):
    """A teacher that can be asked for by name.

    Attributes:
        config: the frozen dataclass of its options.
        build: makes it from such a configuration and what it may need of its surroundings.
        summary: what it is, in a few words.
        needs: what must be there before it can be used.
        missing: from a configuration to what is missing and how to get it; None: ready. Loads nothing.
        preset: values that this name gives to options, over their defaults.
        argument: the option that stands behind the colon in `name:value`; empty where there is none.
        packages: that it needs whatever the configuration is.
    """

    config: type
    build: Callable[[Any, TeacherContext], _Teacher]
    summary: str
    needs: str
    missing: Callable[[Any], str | None]
    preset: Mapping[str, object] = field(default_factory=dict)
    argument: str = ""
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TeacherStatus:
    """What `teacher_table` says about a teacher.

    Attributes:
        ready: it can be used as it stands, with its default options.
        note: what is missing and how to get it, or what else there is to know; may be empty.
    """

    kind: Kind
    name: str
    summary: str
    needs: str
    ready: bool
    note: str


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """The options of a teacher under one of its names.

    Attributes:
        kind, name, summary: as in `TeacherStatus`.
        options: in the order in which they are documented.
    """

    kind: Kind
    name: str
    summary: str
    options: tuple[Option, ...]


def _nothing_missing(config: object) -> str | None:
    return None


def _oracle_semantics(config: OracleSemanticsConfig, context: TeacherContext) -> OracleSemantics:
    given = None if config.mapping is None else read_mapping(config.mapping)
    file = str(config.mapping or f"teacher {context.name}, from Occ3D's classes, without its option mapping=FILE")
    classes = class_mapping(OCC3D.taxonomy, context.taxonomy, given, file=file)
    return OracleSemantics(
        truth=context.truth, corruption=config, seed=context.seed, taxonomy=context.taxonomy, classes=classes
    )


def _lidar(config: LidarDepthConfig, context: TeacherContext) -> LidarDepth:
    if (data := context.data) is not None:
        tokens = (token for scene in data.scenes() for token in data.key_frame_tokens(scene))
        require_lidar(data, tokens, f"teacher {context.name}")
    return LidarDepth(config=config)


def _missing_model(config: Any) -> str | None:
    return missing_weights(config.model, config.revision)


SEMANTICS_TEACHERS: Final[Mapping[str, TeacherEntry[SemanticsTeacher]]] = {
    "oracle:perfect": TeacherEntry(
        config=OracleSemanticsConfig,
        build=_oracle_semantics,
        summary="the true classes",
        needs=_TRUTH_MAPS,
        missing=_nothing_missing,
    ),
    "oracle:foundation": TeacherEntry(
        config=OracleSemanticsConfig,
        preset=vars(FOUNDATION_SEMANTICS),
        build=_oracle_semantics,
        summary="the true classes with errors like those of Grounded-SAM",
        needs=_TRUTH_MAPS,
        missing=_nothing_missing,
    ),
    "grounded-sam": TeacherEntry(
        config=GroundedSamConfig,
        build=lambda config, context: GroundedSam(config, taxonomy=context.taxonomy),
        summary="Grounding DINO's boxes, SAM's masks",
        needs="weights of a detector and a segmenter",
        missing=missing_grounded_sam,
    ),
    "sam3": TeacherEntry(
        config=Sam3Config,
        build=lambda config, context: Sam3(config, taxonomy=context.taxonomy),
        summary="SAM 3, asked by text",
        needs="weights (a licence must be accepted on the Hub)",
        missing=missing_sam3,
        argument="model",
    ),
    "segmenter": TeacherEntry(
        config=ClosedSetConfig,
        build=lambda config, context: ClosedSetSegmenter(config, taxonomy=context.taxonomy),
        summary="Mask2Former, OneFormer, EoMT, SegFormer or UPerNet: one look per image",
        needs="segmenter:MODEL, weights",
        missing=_missing_model,
        argument="model",
        packages=("transformers",),
    ),
    "onnx-classes": TeacherEntry(
        config=OnnxClassesConfig,
        build=lambda config, context: OnnxClasses(config, taxonomy=context.taxonomy),
        summary="any network of classes, as an ONNX file with a small TOML beside it",
        needs="onnx-classes:FILE.onnx, onnxruntime",
        missing=missing_onnx_classes,
        argument="model",
        packages=("onnxruntime",),
    ),
    "files": TeacherEntry(
        config=FilesSemanticsConfig,
        build=lambda config, context: FilesSemantics(config, taxonomy=context.taxonomy),
        summary="class maps on disk: your own, OccNeRF's, GaussianFlowOcc's",
        needs="files:FOLDER",
        missing=_nothing_missing,
        argument="root",
    ),
}
"""The teachers of classes."""

DEPTH_TEACHERS: Final[Mapping[str, TeacherEntry[DepthTeacher]]] = {
    "oracle:perfect": TeacherEntry(
        config=DepthCorruption,
        build=lambda config, context: OracleDepth(truth=context.truth, corruption=config, seed=context.seed),
        summary="the true depth",
        needs=_TRUTH_MAPS,
        missing=_nothing_missing,
    ),
    "oracle:foundation": TeacherEntry(
        config=DepthCorruption,
        preset=vars(FOUNDATION_DEPTH),
        build=lambda config, context: OracleDepth(truth=context.truth, corruption=config, seed=context.seed),
        summary="the true depth with errors like those of Metric3Dv2 (an estimate)",
        needs=_TRUTH_MAPS,
        missing=_nothing_missing,
    ),
    "oracle:measured": TeacherEntry(
        config=DepthCorruption,
        preset=vars(MEASURED_DEPTH),
        build=lambda config, context: OracleDepth(truth=context.truth, corruption=config, seed=context.seed),
        summary="the true depth with the errors of a small network on KITTI",
        needs=_TRUTH_MAPS,
        missing=_nothing_missing,
    ),
    "metric3d": TeacherEntry(
        config=OnnxDepthConfig,
        preset={"model": "onnx-community/metric3d-vit-giant2", "spec": "metric3d"},
        build=lambda config, context: OnnxDepth(config),
        summary="Metric3Dv2, as an ONNX file",
        needs="onnxruntime and the export",
        missing=missing_onnx_depth,
        argument="model",
    ),
    "onnx-depth": TeacherEntry(
        config=OnnxDepthConfig,
        build=lambda config, context: OnnxDepth(config),
        summary="any network of depth, as an ONNX file with a small TOML beside it",
        needs="onnx-depth:FILE.onnx, onnxruntime",
        missing=missing_onnx_depth,
        argument="model",
        packages=("onnxruntime",),
    ),
    "depth-pro": TeacherEntry(
        config=DepthProConfig,
        build=lambda config, context: DepthPro(config),
        summary="Depth Pro with the known intrinsics",
        needs="weights",
        missing=_missing_model,
        argument="model",
    ),
    "depth-anything": TeacherEntry(
        config=DepthAnythingConfig,
        build=lambda config, context: DepthAnything(config),
        summary="Depth Anything V2, metric",
        needs="weights",
        missing=_missing_model,
        argument="model",
    ),
    "lidar": TeacherEntry(
        config=LidarDepthConfig,
        build=_lidar,
        summary="the key frame's own lidar sweep, filled in between its points",
        needs="lidar sweeps of the key frames",
        missing=_nothing_missing,
    ),
    "files": TeacherEntry(
        config=FilesDepthConfig,
        build=lambda config, context: FilesDepth(config),
        summary="depth maps on disk: your own, OccNeRF's, GaussianFlowOcc's",
        needs="files:FOLDER",
        missing=_nothing_missing,
        argument="root",
    ),
}
"""The teachers of depth."""

FEATURE_TEACHERS: Final[Mapping[str, TeacherEntry[FeatureTeacher]]] = {
    "oracle": TeacherEntry(
        config=OracleFeaturesConfig,
        build=lambda config, context: OracleFeatures(truth=context.truth, config=config),
        summary="features by a recipe from the true classes, objects and heights",
        needs=_TRUTH_MAPS,
        missing=_nothing_missing,
    ),
    "dinov2": TeacherEntry(
        config=DinoConfig,
        build=lambda config, context: Dino(config),
        summary="DINOv2, patches of 14 pixels",
        needs="weights",
        missing=_missing_model,
        argument="model",
    ),
    "dinov3": TeacherEntry(
        config=Dinov3Config,
        build=lambda config, context: Dino(config),
        summary="DINOv3, patches of 16 pixels",
        needs="weights (a licence must be accepted on the Hub)",
        missing=_missing_model,
        argument="model",
    ),
}
"""The teachers of features."""

_ENTRIES: Final[Mapping[Kind, Mapping[str, TeacherEntry[Any]]]] = {
    "semantics": SEMANTICS_TEACHERS,
    "depth": DEPTH_TEACHERS,
    "features": FEATURE_TEACHERS,
}


def semantics_teacher(
    name: str,
    data: DrivingDataset | None = None,
    *,
    seed: int = 0,
    options: Mapping[str, str] = _NO_OPTIONS,
    taxonomy: Taxonomy = OCC3D.taxonomy,
) -> SemanticsTeacher:
    """The teacher of classes called `name`.

    Args:
        name: a key of `SEMANTICS_TEACHERS`, or with its argument, such as `files:FOLDER`; or `module:factory`.
        data: the data set that it will be asked about.
        seed: random seed for the errors of oracles.
        options: option → value as text (`occlift.teachers.options`).
        taxonomy: classes of the maps; open-vocabulary teachers are asked for their prompts.

    Raises:
        ConfigError: there is none of this name, an option does not exist or has no such value, or what the teacher
            needs is missing.
    """
    return _build(
        SEMANTICS_TEACHERS,
        options,
        TeacherContext(name=name, kind="semantics", data=data, seed=seed, taxonomy=taxonomy),
    )


def depth_teacher(
    name: str, data: DrivingDataset | None = None, *, seed: int = 0, options: Mapping[str, str] = _NO_OPTIONS
) -> DepthTeacher:
    """The teacher of depth called `name`; arguments and errors as in `semantics_teacher`."""
    return _build(DEPTH_TEACHERS, options, TeacherContext(name=name, kind="depth", data=data, seed=seed))


def feature_teacher(
    name: str, data: DrivingDataset | None = None, *, options: Mapping[str, str] = _NO_OPTIONS
) -> FeatureTeacher:
    """The teacher of features called `name`; arguments and errors as in `semantics_teacher`."""
    return _build(FEATURE_TEACHERS, options, TeacherContext(name=name, kind="features", data=data, seed=0))


def check_workers(teacher: Teacher, name: str, workers: int) -> None:
    """Raises ConfigError if a training with workers would ask a teacher that runs a network.

    Workers are forked from the training process, which has asked the teacher before them; neither CUDA nor threads that
    a library has started survive that. Teachers that only read files do.
    """
    if workers and not isinstance(teacher, _READERS):
        raise ConfigError(
            f"{name}: runs a network in the training process, which the {workers} workers forked from it cannot use; "
            "give a folder where its maps are made once (--map-cache), or read without workers (--workers 0)"
        )


def teacher_table() -> tuple[TeacherStatus, ...]:
    """All teachers with their default options: what they are, what they need, whether it is there. Loads nothing."""
    table = []
    for kind, entries in _ENTRIES.items():
        for name, entry in entries.items():
            # What a teacher without a default for its argument lacks only a user knows.
            lacks = any(f.name == entry.argument and f.default is MISSING for f in fields(entry.config))
            if lacks and not entry.preset:
                missing = missing_extra("teachers", name, *entry.packages)
            else:
                missing = entry.missing(entry.config(**entry.preset))
            table.append(
                TeacherStatus(
                    kind=kind,
                    name=name,
                    summary=entry.summary,
                    needs=entry.needs,
                    ready=missing is None,
                    note=missing or "",
                )
            )
    return tuple(table)


def teacher_options(name: str) -> tuple[TeacherOptions, ...]:
    """What can be chosen about the teachers of this name, one entry for each kind that has one. Loads nothing.

    Raises:
        ConfigError: there is no teacher of this name.
    """
    found = tuple(
        TeacherOptions(
            kind=kind,
            name=name,
            summary=entries[name].summary,
            options=options_of(entries[name].config, entries[name].preset),
        )
        for kind, entries in _ENTRIES.items()
        if name in entries
    )
    if not found:
        names = list(dict.fromkeys(name for entries in _ENTRIES.values() for name in entries))
        raise ConfigError(
            f"there is no teacher called {name!r}{did_you_mean(name, names)}; choose one of {', '.join(names)}"
        )
    return found


def _build(
    entries: Mapping[str, TeacherEntry[_Teacher]], options: Mapping[str, str], context: TeacherContext
) -> _Teacher:
    name = context.name
    short, colon, argument = name.partition(":")
    given = dict(options)
    if name in entries:
        short = name
    elif colon and argument and short in entries and entries[short].argument:
        option = entries[short].argument
        if option in given:
            raise ConfigError(f"{name}: {option} is given twice, as {argument!r} and as {option}={given[option]}")
        given[option] = argument
    elif names_factory(name) and short not in entries:
        surroundings = {"data": context.data, "taxonomy": context.taxonomy, "seed": context.seed}
        return OwnTeacher(name, context.kind, options, surroundings)  # type: ignore[return-value]
    else:
        raise ConfigError(
            f"there is no teacher of {_KINDS[context.kind]} called {name!r}{did_you_mean(name, list(entries))}; "
            f"choose one of {', '.join(entries)}, or name module:factory of your own"
        )
    entry = entries[short]
    config: Any = configured(entry.config, entry.preset, given, teacher=short)
    return entry.build(config, context)
