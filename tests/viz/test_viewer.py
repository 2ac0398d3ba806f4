"""The viewer: what paths are, what is shown of damaged frames, picking, scrubbing, and the page in a browser."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import open_page
from PIL import Image

from occlift.cli import main
from occlift.errors import ConfigError, DataError
from occlift.label_space import CAR, FREE, OCC3D, TRUCK, LabelSpace, Taxonomy
from occlift.labels.files import OccupancyLabel, label_path, prediction_path, write_label, write_prediction
from occlift.labels.manifest import Manifest
from occlift.labels.vote import Votes, write_votes
from occlift.scenes import open_dataset
from occlift.viz.layers import FrameLayers, is_path, open_layers
from occlift.viz.occupancy import ViewPoint, place_view
from occlift.viz.viewer import NOTHING, Viewer, describe_voxel, view, write_html

pytest.importorskip("viser", reason="the viewer needs viser: pip install 'occlift[view]'")

GRID = OCC3D.grid
PLATE = np.s_[115:140, 90:110, 3]
"""Where the labels have cars, and nothing else anywhere."""


@pytest.fixture(scope="module")
def frames(small_town: Path) -> list[tuple[str, str]]:
    """Scene and token of all key frames, in order."""
    data = open_dataset(small_town)
    return [(scene, token) for scene in data.scenes() for token in data.key_frame_tokens(scene)]


@pytest.fixture(scope="module")
def looked_at(small_town: Path, frames: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labels (their votes beside them) and predictions of the second scene; not to be changed."""
    root = tmp_path_factory.mktemp("looked-at")
    semantics = np.full(GRID.shape, FREE, np.uint8)
    semantics[PLATE] = CAR
    known = np.ones(GRID.shape, bool)
    confidence = np.where(semantics == CAR, np.uint8(204), np.uint8(0))
    voxel = np.ravel_multi_index((120, 100, 3), GRID.shape)
    votes = Votes(
        voxel=np.array([voxel, voxel], np.uint32), class_id=np.array([CAR, TRUCK], np.uint8),
        count=np.array([7, 2], np.uint32), obstruction=np.zeros(GRID.shape, np.uint8),
        passed=np.full(GRID.shape, 3, np.uint8),
    )  # fmt: skip
    manifest = Manifest(config={})
    for scene, token in frames[4:]:
        path = label_path(root / "labels", scene, token)
        write_label(
            path, OccupancyLabel(semantics=semantics, mask_lidar=known, mask_camera=known, confidence=confidence)
        )
        write_votes(path.with_name("votes.npz"), votes)
        prediction = semantics.copy()
        prediction[120, 100, 3] = TRUCK
        write_prediction(prediction_path(root / "predictions", token), prediction)
    manifest.write(root / "labels")
    return root


@pytest.fixture
def viewer(small_town: Path, looked_at: Path) -> Iterator[Viewer]:
    with view(small_town, looked_at / "labels", small_town / "gts", looked_at / "predictions") as started:
        started.settle()
        yield started


# --- what paths are -------------------------------------------------------------------------------------------------


def test_a_mix_of_paths_is_told_apart(small_town: Path, looked_at: Path, frames: list[tuple[str, str]]) -> None:
    layers = open_layers(looked_at / "predictions", small_town / "gts", looked_at / "labels", small_town)
    assert layers.names == ("prediction", "truth", "label")
    assert layers.data is not None
    assert layers.scenes == (frames[0][0], frames[4][0])
    assert layers.start == frames[4][1], "the first key frame that all volumes are of"
    assert layers.tokens(frames[4][0]) == tuple(token for _, token in frames[4:])


def test_volumes_need_no_data_set(looked_at: Path, frames: list[tuple[str, str]]) -> None:
    scene = frames[4][0]
    layers = open_layers(looked_at / "labels", looked_at / "predictions")
    assert (layers.data, layers.scenes) == (None, (scene,))
    assert layers.tokens(scene) == tuple(sorted(token for _, token in frames[4:]))
    frame = layers.frame(layers.start)
    assert frame.cameras == ((), ())
    assert frame.lidar is None
    assert (frame.volume("label").semantics[PLATE] == CAR).all()


