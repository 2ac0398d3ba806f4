"""What a viewer shows of key frames: images, lidar and volumes, from any mix of data sets, folders and single files.

What a path is, is read off what is there: a folder with `<scene>/<token>/labels.npz` holds labels or truth, a folder
with `<token>.npz` predictions, a file `.npz` one volume, and everything else is opened as a data set. Nothing of a key
frame is read before it is asked for, and every part by itself, so that a part that is missing or damaged leaves the
others to be seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, UInt8

from occlift.errors import ConfigError, DataError
from occlift.geometry.cameras import CameraRig
from occlift.label_space import OCC3D, LabelSpace
from occlift.labels.files import labels_by_token, read_confidence, read_truth
from occlift.labels.manifest import MANIFEST_NAME, recorded_space
from occlift.labels.scene import VOTES_NAME
from occlift.labels.vote import Votes, read_votes
from occlift.runtime.npz import MissingArray, read_npz
from occlift.scenes.dataset import DatasetSpec, DrivingDataset, open_dataset
from occlift.scenes.frames import KeyFrame
from occlift.scenes.rigs import single_rigs
from occlift.viz.overlay import resize
from occlift.viz.scene import THUMBNAIL_PX
from occlift.viz.show import camera_caption, lidar_in_ego

FILES: Final = "files"
"""Name of the scene of volumes that do not say which scene they are of."""

Kind = Literal["label", "prediction", "truth"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """Class ids of a key frame, and what a label knows besides.

    Attributes:
        semantics: class ids and 255, on the grid of the layers' space.
        confidence: 0..255 for 0..1; None where the file has none.
        votes_path: where its votes are, if they were kept.
    """

    semantics: UInt8[np.ndarray, "x y z"]
    confidence: UInt8[np.ndarray, "x y z"] | None = None
    votes_path: Path | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class VolumeFiles:
    """The volumes of one path.

    Attributes:
        kind: what they are.
        path: what was given.
        files: token of the key frame → file.
        scenes: token → name of the scene, where the path says it.
        space: grid and classes by the manifest; None where there is none.
    """

    kind: Kind
    path: Path
    files: Mapping[str, Path]
    scenes: Mapping[str, str] = field(default_factory=dict)
    space: LabelSpace | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraView:
    """A camera of a key frame and its image, reduced; None where the image cannot be read."""

    name: str
    rig: CameraRig
    thumbnail: UInt8[np.ndarray, "height width 3"] | None


class Layers:
    """Everything that can be shown, by scene and key frame.

    Args:
        data: the data set; None shows volumes alone.
        volumes: by the name of their layer.
        space: grid and classes of all volumes.

    Attributes:
        scenes: names of the scenes.
        start: token of the key frame to show first: the first one that every volume has, or else any has.
    """

    def __init__(
        self,
        *,
        data: DrivingDataset | None,
        volumes: Mapping[str, VolumeFiles],
        space: LabelSpace = OCC3D,
        token: str | None = None,
    ) -> None:
        self.data, self.volumes, self.space = data, dict(volumes), space
        named: dict[str, str] = {}
        for source in volumes.values():
            named = {**dict.fromkeys(source.files, FILES), **named}
            named |= source.scenes
        self._scene_of = named
        self.scenes = data.scenes() if data is not None else tuple(dict.fromkeys(sorted(named.values())))
        self.start = self._first() if token is None else token
        self.scene_of(self.start)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers of volumes."""
        return tuple(self.volumes)

    def tokens(self, scene: str) -> tuple[str, ...]:
        """Tokens of a scene: in the order of time by the data set, by name without one."""
        if self.data is not None:
            return self.data.key_frame_tokens(scene)
        return tuple(sorted(token for token, found in self._scene_of.items() if found == scene))

    def scene_of(self, token: str) -> str:
        """The scene of a key frame; DataError where there is no such key frame."""
        if self.data is not None:
            return self.data.key_frame(token).scene
        if token not in self._scene_of:
            raise DataError(
                f"there is no key frame {token!r} among {len(self._scene_of)} in "
                f"{', '.join(str(source.path) for source in self.volumes.values())}"
            )
        return self._scene_of[token]

    def frame(self, token: str) -> FrameLayers:
        """One key frame, of which nothing is read yet."""
        return FrameLayers(self, token)

    def _first(self) -> str:
        # Files of one key frame say what is wanted; a folder has many.
        by_size = sorted((source.files for source in self.volumes.values()), key=len)
        # By scene, so that the first key frame of a scene comes before its others.
        ordered = [sorted(files, key=lambda token: (self._scene_of[token], token)) for files in by_size]
        complete = [[token for token in tokens if all(token in files for files in by_size)] for tokens in ordered[:1]]
        for tokens in (*complete, *ordered):
            if found := self._first_of_data(tokens) if self.data is not None else next(iter(tokens), None):
                return found
        if by_size and self.data is not None:
            raise DataError(
                f"{', '.join(str(source.path) for source in self.volumes.values())}: no volume there is of a key frame "
                f"of {self.data.spec} (the first is named {next(iter(by_size[0]), '')!r}); name the data set that they "
                "were made from, or the key frame that a single file is of (--token)"
            )
        for scene in self.scenes:
            if tokens := list(self.tokens(scene)):
                return tokens[0]
        raise DataError(f"{self.data.spec if self.data else 'the paths'}: no key frame to look at")

    def _first_of_data(self, tokens: Sequence[str]) -> str | None:
        """The earliest of these key frames in the first scene that has one of them."""
        assert self.data is not None
        for token in tokens[:100]:
            try:
                scene = self.data.key_frame(token).scene
            except DataError:
                continue
            wanted = set(tokens)
            return next(one for one in self.data.key_frame_tokens(scene) if one in wanted)
        return None


