"""Maps on disk: our layout and the published ones, and errors that name the file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frames import key_frame
from PIL import Image

from occlift.datasets.nuscenes.channels import CAMERA_CHANNELS
from occlift.errors import ConfigError, DataError
from occlift.label_space import BUS, CAR, DRIVEABLE_SURFACE, FREE, OCC3D, UNKNOWN, VEGETATION, Taxonomy, read_space
from occlift.scenes.dataset import KeyFrameList
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.sources import ImageFile
from occlift.teachers.files import warn_of_strange_maps
from occlift.teachers.registry import depth_teacher, semantics_teacher

HEIGHT, WIDTH = 9, 16


def frame_at(folder: Path) -> KeyFrame:
    cameras = tuple(
        CameraImage(
            camera=channel,
            key=f"token{number}",
            source=ImageFile(folder / "samples" / channel / f"n015__{channel}__153240292761{number}.jpg"),
            timestamp_us=0,
            height=HEIGHT,
            width=WIDTH,
            intrinsics_px=np.diag([10.0, 10.0, 1.0]),
            ego_at_image_from_camera=np.eye(4),
            global_from_ego_at_image=np.eye(4),
        )
        for number, channel in enumerate(CAMERA_CHANNELS)
    )
    return key_frame(*cameras, token="sample7", scene="scene-0061")


def alone(frame: KeyFrame, number: int = 0) -> KeyFrame:
    return replace(frame, cameras=frame.cameras[number : number + 1])


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def class_map(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([*range(18), 255], (HEIGHT, WIDTH)).astype(np.uint8)


def test_our_layout_in_three_kinds_of_files(tmp_path: Path) -> None:
    frame, root = frame_at(tmp_path), tmp_path / "maps"
    expected = [class_map(number) for number in range(6)]
    for number, (camera, ids) in enumerate(zip(frame.cameras, expected, strict=True)):
        path = made(root / camera.camera / f"{camera.stem}.npy")
        if number % 3 == 0:
            np.save(path, ids.astype(np.int64))
        elif number % 3 == 1:
            np.savez(path.with_suffix(".npz"), ids=ids)
        else:
            Image.fromarray(ids).save(path.with_suffix(".png"))
    maps = semantics_teacher(f"files:{root}").semantics(frame)
    for got, ids in zip(maps, expected, strict=True):
        assert np.array_equal(got.class_id, ids)
        assert got.class_id.dtype == np.uint8
        assert np.array_equal(got.score, (ids != UNKNOWN).astype(np.float32))


def test_a_palette_is_read_as_ids_and_colours_are_refused(tmp_path: Path) -> None:
    frame = alone(frame_at(tmp_path))
    picture = Image.fromarray(class_map(), mode="P")
    picture.putpalette([7] * 768)
    path = made(tmp_path / "maps/CAM_FRONT_LEFT" / f"{frame.cameras[0].stem}.png")
    picture.save(path)
    (got,) = semantics_teacher(f"files:{tmp_path / 'maps'}").semantics(frame)
    assert np.array_equal(got.class_id, class_map())
    picture.convert("RGB").save(path)
    with pytest.raises(DataError, match=r"\.png: a picture of mode RGB.*not colours"):
        semantics_teacher(f"files:{tmp_path / 'maps'}").semantics(frame)


def test_maps_at_another_scale(tmp_path: Path) -> None:
    frame = alone(frame_at(tmp_path))
    path = made(tmp_path / "token0.npy")
    teacher = depth_teacher(f"files:{tmp_path}", options={"pattern": "{token}.npy"})
    for shape in ((18, 32), (5, 8), (9, 16)):
        np.save(path, np.ones(shape, np.float32))
        assert teacher.depth(frame)[0].depth_m.shape == shape
    for shape in ((9, 12), (5, 16), (16, 9)):
        np.save(path, np.ones(shape, np.float32))
        with pytest.raises(DataError, match=rf"token0\.npy: a map of \({shape[0]}, {shape[1]}\).*\(9, 16\)"):
            teacher.depth(frame)


def test_class_ids_of_somebody_else(tmp_path: Path) -> None:
    frame = alone(frame_at(tmp_path))
    ids = np.full((HEIGHT, WIDTH), 7, np.int32)
    ids[0, 0], ids[0, 1], ids[1] = -3, 2600, 10
    np.save(tmp_path / "sample7_CAM_FRONT_LEFT.npy", ids)
    options = {"pattern": "{sample}_{channel}.npy", "class_ids": "7=11, -3=255,2600=4,10=17"}
    (got,) = semantics_teacher(f"files:{tmp_path}", options=options).semantics(frame)
    assert got.class_id[0, :3].tolist() == [UNKNOWN, CAR, DRIVEABLE_SURFACE]
    assert (got.class_id[1] == FREE).all()
    assert (got.class_id[2:] == DRIVEABLE_SURFACE).all()
    with pytest.raises(DataError, match=r"CAM_FRONT_LEFT\.npy: holds the id -3.*class_ids.*-3=CLASS"):
        semantics_teacher(f"files:{tmp_path}", options={"pattern": options["pattern"]}).semantics(frame)
    for wrong in ("7", "7=18", "7=car", "x=4"):
        with pytest.raises(ConfigError, match=rf"class_ids holds '{wrong}'"):
            semantics_teacher(f"files:{tmp_path}", options={"class_ids": wrong})


def test_maps_of_one_space_are_read_in_another(tmp_path: Path) -> None:
    frame, kitti = alone(frame_at(tmp_path)), read_space("semantickitti").taxonomy
    ids = class_map()
    np.save(made(tmp_path / "maps" / frame.cameras[0].camera / f"{frame.cameras[0].stem}.npy"), ids)
    with pytest.raises(DataError, match="stands for no class here"):
        semantics_teacher(f"files:{tmp_path / 'maps'}", options={"space": "surroundocc"}).semantics(frame)
    teacher = semantics_teacher(f"files:{tmp_path / 'maps'}", options={"space": "occ3d"}, taxonomy=kitti)
    (found,) = teacher.semantics(frame)
    for class_id, name in ((DRIVEABLE_SURFACE, "road"), (BUS, "other-vehicle"), (CAR, "car"), (FREE, "free")):
        assert (found.class_id[ids == class_id] == kitti.id_of(name)).all(), name
    assert (found.class_id[(ids == 0) | (ids == UNKNOWN)] == UNKNOWN).all()
    assert np.array_equal(found.score, (found.class_id != UNKNOWN).astype(np.float32))
    assert teacher.settings["classes"]["bus"] == "other-vehicle"
    (tmp_path / "trucks.toml").write_text('bus = "truck"')
    options = {"space": "occ3d", "mapping": str(tmp_path / "trucks.toml")}
    (found,) = semantics_teacher(f"files:{tmp_path / 'maps'}", options=options, taxonomy=kitti).semantics(frame)
    assert (found.class_id[ids == BUS] == kitti.id_of("truck")).all()
    with pytest.raises(
        ConfigError, match="teacher files, without its option mapping=FILE: there is no class for 'others'"
    ):
        semantics_teacher(f"files:{tmp_path / 'maps'}", options={"space": "occ3d"}, taxonomy=Taxonomy(names=("car",)))


def test_occnerf_classes(tmp_path: Path) -> None:
    frame, root = frame_at(tmp_path), tmp_path / "nuscenes_semantic"
    ids = np.zeros((HEIGHT, WIDTH), np.int8)
    # Their ids: sedan 1, highway 2, bus 3, tree 6, sky 16; 0 no mask.
    ids[0, :6] = 1, 2, 3, 6, 16, 0
    for number, camera in enumerate(frame.cameras):
        path = made(root / "samples" / camera.camera / f"{camera.stem}_mask.bin")
        # In an image without any box everything is -1; it is not the sky.
        (ids if number else np.full_like(ids, -1)).tofile(path)
    none, *others = semantics_teacher(f"files:{root}", options={"layout": "occnerf"}).semantics(frame)
    assert (none.class_id == UNKNOWN).all()
    assert len(others) == 5
    for got in others:
        assert got.class_id[0, :6].tolist() == [CAR, DRIVEABLE_SURFACE, BUS, VEGETATION, FREE, UNKNOWN]
        assert got.score[0, 4:6].tolist() == [1, 0]
    path.write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=r"_mask\.bin: holds 100 bytes; expected 144"):
        semantics_teacher(f"files:{root}", options={"layout": "occnerf"}).semantics(frame)


def test_occnerf_depth(tmp_path: Path) -> None:
    frame = alone(frame_at(tmp_path), 3)
    camera = frame.cameras[0]
    sparse = np.zeros((HEIGHT, WIDTH), np.float32)
    sparse[4, 5] = 12.5
    np.save(made(tmp_path / "d/samples/CAM_BACK_LEFT" / f"{camera.stem}.npy"), sparse)
    (got,) = depth_teacher(f"files:{tmp_path / 'd'}", options={"layout": "occnerf"}).depth(frame)
    assert got.depth_m[4, 5] == 12.5
    assert np.isnan(got.depth_m).sum() == HEIGHT * WIDTH - 1
    assert got.confidence.sum() == 1


def test_gaussianflowocc_orders_cameras_differently_for_classes_and_depth(tmp_path: Path) -> None:
    frame = frame_at(tmp_path)
    theirs = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT", "CAM_FRONT_RIGHT")
    ids = np.stack([np.full((HEIGHT, WIDTH), theirs.index(name) + 1, np.int8) for name in theirs])
    ids[:, 0] = 0
    np.save(made(tmp_path / "sem/scene-0061/sample7.npy"), ids)
    ours = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
    metres = np.stack([np.full((HEIGHT, WIDTH), 10.0 + ours.index(name), np.float16) for name in ours])
    np.save(made(tmp_path / "depth/scene-0061/sample7.npy"), metres)
    options = {"layout": "gaussianflowocc"}
    classes = semantics_teacher(f"files:{tmp_path / 'sem'}", options=options).semantics(frame)
    depths = depth_teacher(f"files:{tmp_path / 'depth'}", options=options).depth(frame)
    for camera, class_map, depth in zip(frame.cameras, classes, depths, strict=True):
        assert (class_map.class_id[1:] == theirs.index(camera.camera) + 1).all(), camera.camera
        # Sky and what no mask covers are one id there.
        assert (class_map.class_id[0] == UNKNOWN).all()
        assert (depth.depth_m == 10.0 + ours.index(camera.camera)).all(), camera.camera
        assert depth.depth_m.dtype == np.float32
    sky = semantics_teacher(f"files:{tmp_path / 'sem'}", options={**options, "class_ids": "0=17"})
    assert (sky.semantics(frame)[2].class_id[0] == FREE).all()
    np.save(tmp_path / "sem/scene-0061/sample7.npy", ids[:5])
    with pytest.raises(DataError, match=r"sample7\.npy: has shape \[5, 9, 16\]; expected \[6, height, width\]"):
        semantics_teacher(f"files:{tmp_path / 'sem'}", options=options).semantics(frame)


def test_integers_need_a_unit(tmp_path: Path) -> None:
    frame = alone(frame_at(tmp_path))
    path = made(tmp_path / "CAM_FRONT_LEFT" / f"{frame.cameras[0].stem}.png")
    millimetres = np.full((HEIGHT, WIDTH), 40_500, np.uint16)
    millimetres[0] = 0
    Image.fromarray(millimetres).save(path)
    with pytest.raises(DataError, match=r"\.png: holds u?int\d+.*scale_m.*0\.001 for millimetres"):
        depth_teacher(f"files:{tmp_path}").depth(frame)
    (got,) = depth_teacher(f"files:{tmp_path}", options={"scale_m": "0.001"}).depth(frame)
    assert got.depth_m[1:] == pytest.approx(40.5)
    assert np.isnan(got.depth_m[0]).all()
    assert (got.confidence[0] == 0).all()
    with pytest.raises(ConfigError, match="scale_m is 0"):
        depth_teacher(f"files:{tmp_path}", options={"scale_m": "0"})


def test_what_is_no_depth_is_unknown(tmp_path: Path) -> None:
    frame = alone(frame_at(tmp_path))
    values = np.full((HEIGHT, WIDTH), 3.0)
    values[0, :4] = np.nan, np.inf, -1, 0
    np.savez(tmp_path / "token0.npz", depth=values, other=values * 2)
    options = {"pattern": "{token}.npz"}
    with pytest.raises(DataError, match=r"token0\.npz: holds depth, other; say with key="):
        depth_teacher(f"files:{tmp_path}", options=options).depth(frame)
    (got,) = depth_teacher(f"files:{tmp_path}", options={**options, "key": "depth"}).depth(frame)
    assert np.isnan(got.depth_m[0, :4]).all()
    assert np.nansum(got.depth_m) == 3 * (HEIGHT * WIDTH - 4)
    assert (got.confidence == np.isfinite(got.depth_m)).all()


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    frame = alone(frame_at(tmp_path))
    root = tmp_path / "maps"
    with pytest.raises(ConfigError, match=r"maps: no such folder; expected one that holds \{scene\}"):
        semantics_teacher(f"files:{root}")
    root.mkdir()
    with pytest.raises(DataError, match=r"CAM_FRONT_LEFT/n015.*\.npy: no such file \(nor with \.npz, \.png\)"):
        semantics_teacher(f"files:{root}").semantics(frame)
    stem = made(root / "CAM_FRONT_LEFT" / frame.cameras[0].stem)
    wrong = {
        ".npy": (r"not a readable \.npy array", b"\x93NUMPY cut off"),
        ".npz": (r"not a readable \.npz archive", b"PK nothing"),
        ".png": ("not a readable picture", b"\x89PNG cut off"),
    }
    for suffix, (message, content) in wrong.items():
        path = stem.with_name(stem.name + suffix)
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            semantics_teacher(f"files:{root}").semantics(frame)
        path.unlink()
    arrays = {
        "expected integers": np.ones((HEIGHT, WIDTH)),
        r"has shape \[9, 16, 3\]; expected \[height, width\]": np.ones((HEIGHT, WIDTH, 3), np.uint8),
        "not a readable": np.array([["a", None]], object),
    }
    for message, array in arrays.items():
        np.save(stem.with_name(stem.name + ".npy"), array)
        with pytest.raises(DataError, match=message):
            semantics_teacher(f"files:{root}").semantics(frame)


def test_patterns(tmp_path: Path) -> None:
    wrong = {
        "{chanel}/{stem}.npy": r"field \{chanel\}; there are only \{camera\}, \{channel\}",
        "{channel}/map.npy": "same file for several images",
        "{sample}.npy": "same file for several images",
        "{stem": "cannot be understood",
    }
    for pattern, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            depth_teacher(f"files:{tmp_path}", options={"pattern": pattern})
    frame = alone(frame_at(tmp_path))
    np.save(made(tmp_path / "a/token0.txt"), np.ones(3))
    with pytest.raises(DataError, match=r"token0\.txt"):
        depth_teacher(f"files:{tmp_path}", options={"pattern": "a/{token}.txt"}).depth(frame)


def test_settings_follow_the_options(tmp_path: Path) -> None:
    plain = depth_teacher(f"files:{tmp_path}").settings
    assert plain["root"] == tmp_path.as_posix()
    assert plain["pattern"] == "{scene}/{camera}/{stem}{suffix}"
    assert depth_teacher(f"files:{tmp_path}", options={"scale_m": "0.5"}).settings != plain
    ids = {"class_ids": "0=255"}
    assert semantics_teacher(f"files:{tmp_path}", options=ids).settings["class_ids"] == ["0=255"]


def test_images_of_one_name_in_two_scenes_need_maps_of_their_own(tmp_path: Path) -> None:
    root, frames = tmp_path / "maps", []
    for number, scene in enumerate(("monday", "tuesday")):
        frame = alone(frame_at(tmp_path))
        frames.append(replace(frame, scene=scene, token=scene))
        np.save(made(root / scene / "CAM_FRONT_LEFT" / f"{frame.cameras[0].stem}.npy"), class_map(number))
    teacher = semantics_teacher(f"files:{root}")
    for number, frame in enumerate(frames):
        assert np.array_equal(teacher.semantics(frame)[0].class_id, class_map(number))
        assert np.array_equal(teacher.semantics(frame)[0].class_id, class_map(number)), "looking again is no mistake"

    flat = tmp_path / "flat"
    np.save(made(flat / "CAM_FRONT_LEFT" / f"{frames[0].cameras[0].stem}.npy"), class_map())
    teacher = semantics_teacher(f"files:{flat}")
    teacher.semantics(frames[0])
    with pytest.raises(ConfigError, match=r"would be the map of CAM_FRONT_LEFT of monday and of CAM_FRONT_LEFT of tu"):
        teacher.semantics(frames[1])


CITYSCAPES = (0, 0, 0, 0, 2, 2, 8, 8, 8, 10, 10)
"""Train ids of road, building, vegetation and sky: all of them are ids of Occ3D, too."""


@pytest.mark.parametrize(
    ("drawn", "strange"),
    [
        (CITYSCAPES, True),
        ((DRIVEABLE_SURFACE, BUS, VEGETATION), False),
        ((FREE, CAR), False),
        ((*[UNKNOWN] * 20, DRIVEABLE_SURFACE), False),
        ((UNKNOWN,), False),
    ],
    ids=["another list", "ground", "sky", "little is known", "nothing is known"],
)
def test_maps_that_are_hardly_of_a_road_are_doubted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, drawn: tuple[int, ...], strange: bool
) -> None:
    frames = []
    for number, scene in enumerate(("a", "b", "c", "d", "e")):
        frame = replace(alone(frame_at(tmp_path)), scene=scene, token=scene)
        frames.append(frame)
        ids = np.resize(np.array(drawn, np.uint8), (HEIGHT, WIDTH))
        # A scene without maps, and one of which nobody asks.
        if number != 2:
            np.save(made(tmp_path / scene / "CAM_FRONT_LEFT" / f"{frame.cameras[0].stem}.npy"), ids)
    teacher = semantics_teacher(f"files:{tmp_path}")
    warn_of_strange_maps(teacher, KeyFrameList(frames), OCC3D.taxonomy)
    messages = [record.getMessage() for record in caplog.records]
    if not strange:
        assert messages == []
        return
    (message,) = messages
    expected = (
        r"only 0 % of what the class maps of a, e show is ground \(driveable_surface, .*\) or sky, and mostly they "
        r"show others 3\d%, traffic_cone 2\d%, bicycle 1\d%\. If .* say which by space=\.\.\. or class_ids=\.\.\."
    )
    assert re.search(expected, message)
    caplog.clear()
    warn_of_strange_maps(teacher, KeyFrameList(frames), Taxonomy(names=OCC3D.taxonomy.names))
    assert not caplog.records, "nobody says which classes are ground"
