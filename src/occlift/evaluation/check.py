"""`occlift check`: is a data set what it says it is? Files, sizes, times, and above all calibration and poses.

Wrong axes and swapped inverses are the most frequent mistakes of a new rig, and no file format shows them. Images do:
corners that look alike in two consecutive images must lie on each other's epipolar lines, in front of both cameras.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from occlift.errors import DataError
from occlift.geometry.matches import epipolar_errors_px, match_corners
from occlift.geometry.transforms import (
    inverse,
    quaternion_from_rotation,
    rigid_transform,
    rotation_from_quaternion,
    transform_points,
)
from occlift.label_space import OCC3D, Taxonomy
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, HasBoxes, evenly_spaced
from occlift.scenes.frames import CameraImage, KeyFrame

_MATCH_WIDTH: Final = 800
"""Width to which images are reduced before corners are matched, pixels."""

_TOLERANCE_PX: Final = 2.0
"""Matches nearer to their epipolar lines agree with the pose; pixels of the reduced image."""

_MIN_AGREEING: Final = 0.35
_MIN_MATCHES: Final = 20
_BETTER_BY: Final = 0.2

_MOVED_M: Final = (0.15, 8.0)
"""Between two images whose corners are matched."""

_FASTEST_M_S: Final = 70.0

Rigid = Float[np.ndarray, "4 4"]


@dataclass(frozen=True, kw_only=True)
class PoseAgreement:
    """How well the poses of a camera explain what its images show.

    Attributes:
        pairs: number of pairs of consecutive images that were compared.
        matches: number of matched corners.
        median_error_px: distance of a match to its epipolar line, pixels of the full image; NaN without matches.
        agreeing: share of matches within 2 pixels (of the image reduced to a width of 800) and in front of both
            cameras; the rest are wrong matches, moving objects, or wrong poses.
    """

    camera: str
    pairs: int
    matches: int
    median_error_px: float
    agreeing: float


@dataclass(frozen=True, kw_only=True)
class DatasetCheck:
    """What `check_dataset` found.

    Attributes:
        problems: what is wrong, or looks so, a sentence each, with file or token.
        notes: what is sound, and will not do what somebody may expect.
        poses: per camera.
        frames: number of key frames.
        driven_m: scene → length of its path, metres.
        drawn: key frame that was drawn; None where none can be.
        picture: the file of its picture.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    poses: tuple[PoseAgreement, ...]
    frames: int
    driven_m: dict[str, float]
    drawn: str | None
    picture: Path | None


def check_dataset(
    data: DrivingDataset,
    out: Path,
    *,
    split: str = "all",
    token: str | None = None,
    pairs: int = 4,
    taxonomy: Taxonomy = OCC3D.taxonomy,
) -> DatasetCheck:
    """Checks every key frame of a split, compares poses with images, and draws one key frame.

    Args:
        out: folder of `check.png`, made if missing.
        token: key frame to draw; by default the middle one of the first scene.
        pairs: number of pairs of images per camera whose corners are matched.
        taxonomy: classes that the categories of boxes should belong to.

    Raises:
        ConfigError: there is no such split.
        DataError: the split has no scene.
    """
    problems: list[str] = []
    broken: Counter[str] = Counter()
    frames: list[KeyFrame] = []
    driven_m = {}
    for scene in data.scenes(split):
        found = []
        for name in track(data.key_frame_tokens(scene), f"checking {scene}"):
            try:
                frame = data.key_frame(name)
            except DataError as error:
                broken[str(error)] += 1
                continue
            wrong = list(_find_broken_files(frame))
            broken.update(wrong)
            if not wrong:
                found.append(frame)
        problems += _find_odd_times(found)
        odd, driven_m[scene] = _find_odd_motion(found)
        problems += odd
        problems += _find_odd_mountings(found)
        problems += _find_odd_lidar(found)
        frames += found
    problems = [f"{text} ({count} key frames)" if count > 1 else text for text, count in broken.items()] + problems
    notes: list[str] = []
    if isinstance(data, HasBoxes):
        odd, notes = _find_odd_boxes(data, frames, taxonomy)
        problems += odd
    poses, odd = _compare_poses(frames, pairs)
    problems += odd
    drawn = next((f for f in frames if f.token == token), None) if token else _middle(frames)
    if token and drawn is None:
        raise DataError(f"{data.spec}: key frame {token} cannot be drawn; it is not in the split {split}, or broken")
    picture = None
    if drawn is not None:
        from occlift.viz.rig import draw_rig

        picture = out / "check.png"
        boxes = data.boxes(drawn.token) if isinstance(data, HasBoxes) else ()
        draw_rig(drawn, [f for f in frames if f.scene == drawn.scene], picture, boxes=boxes)
    return DatasetCheck(
        problems=tuple(problems),
        notes=tuple(notes),
        poses=tuple(poses),
        frames=len(frames),
        driven_m=driven_m,
        drawn=drawn.token if drawn else None,
        picture=picture,
    )


