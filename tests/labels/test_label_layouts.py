"""Labels in the files of other projects, and back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from other_space import FREE, SPACE, HallDataset, hall, write_truth

from occlift import OCC3D, open_dataset, read_label
from occlift.errors import ConfigError, DataError
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import LabelSpace, Taxonomy, read_space
from occlift.labels.convert import convert_label
from occlift.labels.layouts import LabelFile, convert_labels, ego_from_lidar, label_files, layout_of, read_layout
from occlift.labels.manifest import recorded_space


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_truth(tmp_path_factory.mktemp("hall") / "gts")


def test_plain_files_explain_themselves_and_lead_back(truth: Path, tmp_path: Path) -> None:
    run = convert_labels(truth, tmp_path / "npz", source=SPACE, target=SPACE, layout="npz")
    assert (run.layout, run.labels) == ("occ3d", 6)
    with np.load(tmp_path / "npz/evening/evening-1.npz") as plain:
        assert sorted(plain) == ["class_names", "lower_m", "mask_camera", "mask_lidar", "semantics", "voxel_size_m"]
        assert plain["class_names"].tolist() == list(SPACE.taxonomy.names)
        assert plain["lower_m"].tolist() == list(SPACE.grid.lower_m)
        assert plain["voxel_size_m"].tolist() == list(SPACE.grid.voxel_size_m)
        assert np.array_equal(plain["semantics"], hall(1))
    assert recorded_space(tmp_path / "npz") == SPACE
    assert layout_of(tmp_path / "npz") == "npz"
    convert_labels(tmp_path / "npz", tmp_path / "back", source=SPACE, target=SPACE)
    paths = sorted(truth.glob("*/*/labels.npz"))
    assert len(paths) == 6
    for path in paths:
        assert (tmp_path / "back" / path.relative_to(truth)).read_bytes() == path.read_bytes()


def test_plain_files_of_another_space_are_refused(truth: Path, tmp_path: Path) -> None:
    convert_labels(truth, tmp_path / "npz", source=SPACE, target=SPACE, layout="npz")
    (tmp_path / "npz/manifest.json").unlink()
    names = ("wall", "robot", "floor", "rest", "shelf")
    other = LabelSpace(grid=SPACE.grid, taxonomy=Taxonomy(names=names))
    with pytest.raises(DataError, match=r"evening-0.npz: class_names is \['wall', .*; the label space says \['wall'"):
        convert_labels(tmp_path / "npz", tmp_path / "out", source=other, target=other)


@pytest.mark.parametrize("layout", ["surroundocc", "openoccupancy"])
def test_files_of_other_projects_are_in_the_frame_of_the_lidar(layout: str, small_town: Path, tmp_path: Path) -> None:
    data, preset = open_dataset(small_town), read_space(layout)
    # The published grid is made coarser, that the test is fast.
    x, y, z = (int(size * count / 1.6) for size, count in zip(preset.grid.voxel_size_m, preset.grid.shape, strict=True))
    grid = type(preset.grid)(lower_m=preset.grid.lower_m, voxel_size_m=(1.6, 1.6, 1.6), shape=(x, y, z))
    space = LabelSpace(grid=grid, taxonomy=preset.taxonomy)
    run = convert_labels(small_town / "gts", tmp_path / "out", source=OCC3D, target=space, layout=layout, data=data)
    assert (run.labels, run.classes["others"], run.classes["car"]) == (8, "unknown", "car")
    scene = data.scenes()[0]
    token = data.key_frame_tokens(scene)[1]
    frame = data.key_frame(token)
    sweep = frame.lidar_sweep()
    if layout == "surroundocc":
        path, axes = tmp_path / "out" / f"{Path(sweep.source.name).name}.npy", (0, 1, 2)
    else:
        path, axes = next((tmp_path / "out").glob(f"scene_*/occupancy/{sweep.key}.npy")), (2, 1, 0)
        assert path.parents[1].name == f"scene_{data.scene_token(scene)}"
    rows = np.load(path)
    assert rows.shape[1] == 4
    assert set(np.unique(rows[:, 3])) <= set(range(17))
    # A car of the truth is a car of the file, at its place as the lidar sees it: class 4 of 1 to 16.
    truth = read_label(small_town / "gts" / scene / token / "labels.npz")
    cars_ego = OCC3D.grid.centers()[truth.semantics == OCC3D.taxonomy.id_of("car")]
    lidar_from_ego = inverse(sweep.ego_from_lidar)
    index, inside_grid = grid.indices(transform_points(lidar_from_ego, cars_ego))
    assert inside_grid.sum() > 20
    listed = {tuple(row[list(axes)].tolist()): int(row[3]) for row in rows}
    classes = [listed[tuple(one)] for one in index[inside_grid].tolist()]
    assert np.mean(np.array(classes) == 4) > 0.5
    assert min(classes) > 0
    # What is read is what was written: every class, and what is unknown.
    expected = convert_label(truth, OCC3D, space, target_from_source=inverse(ego_from_lidar(frame)))
    file = next(one for one in label_files(tmp_path / "out", layout, data) if one.token == token)
    found = read_layout(file, layout, space)
    assert np.array_equal(found.semantics, expected.semantics)
    assert np.array_equal(found.mask_camera, found.semantics != 255)
    assert file.ego_from_grid == pytest.approx(ego_from_lidar(frame))


def test_a_copy_of_a_scene_is_refused(small_town: Path, tmp_path: Path) -> None:
    data, folder = open_dataset(small_town), tmp_path / "scene_a/occupancy"
    folder.mkdir(parents=True)
    sweep = data.key_frame(data.key_frame_tokens(data.scenes()[0])[0]).lidar_sweep()
    (folder / f"{sweep.key}.npy").touch()
    shutil.copytree(tmp_path / "scene_a", tmp_path / "scene_a-backup")
    with pytest.raises(DataError, match=rf"two files of {sweep.key}\.npy, \S*scene_a/\S* and \S*scene_a-backup/"):
        next(label_files(tmp_path, "openoccupancy", data))


def test_files_of_other_projects_lead_back_to_the_same_place(small_town: Path, tmp_path: Path) -> None:
    data, space = open_dataset(small_town), read_space("surroundocc")
    path = min((small_town / "gts").glob("*/*/labels.npz"))
    name = path.relative_to(small_town / "gts")
    (tmp_path / "gts" / name).parent.mkdir(parents=True)
    shutil.copy(path, tmp_path / "gts" / name)
    convert_labels(tmp_path / "gts", tmp_path / "lidar", source=OCC3D, target=space, layout="surroundocc", data=data)
    convert_labels(tmp_path / "lidar", tmp_path / "back", source=space, target=OCC3D, data=data)
    road = OCC3D.taxonomy.id_of("driveable_surface")
    before = read_label(path).semantics
    after = read_label(tmp_path / "back" / name, allow_unknown=True).semantics
    known = after != 255
    occupied = (before < 17) & (before > 0) & known
    assert (after[occupied] < 17).mean() > 0.995, "occupied stays occupied"
    assert (after[(before == road) & known] == road).mean() > 0.97
    # Larger voxels thicken what they hold.
    assert (after[known] < 17).sum() < 1.6 * (before < 17).sum()


def test_a_file_of_another_project_is_read_as_its_loader_does(tmp_path: Path) -> None:
    # Index z, y, x, velocity, class: two for a voxel that stands there three times, noise for another.
    rows = np.array([
        [1, 2, 3, 0.5, -0.5, 0, 1], [1, 2, 3, 0, 0, 0, 2], [1, 2, 3, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0, 0],
        [4, 4, 4, 0, 0, 0, 3], [4, 4, 4, 0, 0, 0, 2],
    ])  # fmt: skip
    np.save(tmp_path / "a.npy", rows)
    file = LabelFile(path=tmp_path / "a.npy", scene="s", token="t")
    semantics = read_layout(file, "openoccupancy", SPACE).semantics
    assert [semantics[3, 2, 1], semantics[0, 0, 0], semantics[4, 4, 4]] == [1, 255, 1]
    assert (semantics == FREE).sum() == semantics.size - 3
    np.save(tmp_path / "a.npy", np.zeros((0, 4), np.int64))
    assert (read_layout(file, "surroundocc", SPACE).semantics == FREE).all()


WRONG = {
    "outside of the grid": np.array([[50, 0, 0, 1]]),
    "negative": np.array([[0, -1, 0, 1]]),
    "no such class": np.array([[0, 0, 0, 6]]),
    "a fraction": np.array([[0.5, 0, 0, 1]]),
    "three columns": np.array([[0, 0, 0]]),
    "a volume": np.zeros((2, 2, 2, 4), np.int64),
    "texts": np.array([["a", "b", "c", "d"]]),
    "not a number": np.array([[0, 0, 0, np.nan]]),
    "infinite": np.array([[np.inf, 0, 0, 1]]),
    "more than there are numbers": np.array([[2**64 - 1, 0, 0, 1]], np.uint64),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_of_another_project_is_an_error(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", WRONG[name])
    with pytest.raises(DataError, match=r"a.npy: (row 0 is|holds) .*expected"):
        read_layout(LabelFile(path=tmp_path / "a.npy", scene="s", token="t"), "surroundocc", SPACE)


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    file = LabelFile(path=tmp_path / "a.npy", scene="s", token="t")
    with pytest.raises(DataError, match=r"a.npy: cannot be read \(No such file"):
        read_layout(file, "surroundocc", SPACE)
    file.path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a.npy: not a readable .npy array"):
        read_layout(file, "surroundocc", SPACE)


def test_folders_that_cannot_be_converted_are_errors(truth: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        convert_labels(tmp_path / "nowhere", tmp_path / "out", source=SPACE, target=SPACE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no labels; expected \*/\*/labels.npz \(occ3d\)"):
        convert_labels(tmp_path / "empty", tmp_path / "out", source=SPACE, target=SPACE)
    with pytest.raises(ConfigError, match=r"files of surroundocc are named after lidar sweeps.*--root"):
        convert_labels(truth, tmp_path / "out", source=SPACE, target=SPACE, layout="surroundocc")
    with pytest.raises(ConfigError, match="need a folder of their own"):
        convert_labels(truth, truth, source=SPACE, target=SPACE)
    with pytest.raises(ConfigError, match="holds something else"):
        convert_labels(truth, truth.parent, source=SPACE, target=SPACE)
    np.save(tmp_path / "empty/strange.npy", np.zeros((0, 4)))
    with pytest.raises(DataError, match=r"none of its 1 files belongs to a lidar sweep of .* such as strange.npy"):
        convert_labels(tmp_path / "empty", tmp_path / "out", source=SPACE, target=SPACE, data=HallDataset())
