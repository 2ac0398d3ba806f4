"""Pictures of rigs of any kind: one to eleven cameras of any shape, with and without lidar; and scenes as videos."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from other_space import SPACE, HallDataset, write_truth
from PIL import Image

from occlift import CameraImage, KeyFrame, KeyFrameList
from occlift.errors import ConfigError, DataError, OccliftError
from occlift.geometry.transforms import rigid_transform, rotation_about_z
from occlift.label_space import OCC3D
from occlift.labels.files import OccupancyLabel, label_path, write_label, write_prediction
from occlift.scenes import ImageArray, LidarSource, LidarSweep
from occlift.viz.canvas import gallery, gallery_sizes
from occlift.viz.show import show
from occlift.viz.video import write_scene_video

EGO_FROM_FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
PORTRAIT, LANDSCAPE, FLAT = (64, 48), (48, 64), (24, 80)


def color(number: int) -> tuple[int, int, int]:
    return (20 * number, 200 - 10 * number, 90)


def ring(*shapes: tuple[int, int], lidar: LidarSweep | None = None) -> KeyFrameList:
    """Cameras evenly around the car, each of a colour of its own."""
    images = []
    for number, (height, width) in enumerate(shapes):
        rotation = rotation_about_z(2 * np.pi * number / len(shapes)) @ EGO_FROM_FORWARD
        pixels = np.zeros((height, width, 3), np.uint8) + np.array(color(number), np.uint8)
        images.append(
            CameraImage(
                camera=f"ring_{number}", key=str(number), timestamp_us=0, height=height, width=width,
                intrinsics_px=np.array([[40.0, 0, width / 2], [0, 40, height / 2], [0, 0, 1]]),
                ego_at_image_from_camera=rigid_transform(rotation, (0.0, 0.0, 1.5)),
                global_from_ego_at_image=np.eye(4), source=ImageArray(pixels),
            )
        )  # fmt: skip
    return KeyFrameList(
        [
            KeyFrame(
                token="t", scene="s", index=0, timestamp_us=0, global_from_ego=np.eye(4), cameras=tuple(images),
                lidar=lidar,
            )
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    "shapes",
    [[FLAT], [LANDSCAPE, PORTRAIT], [PORTRAIT, *[LANDSCAPE] * 6], [PORTRAIT, FLAT] + [LANDSCAPE] * 9],
    ids=["one", "two", "seven", "eleven"],
)
def test_any_rig_is_drawn_without_lidar_and_labels(shapes: list[tuple[int, int]], tmp_path: Path) -> None:
    run = show(ring(*shapes), "t", tmp_path)
    assert [path.name for path in run.paths] == ["images.png", "birds_eye.png"]
    assert (run.occupancy_from, run.num_lidar_points, run.notes) == (None, 0, ())
    sheet = np.asarray(Image.open(tmp_path / "images.png"))
    for number, (height, width) in enumerate(shapes):
        rows, columns = np.nonzero((np.abs(sheet.astype(int) - color(number)) <= 3).all(2))
        shown_height, shown_width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert shown_width / shown_height == pytest.approx(width / height, rel=0.02), "not squeezed"
        assert len(rows) == shown_height * shown_width, "not covered"
        assert shown_height <= 600
    assert sheet.shape[1] <= 3 * 808 + 8 + 2


def test_predictions_are_drawn_as_labels_are_from_a_folder_or_one_file(tmp_path: Path) -> None:
    semantics = np.full(OCC3D.grid.shape, OCC3D.taxonomy.free, np.uint8)
    semantics[110:130, 90:110, 4:8] = 4
    seen = np.ones(semantics.shape, bool)
    label = label_path(tmp_path / "labels", "s", "t")
    write_label(label, OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen))
    write_prediction(tmp_path / "predictions/t.npz", semantics)
    shutil.copy(tmp_path / "predictions/t.npz", tmp_path / "mine.npz")
    sources = {
        tmp_path / "labels": "labels of labels", label: "labels.npz",
        tmp_path / "predictions": "predictions of predictions", tmp_path / "mine.npz": "mine.npz",
    }  # fmt: skip
    pictures = set()
    for source, name in sources.items():
        run = show(ring(PORTRAIT), "t", tmp_path / "out", labels=source)
        assert run.occupancy_from == name
        pictures.add((tmp_path / "out/occupancy_on_images.png").read_bytes())
    assert len(pictures) == 1
    (tmp_path / "predictions/t.npz").rename(tmp_path / "predictions/other.npz")
    with pytest.raises(
        DataError, match=r"predictions: holds nothing of key frame t; expected .*s.t.labels.npz, or .*t.npz"
    ):
        show(ring(PORTRAIT), "t", tmp_path / "out", labels=tmp_path / "predictions")
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        show(ring(PORTRAIT), "t", tmp_path / "out", labels=tmp_path / "nowhere")


def test_rows_have_about_equally_many_pictures_and_one_height() -> None:
    sizes = gallery_sizes([PORTRAIT] + [LANDSCAPE] * 6, column_px=400)
    assert [len(row) for row in sizes] == [3, 2, 2]
    assert all(len({height for height, _ in row}) == 1 for row in sizes)
    assert sum(width for _, width in sizes[0]) == pytest.approx(3 * 400, abs=2)
    assert gallery_sizes([(900, 1600)] * 6) == (((450, 800),) * 3,) * 2, "as large as they always were"
    tiles = [Image.new("RGB", (10, 5), (number * 40, 0, 0)) for number in range(3)]
    sheet = np.asarray(gallery(tiles, [2, 1], gap_px=2))
    assert sheet.shape == (16, 26, 3)
    assert (int(sheet[2, 14, 0]), int(sheet[9, 13, 0])) == (40, 80), "the last row is centred"
    assert sheet[9, 4].tolist() == [255, 255, 255]


class Missing(LidarSource):
    @property
    def name(self) -> str:
        return "sweep.bin"

    def read(self) -> np.ndarray:
        raise DataError("sweep.bin: no such file")


def test_a_sweep_that_is_missing_leaves_the_images_to_be_seen(tmp_path: Path) -> None:
    sweep = LidarSweep(key="l", timestamp_us=0, ego_from_lidar=np.eye(4), global_from_ego=np.eye(4), source=Missing())
    run = show(ring(LANDSCAPE, lidar=sweep), "t", tmp_path)
    assert run.notes == ("no lidar is drawn: sweep.bin: no such file",)
    assert [path.name for path in run.paths] == ["images.png", "birds_eye.png"]


# --- videos ---------------------------------------------------------------------------------------------------------


class Slow(HallDataset):
    """The hall at two key frames a second; the image of one is damaged."""

    def key_frame(self, token: str) -> KeyFrame:
        frame = super().key_frame(token)
        frame = replace(frame, timestamp_us=500_000 * frame.index)
        if token != "morning-1":
            return frame
        broken = replace(frame.cameras[0], source=ImageArray(np.zeros((1, 1, 3), np.uint8)))
        return replace(frame, cameras=(broken, *frame.cameras[1:]))


def decoded(path: Path) -> list[np.ndarray]:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="videos need imageio: pip install 'occlift[video]'")
    # Not its `read_frames`, which leaves pipes open.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    size = re.search(r"Video: .*? (\d{2,})x(\d+)[ ,]", done.stderr.decode())
    assert size is not None, done.stderr
    return list(np.frombuffer(done.stdout, np.uint8).reshape(-1, int(size[2]), int(size[1]), 3))


def test_a_scene_becomes_a_small_video(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="videos need imageio: pip install 'occlift[video]'")
    truth = write_truth(tmp_path / "gts")
    label_path(truth, "evening", "evening-2").unlink()
    run = write_scene_video(Slow(), "evening", tmp_path / "deep/evening.mp4", labels=truth, space=SPACE)
    assert (run.frames, run.frames_per_s) == (3, 2.0)
    (note,) = run.notes
    assert note.startswith("key frame evening-2: ")
    assert "holds nothing of key frame evening-2" in note
    frames = decoded(run.path)
    assert len(frames) == 3
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    assert frames[0].shape[1] <= 1280
    assert np.abs(frames[0].astype(int) - frames[1]).mean() > 0.5, "the wall comes nearer"
    assert run.path.stat().st_size < 1_000_000
    assert [path.name for path in run.path.parent.iterdir()] == ["evening.mp4"]
    again = write_scene_video(Slow(), "evening", tmp_path / "again.mp4", labels=truth, space=SPACE)
    assert again.path.read_bytes() == run.path.read_bytes()

    run = write_scene_video(Slow(), "morning", tmp_path / "lidar.mp4", space=SPACE)
    assert run.frames == 2
    assert run.notes[0].startswith("key frame morning-1 is left out: image in memory: the image has 1×1 pixels")
    assert write_scene_video(ring(FLAT), "s", tmp_path / "bare.mp4").frames == 1


_FILM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_rigs_in_pictures import FLAT, ring, write_scene_video
path = Path(sys.argv[1])
try:
    write_scene_video(ring(FLAT), "s", path)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
print(path.read_bytes() == b"former", [file.name for file in path.parent.iterdir()])
"""