class FrameLayers:
    """The parts of one key frame; each is read when it is first asked for.

    Every part raises DataError where it is missing or damaged, each time it is asked for.
    """

    def __init__(self, layers: Layers, token: str) -> None:
        self.token, self.space = token, layers.space
        self._layers = layers
        self._volumes: dict[str, Volume] = {}
        self._votes: dict[str, Votes] = {}

    @cached_property
    def key_frame(self) -> KeyFrame | None:
        """The key frame; None without a data set."""
        return None if self._layers.data is None else self._layers.data.key_frame(self.token)

    def volume(self, name: str) -> Volume:
        """The volume of a layer."""
        if name not in self._volumes:
            source = self._layers.volumes[name]
            if self.token not in source.files:
                raise DataError(f"{source.path}: no {source.kind} of this key frame")
            path = source.files[self.token]
            semantics = read_truth(path, (), space=self.space).semantics
            try:
                confidence = read_confidence(path, space=self.space)
            except MissingArray:
                confidence = None
            votes_path = path.with_name(VOTES_NAME)
            kept = source.kind == "label" and path.name == "labels.npz" and votes_path.exists()
            self._volumes[name] = Volume(
                semantics=semantics, confidence=confidence, votes_path=votes_path if kept else None
            )
        return self._volumes[name]

    def votes(self, name: str) -> Votes | None:
        """The votes behind a label; None where they were not kept."""
        path = self.volume(name).votes_path
        if path is None:
            return None
        if name not in self._votes:
            self._votes[name] = read_votes(path, space=self.space)
        return self._votes[name]

    @cached_property
    def cameras(self) -> tuple[tuple[CameraView, ...], tuple[str, ...]]:
        """The cameras with their images, and what could not be read, as sentences."""
        views, notes = [], []
        for image in self.key_frame.cameras if self.key_frame is not None else ():
            assert self.key_frame is not None
            try:
                (rig,) = single_rigs(replace(self.key_frame, cameras=(image,)))
            except (DataError, ConfigError) as error:
                notes.append(f"{image.camera}: {error}")
                continue
            thumbnail = None
            try:
                pixels = image.read()
                scale = THUMBNAIL_PX / max(pixels.shape[:2])
                height, width = (max(1, round(scale * edge)) for edge in pixels.shape[:2])
                thumbnail = resize(pixels, height, width)
            except (DataError, OSError) as error:
                notes.append(f"{image.camera}: {error}")
            views.append(CameraView(name=camera_caption(image.camera), rig=rig, thumbnail=thumbnail))
        return tuple(views), tuple(notes)

    @cached_property
    def lidar(self) -> Float[np.ndarray, "n 3"] | None:
        """Points of the lidar in the ego frame, metres; None where the key frame has no sweep."""
        if self.key_frame is None or self.key_frame.lidar is None:
            return None
        return lidar_in_ego(self.key_frame)


def open_layers(
    *paths: str | Path | DrivingDataset, token: str | None = None, space: LabelSpace | None = None
) -> Layers:
    """Sees what paths are.

    Args:
        paths: at most one data set (`format:folder?option=value`, a folder, or an open one), and any number of folders
            of labels, of truth or of predictions, and single files `.npz`.
        token: key frame to begin with, and which single files are of; by default the first that there are volumes of.
            Single files are otherwise of the key frame that their path names, `<token>/labels.npz` or `<token>.npz`.
        space: grid and classes of the volumes; by default what the manifest of a folder says, else Occ3D's.

    Raises:
        ConfigError: two of the paths are data sets, or the volumes are about different grids or classes.
        DataError: a path is none of these, or there is no such key frame.
    """
    assert paths, "nothing to look at"
    data: DrivingDataset | None = None
    found: list[VolumeFiles] = []
    for path in paths:
        volumes = None if isinstance(path, DrivingDataset) else _volume_files(path, token)
        if volumes is not None:
            found.append(volumes)
            continue
        if (
            data is not None
            and not isinstance(path, DrivingDataset)
            and ":" not in str(path)
            and not Path(path).exists()
        ):
            raise DataError(f"{path}: no such file or folder")
        if data is not None:
            raise ConfigError(f"{path}: a second data set beside {data.spec}; expected one, and volumes")
        data = path if isinstance(path, DrivingDataset) else _open(path)
    found = _merged(found)
    what = "the label space that is asked for"
    for source in found:
        if source.space is None:
            continue
        if space is None:
            space, what = source.space, f"the labels in {source.path}"
        source.space.check_same(space, f"the labels in {source.path}", what)
    return Layers(data=data, volumes=_named(found), space=space or OCC3D, token=token)


