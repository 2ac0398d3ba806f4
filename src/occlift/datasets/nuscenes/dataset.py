"""A nuScenes-format data set: scenes, key frames, annotations.

Other data sets have its tables, too, with other sensors: see `occlift.datasets.nuscenes.channels` for which cameras and
which lidar are read, and `occlift.datasets.nuscenes.lenses` for lenses that distort.

Agrees with the public devkit on poses, calibration, boxes, velocities and file names (`tests/devkit/` compares
them). Unlike the devkit it keeps key frames only, as flat arrays, and caches them beside the tables; of sweeps it reads
the camera images beside the key frames, where somebody asks for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from occlift.datasets.drives import names_of
from occlift.datasets.nuscenes.box_index import BoxIndex, has_boxes
from occlift.datasets.nuscenes.frame_index import FrameIndex
from occlift.datasets.nuscenes.index_cache import load_boxes, load_frames, load_sweeps
from occlift.datasets.nuscenes.lidar_file import LidarFile
from occlift.datasets.nuscenes.map_expansion import MapExpansion, map_expansion_path, missing_map, read_map_expansion
from occlift.datasets.nuscenes.references import positions_of, resolve, table_path, tokens_of
from occlift.datasets.nuscenes.splits import scenes_of_split
from occlift.datasets.nuscenes.sweep_index import SweepIndex
from occlift.datasets.nuscenes.tables import LogRow, SceneLogRow, SceneRow, read_table
from occlift.errors import ConfigError, DataError
from occlift.geometry.lenses import lens_from_dict
from occlift.geometry.transforms import rigid_transform, rotation_from_quaternion
from occlift.labels.files import checked_name
from occlift.scenes.dataset import AdjacentImages, DatasetSpec
from occlift.scenes.frames import BoxAnnotation, CameraImage, KeyFrame, LidarSweep
from occlift.scenes.sources import ImageFile
from occlift.scenes.truth_maps import read_truth_beside, truth_maps_path

# Relative, with forward slashes, no empty component, no "." or "..", no drive letter, no control character.
_SAFE_FILE: Final = re.compile(r"(?:(?!\.{1,2}(?:/|\Z))[^/\\:\x00-\x1f\x7f]+(?:/(?!\Z)|\Z))+")


@dataclass(frozen=True, kw_only=True, eq=False)
class NuScenesBox(BoxAnnotation):
    """A box with what only nuScenes says about it.

    Attributes:
        token: token of the sample_annotation.
        attributes: names of the attributes.
        velocity_global_m_s: velocity by central differences over prev/next as the devkit computes it; NaN where
            unknown.
    """

    token: str
    attributes: tuple[str, ...]
    velocity_global_m_s: Float[np.ndarray, "3"]


class NuScenes:
    """An opened data set; make one with `NuScenes.open`. It may be pickled and shared between processes.

    Attributes:
        root: the folder that holds `v1.0-*/` and `samples/`.
        version: the name of the folder of tables.
        boxes: token → annotations of a key frame; only where there are tables of annotations that hold any.
        truth_maps: image → truth maps beside it; only where an image of the first key frame has any.
    """

    def __init__(
        self, root: Path, version: str, frames: FrameIndex, boxes: BoxIndex | None, *, cameras: str | None = None
    ) -> None:
        self.root: Final = root
        self.version: Final = version
        *all_cameras, self._lidar = frames.channels
        self._named_cameras = cameras
        self._cameras = names_of(cameras, all_cameras, f"nuscenes:{root}: cameras") or tuple(all_cameras)
        self._columns = [all_cameras.index(camera) for camera in self._cameras]
        self._has_lidar = bool((frames.records[:, -1] >= 0).any())
        self._scenes: Final[tuple[str, ...]] = tuple(frames.scene_names)
        self._frames = frames
        self._boxes = boxes
        self._locations: dict[str, str] | None = None
        self._scene_tokens: dict[str, str] | None = None
        self._maps: dict[str, MapExpansion] = {}
        self._sample_positions = {token: position for position, token in enumerate(frames.sample_tokens)}
        self._scene_positions = {name: position for position, name in enumerate(self._scenes)}
        self._faults = dict(zip(frames.faulty_samples.tolist(), frames.faults, strict=True))
        # A fleet has few calibrations and many key frames.
        self._ego_from_sensor = cache(self._calibration)
        if has_boxes(root / version):
            self.boxes = self._boxes_of
        if self._has_truth_maps():
            self.truth_maps = read_truth_beside
        self._sweeps: SweepIndex | None = None
        if self._has_sweeps():
            self.adjacent_images = self._adjacent_images

    @classmethod
    def open(cls, root: Path, version: str | None = None, *, cameras: str | None = None) -> NuScenes:
        """Opens the data set in `root`.

        Args:
            version: the folder of tables, such as "v1.0-mini"; by default the only `v1.0-*` folder there is.
            cameras: names of cameras with commas between them, in the order that is wanted; by default all.

        Raises:
            ConfigError: no version was named, and there are several; or there is no camera of this name.
            DataError: there is no such folder, or a table is missing, damaged or inconsistent.
        """
        root = Path(root)
        version = _only_version(root) if version is None else checked_name(version, "version")
        if not (root / version).is_dir():
            raise DataError(
                f"{root / version}: no such folder; expected a nuScenes-format data set with its tables in "
                f"{version}/ (found: {', '.join(_versions(root)) or 'no v1.0-* folder'})"
            )
        frames, boxes = load_frames(root / version)
        return cls(root, version, frames, boxes, cameras=cameras)

    def __repr__(self) -> str:
        return f"NuScenes({str(self.root)!r}, {self.version!r}, {len(self._scenes)} scenes)"

    @property
    def spec(self) -> DatasetSpec:
        named = {} if self._named_cameras is None else {"cameras": self._named_cameras}
        return DatasetSpec("nuscenes", str(self.root), {"version": self.version, **named})

    @property
    def cameras(self) -> tuple[str, ...]:
        """Channels of cameras, whether or not a key frame has all of them; those of nuScenes stand first."""
        return self._cameras

    @property
    def has_lenses(self) -> bool:
        """Whether a camera, read or not, is distorted."""
        return len(self._frames.calibration_lenses.letters) > 0

    def scenes(self, split: str = "all") -> tuple[str, ...]:
        """The scenes of a split, in table order: train, val, test, mini_train, mini_val or all.

        The official lists hold where they name any of the scenes; other data sets are split 80 : 20 into train and
        val, in table order.

        Raises:
            ConfigError: there is no split of this name.
            DataError: the split has no scene here.
        """
        return scenes_of_split(split, self._scenes, str(self.root / self.version))

    def key_frame_tokens(self, scene: str) -> tuple[str, ...]:
        """The sample tokens of a scene in the order of time.

        Raises:
            DataError: there is no scene of this name.
        """
        position = self._scene_positions.get(scene)
        if position is None:
            raise self._no_scene(scene)
        first, end = self._frames.scene_starts[position : position + 2]
        return tuple(self._frames.sample_tokens[sample] for sample in range(first, end))

    def key_frame(self, token: str) -> KeyFrame:
        """A key frame with its calibration and poses; files are not opened and may be missing.

        Its ego frame is that at the time of its lidar sweep. In a data set without lidar it is that at the time of the
        image (of any camera, read or not) that is nearest to the time stamp of the sample.

        Raises:
            DataError: there is no such sample, one of its sensors has no pose or calibration that can be used, it has
                no lidar sweep while others have, no image either, or a file name leads out of the data set.
        """
        sample = self._position(token)
        if fault := self._faults.get(sample):
            raise DataError(f"{self.root / self.version}/{fault}")
        frames = self._frames
        scene = int(np.searchsorted(frames.scene_starts, sample, side="right")) - 1
        *cameras, lidar = frames.records[sample].tolist()
        reference = lidar if self._has_lidar else self._nearest_image(cameras, sample)
        if reference < 0:
            what = self._lidar if self._has_lidar else "any camera"
            raise DataError(
                f"{self.root / self.version}: sample {token} of {self._scenes[scene]} has no key frame of {what}, so "
                "its ego frame is not defined; leave this scene out, or complete sample_data.json"
            )
        ego_pose = self._ego_pose(reference, frames)
        return KeyFrame(
            token=token,
            scene=self._scenes[scene],
            index=sample - int(frames.scene_starts[scene]),
            timestamp_us=int(frames.sample_timestamps_us[sample]),
            global_from_ego=ego_pose,
            cameras=tuple(
                self._camera(cameras[column], channel, frames)
                for column, channel in zip(self._columns, self._cameras, strict=True)
                if cameras[column] >= 0
            ),
            lidar=self._sweep(lidar, ego_pose) if lidar >= 0 else None,
        )

    def location(self, scene: str) -> str:
        """Where a scene was driven, by its log: the name of a map, such as `singapore-onenorth`.

        Raises:
            DataError: there is no scene of this name; `log.json` is missing or damaged, or lacks the scene's log.
        """
        if scene not in self._scene_positions:
            raise self._no_scene(scene)
        if self._locations is None:
            self._locations = _read_locations(self.root / self.version)
        return self._locations[scene]

    def scene_token(self, scene: str) -> str:
        """The token of a scene, after which some projects name their files.

        Raises:
            DataError: there is no such scene.
        """
        if scene not in self._scene_positions:
            raise self._no_scene(scene)
        if self._scene_tokens is None:
            path = table_path(self.root / self.version, "scene")
            self._scene_tokens = {row.name: row.token for row in read_table(path, SceneRow)}
        return self._scene_tokens[scene]

    def scene_map(self, scene: str) -> MapExpansion:
        """The map expansion of the location of a scene; each file is read once.

        Raises:
            DataError: there is no such scene, its log names no location, or the location has no map expansion that can
                be read.
        """
        location = self.location(scene)
        if location not in self._maps:
            path = map_expansion_path(self.root, location)
            if not path.exists():
                raise missing_map(path, self.root, scene)
            self._maps[location] = read_map_expansion(path)
        return self._maps[location]

    def _has_truth_maps(self) -> bool:
        images = self._frames.records[:, :-1]
        first = images[(images >= 0).any(axis=1)][:1].ravel().tolist()
        names = [self._frames.record_files[record] for record in first if record >= 0]
        return any(truth_maps_path(self.root / name).exists() for name in names if _SAFE_FILE.fullmatch(name))

    def _has_sweeps(self) -> bool:
        """Whether there are sweeps of cameras in the tables and their files, which come in archives of their own."""
        names = self._frames.camera_sweeps
        return any((self.root / name).exists() for name in names if _SAFE_FILE.fullmatch(name))

    def _adjacent_images(self, token: str) -> AdjacentImages:
        """The images of the same cameras just before and just after those of a key frame; None where there is none.

        Raises:
            DataError: there is no such sample, a table is damaged, or a file name leads out of the data set.
        """
        sample = self._position(token)
        if self._sweeps is None:
            self._sweeps = load_sweeps(self.root / self.version, self._frames)
        there = self._frames.records[sample]
        channels = [
            (column, name) for column, name in zip(self._columns, self._cameras, strict=True) if there[column] >= 0
        ]
        before, after = (
            tuple(
                self._camera(record, name, self._sweeps) if record >= 0 else None
                for record, name in (
                    (int(self._sweeps.beside[sample, column, side]), name) for column, name in channels
                )
            )
            for side in (0, 1)
        )
        return before, after

    def _boxes_of(self, token: str) -> tuple[NuScenesBox, ...]:
        """The annotations of a key frame, in table order; all of them, seen or not.

        Raises:
            DataError: there is no such sample.
        """
        sample = self._position(token)
        if self._boxes is None:
            self._boxes = load_boxes(self.root / self.version)
        first, end = self._boxes.sample_starts[sample : sample + 2]
        return tuple(_annotation(self._boxes, row) for row in range(first, end))

    def __getstate__(self) -> tuple[Path, str, str | None]:
        # A worker process opens the cache anew: faster than sending the arrays. It may stand in another folder.
        return self.root.resolve(), self.version, self._named_cameras

    def __setstate__(self, state: tuple[Path, str, str | None]) -> None:
        root, version, cameras = state
        vars(self).update(vars(NuScenes.open(root, version, cameras=cameras)))

    def _no_scene(self, scene: str) -> DataError:
        return DataError(f"{self.root / self.version}: has no scene {scene!r}; it has {_few(self._scenes)}")

    def _position(self, token: str) -> int:
        position = self._sample_positions.get(token)
        if position is None:
            raise DataError(
                f"{self.root / self.version}: has no sample {token!r}; sample tokens stand in sample.json, and those "
                "of sample_data or of other data sets do not count"
            )
        return position

    def _nearest_image(self, cameras: Sequence[int], sample: int) -> int:
        """The record among those of a sample that is nearest to its time stamp, the first of equals; −1 without any."""
        frames = self._frames
        time_us = int(frames.sample_timestamps_us[sample])
        there = [record for record in cameras if record >= 0]
        return min(there, key=lambda record: abs(int(frames.record_timestamps_us[record]) - time_us), default=-1)

    def _sweep(self, record: int, ego_pose: Float[np.ndarray, "4 4"]) -> LidarSweep:
        frames = self._frames
        return LidarSweep(
            key=frames.record_tokens[record],
            source=LidarFile(self._file(record, frames)),
            timestamp_us=int(frames.record_timestamps_us[record]),
            ego_from_lidar=self._ego_from_sensor(int(frames.record_calibrations[record])).copy(),
            global_from_ego=ego_pose,
        )

    def _camera(self, record: int, channel: str, records: FrameIndex | SweepIndex) -> CameraImage:
        frames = self._frames
        calibration = int(records.record_calibrations[record])
        height, width = records.record_sizes_px[record].tolist()
        lens = frames.calibration_lenses[calibration]
        return CameraImage(
            camera=channel,
            key=records.record_tokens[record],
            source=ImageFile(self._file(record, records)),
            timestamp_us=int(records.record_timestamps_us[record]),
            height=height,
            width=width,
            intrinsics_px=frames.calibration_intrinsics_px[calibration].copy(),
            ego_at_image_from_camera=self._ego_from_sensor(calibration).copy(),
            global_from_ego_at_image=self._ego_pose(record, records),
            distortion=lens_from_dict(json.loads(lens)) if lens else None,
        )

    def _file(self, record: int, records: FrameIndex | SweepIndex) -> Path:
        name = records.record_files[record]
        if not _SAFE_FILE.fullmatch(name):
            raise DataError(
                f"{self.root / self.version}/sample_data.json: row {records.record_tokens[record]}: field "
                f"filename is {name!r}, expected a path inside the data set, such as samples/LIDAR_TOP/a.pcd.bin"
            )
        return self.root / name

    def _ego_pose(self, record: int, records: FrameIndex | SweepIndex) -> np.ndarray:
        rotation = rotation_from_quaternion(records.record_quaternions[record].tolist())
        return rigid_transform(rotation, records.record_translations_m[record])

    def _calibration(self, calibration: int) -> np.ndarray:
        frames = self._frames
        rotation = rotation_from_quaternion(frames.calibration_quaternions[calibration].tolist())
        return rigid_transform(rotation, frames.calibration_translations_m[calibration])


def _annotation(index: BoxIndex, row: int) -> NuScenesBox:
    instance = int(index.instances[row])
    width, length, height = index.sizes_wlh_m[row].tolist()
    visibility = float(index.visibilities[row])
    first, end = index.attribute_starts[row : row + 2]
    return NuScenesBox(
        token=index.tokens[row],
        instance=index.instance_tokens[instance],
        category=index.category_names[int(index.instance_categories[instance])],
        size_lwh_m=(length, width, height),
        global_from_box=rigid_transform(
            rotation_from_quaternion(index.quaternions[row].tolist()), index.translations_m[row]
        ),
        visibility=None if np.isnan(visibility) else visibility,
        num_lidar_points=int(index.lidar_points[row]),
        attributes=tuple(index.attribute_names[attribute] for attribute in index.attributes[first:end].tolist()),
        velocity_global_m_s=index.velocities_m_s[row].copy(),
    )


def _read_locations(folder: Path) -> dict[str, str]:
    """The location of every scene. Not part of the cached index: both tables are small, and few runs need it."""
    path = table_path(folder, "log")
    logs = read_table(path, LogRow)
    positions = positions_of(path, tokens_of(logs))
    scenes_path = table_path(folder, "scene")
    return {
        scene.name: logs[resolve(positions, scenes_path, scene, "log_token", scene.log_token, "log")].location
        for scene in read_table(scenes_path, SceneLogRow)
    }


def _versions(root: Path) -> list[str]:
    """Folders of tables; those without any, which guides and archives leave beside them, count only if all are so."""
    found = sorted(folder for folder in root.glob("v1.0-*") if folder.is_dir())
    return [folder.name for folder in found if table_path(folder, "scene").exists()] or [f.name for f in found]


def _only_version(root: Path) -> str:
    versions = _versions(root)
    if len(versions) > 1:
        specs = (f"nuscenes:{root}?version={version}" for version in versions)
        raise ConfigError(f"{root}: holds several versions; name the one to open: {' or '.join(specs)}")
    if not versions:
        raise DataError(
            f"{root}: {'holds no folder v1.0-*' if root.is_dir() else 'no such folder'}; expected the root of a "
            "nuScenes-format data set, which holds the tables in v1.0-trainval/, v1.0-mini/ or the like"
        )
    return versions[0]


def _few(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:5])
    return f"{listed} and {len(names) - 5} more" if len(names) > 5 else listed or "none"