def test_single_files_are_of_the_key_frame_that_they_name(
    small_town: Path, looked_at: Path, frames: list[tuple[str, str]], tmp_path: Path
) -> None:
    scene, token = frames[5]
    label, prediction = label_path(looked_at / "labels", scene, token), looked_at / f"predictions/{token}.npz"
    layers = open_layers(label, prediction)
    assert (layers.names, layers.scenes, layers.start) == (("label", "prediction"), (scene,), token)
    assert layers.frame(token).votes("label") is not None
    assert open_layers(small_town, prediction).start == token
    several = open_layers(*sorted((looked_at / "predictions").glob("*.npz")))
    assert several.names == ("prediction",)
    assert len(several.tokens("files")) == 4
    shutil.copy(prediction, tmp_path / "mine.npz")
    with pytest.raises(DataError, match=r"no volume there is of a key frame .*'mine'.*--token"):
        open_layers(small_town, tmp_path / "mine.npz")
    assert open_layers(small_town, tmp_path / "mine.npz", token=frames[0][1]).start == frames[0][1]
    both = open_layers(prediction, tmp_path / "mine.npz", token=token)
    assert both.names == (f"prediction {token}", "prediction mine")


def test_the_manifest_says_what_labels_are_about(looked_at: Path, tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(FREE))
    space = LabelSpace(grid=GRID, taxonomy=Taxonomy(names=names))
    shutil.copytree(looked_at / "labels", tmp_path / "labels")
    Manifest(config={}, space=space).write(tmp_path / "labels")
    assert open_layers(tmp_path / "labels").space == space
    (file, *_) = (tmp_path / "labels").glob("*/*/labels.npz")
    assert open_layers(file).space == space
    with pytest.raises(ConfigError, match="not about the same grid and classes"):
        open_layers(tmp_path / "labels", looked_at / "labels")