def test_a_video_on_a_full_disk_leaves_the_former_one(small_disk: list[str]) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="videos need imageio: pip install 'occlift[video]'")
    here = str(Path(__file__).parent)
    fill = 'printf former > /mnt/film.mp4; head -c 1000000 /dev/zero 2> /dev/null > /mnt/other; exec "$@"'
    filled = [*small_disk, "sh", "-c", fill, "sh"]
    run = subprocess.run(
        [*filled, sys.executable, "-c", _FILM, "/mnt/film.mp4", here, str(Path(here).parent)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said, kept = run.stdout.splitlines()
    assert said.startswith("DiskFull: /mnt/film.mp4: the disk is full (No space left on device)"), run.stdout
    assert kept.startswith("True")


def test_ffmpeg_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="videos need imageio: pip install 'occlift[video]'")
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho Unknown encoder libx264 >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(OccliftError, match=r"film.mp4: ffmpeg could not write the video: Unknown encoder libx264"):
        write_scene_video(ring(FLAT), "s", tmp_path / "film.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]


def test_a_video_that_cannot_be_written_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"film.avi: a video is written as .mp4"):
        write_scene_video(HallDataset(), "evening", tmp_path / "film.avi")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"pip install 'occlift\[video\]'"):
        write_scene_video(HallDataset(), "evening", tmp_path / "film.mp4")
