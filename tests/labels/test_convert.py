"""Labels in other spaces: the rule of resampling against a slow twin, masks, confidences, classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from occlift.errors import ConfigError
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import (
    OCC3D,
    UNKNOWN,
    LabelSpace,
    Taxonomy,
    class_mapping,
    class_table,
    preset_names,
    read_mapping,
    read_space,
)
from occlift.labels.convert import convert_label
from occlift.labels.files import OccupancyLabel

FINE = VoxelGrid(lower_m=(-1.2, -0.8, 0.0), voxel_size_m=(0.2, 0.2, 0.2), shape=(8, 6, 4))
GRIDS = {
    "half as many": VoxelGrid(lower_m=(-1.2, -0.8, 0.0), voxel_size_m=(0.4, 0.4, 0.4), shape=(4, 3, 2)),
    "twice as many": VoxelGrid(lower_m=(-1.2, -0.8, 0.0), voxel_size_m=(0.1, 0.1, 0.1), shape=(16, 12, 8)),
    "no whole multiple": VoxelGrid(lower_m=(-1.0, -1.0, -0.5), voxel_size_m=(0.31, 0.27, 0.5), shape=(5, 6, 3)),
    "finer along one axis": VoxelGrid(lower_m=(-1.2, -0.8, 0.0), voxel_size_m=(0.4, 0.1, 0.2), shape=(4, 12, 4)),
    "elsewhere": VoxelGrid(lower_m=(-0.87, -0.5, 0.21), voxel_size_m=(0.2, 0.2, 0.2), shape=(8, 6, 4)),
    "far away": VoxelGrid(lower_m=(100, 100, 100), voxel_size_m=(0.2, 0.2, 0.2), shape=(3, 3, 3)),
}
ANIMALS = Taxonomy(names=("ground", "cow", "horse", "tree"))
THINGS = Taxonomy(names=("plant", "animal", "ground"))
MAPPING = {"cow": "animal", "horse": "animal", "tree": "plant"}


def turned(angle_rad: float, *shift_m: float) -> np.ndarray:
    """Turned about z, and tilted a little."""
    c, s, tilt = np.cos(angle_rad), np.sin(angle_rad), 0.03
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    pitch = np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn @ pitch, shift_m
    return matrix


def some_label(space: LabelSpace, seed: int, *, confidence: bool = True) -> OccupancyLabel:
    rng = np.random.default_rng(seed)
    shape, free = space.grid.shape, space.taxonomy.free
    values = np.array([*range(free), free, free, free, UNKNOWN, UNKNOWN], np.uint8)
    semantics = rng.choice(values, shape)
    known = semantics != UNKNOWN
    return OccupancyLabel(
        semantics=semantics,
        mask_lidar=known & (rng.random(shape) < 0.8),
        mask_camera=known & (rng.random(shape) < 0.5),
        confidence=rng.integers(0, 256, shape, np.uint8) if confidence else None,
    )


def slowly(
    label: OccupancyLabel, source: LabelSpace, target: LabelSpace, target_from_source: np.ndarray | None
) -> OccupancyLabel:
    """The rule of `convert_label` as its docstring says it, voxel by voxel; classes are those of the target already."""
    moved = np.eye(4) if target_from_source is None else target_from_source
    lying_in: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for voxel in np.ndindex(*source.grid.shape):
        center = (np.array(voxel) + 0.5) * source.grid.voxel_size_m + source.grid.lower_m
        index, inside_grid = target.grid.indices(transform_points(moved, center[None]))
        if inside_grid[0]:
            lying_in.setdefault(tuple(index[0].tolist()), []).append(voxel)
    shape = target.grid.shape
    semantics, confidence = np.full(shape, UNKNOWN, np.uint8), np.zeros(shape, np.uint8)
    mask_lidar, mask_camera = np.zeros(shape, bool), np.zeros(shape, bool)
    for voxel in np.ndindex(*shape):
        seen = lying_in.get(voxel, [])
        if not seen:
            center = (np.array(voxel) + 0.5) * target.grid.voxel_size_m + target.grid.lower_m
            index, inside_grid = source.grid.indices(transform_points(inverse(moved), center[None]))
            seen = [tuple(index[0].tolist())] if inside_grid[0] else []
        classes = [int(label.semantics[one]) for one in seen]
        occupied = Counter(one for one in classes if one < target.taxonomy.free)
        if occupied:
            semantics[voxel] = min(occupied, key=lambda one: (-occupied[one], one))
        elif target.taxonomy.free in classes:
            semantics[voxel] = target.taxonomy.free
        if semantics[voxel] != UNKNOWN:
            mask_lidar[voxel] = any(label.mask_lidar[one] for one in seen)
            mask_camera[voxel] = any(label.mask_camera[one] for one in seen)
        same = [int(label.confidence[one]) for one, had in zip(seen, classes, strict=True) if had == semantics[voxel]]
        confidence[voxel] = int(sum(same) / len(same) + 0.5) if same else 0
    return OccupancyLabel(semantics=semantics, mask_lidar=mask_lidar, mask_camera=mask_camera, confidence=confidence)


def assert_equal(found: OccupancyLabel, expected: OccupancyLabel) -> None:
    for name in ("semantics", "mask_lidar", "mask_camera", "confidence"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("moved", [None, turned(0.0, 0.4, 0.0, 0.2), turned(-np.pi / 2 + 0.01, 0.13, 0.07, 0.05)])
@pytest.mark.parametrize("name", GRIDS)
def test_resampling_is_what_it_says(name: str, moved: np.ndarray | None) -> None:
    source, target = (LabelSpace(grid=grid, taxonomy=THINGS) for grid in (FINE, GRIDS[name]))
    for seed in range(2):
        label = some_label(source, seed)
        found = convert_label(label, source, target, target_from_source=moved)
        assert_equal(found, slowly(label, source, target, moved))
        assert found.semantics.dtype == found.confidence.dtype == np.uint8


def test_halving_and_doubling() -> None:
    coarse, fine = (LabelSpace(grid=grid, taxonomy=THINGS) for grid in (GRIDS["half as many"], FINE))
    label = some_label(coarse, 3)
    # Voxels of half the size are those of the whole size again.
    doubled = convert_label(label, coarse, fine)
    assert np.array_equal(doubled.semantics, label.semantics.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert_equal(convert_label(doubled, fine, coarse), label)
    # One occupied voxel of eight makes an occupied one, one free among unknown ones a free one.
    semantics = np.full(FINE.shape, UNKNOWN, np.uint8)
    semantics[:2, :2, :2], semantics[0, 0, 0] = THINGS.free, 1
    semantics[2, 2, 2] = THINGS.free
    seen = semantics != UNKNOWN
    small = convert_label(OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen), fine, coarse)
    assert small.semantics[0, 0, 0] == 1
    assert small.semantics[1, 1, 1] == THINGS.free
    assert (small.semantics != UNKNOWN).sum() == small.mask_camera.sum() == 2
    assert small.confidence is None


def test_nothing_occupied_gets_lost_between_grids_of_one_size() -> None:
    """A turned grid has voxels in which no centre lies, and others in which two do."""
    space = LabelSpace(
        grid=VoxelGrid(lower_m=(-4, -4, -1), voxel_size_m=(0.4,) * 3, shape=(20, 20, 10)), taxonomy=THINGS
    )
    semantics = np.full(space.grid.shape, THINGS.free, np.uint8)
    semantics[8:12, 8:12, 4:6] = np.random.default_rng(0).integers(0, 3, (4, 4, 2))
    seen = np.ones(space.grid.shape, bool)
    label = OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen)
    moved = turned(0.5, 0.1, 0.2, 0.05)
    found = convert_label(label, space, space, target_from_source=moved)
    centers = transform_points(moved, space.grid.centers()[semantics != THINGS.free])
    index, inside_grid = space.grid.indices(centers)
    assert inside_grid.all()
    assert (found.semantics[tuple(index.T)] < THINGS.free).all()
    assert (found.semantics[8:12, 8:12, 4:6] != UNKNOWN).all()


def test_equal_spaces_leave_a_label_as_it_is() -> None:
    space = LabelSpace(grid=FINE, taxonomy=ANIMALS)
    label = some_label(space, 0)
    assert convert_label(label, space, LabelSpace(grid=FINE, taxonomy=ANIMALS)) is label
    moved = convert_label(label, space, space, target_from_source=np.eye(4))
    assert_equal(moved, label)
    without = convert_label(some_label(space, 0, confidence=False), space, space, target_from_source=np.eye(4))
    assert without.confidence is None


def test_classes_are_merged_before_they_are_counted() -> None:
    coarse, fine = (
        LabelSpace(grid=GRIDS["half as many"], taxonomy=THINGS), LabelSpace(grid=FINE, taxonomy=ANIMALS)
    )  # fmt: skip
    semantics = np.full(FINE.shape, ANIMALS.free, np.uint8)
    # Three of the ground, two cows and two horses: four animals.
    semantics[:2, :2, :2].flat[:7] = [0, 0, 0, 1, 1, 2, 2]
    semantics[2, 0, 0], semantics[4, 0, 0] = 3, UNKNOWN
    seen = semantics != UNKNOWN
    label = OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen)
    found = convert_label(label, fine, coarse, MAPPING)
    assert [THINGS.name_of(found.semantics[i, 0, 0]) for i in range(3)] == ["animal", "plant", "free"]
    found = convert_label(label, fine, coarse, {**MAPPING, "tree": "unknown", "ground": "free"})
    assert [THINGS.name_of(found.semantics[i, 0, 0]) for i in range(3)] == ["animal", "free", "free"]
    assert convert_label(label, fine, LabelSpace(grid=FINE, taxonomy=THINGS), MAPPING).semantics[0, 0, 0] == 2


def test_a_voxel_of_unknown_class_is_in_no_mask() -> None:
    """Masks say what is known: a score must not meet what has no class."""
    space = LabelSpace(grid=FINE, taxonomy=ANIMALS)
    label = some_label(space, 5)
    found = convert_label(label, space, LabelSpace(grid=FINE, taxonomy=THINGS), {**MAPPING, "ground": "unknown"})
    ground = label.semantics == 0
    assert (found.semantics[ground] == UNKNOWN).all()
    assert not found.mask_lidar[ground].any()
    assert not found.mask_camera[ground].any()
    assert np.array_equal(found.mask_camera[~ground], label.mask_camera[~ground])


def test_classes_are_found_by_name_and_by_what_is_built_in() -> None:
    loose = Taxonomy(names=("Traffic Light", "rest")), Taxonomy(names=("traffic_light", "thing"))
    assert class_mapping(*loose, {"rest": "thing"}) == {"Traffic Light": "traffic_light", "rest": "thing"}
    table = class_table(*loose, {"rest": "free"})
    assert table[[0, 1, 2, 3, 255]].tolist() == [0, 2, 2, UNKNOWN, UNKNOWN]
    for one in preset_names():
        taxonomy = read_space(one).taxonomy
        assert class_mapping(taxonomy, taxonomy) == {name: name for name in taxonomy.names}
        for other in preset_names():
            assert len(class_mapping(taxonomy, read_space(other).taxonomy)) == len(taxonomy.names)
    to_kitti = class_mapping(OCC3D.taxonomy, read_space("semantickitti").taxonomy)
    assert to_kitti["driveable_surface"] == "road"
    assert to_kitti["others"] == "unknown"
    by_way_of_occ3d = class_mapping(read_space("surroundocc").taxonomy, read_space("semantickitti").taxonomy)
    assert by_way_of_occ3d == {name: becomes for name, becomes in to_kitti.items() if name != "others"}
    assert class_mapping(read_space("cityscapes").taxonomy, OCC3D.taxonomy)["rider"] == "bicycle"
    assert class_mapping(OCC3D.taxonomy, read_space("kitti360").taxonomy, {"bus": "truck"})["bus"] == "truck"


def test_a_class_without_counterpart_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"there is no class for 'cow', 'horse', 'tree' among plant, animal, ground;.*'cow'"
    ):
        class_mapping(ANIMALS, THINGS)
    with pytest.raises(
        ConfigError, match=r"a.toml: 'caw', which is no class \(did you mean 'cow'\?\); expected one of ground"
    ):
        class_mapping(ANIMALS, THINGS, {"caw": "animal"}, file="a.toml")
    with pytest.raises(
        ConfigError, match=r"a.toml: 'cow' becomes 'animals', which is no class \(did you mean 'animal'"
    ):
        class_mapping(ANIMALS, THINGS, {"cow": "animals"}, file="a.toml")
    path = tmp_path / "mapping.toml"
    path.write_text('cow = "animal"\n"big horse" = "free"\n')
    assert read_mapping(path) == {"cow": "animal", "big horse": "free"}
    for content, expected in {
        "cow = 3": "cow is 3; expected a text",
        "[a]\ncow = 1": "a is {'cow': 1}; expected a text",
        "cow: animal": "not readable as TOML",
    }.items():
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"mapping.toml: ") as error:
            read_mapping(path)
        assert expected in str(error.value)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"mapping.toml: is no text in UTF-8"):
        read_mapping(path)
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read \(No such file"):
        read_mapping(tmp_path / "nowhere.toml")