def test_what_is_nothing_to_look_at_is_said(small_town: Path, looked_at: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for labels or truth \(<scene>/<token>/labels.npz\), predictions"):
        open_layers(tmp_path)
    with pytest.raises(DataError, match="no such file or folder, and not the token of a key frame"):
        open_layers("labls")
    with pytest.raises(ConfigError, match="a second data set"):
        open_layers(small_town, open_dataset(small_town))
    with pytest.raises(DataError, match="no key frame 'x' among 4"):
        open_layers(looked_at / "labels", token="x")
    assert [is_path(word) for word in ("frames:/x", "a/b", "x.npz", str(tmp_path), "0a1b2c")] == [True] * 4 + [False]


# --- layers, notes, scrubbing ---------------------------------------------------------------------------------------


def test_layers_are_switched(viewer: Viewer) -> None:
    scene = viewer.server.scene
    assert viewer.notes == ()
    assert viewer.wish.volume == "label"
    for node in ("/cameras/0", "/cameras/5", "/lidar"):
        assert scene.get_handle_by_name(node) is not None
    viewer._image_size_m.value = 3.2
    viewer.settle()
    assert scene.get_handle_by_name("/cameras/0").scale == 3.2
    viewer._images.value = viewer._lidar.value = False
    viewer._volume.value = NOTHING
    viewer.settle()
    for node in ("/cameras/0", "/lidar", "/volume/0", "/volume/1"):
        assert scene.get_handle_by_name(node) is None
    viewer._volume.value, viewer._color_by.value = "truth", "confidence"
    viewer.settle()
    assert viewer.notes == (
        "the truth says no confidence (labels do that `occlift label --confidence` made), so it is coloured by class",
    )
    assert scene.get_handle_by_name("/volume/0") or scene.get_handle_by_name("/volume/1")
    viewer._volume.value = "label"
    viewer.settle()
    assert viewer.notes == ()
    assert "confidence" in viewer._legend.content


def test_damaged_and_missing_files_leave_the_rest_to_be_seen(
    small_town: Path, looked_at: Path, frames: list[tuple[str, str]], tmp_path: Path
) -> None:
    scene, token = frames[5]
    shutil.copytree(small_town, tmp_path / "town")
    shutil.copytree(looked_at / "labels", tmp_path / "labels")
    data = open_dataset(tmp_path / "town")
    Path(data.key_frame(token).cameras[1].source.name).unlink()
    label_path(tmp_path / "labels", scene, token).write_bytes(b"no archive")
    with view(data, tmp_path / "labels", looked_at / "predictions", token=token) as viewer:
        viewer.settle()
        assert len(viewer.notes) == 2
        assert any("not a readable .npz archive" in note for note in viewer.notes)
        assert any("no such file; the data set names it" in note for note in viewer.notes)
        for node in ("/cameras/0", "/cameras/1", "/lidar"):
            assert viewer.server.scene.get_handle_by_name(node) is not None
        viewer._volume.value = "prediction"
        viewer.settle()
        assert len(viewer.notes) == 1, "the image is still missing"
        viewer.show(frames[0][1])
        viewer.settle()
        assert [note.endswith("no prediction of this key frame") for note in viewer.notes] == [True]
        assert viewer._scene.value == frames[0][0]
        viewer.show(frames[6][1])
        viewer.settle()
        assert viewer.notes == ()


def test_scrubbing_fast_draws_the_last_and_skips_what_is_between(
    viewer: Viewer, frames: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go_on = list[str](), threading.Event()
    volume = FrameLayers.volume

    def slowly(self: FrameLayers, name: str) -> object:
        read.append(self.token)
        assert go_on.wait(20)
        return volume(self, name)

    monkeypatch.setattr(FrameLayers, "volume", slowly)
    for number in [2, 3, 4, 1, 2, 3, 2, 4]:
        viewer._slider.value = number
        # The controls are read in a thread of viser's: the first wish is being drawn before the next ones come.
        with viewer._changed:
            assert viewer._changed.wait_for(lambda at=number: viewer.wish.token == frames[3 + at][1], 20)
        while not read:
            threading.Event().wait(0.01)
    go_on.set()
    viewer.settle()
    assert read == [frames[5][1], frames[7][1]]


def test_a_ray_picks_the_first_voxel_and_says_what_is_known_of_it(viewer: Viewer) -> None:
    center_m = GRID.centers()[120, 100, 3]
    viewer.pick(center_m + np.array([0, 0, 20.0]), np.array([0.0, 0, -1]))
    assert viewer.picked == (120, 100, 3)
    frame = viewer.layers.frame(viewer.wish.token)
    rows = dict(describe_voxel(frame, (120, 100, 3), "label", ("truth", "label", "prediction")))
    assert rows.pop("truth")
    assert rows == {
        "voxel": "120, 100, 3", "centre": "x +8.20, y +0.20, z +0.40 m", "label": "car", "  confidence": "0.80",
        "  votes": "car 7, truck 2", "  rays through it": "3", "prediction": "truck",
    }  # fmt: skip
    for text in rows.values():
        assert text in viewer._voxel.content
    viewer.pick(center_m + np.array([0, 0, 20.0]), np.array([0.0, 0, 1]))
    assert viewer.picked is None
    assert viewer.server.scene.get_handle_by_name("/picked") is None


def test_it_is_reached_from_this_machine_alone_and_takes_the_next_port(viewer: Viewer, looked_at: Path) -> None:
    assert viewer.url == f"http://127.0.0.1:{viewer.port}"
    assert f"ssh -L {viewer.port}:127.0.0.1:{viewer.port} " in viewer.tunnel
    assert viewer.server.get_host() == "127.0.0.1"
    with view(looked_at / "labels", port=viewer.port) as second:
        assert second.port != viewer.port


def test_the_commands_view_and_show(
    small_town: Path, looked_at: Path, frames: list[tuple[str, str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def run(*words: str | Path) -> str:
        monkeypatch.setattr("sys.argv", ["occlift", *map(str, words)])
        main()
        return capsys.readouterr().out

    scene, token = frames[5]
    page, video = tmp_path / "frame.html", tmp_path / "scene.mp4"
    assert run("view", small_town, looked_at / "labels", token, "--html", page) == f"{page}\n"
    assert f"<b>{scene}, key frame 2</b>" in page.read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        run("view", looked_at / "labels", "--space", "semantickitti")
    assert "the label space that is asked for are not about the same grid" in capsys.readouterr().err

    def interrupted(viewer: Viewer) -> None:
        viewer.settle()
        raise KeyboardInterrupt

    monkeypatch.setattr(Viewer, "wait", interrupted)
    out = run("view", looked_at / "labels", token)
    assert re.fullmatch(r"http://127.0.0.1:(\d+)\nFrom .*: ssh -L \1:127.0.0.1:\1 .*\nCtrl-C ends it.\n\n", out)
    pytest.importorskip("imageio_ffmpeg", reason="videos need imageio: pip install 'occlift[video]'")
    shown = run("show", small_town, token, "--labels", looked_at / "labels", "--video", video)
    assert shown == f"{video}: 4 key frames, 2 a second\n"


# --- in a browser ---------------------------------------------------------------------------------------------------

NODE = "window.__viserMutable?.nodeRefFromName?.["


def plate_pixel(width: int, height: int) -> tuple[float, float]:
    """Where the view at the start shows the top of voxel (120, 100, 3), computed from the view alone."""
    start = place_view(GRID, eye=(-0.85, 0.35, 0.675), target=(0.075, 0.0, 0.0), fov_rad=np.deg2rad(55))
    # viser's angle is the vertical one.
    across_rad = 2 * np.arctan(np.tan(start.fov_rad / 2) * width / height)
    start = ViewPoint(eye_m=start.eye_m, target_m=start.target_m, fov_rad=across_rad)
    top = GRID.centers()[120, 100, 3] + np.array([0, 0, 0.2])
    (u, v), *_ = start.project(top[None], height, width)[0]
    return float(u), float(v)


def share_of_color(path: Path, color: tuple[int, int, int]) -> float:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return float((np.abs(pixels - color).max(axis=2) <= 12).mean())


def test_the_page_shows_the_volume_and_a_click_reads_a_voxel(viewer: Viewer, tmp_path: Path) -> None:
    viewer._images.value = viewer._lidar.value = False
    viewer.settle()
    with open_page(viewer.url, tmp_path / "profile") as page:
        page.wait_for_text("click a voxel to see what it is")
        page.wait_for_text("1 of 4")
        page.wait_for(f"{NODE}'{viewer._volume_node}']?.children.length > 0")
        width, height = page.evaluate(
            "[window.__viserMutable.canvas.clientWidth, window.__viserMutable.canvas.clientHeight]"
        )
        page.wait_for("!!window.__viserMutable.scene")
        page.click(*plate_pixel(width, height))
        page.wait_for_text("car 7, truck 2")
        page.wait_for_text("120, 100, 3")
        shown = page.screenshot(tmp_path / "page.png")
        assert share_of_color(shown, OCC3D.taxonomy.palette[CAR]) > 0.006, (
            "the colour of the legend; edges of voxels are darker"
        )
        assert page.errors == []


def test_the_single_page_shows_the_same(small_town: Path, looked_at: Path, tmp_path: Path) -> None:
    layers = open_layers(small_town, looked_at / "labels")
    assert write_html(tmp_path / "frame.html", layers) == ()
    with open_page((tmp_path / "frame.html").as_uri(), tmp_path / "profile") as page:
        page.wait_for("document.querySelectorAll('#occlift-volumes:not([hidden]) button').length == 4")
        texts = page.evaluate("[...document.querySelectorAll('#occlift-volumes button')].map((b) => b.innerText)")
        assert texts == ["label", "label: confidence", "cameras", "lidar"]
        page.wait_for(f"{NODE}'/volumes/0']?.visible")
        page.wait_for(f"{NODE}'/volumes/0']?.children.length > 0")
        shown = page.screenshot(tmp_path / "label.png")
        assert share_of_color(shown, OCC3D.taxonomy.palette[CAR]) > 0.005
        page.evaluate("document.querySelectorAll('#occlift-volumes button')[1].click()")
        page.wait_for(f"{NODE}'/volumes/1']?.visible && !{NODE}'/volumes/0'].visible")
        assert share_of_color(page.screenshot(tmp_path / "confidence.png"), OCC3D.taxonomy.palette[CAR]) < 0.001
        assert page.errors == []