def _find_broken_files(frame: KeyFrame) -> Iterator[str]:
    """Files that are missing, unreadable, or of another size than stated; what ails a whole camera is said the same way
    for each of its images."""
    if not frame.cameras:
        yield f"key frame {frame.token}: has no image"
    for image in frame.cameras:
        camera, stated = f"scene {frame.scene}, camera {image.camera}", (image.height, image.width)
        try:
            size, valid = image.source.size(), image.source.valid()
        except DataError as error:
            yield str(error)
            continue
        if size != stated:
            yield (
                f"{camera}: images of {size[0]}×{size[1]} pixels (height × width), and the calibration says "
                f"{stated[0]}×{stated[1]}; intrinsics hold for one size only"
            )
        elif valid is not None and valid.shape != stated:
            yield (
                f"{camera}: its mask has {valid.shape[0]}×{valid.shape[1]} pixels (height × width), and the images "
                f"{stated[0]}×{stated[1]}"
            )
        elif valid is not None and valid.mean() < 0.3:
            yield (
                f"{camera}: its mask leaves {valid.mean():.0%} of the pixels; a mask is white where the camera sees "
                "the car itself"
            )
    try:
        if frame.lidar is not None and not len(frame.lidar.source.read()):
            yield f"{frame.lidar.source.name}: the sweep has no point"
    except DataError as error:
        yield str(error)


def _find_odd_times(frames: Sequence[KeyFrame]) -> list[str]:
    problems = []
    for before, frame in pairwise(frames):
        if frame.timestamp_us <= before.timestamp_us:
            problems.append(
                f"key frame {frame.token}: its time, {frame.timestamp_us} us, is not after that of the one before"
            )
    for frame in frames:
        for image in frame.cameras:
            apart_s = abs(image.timestamp_us - frame.timestamp_us) / 1e6
            if apart_s > 0.5:
                problems.append(
                    f"{image.source.name}: taken {apart_s:.3g} s away from its key frame {frame.token}; expected "
                    "images of one moment, and times in microseconds"
                )
    return problems


def _find_odd_motion(frames: Sequence[KeyFrame]) -> tuple[list[str], float]:
    """Problems, and the length of the path, metres."""
    problems = []
    forward_m, left_m, path_m = 0.0, 0.0, 0.0
    for before, frame in pairwise(frames):
        moved = (inverse(before.global_from_ego) @ frame.global_from_ego)[:3, 3]
        length_m, seconds = float(np.linalg.norm(moved)), (frame.timestamp_us - before.timestamp_us) / 1e6
        if seconds > 0 and length_m / seconds > _FASTEST_M_S:
            problems.append(
                f"key frame {frame.token}: the car moves {length_m:.4g} m in {seconds:.4g} s, {length_m / seconds:.3g} "
                "m/s; expected metres in poses and microseconds in times, and global_from_ego rather than its inverse"
            )
        if seconds > 30:
            problems.append(
                f"key frame {frame.token}: is {seconds:.4g} s after the one before; expected one drive per scene, and "
                "times in microseconds"
            )
        forward_m, left_m, path_m = forward_m + moved[0], left_m + moved[1], path_m + length_m
    if path_m > 5.0 and forward_m < 0.7 * path_m:
        problems.append(
            f"scene {frames[0].scene}: over {path_m:.1f} m the car moves {forward_m:+.1f} m along its x axis and "
            f"{left_m:+.1f} m along its y axis; expected an ego frame with x forward, y left, z up, and "
            "global_from_ego rather than its inverse (unless it really drives backwards)"
        )
    return problems, path_m


