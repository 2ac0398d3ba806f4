"""Reads a `frames:` folder: any cameras, with or without lidar and boxes, in files that can be typed by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from occlift.datasets.frames.layout import (
    CALIBRATION_NAME,
    FRAMES_NAME,
    SPLITS_NAME,
    Box,
    Calibration,
    Camera,
    Frame,
    Image,
    Lidar,
    Splits,
    Sweep,
)
from occlift.datasets.frames.sources import MaskedImageFile, PointFile
from occlift.datasets.frames.values import HELP, Place, convert, finite, inside_path, read_json, read_lines, transform
from occlift.errors import ConfigError, DataError
from occlift.geometry.intrinsics import fault_of_intrinsics
from occlift.geometry.lenses import FTheta, Lens, lens_from_dict
from occlift.labels.files import checked_name
from occlift.scenes.dataset import DatasetSpec, split_in_order
from occlift.scenes.frames import BoxAnnotation, CameraImage, KeyFrame, LidarSweep
from occlift.scenes.sources import ImageFile
from occlift.scenes.truth_maps import TruthMaps, read_truth_beside, truth_maps_path


@dataclass(frozen=True, kw_only=True, eq=False)
class _Mounted:
    """A camera of the calibration."""

    height: int
    width: int
    intrinsics_px: Float[np.ndarray, "3 3"]
    ego_from_camera: Float[np.ndarray, "4 4"]
    lens: Lens | None
    mask: Path | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rig:
    """The calibration of a scene."""

    cameras: Mapping[str, _Mounted]
    ego_from_lidar: Float[np.ndarray, "4 4"] | None
    lidar_columns: int


class FramesFolder:
    """An opened `frames:` folder; make one with `FramesFolder.open`. All files but images and sweeps are read.

    It has the method `boxes` if any of its frames names boxes, and `truth_maps` if truth maps lie beside its images.
    """

    def __init__(
        self,
        root: Path,
        frames: Mapping[str, Sequence[KeyFrame]],
        boxes: Mapping[str, tuple[BoxAnnotation, ...]],
        splits: Mapping[str, Sequence[str]] | None,
    ) -> None:
        self.root: Final = root
        self._by_scene = frames
        self._by_token = {frame.token: frame for of_scene in frames.values() for frame in of_scene}
        self._boxes = boxes
        self._splits = splits
        self._cameras = tuple(dict.fromkeys(image.camera for f in self._by_token.values() for image in f.cameras))
        # Capabilities that a folder has or has not are attributes of the object that has them.
        if boxes:
            self.boxes = self._boxes_of
        first = next(iter(self._by_token.values())).cameras[0]
        if truth_maps_path(Path(first.source.name)).exists():
            self.truth_maps = self._truth_maps_of

    @classmethod
    def open(cls, root: Path) -> FramesFolder:
        """Reads the folder.

        Raises:
            DataError: there is no such folder, or something in it is missing, of the wrong type, out of range,
                contradictory or out of order; names file, field, found and expected.
        """
        root = Path(root)
        scenes = sorted(path.parent.name for path in root.glob(f"*/{CALIBRATION_NAME}"))
        without = sorted({path.parent.name for path in root.glob(f"*/{FRAMES_NAME}")} - set(scenes))
        if without:
            raise DataError(f"{root / without[0] / CALIBRATION_NAME}: no such file; every scene needs one; {HELP}")
        if not scenes:
            there = "has no folder with these files" if root.is_dir() else "does not exist"
            raise DataError(
                f"{root}: expected one folder per scene with {CALIBRATION_NAME} and {FRAMES_NAME}, but it {there}; "
                f"{HELP}"
            )
        frames: dict[str, list[KeyFrame]] = {}
        boxes: dict[str, tuple[BoxAnnotation, ...]] = {}
        seen = _Seen()
        for scene in scenes:
            checked_name(scene, f"{root}: scene")
            frames[scene] = _read_scene(root / scene, boxes, seen)
        return cls(root, frames, boxes, _read_splits(root / SPLITS_NAME, scenes))

    def __repr__(self) -> str:
        return f"FramesFolder({str(self.root)!r}, {len(self._by_scene)} scenes)"

    @property
    def spec(self) -> DatasetSpec:
        return DatasetSpec("frames", str(self.root))

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras of all scenes, in the order of the calibrations."""
        return self._cameras

    def scenes(self, split: str = "all") -> tuple[str, ...]:
        """The scenes of a split, by name; without `splits.json`, train is the first 80 % and val the rest.

        Raises:
            ConfigError: there is no split of this name.
            DataError: the split has no scene.
        """
        known = tuple(self._splits) if self._splits is not None else ("train", "val")
        if split not in (*known, "all"):
            raise ConfigError(f"{self.spec}: there is no split {split!r}; choose one of {', '.join((*known, 'all'))}")
        if self._splits is not None and split != "all":
            found = tuple(self._splits[split])
        else:
            found = split_in_order(tuple(self._by_scene), split)
        if not found:
            raise DataError(
                f"{self.root}: the split {split} has no scene; add one, name its scenes in {SPLITS_NAME}, or use the "
                "split all"
            )
        return found

    def key_frame_tokens(self, scene: str) -> tuple[str, ...]:
        """Tokens of a scene in the order of time; DataError where there is no such scene."""
        if scene not in self._by_scene:
            raise DataError(f"{self.root}: has no scene {scene!r}; it has {', '.join(self._by_scene)}")
        return tuple(frame.token for frame in self._by_scene[scene])

    def key_frame(self, token: str) -> KeyFrame:
        """A key frame, whose files are not opened yet; DataError where there is no such token."""
        if token not in self._by_token:
            raise DataError(f"{self.root}: has no key frame {token!r}; tokens are <scene>_<timestamp_us>, or named")
        return self._by_token[token]

    def _boxes_of(self, token: str) -> tuple[BoxAnnotation, ...]:
        self.key_frame(token)
        return self._boxes.get(token, ())

    def _truth_maps_of(self, image: CameraImage) -> TruthMaps:
        return read_truth_beside(image)

    def __getstate__(self) -> Path:
        # A worker process may stand in another folder.
        return self.root.resolve()

    def __setstate__(self, root: Path) -> None:
        vars(self).update(vars(FramesFolder.open(root)))