def is_path(word: str) -> bool:
    """Whether a word of a command is a path or a data set, and not the token of a key frame."""
    return Path(word).exists() or "/" in word or word.endswith(".npz") or ":" in word


def _merged(found: Sequence[VolumeFiles]) -> list[VolumeFiles]:
    """Single files of one kind and of different key frames as one layer."""
    merged: list[VolumeFiles] = []
    for source in found:
        for number, other in enumerate(merged):
            both = source.path.is_file() and other.path.is_file()
            same = (source.kind, source.space) == (other.kind, other.space)
            if both and same and not source.files.keys() & other.files:
                merged[number] = replace(
                    other, files={**other.files, **source.files}, scenes={**other.scenes, **source.scenes}
                )
                break
        else:
            merged.append(source)
    return merged


def _named(found: Sequence[VolumeFiles]) -> dict[str, VolumeFiles]:
    """Layers by their kind, and by their path too where several are of one kind."""
    kinds = Counter(source.kind for source in found)
    named: dict[str, VolumeFiles] = {}
    for source in found:
        path = source.path.parent if source.path.name == "labels.npz" else source.path
        name = source.kind if kinds[source.kind] == 1 else f"{source.kind} {path.stem}"
        while name in named:
            name += "′"
        named[name] = source
    return named


def _volume_files(given: str | Path, token: str | None) -> VolumeFiles | None:
    """The volumes of a path; None where it is something else."""
    path = Path(given)
    if path.suffix == ".npz" and path.is_file():
        return _single_file(path, token)
    if not path.is_dir():
        return None
    labels = labels_by_token(path)
    if labels:
        manifest = path / MANIFEST_NAME
        return VolumeFiles(
            kind="label" if manifest.exists() else _kind(next(iter(labels.values()))),
            path=path,
            files=labels,
            scenes={name: file.parent.parent.name for name, file in labels.items()},
            space=recorded_space(path),
        )
    if predictions := {file.stem: file for file in sorted(path.glob("*.npz"))}:
        return VolumeFiles(kind="prediction", path=path, files=predictions)
    return None


def _single_file(path: Path, token: str | None) -> VolumeFiles:
    if path.name != "labels.npz":
        return VolumeFiles(kind=_kind(path), path=path, files={token or path.stem: path})
    scene, name = path.absolute().parts[-3:-1]
    manifest = path.absolute().parents[2] / MANIFEST_NAME
    return VolumeFiles(
        kind="label" if manifest.exists() else _kind(path),
        path=path,
        files={token or name: path},
        scenes={token or name: scene},
        space=recorded_space(manifest.parent),
    )


def _kind(path: Path) -> Kind:
    """Predictions have no masks, and truth has neither a manifest nor a confidence."""
    for array, kind in (("confidence", "label"), ("mask_camera", "truth"), ("mask_lidar", "truth")):
        try:
            read_npz(path, (array,))
        except MissingArray:
            continue
        except DataError:
            # Said where it is shown; a damaged first file must not keep the others from being seen.
            break
        return kind  # type: ignore[return-value]
    return "label" if path.name == "labels.npz" else "prediction"


def _open(path: str | Path) -> DrivingDataset:
    folder = Path(path)
    if not folder.exists():
        if ":" in str(path):
            return open_dataset(path)
        raise DataError(
            f"{path}: no such file or folder, and not the token of a key frame; expected a data set, a folder of "
            "labels, truth or predictions, or a file .npz"
        )
    reasons = {}
    # Loaded by name, as `scenes` does: data sets stand above pictures.
    for format in import_module("occlift.datasets").FORMATS:
        try:
            return DatasetSpec(format, str(path)).open()
        except (DataError, ConfigError) as error:
            reasons[format] = error
    raise DataError(
        f"{path}: nothing to look at was found; looked for labels or truth (<scene>/<token>/labels.npz), predictions "
        f"(<token>.npz), and a data set in the format {', '.join(reasons)} (name it, as in "
        f"{next(iter(reasons))}:{path}, to be told what is wrong)"
    )