def _find_odd_mountings(frames: Sequence[KeyFrame]) -> list[str]:
    """Calibrations that are unlikely, each once."""
    problems: dict[str, None] = {}
    for frame in frames:
        for image in frame.cameras:
            name = f"scene {frame.scene}, camera {image.camera}"
            (fx, _, cx), (_, fy, cy), _ = image.intrinsics_px.tolist()
            if not (0.2 < cx / image.width < 0.8 and 0.2 < cy / image.height < 0.8):
                problems[
                    f"{name}: the principal point ({cx:.1f}, {cy:.1f}) is far from the middle of an image of "
                    f"{image.width}×{image.height} pixels (width × height); expected intrinsics for this size"
                ] = None
            if not 0.5 < fx / fy < 2:
                problems[f"{name}: the focal lengths {fx:.1f} and {fy:.1f} differ much; expected pixels"] = None
            down = image.ego_at_image_from_camera[:3, 1]
            if down[2] > -0.3:
                problems[
                    f"{name}: the lower edge of its image points along {np.round(down, 2).tolist()} in the ego frame, "
                    "expected down, [0, 0, -1]; camera axes are x right, y down, z forward, ego axes x forward, y "
                    "left, z up, and the transform is ego_from_camera rather than its inverse"
                ] = None
            position = image.ego_at_image_from_camera[:3, 3]
            if np.abs(position).max() > 12:
                problems[
                    f"{name}: is mounted at {np.round(position, 2).tolist()}, far off the car; expected metres in the "
                    "ego frame"
                ] = None
    return list(problems)


def _find_odd_lidar(frames: Sequence[KeyFrame]) -> list[str]:
    """Whether the ground that a lidar measures lies where the ego frame says, by the middle key frame of a scene."""
    frame = _middle([frame for frame in frames if frame.lidar is not None])
    if frame is None:
        return []
    sweep = frame.lidar_sweep()
    points_ego = transform_points(frame.ego_from_lidar(sweep), sweep.source.read()[:, :3].astype(np.float64))
    distance_m = np.hypot(points_ego[:, 0], points_ego[:, 1])
    name = f"scene {frame.scene}, lidar"
    if not 1.0 < np.median(distance_m) < 200:
        return [f"{name}: its points lie {np.median(distance_m):.4g} m away in the median; expected metres"]
    near = points_ego[(distance_m > 3) & (distance_m < 15), 2]
    # The ground is where most points are; walls and cars spread over many heights.
    counts, edges = np.histogram(near, bins=np.arange(-6.0, 6.2, 0.2))
    ground_m = float(edges[counts.argmax()] + 0.1)
    if len(near) < 100 or counts.max() < 0.1 * len(near) or abs(ground_m) <= 0.7:
        return []
    return [
        f"{name}: most of its points within 15 m lie at z = {ground_m:+.1f} m of the ego frame, expected the ground at "
        "z = 0; check ego_from_lidar (or its inverse?) and the height of the ego frame"
    ]


def _find_odd_boxes(data: HasBoxes, frames: Sequence[KeyFrame], taxonomy: Taxonomy) -> tuple[list[str], list[str]]:
    """Problems: boxes that are nowhere near the car; and notes: categories that no class has, as where a data set has
    names of its own, whose boxes carry no points then (`--moving boxes`)."""
    unknown: Counter[str] = Counter()
    boxes = far = 0
    for frame in frames:
        for box in data.boxes(frame.token):
            boxes += 1
            if box.category not in taxonomy.categories:
                unknown[box.category] += 1
            far += bool(np.linalg.norm((inverse(frame.global_from_ego) @ box.global_from_box)[:2, 3]) > 250)
    problems, notes = [], []
    if sum(unknown.values()) == boxes > 0:
        most = ", ".join(name for name, _ in unknown.most_common(5))
        notes.append(
            f"boxes: no category belongs to a class (they are {most}); expected names such as "
            f"{', '.join(list(taxonomy.categories)[:3]) or 'none: the label space lists no categories'}, or a --space "
            "that lists yours; `--moving boxes` leaves them out otherwise"
        )
    if 2 * far > boxes:
        problems.append(
            f"boxes: {far} of {boxes} are more than 250 m from the car; expected metres, and poses in the frame that "
            "the field names (ego_from_box, global_from_box)"
        )
    return problems, notes


