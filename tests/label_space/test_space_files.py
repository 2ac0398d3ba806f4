"""Label spaces in files: presets are what was published, files survive a round trip, mistakes are named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from occlift.errors import ConfigError
from occlift.geometry.grids import OCC3D_GRID
from occlift.label_space import (
    BARRIER,
    CAR,
    FREE,
    NUM_CLASSES,
    OCC3D,
    OTHERS,
    VEGETATION,
    LabelSpace,
    Taxonomy,
    preset_names,
    preset_text,
    read_space,
    read_space_file,
    to_toml,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PUBLISHED = {
    # name: classes, lower corner, upper corner, shape, first and last class
    "occ3d": (17, (-40, -40, -1), (40, 40, 5.4), (200, 200, 16), "others", "vegetation"),
    "occ3d-waymo": (15, (-40, -40, -1), (40, 40, 5.4), (200, 200, 16), "general_object", "walkable"),
    "openoccupancy": (16, (-51.2, -51.2, -5), (51.2, 51.2, 3), (512, 512, 40), "barrier", "vegetation"),
    "surroundocc": (16, (-50, -50, -5), (50, 50, 3), (200, 200, 16), "barrier", "vegetation"),
    "semantickitti": (19, (0, -25.6, -2), (51.2, 25.6, 4.4), (256, 256, 32), "car", "traffic-sign"),
    "kitti360": (18, (0, -25.6, -2), (51.2, 25.6, 4.4), (256, 256, 32), "car", "other-object"),
    "cityscapes": (18, (-40, -40, -1), (40, 40, 5.4), (200, 200, 16), "road", "bicycle"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_grids_and_class_lists(name: str) -> None:
    count, lower_m, upper_m, shape, first, last = PUBLISHED[name]
    space = read_space(name)
    assert (len(space.taxonomy.names), space.grid.shape) == (count, shape)
    assert space.grid.lower_m == pytest.approx(lower_m)
    assert space.grid.upper_m == pytest.approx(upper_m)
    assert (space.taxonomy.names[0], space.taxonomy.names[-1]) == (first, last)
    assert len(set(space.taxonomy.palette)) >= count, "colours can be told apart"
    assert any(space.taxonomy.prompts.values())
    assert space.taxonomy.moving
    assert space.taxonomy.ground


def test_every_preset_says_where_it_comes_from() -> None:
    assert set(preset_names()) == set(PUBLISHED)
    assert preset_names()[0] == "occ3d"
    for name in preset_names():
        assert "arXiv" in read_space_file(name).source, name
        assert preset_text(name).startswith("# "), name


def test_the_default_is_occ3d() -> None:
    taxonomy = OCC3D.taxonomy
    assert read_space("occ3d") == OCC3D
    assert OCC3D.grid == OCC3D_GRID
    assert (taxonomy.free, taxonomy.num_classes) == (FREE, NUM_CLASSES)
    assert [taxonomy.names[n] for n in (OTHERS, BARRIER, CAR, VEGETATION)] == ["others", "barrier", "car", "vegetation"]
    assert taxonomy.prompts["car"] == ("car", "sedan")
    assert "others" not in taxonomy.prompts
    assert taxonomy.class_of_category("vehicle.bus.bendy") == 3
    assert list(taxonomy.categories) == sorted(taxonomy.categories)
    assert len(taxonomy.categories) == 23


def test_a_space_survives_its_file(tmp_path: Path) -> None:
    plain = LabelSpace(
        grid=OCC3D_GRID,
        taxonomy=Taxonomy(names=("a road", 'ärger "x"'), moving=("a road",), categories={"b": "a road"}),
    )
    for number, space in enumerate([plain, *map(read_space, preset_names())]):
        path = tmp_path / f"{number}.toml"
        path.write_text(to_toml(space, source="somewhere"), encoding="utf-8")
        found = read_space_file(path)
        assert found.space == space
        assert found.source == "somewhere"
        assert read_space(str(path)) == space
    # Every preset can be saved, edited and read as a file of one's own.
    for name in preset_names():
        path = tmp_path / "mine.toml"
        path.write_text(preset_text(name), encoding="utf-8")
        assert read_space(path) == read_space(name)


SHORT = """
[grid]
lower_m = [0, -8, -1]
voxel_size_m = [0.5, 0.5, 0.25]
shape = [32, 32, 16]

[[class]]
name = "flat_ground"
ground = true

