"""A scene as a video: per key frame its images with the occupancy on them, and the occupancy from above."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
from PIL import Image, ImageDraw

from occlift.errors import ConfigError, DataError, OccliftError
from occlift.label_space import OCC3D, LabelSpace
from occlift.runtime.extras import needs_extra
from occlift.runtime.files import disk_full
from occlift.runtime.progress import track
from occlift.runtime.words import once_per_kind
from occlift.scenes.dataset import DrivingDataset
from occlift.scenes.frames import KeyFrame
from occlift.scenes.rigs import single_rigs
from occlift.viz.birds_eye import birds_eye_image
from occlift.viz.canvas import INK, PAPER, add_caption, font, gallery, gallery_sizes, legend, stack
from occlift.viz.occupancy import perspective_image, top_view_with_ruler
from occlift.viz.overlay import draw_occupancy, resize
from occlift.viz.show import RIG_REACH_M, Occupancy, beside, camera_caption, occupancy_of, read_images, read_lidar

COLUMN_PX: Final = 416
"""Width of one of three images in a row."""

_VOLUME_PX: Final = 400
_SLOWEST_HZ: Final = 1.0
_FASTEST_HZ: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class VideoRun:
    """Result of `write_scene_video`.

    Attributes:
        frames: pictures in it, one per key frame.
        frames_per_s: pictures per second: as fast as the car drove, between 1 and 15.
        notes: what could not be drawn, as sentences that name the key frame.
    """

    path: Path
    frames: int
    frames_per_s: float
    notes: tuple[str, ...]


def write_scene_video(
    data: DrivingDataset, scene: str, path: Path, *, labels: Path | None = None, space: LabelSpace = OCC3D
) -> VideoRun:
    """Writes a scene as an H.264 video.

    A key frame whose label, sweep or image is missing or damaged is drawn without it.

    Args:
        path: ends in .mp4; an existing file is replaced.
        labels: a folder of labels, truth or predictions; without it the voxels that lidar hits are drawn, if there is a
            lidar, else the images and the cameras from above.
        space: grid and classes of the labels.

    Raises:
        ConfigError: imageio is not installed, or the path does not end in .mp4.
        DataError: there is no such scene, or no key frame of it can be drawn.
        DiskFull: the disk is full; a video that was there is as it was.
    """
    with needs_extra("video", "a video"):
        import imageio_ffmpeg
    if path.suffix != ".mp4":
        raise ConfigError(f"{path}: a video is written as .mp4; give it a name that ends so")
    tokens = data.key_frame_tokens(scene)
    notes: list[str] = []
    pictures = _pictures(data, tokens, labels, space, notes)
    first = next(pictures, None)
    if first is None:
        reasons = "; ".join(once_per_kind(notes))
        raise DataError(f"{data.spec}: no key frame of scene {scene} can be drawn: {reasons}")
    # H.264 halves the resolution of colours, so both edges are even.
    size = (first.width + first.width % 2, first.height + first.height % 2)
    frames_per_s = _rate_hz([data.key_frame(token).timestamp_us for token in (tokens[0], tokens[-1])], len(tokens))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.mp4")
    frames = 0
    try:
        with _encoder(imageio_ffmpeg.get_ffmpeg_exe(), temporary, path, size, frames_per_s) as encoder:
            for picture in itertools.chain([first], pictures):
                encoder.write(np.ascontiguousarray(_fitted(picture, size)).tobytes())
                frames += 1
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return VideoRun(path=path, frames=frames, frames_per_s=frames_per_s, notes=tuple(notes))


@contextmanager
def _encoder(program: str, file: Path, path: Path, size: tuple[int, int], frames_per_s: float) -> Iterator[IO[bytes]]:
    """Takes pictures as bytes in RGB; the video is whole when the block ends.

    Raises:
        DiskFull: the disk is full.
        OccliftError: ffmpeg could not write the video, in its words.
    """
    command = [
        *(program, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"),
        *("-s", f"{size[0]}x{size[1]}", "-r", f"{frames_per_s:.4f}", "-i", "-", "-an"),
        *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "25", "-threads", "2"),
        # No time stamps or version in the file: same pictures, same bytes.
        *("-fflags", "+bitexact", "-flags:v", "+bitexact", str(file)),
    ]
    # A file takes what ffmpeg says: a pipe that nobody reads could stop it.
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said) as process:
        assert process.stdin is not None
        try:
            # When ffmpeg ends early, its own words say why.
            with suppress(BrokenPipeError), process.stdin as pictures:
                yield pictures
        except BaseException:
            process.kill()
            raise
        if process.wait() != 0:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().replace(str(file), str(path))
            if os.strerror(errno.ENOSPC) in words:
                raise disk_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
            raise OccliftError(f"{path}: ffmpeg could not write the video: {words or 'it said nothing'}")


def _pictures(
    data: DrivingDataset, tokens: Sequence[str], labels: Path | None, space: LabelSpace, notes: list[str]
) -> Iterator[Image.Image]:
    """One picture per key frame; what cannot be drawn is left out and noted."""
    start_us = None
    for number, token in enumerate(track(tokens, "drawing key frames")):
        try:
            key_frame = data.key_frame(token)
            points_ego, unread = read_lidar(key_frame)
            notes += [f"key frame {token}: {note}" for note in unread]
            try:
                occupancy = occupancy_of(key_frame, points_ego, labels, space)
            except DataError as error:
                occupancy = None
                notes.append(f"key frame {token}: {error}")
            start_us = key_frame.timestamp_us if start_us is None else start_us
            seconds = (key_frame.timestamp_us - start_us) / 1e6
            title = f"{key_frame.scene} · key frame {number + 1} of {len(tokens)} · {seconds:.1f} s"
            yield scene_picture(key_frame, occupancy, title)
        except DataError as error:
            notes.append(f"key frame {token} is left out: {error}")


def scene_picture(key_frame: KeyFrame, occupancy: Occupancy | None, title: str) -> Image.Image:
    """A key frame in one small picture: its images, and below them what surrounds the car.

    Raises:
        DataError: an image is missing or broken.
    """
    images, rigs = read_images(key_frame), single_rigs(key_frame)
    names = [camera_caption(camera.camera) for camera in key_frame.cameras]
    sizes = gallery_sizes([image.shape[:2] for image in images], column_px=COLUMN_PX, max_height=360)
    drawn = []
    for image, rig, name, size in zip(images, rigs, names, [one for row in sizes for one in row], strict=True):
        small, reduced = rig.resized(*size), resize(image, *size)
        if occupancy is not None:
            reduced = draw_occupancy(reduced, small, occupancy.semantics, space=occupancy.space)
        drawn.append(add_caption(Image.fromarray(reduced), name))
    rows = [gallery(drawn, [len(row) for row in sizes])]
    if occupancy is None:
        rows.append(
            birds_eye_image(np.zeros((0, 3)), cameras=rigs, camera_names=names, reach_m=RIG_REACH_M, size_px=_VOLUME_PX)
        )
    else:
        space = occupancy.space
        above = top_view_with_ruler(occupancy.semantics, space=space, size_px=_VOLUME_PX)
        width = max(2 * _VOLUME_PX, rows[0].width - above.width - 28)
        chase = perspective_image(
            occupancy.semantics, space=space, height=above.height, width=width, supersampling=1
        )  # fmt: skip
        rows.append(beside(chase, above))
        if occupancy.has_classes:
            rows.append(legend(rows[-1].width, taxonomy=space.taxonomy))
    picture = stack(rows)
    headed = Image.new("RGB", (picture.width, picture.height + 34), PAPER)
    headed.paste(picture, (0, 34))
    ImageDraw.Draw(headed).text((10, 18), title, INK, font(18), anchor="lm")
    return headed


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture on paper of this size; a larger one, of a key frame with more cameras, is reduced."""
    if picture.size == size:
        return picture
    scale = min(1.0, size[0] / picture.width, size[1] / picture.height)
    if scale < 1.0:
        picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", size, PAPER)
    canvas.paste(picture, ((size[0] - picture.width) // 2, 0))
    return canvas


def _rate_hz(ends_us: Sequence[int], count: int) -> float:
    """Key frames per second, within what can be watched."""
    seconds = (ends_us[1] - ends_us[0]) / 1e6
    real_hz = (count - 1) / seconds if seconds > 0 else 2.0
    return round(min(max(real_hz, _SLOWEST_HZ), _FASTEST_HZ), 2)
