"""Writes any data set as a `frames:` folder."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from occlift.datasets.frames.layout import CALIBRATION_NAME, FRAMES_NAME, SPLITS_NAME
from occlift.errors import ConfigError, DataError
from occlift.runtime.files import replacing
from occlift.runtime.folder_lock import sole_writer
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, HasBoxes, HasTruthMaps
from occlift.scenes.frames import CameraImage, KeyFrame, LidarSweep
from occlift.scenes.sources import ImageFile
from occlift.scenes.truth_maps import truth_maps_path, write_truth_maps


def write_frames(
    data: DrivingDataset, folder: Path, *, scenes: Sequence[str] | None = None, splits: Sequence[str] = ()
) -> None:
    """Writes scenes of a data set as a `frames:` folder, with their boxes and truth maps if there are any.

    Images in files are linked where the disk allows it and copied elsewhere, images in memory are written as PNG.
    Calibrations, poses and tokens are kept to the last bit. A map of the ground is left out.

    Args:
        data: its cameras keep their calibration within a scene.
        folder: made if missing; should be empty.
        scenes: names; by default all.
        splits: names of splits to write into `splits.json`, such as ("train", "val").

    Raises:
        AnotherRun: another run is writing there.
        ConfigError: the folder holds something else.
        DataError: a camera or the lidar changes its calibration or its mask within a scene, or a file is missing.

    >>> from occlift import open_dataset
    >>> from occlift.datasets.frames.writer import write_frames
    >>> write_frames(open_dataset(town), out)
    >>> copy = open_dataset(f"frames:{out}")
    >>> copy.cameras == open_dataset(town).cameras
    True
    """
    names = data.scenes() if scenes is None else tuple(scenes)
    # What is hidden may be the lock of another run, which is said as such.
    if folder.is_dir() and any(path.name[0] != "." for path in folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty; choose another folder")
    with sole_writer(folder):
        truth = _truth_of(data, names)
        for scene in track(names, "scenes"):
            _write_scene(data, truth, folder / scene, scene)
        if splits:
            _write_json(folder / SPLITS_NAME, {s: [name for name in data.scenes(s) if name in names] for s in splits})


def _truth_of(data: DrivingDataset, scenes: Sequence[str]) -> HasTruthMaps | None:
    """The data set, if it has truth maps: many could have them beside their images, and have none."""
    if not isinstance(data, HasTruthMaps):
        return None
    frame = data.key_frame(data.key_frame_tokens(scenes[0])[0])
    try:
        data.truth_maps(frame.cameras[0])
    except DataError:
        return None
    return data


def _write_scene(data: DrivingDataset, truth: HasTruthMaps | None, folder: Path, scene: str) -> None:
    cameras: dict[str, dict[str, Any]] = {}
    lidar: dict[str, Any] | None = None
    lines = []
    for token in data.key_frame_tokens(scene):
        frame = data.key_frame(token)
        line: dict[str, Any] = {
            "token": token,
            "timestamp_us": frame.timestamp_us,
            "global_from_ego": frame.global_from_ego.tolist(),
            "images": {},
        }
        for image in frame.cameras:
            described = _camera(image, folder)
            if cameras.setdefault(image.camera, described) != described:
                raise DataError(
                    f"{data.spec}: {image.camera} of scene {scene} has another calibration or mask in key frame "
                    f"{token} than before; a frames: folder has one per scene: split the scene there"
                )
            line["images"][image.camera] = {
                "token": image.key,
                "path": _write_image(image, folder),
                "timestamp_us": image.timestamp_us,
                "global_from_ego": image.global_from_ego_at_image.tolist(),
            }
            if truth is not None:
                path = truth_maps_path(folder / line["images"][image.camera]["path"])
                write_truth_maps(path, truth.truth_maps(image))
        if frame.lidar is not None:
            described = {"ego_from_lidar": frame.lidar.ego_from_lidar.tolist()}
            if (lidar := lidar or described) != described:
                raise DataError(f"{data.spec}: the lidar of scene {scene} has another mounting in key frame {token}")
            line["lidar"] = _write_sweep(frame, frame.lidar, folder)
        if isinstance(data, HasBoxes):
            line["boxes"] = [
                {
                    "instance": box.instance,
                    "category": box.category,
                    "size_lwh_m": list(box.size_lwh_m),
                    "global_from_box": box.global_from_box.tolist(),
                    **({} if box.visibility is None else {"visibility": box.visibility}),
                }
                for box in data.boxes(token)
            ]
        lines.append(line)
    calibration: dict[str, Any] = {"pixel_center": 0.5, "cameras": cameras}
    if lidar is not None:
        calibration["lidar"] = lidar
    with replacing(folder / FRAMES_NAME) as file:
        file.writelines(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines)
    # Last: a folder with a calibration is a scene that is there whole.
    _write_json(folder / CALIBRATION_NAME, calibration)


def _camera(image: CameraImage, folder: Path) -> dict[str, Any]:
    """The camera of an image, as the calibration says it; writes its mask where it is not there yet."""
    intrinsics_px = image.intrinsics_px
    if intrinsics_px[0, 1] or intrinsics_px[1, 0] or intrinsics_px[2].tolist() != [0.0, 0.0, 1.0]:
        raise DataError(
            f"{image.source.name}: the intrinsics of {image.camera} have a skew, {intrinsics_px.tolist()}; the frames: "
            "format has focal lengths and a principal point only"
        )
    described: dict[str, Any] = {
        "width": image.width,
        "height": image.height,
        "intrinsics_px": {
            "fx": float(intrinsics_px[0, 0]),
            "fy": float(intrinsics_px[1, 1]),
            "cx": float(intrinsics_px[0, 2]),
            "cy": float(intrinsics_px[1, 2]),
        },
        "ego_from_camera": image.ego_at_image_from_camera.tolist(),
    }
    if image.distortion is not None:
        described["distortion"] = image.distortion.to_dict()
    valid = image.source.valid()
    if valid is not None:
        described["mask"] = f"masks/{image.camera}.png"
        path = folder / described["mask"]
        own = np.where(valid, 0, 255).astype(np.uint8)
        if not path.exists():
            with replacing(path) as file:
                PillowImage.fromarray(own).save(file, "PNG")
        elif not np.array_equal(np.asarray(PillowImage.open(path)), own):
            described["mask"] = "another"
    return described


def _write_image(image: CameraImage, folder: Path) -> str:
    """Writes the file of an image; its name in the folder of the scene."""
    if isinstance(image.source, ImageFile):
        name = f"images/{image.camera}/{image.source.path.name}"
        if not image.source.path.exists():
            image.source.read()
        _link(image.source.path, folder / name)
    else:
        name = f"images/{image.camera}/{image.stem}.png"
        with replacing(folder / name) as file:
            PillowImage.fromarray(image.read()).save(file, "PNG")
    return name


def _write_sweep(frame: KeyFrame, sweep: LidarSweep, folder: Path) -> dict[str, Any]:
    name = f"lidar/{frame.timestamp_us}.npy"
    with replacing(folder / name) as file:
        np.save(file, sweep.source.read())
    return {
        "path": name,
        "timestamp_us": sweep.timestamp_us,
        "global_from_ego": sweep.global_from_ego.tolist(),
    }


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise ConfigError(f"{target}: two images have this name; rename them in the data set")
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, allow_nan=False)
    # Rows of numbers, and lists of names, each on one line.
    text = re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda found: "[" + re.sub(r",\s+", ", ", found[1]) + "]", text)
    with replacing(path) as file:
        file.write(text.encode() + b"\n")