class _Seen:
    """What may stand once only in a data set, or must grow in a scene, and where it was met."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, object], Place] = {}
        self._times: dict[tuple[Path, str], int] = {}

    def once(self, place: Place, what: str, value: object) -> None:
        """Raises DataError if the value was met before."""
        if (what, value) in self._places:
            place.fail(f"the {what} {value} stands at {self._places[what, value]} too; expected one of its own")
        self._places[what, value] = place

    def later(self, place: Place, sensor: str, time_us: int) -> None:
        """Raises DataError unless the time is after the one before of this sensor in the same file."""
        before = self._times.get((place.file, sensor), -1)
        if time_us <= before:
            place.fail(
                f"{time_us} does not come after {before}, that of the frame before; expected the order of time, each "
                "time once, in microseconds"
            )
        self._times[place.file, sensor] = time_us


def _read_scene(folder: Path, boxes: dict[str, tuple[BoxAnnotation, ...]], seen: _Seen) -> list[KeyFrame]:
    """The key frames of a scene; adds their boxes."""
    rig = _read_rig(folder)
    found: list[KeyFrame] = []
    for place, line in read_lines(folder / FRAMES_NAME):
        frame = _read_frame(place, line, folder, rig, len(found), seen)
        if line.get("boxes") is not None:
            boxes[frame.token] = _read_boxes(place, line["boxes"], frame)
        found.append(frame)
    if not found:
        raise DataError(f"{folder / FRAMES_NAME}: has no line; expected one per frame; {HELP}")
    return found


def _read_rig(folder: Path) -> _Rig:
    path = folder / CALIBRATION_NAME
    place, plain = Place(path), read_json(path)
    cameras = plain.get("cameras")
    # One by one, so that an error says which.
    if isinstance(cameras, dict):
        for name, camera in cameras.items():
            checked_name(name, f"{path}: camera")
            convert(place.at("cameras", name), camera, Camera)
    if plain.get("lidar") is not None:
        convert(place.at("lidar"), plain["lidar"], Lidar)
    calibration = convert(place, plain, Calibration)
    half_pixel = 0.5 - calibration.pixel_center
    mounted = {}
    for name, camera in calibration.cameras.items():
        at = place.at("cameras", name)
        intrinsics = camera.intrinsics_px
        finite(at.at("intrinsics_px"), (intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy))
        try:
            lens = None if camera.distortion is None else lens_from_dict(camera.distortion)
        except ConfigError as error:
            at.at("distortion").fail(str(error))
        intrinsics_px = np.array(
            [
                [intrinsics.fx, 0.0, intrinsics.cx + half_pixel],
                [0.0, intrinsics.fy, intrinsics.cy + half_pixel],
                [0.0, 0.0, 1.0],
            ]
        )
        has_own_focal = isinstance(lens, FTheta)
        if fault := fault_of_intrinsics(intrinsics_px, camera.height, camera.width, check_focal=not has_own_focal):
            at.at("intrinsics_px").fail(fault)
        mounted[name] = _Mounted(
            height=camera.height,
            width=camera.width,
            intrinsics_px=intrinsics_px,
            ego_from_camera=transform(at.at("ego_from_camera"), camera.ego_from_camera),
            lens=lens,
            mask=None if camera.mask is None else inside_path(at.at("mask"), folder, camera.mask),
        )
    lidar = calibration.lidar
    return _Rig(
        cameras=mounted,
        ego_from_lidar=None if lidar is None else transform(place.at("lidar.ego_from_lidar"), lidar.ego_from_lidar),
        lidar_columns=4 if lidar is None else lidar.columns,
    )


def _read_frame(place: Place, line: dict[str, Any], folder: Path, rig: _Rig, index: int, seen: _Seen) -> KeyFrame:
    if isinstance(images := line.get("images"), dict):
        for name, image in images.items():
            at = place.at("images", name)
            if name not in rig.cameras:
                at.fail(f"the calibration has no camera of this name; it has {', '.join(rig.cameras)}")
            if not isinstance(image, str):
                convert(at, image, Image)
    if isinstance(line.get("lidar"), dict):
        convert(place.at("lidar"), line["lidar"], Sweep)
    # Boxes are read one by one, afterwards.
    frame = convert(place, {name: value for name, value in line.items() if name != "boxes"}, Frame)
    seen.later(place.at("timestamp_us"), "frame", frame.timestamp_us)
    global_from_ego = transform(place.at("global_from_ego"), frame.global_from_ego)
    scene = folder.name
    token = f"{scene}_{frame.timestamp_us}" if frame.token is None else frame.token
    checked_name(token, str(place.at("token")))
    seen.once(place.at("token"), "token", token)

    def placed(at: Place, value: Image | Sweep | str) -> tuple[Path, int, Float[np.ndarray, "4 4"]]:
        """File, time and pose of an image or a sweep."""
        time_us, pose = frame.timestamp_us, global_from_ego
        if isinstance(value, str):
            path = inside_path(at, folder, value)
        else:
            path = inside_path(at.at("path"), folder, value.path)
            time_us = time_us if value.timestamp_us is None else value.timestamp_us
            if value.global_from_ego is not None:
                pose = transform(at.at("global_from_ego"), value.global_from_ego)
        seen.once(at, "file", path)
        seen.later(at.at("timestamp_us"), at.field, time_us)
        return path, time_us, pose

    cameras = []
    # In the order of the calibration, whatever that of the line.
    for name, camera in rig.cameras.items():
        if name not in frame.images:
            continue
        at, value = place.at("images", name), frame.images[name]
        path, time_us, pose = placed(at, value)
        named = None if isinstance(value, str) else value.token
        key = f"{scene}_{name}_{time_us}" if named is None else checked_name(named, str(at.at("token")))
        seen.once(at.at("token"), "token of an image", key)
        cameras.append(
            CameraImage(
                camera=name,
                key=key,
                timestamp_us=time_us,
                height=camera.height,
                width=camera.width,
                intrinsics_px=camera.intrinsics_px,
                ego_at_image_from_camera=camera.ego_from_camera,
                global_from_ego_at_image=pose,
                source=ImageFile(path) if camera.mask is None else MaskedImageFile(path, camera.mask),
                distortion=camera.lens,
            )
        )
    lidar = None
    if frame.lidar is not None:
        at = place.at("lidar")
        if rig.ego_from_lidar is None:
            at.fail(f"{folder / CALIBRATION_NAME} has no lidar; add its ego_from_lidar there")
        path, time_us, pose = placed(at, frame.lidar)
        if path.suffix not in (".npy", ".bin"):
            at.fail(f"{path.name!r} should end in .npy or .bin")
        lidar = LidarSweep(
            key=f"{token}_lidar",
            timestamp_us=time_us,
            ego_from_lidar=rig.ego_from_lidar,
            global_from_ego=pose,
            source=PointFile(path, rig.lidar_columns),
        )
    return KeyFrame(
        token=token,
        scene=scene,
        index=index,
        timestamp_us=frame.timestamp_us,
        global_from_ego=global_from_ego,
        cameras=tuple(cameras),
        lidar=lidar,
    )


def _read_boxes(place: Place, plain: object, frame: KeyFrame) -> tuple[BoxAnnotation, ...]:
    if not isinstance(plain, list):
        place.at("boxes").fail(f"expected a list, got {type(plain).__name__}")
    boxes = []
    seen: set[str] = set()
    for number, one in enumerate(plain):
        at = place.at(f"boxes[{number}]")
        box = convert(at, one, Box)
        finite(at.at("size_lwh_m"), box.size_lwh_m)
        if box.instance in seen:
            at.at("instance").fail(f"{box.instance!r} stands twice in this frame; expected one box per object")
        seen.add(box.instance)
        if (box.global_from_box is None) == (box.ego_from_box is None):
            at.fail("expected one of global_from_box and ego_from_box")
        if box.global_from_box is not None:
            global_from_box = transform(at.at("global_from_box"), box.global_from_box)
        else:
            assert box.ego_from_box is not None
            global_from_box = frame.global_from_ego @ transform(at.at("ego_from_box"), box.ego_from_box)
        length, width, height = box.size_lwh_m
        boxes.append(
            BoxAnnotation(
                instance=box.instance,
                category=box.category,
                size_lwh_m=(length, width, height),
                global_from_box=global_from_box,
                visibility=box.visibility,
            )
        )
    return tuple(boxes)


def _read_splits(path: Path, scenes: Sequence[str]) -> dict[str, list[str]] | None:
    if not path.exists():
        return None
    place, plain = Place(path), read_json(path)
    splits = convert(place, plain, Splits)
    for split, names in splits.items():
        at = place.at(split)
        if split == "all":
            at.fail("'all' always means every scene; choose another name")
        if missing := [name for name in names if name not in scenes]:
            at.fail(f"there is no scene {', '.join(missing)}; the scenes are {', '.join(scenes)}")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            at.fail(f"{', '.join(twice)} stands twice")
    if both := sorted(set(splits.get("train", ())) & set(splits.get("val", ()))):
        place.fail(f"{', '.join(both)} is in train and in val; scores on scenes that were trained on say nothing")
    return splits