[[class]]
name = "car"
prompts = []
moving = true
categories = ["van"]
"""


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SHORT)
    space = read_space(path)
    assert space.grid.lower_m == (0.0, -8.0, -1.0)
    assert space.grid.voxel_size_m == (0.5, 0.5, 0.25)
    assert space.taxonomy == Taxonomy(
        names=("flat_ground", "car"), prompts={"flat_ground": ("flat ground",)}, ground=("flat_ground",),
        moving=("car",), categories={"van": "car"},
    )  # fmt: skip
    path.write_text(SHORT.partition("lower_m")[0] + 'like = "semantickitti"\n[[class]]\nname = "x"\ncolor = [1, 2, 3]')
    assert read_space(path).grid == read_space("semantickitti").grid
    assert read_space(path).taxonomy.palette == ((1, 2, 3), (255, 255, 255))


GRID, CLASSES = SHORT.partition("[[class]]")[0], "".join(SHORT.partition("[[class]]")[1:])
MISTAKES = {
    # what is replaced, by what, and what the error names
    "no grid": (GRID, "", "grid is missing; expected a table"),
    "grid is no table": (GRID, "grid = 3\n", "grid is 3; expected a table [grid]"),
    "no lower corner": ("lower_m = [0, -8, -1]", "", "grid: lower_m is missing; expected [x, y, z]"),
    "two numbers": ("[0, -8, -1]", "[0, -8]", "grid: lower_m is [0, -8]; expected [x, y, z]"),
    "a text as number": ("[0, -8, -1]", '[0, "8", -1]', "grid: lower_m is [0, '8', -1]"),
    "not finite": ("[0, -8, -1]", "[0, nan, -1]", "grid: lower_m is [0, nan, -1]"),
    "infinite": ("[0, -8, -1]", "[0, -inf, -1]", "grid: lower_m is [0, -inf, -1]"),
    "beyond any number": ("[0, -8, -1]", f"[0, {10**400}, -1]", "grid: lower_m is [0, 1000"),
    "a truth as number": ("[0, -8, -1]", "[true, 1, 2]", "grid: lower_m is [True, 1, 2]"),
    "no voxel size": ("voxel_size_m = [0.5, 0.5, 0.25]", "", "grid: voxel_size_m is missing"),
    "a voxel of no size": ("[0.5, 0.5, 0.25]", "0", "grid: voxel_size_m is 0; expected the edge of a voxel"),
    "a negative voxel": ("[0.5, 0.5, 0.25]", "[0.5, -0.5, 0.25]", "grid: voxel_size_m is [0.5, -0.5, 0.25]"),
    "a voxel of NaN": ("[0.5, 0.5, 0.25]", "nan", "grid: voxel_size_m is nan"),
    "four sizes": ("[0.5, 0.5, 0.25]", "[1, 1, 1, 1]", "grid: voxel_size_m is [1, 1, 1, 1]"),
    "no shape": ("shape = [32, 32, 16]", "", "grid: shape is missing; expected [x, y, z]"),
    "half voxels": ("[32, 32, 16]", "[32, 32, 16.0]", "grid: shape is [32, 32, 16.0]; expected [x, y, z], the numbers"),
    "no voxels": ("[32, 32, 16]", "[32, 0, 16]", "grid: shape is [32, 0, 16]"),
    "one number as shape": ("[32, 32, 16]", "32", "grid: shape is 32"),
    "more voxels than memory": ("[32, 32, 16]", "[9999, 9999, 99]", "expected 500,000,000 voxels at most"),
    "unknown grid key": ("shape =", "shapes =", "grid: shape is missing"),
    "further grid key": ("shape =", "size = 2\nshape =", "grid: size means nothing here"),
    "a misspelt key": (
        "ground = true",
        "grond = true",
        "class 'flat_ground': grond means nothing here (did you mean 'ground'?)",
    ),
    "a grid like none": (
        GRID,
        '[grid]\nlike = "occ4d"\n',
        "grid: like is 'occ4d'; expected the name of a preset: occ3d",
    ),
    "a grid like another and not": ("shape =", 'like = "occ3d"\nshape =', "grid: lower_m means nothing here"),
    "no class": (CLASSES, "", "class is missing; expected [[class]] tables"),
    "class is one table": (CLASSES, '[class]\nname = "car"', "class is {'name': 'car'}; expected [[class]] tables"),
    "classes are texts": (
        GRID + CLASSES,
        'class = ["car"]\n' + GRID,
        "class number 1 is 'car'; expected a [[class]] table",
    ),
    "no name": ('name = "car"', "", "class number 2: name is missing; expected the name of the class"),
    "a number as name": ('name = "car"', "name = 3", "class number 2: name is 3; expected a text"),
    "an empty name": ('name = "car"', 'name = " "', "class number 2: name is ' '; expected a text"),
    "free as a class": ('name = "car"', 'name = "free"', "class number 2: name is 'free'; expected another"),
    "unknown as a class": ('name = "car"', 'name = "unknown"', "class number 2: name is 'unknown'"),
    "a name twice": (
        'name = "car"',
        'name = "flat_ground"',
        "class number 2: name is 'flat_ground', and so is that of class number 1",
    ),
    "prompts as a text": ("prompts = []", 'prompts = "car"', "class 'car': prompts is 'car'; expected a list of texts"),
    "a number as prompt": ("prompts = []", "prompts = [1]", "class 'car': prompts is [1]"),
    "an empty prompt": ("prompts = []", 'prompts = [""]', "class 'car': prompts is ['']"),
    "a prompt twice": (
        "prompts = []",
        'prompts = ["a", "a"]',
        "class 'car': prompts is ['a', 'a']; expected each text once",
    ),
    "a prompt of two classes": (
        "prompts = []",
        'prompts = ["flat ground"]',
        "class 'car': prompts holds 'flat ground', and so do those of 'flat_ground'",
    ),
    "a prompt of the sky": (
        "prompts = []",
        'prompts = ["sky"]',
        "class 'car': prompts holds 'sky', and so do those of 'free'",
    ),
    "moving as a text": ("moving = true", 'moving = "yes"', "class 'car': moving is 'yes'; expected true or false"),
    "thin as a number": ("moving = true", "thin = 1", "class 'car': thin is 1; expected true or false"),
    "one colour only": (
        "moving = true",
        'color = "#ffffff"',
        "class 'flat_ground': color is missing, and 'car' has one",
    ),
    "no such colour": ("moving = true", 'color = "red"', "class 'car': color is 'red'; expected sRGB"),
    "no hexadecimal": ("moving = true", 'color = "#00ggff"', "class 'car': color is '#00ggff'"),
    "a colour too bright": ("moving = true", "color = [0, 256, 0]", "class 'car': color is [0, 256, 0]"),
    "a colour of fractions": ("moving = true", "color = [0.1, 0.2, 0.3]", "class 'car': color is [0.1, 0.2, 0.3]"),
    "categories as a text": ('["van"]', '"van"', "class 'car': categories is 'van'; expected a list of texts"),
    "a category of two classes": (
        "ground = true",
        'categories = ["van"]',
        "class 'car': categories holds 'van', and so do those of 'flat_ground'",
    ),
    "free is no table": (GRID, "free = 1\n" + GRID, "free is 1; expected a table [free]"),
    "a free that moves": (CLASSES, "[free]\nmoving = true\n" + CLASSES, "free: moving means nothing here"),
    "a further table": (CLASSES, "[sky]\n" + CLASSES, "sky means nothing here"),
    "a source of numbers": (GRID, "source = 1\n" + GRID, "source is 1; expected a text"),
    "a key twice": ("moving = true", "moving = true\nmoving = false", "not readable as TOML"),
    "no TOML": (GRID, "grid:\n  shape: 3\n", "not readable as TOML"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_is_an_error_that_names_file_and_field(mistake: str, tmp_path: Path) -> None:
    old, new, expected = MISTAKES[mistake]
    assert old in SHORT
    path = tmp_path / "mine.toml"
    path.write_text(SHORT.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        read_space(path)
    assert str(error.value).startswith(f"{path}: ")
    assert expected in str(error.value)


def test_too_many_classes_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GRID + "".join(f'[[class]]\nname = "c{n}"\n' for n in range(251)))
    with pytest.raises(ConfigError, match=r"mine.toml: the classes are c0, .*expected 1 to 250 names"):
        read_space(path)


def test_a_space_that_is_not_there_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no label space 'occ3'.* \(did you mean 'occ3d'\?\).*occlift space occ3d"):
        read_space("occ3")
    with pytest.raises(ConfigError, match=r"nowhere.toml: no such file; `occlift space occ3d > .*nowhere.toml`"):
        read_space(tmp_path / "nowhere.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match=r"folder.toml: cannot be read \(Is a directory\)"):
        read_space(tmp_path / "folder.toml")
    (tmp_path / "picture.toml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ConfigError, match=r"picture.toml: is no text in UTF-8"):
        read_space(tmp_path / "picture.toml")


def test_what_is_written_is_toml_of_anybody() -> None:
    parsed = tomllib.loads(to_toml(OCC3D, source='a "quoted" one'))
    assert parsed["source"] == 'a "quoted" one'
    assert parsed["class"][CAR] == {
        "name": "car", "prompts": ["car", "sedan"], "color": "#0096f5", "moving": True, "categories": ["vehicle.car"]
    }  # fmt: skip