def _compare_poses(frames: Sequence[KeyFrame], pairs: int) -> tuple[list[PoseAgreement], list[str]]:
    """Matches corners of consecutive images, and tries what the poses could have been meant to be."""
    by_camera: defaultdict[str, list[tuple[CameraImage, CameraImage]]] = defaultdict(list)
    for before, after in pairwise(frames):
        later = {image.camera: image for image in after.cameras}
        for image in before.cameras if before.scene == after.scene else ():
            if image.camera in later:
                by_camera[image.camera].append((image, later[image.camera]))
    poses = []
    counts = dict.fromkeys(("", *_MEANT), 0)
    total = 0
    jobs = [
        (camera, evenly_spaced([pair for pair in found if _moved_enough(*pair)], pairs))
        for camera, found in by_camera.items()
    ]
    for camera, chosen in track(jobs, "matching corners"):
        errors: list[float] = []
        agreeing = 0
        for first, second in chosen:
            (grey1, scale), (grey2, _) = _reduced(first), _reduced(second)
            pixels1, pixels2 = match_corners(grey1, grey2)
            for name in counts:
                pose1, pose2 = (_global_from_camera(image, name) for image in (first, second))
                error_px, ahead = epipolar_errors_px(
                    pixels1 * scale,
                    pixels2 * scale,
                    first.pinhole_intrinsics_px,
                    second.pinhole_intrinsics_px,
                    inverse(pose2) @ pose1,
                )
                fits = int(((error_px < _TOLERANCE_PX * scale) & ahead).sum())
                counts[name] += fits
                if not name:
                    errors += error_px.tolist()
                    agreeing += fits
        total += len(errors)
        share = agreeing / len(errors) if errors else float("nan")
        median = float(np.median(errors)) if errors else float("nan")
        poses.append(
            PoseAgreement(camera=camera, pairs=len(chosen), matches=len(errors), median_error_px=median, agreeing=share)
        )
    problems = [
        f"camera {one.camera}: {one.agreeing:.0%} of {one.matches} matched corners agree with the poses (median error "
        f"{one.median_error_px:.1f} px"
        + (
            ", but the points would lie behind the camera: it looks the other way, or its images are another camera's)"
            if one.median_error_px < _TOLERANCE_PX
            else "); its mounting, intrinsics, or times do not fit its images"
        )
        for one in poses
        if one.matches >= _MIN_MATCHES and one.agreeing < _MIN_AGREEING
    ]
    best = max(counts, key=lambda name: counts[name])
    if total >= _MIN_MATCHES and counts[best] - counts[""] > _BETTER_BY * total:
        problems.append(
            f"{counts[best] / total:.0%} of the matched corners, instead of {counts[''] / total:.0%}, agree with the "
            f"poses {best}; this is probably what happened"
        )
    return poses, problems


def _wrong_order(pose: Rigid) -> Rigid:
    """What a quaternion [x, y, z, w] was meant to be that was read as [w, x, y, z]."""
    x, y, z, w = quaternion_from_rotation(pose[:3, :3])
    return rigid_transform(rotation_from_quaternion([w, x, y, z]), pose[:3, 3])


_BODY_FROM_CAMERA: Final = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])

_MEANT: Final[dict[str, Callable[[Rigid, Rigid], Rigid]]] = {
    "if global_from_ego is inverted": lambda ego, camera: inverse(ego) @ camera,
    "if ego_from_camera is inverted": lambda ego, camera: ego @ inverse(camera),
    "if global_from_ego and ego_from_camera are both inverted": lambda ego, camera: inverse(ego) @ inverse(camera),
    "if the camera's axes are x forward, y left, z up": lambda ego, camera: ego @ camera @ _BODY_FROM_CAMERA,
    "if the camera's axes are x right, y up, z backward (OpenGL)": (
        lambda ego, camera: ego @ camera @ np.diag([1.0, -1.0, -1.0, 1.0])
    ),
    "if the quaternions of global_from_ego are [x, y, z, w]": lambda ego, camera: _wrong_order(ego) @ camera,
    "if the quaternions of ego_from_camera are [x, y, z, w]": lambda ego, camera: ego @ _wrong_order(camera),
}
"""What poses are often meant to be, → global_from_camera then."""


def _global_from_camera(image: CameraImage, meant: str) -> Rigid:
    if not meant:
        return image.global_from_camera
    return _MEANT[meant](image.global_from_ego_at_image, image.ego_at_image_from_camera)


def _moved_enough(first: CameraImage, second: CameraImage) -> bool:
    moved = (inverse(first.global_from_camera) @ second.global_from_camera)[:3, 3]
    return _MOVED_M[0] < float(np.linalg.norm(moved)) < _MOVED_M[1]


def _reduced(image: CameraImage) -> tuple[Float[np.ndarray, "height width"], float]:
    """The image in grey, 0 to 1, not wider than `_MATCH_WIDTH`; and how many of its pixels one of the result is."""
    pixels: UInt8[np.ndarray, "h w 3"] = image.read()
    scale = max(1.0, image.width / _MATCH_WIDTH)
    small = Image.fromarray(pixels).convert("L")
    small = small.resize((round(image.width / scale), round(image.height / scale)), Image.Resampling.BOX)
    return np.asarray(small, np.float64) / 255.0, image.width / small.width


def _middle(frames: Iterable[KeyFrame]) -> KeyFrame | None:
    frames = list(frames)
    first = [frame for frame in frames if frame.scene == frames[0].scene]
    return first[len(first) // 2] if first else None
