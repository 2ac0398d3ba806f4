"""What labels are about: classes (`Taxonomy`) on a voxel grid (`LabelSpace`); by default Occ3D-nuScenes'.

Class ids 0..n−1 are the n semantic classes in the order of `Taxonomy.names`; n is free space, in images the sky (free
along the whole ray); 255 is *unknown*, a voxel or a pixel about which nothing was observed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from jaxtyping import Bool

from occlift.errors import ConfigError
from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.runtime.differences import differences

UNKNOWN: Final = 255
"""A voxel or a pixel about which nothing is known, in every taxonomy."""


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """A list of classes and what the library must know about them.

    Attributes:
        names: names of the semantic classes; the position is the class id. At most 250.
        prompts: class name → words that a text-prompted teacher is asked for, in the order in which it is asked;
            classes without words are never found by such teachers.
        sky_prompts: words for the sky.
        colors: sRGB per class, and one more for free space; by default evenly spread hues.
        moving: names of classes whose objects may move between two key frames.
        thin: names of classes whose objects fill a voxel or two, and are outvoted there by the ground around them.
        ground: names of classes that lie flat on the ground.
        vague: names of catch-all classes, which a second mIoU leaves out.
        categories: category of the data set's boxes → class name.

    Raises:
        ConfigError: a name is given twice or unknown, or the colours are not one per class and one for free space.

    >>> rough = Taxonomy(names=("ground", "car", "rest"), moving=("car",), ground=("ground",))
    >>> rough.free, rough.id_of("car"), rough.name_of(3)
    (3, 1, 'free')
    """

    names: tuple[str, ...]
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sky_prompts: tuple[str, ...] = ("sky",)
    colors: tuple[tuple[int, int, int], ...] = ()
    moving: tuple[str, ...] = ()
    thin: tuple[str, ...] = ()
    ground: tuple[str, ...] = ()
    vague: tuple[str, ...] = ()
    categories: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= 250 or len(set(self.names)) < len(self.names) or "free" in self.names:
            raise ConfigError(
                f"the classes are {', '.join(self.names) or 'none'}; expected 1 to 250 names, each once, and none of "
                "them 'free' (free space is always the last class)"
            )
        for what in ("prompts", "moving", "thin", "ground", "vague", "categories"):
            given = getattr(self, what)
            used = given.values() if what == "categories" else given
            if unknown := [name for name in used if name not in self.names]:
                raise ConfigError(
                    f"{what} names {', '.join(unknown)}, which is no class; the classes are {', '.join(self.names)}"
                )
        if self.colors and len(self.colors) != len(self.names) + 1:
            raise ConfigError(
                f"{len(self.colors)} colours for {len(self.names)} classes; expected one for each and "
                "one for free space"
            )

    @property
    def free(self) -> int:
        """Class id of free space, and of the sky in images: the number of semantic classes."""
        return len(self.names)

    @property
    def num_classes(self) -> int:
        """Number of classes of a prediction: the semantic ones and free."""
        return len(self.names) + 1

    @property
    def all_names(self) -> tuple[str, ...]:
        """Names of the semantic classes and `free`."""
        return (*self.names, "free")

    def id_of(self, name: str) -> int:
        """The class id of a name; ConfigError if there is no such class."""
        if name not in self.all_names:
            raise ConfigError(f"there is no class {name!r}; the classes are {', '.join(self.all_names)}")
        return self.all_names.index(name)

    def name_of(self, class_id: int) -> str:
        """The name of a class id; 255 is `unknown`."""
        return "unknown" if class_id == UNKNOWN else self.all_names[class_id]

    def ids(self, names: Sequence[str]) -> tuple[int, ...]:
        """The class ids of some names, ascending."""
        return tuple(sorted(self.id_of(name) for name in names))

    def table(self, names: Sequence[str]) -> Bool[np.ndarray, "256"]:
        """Which of the values of a class map stand for one of these classes."""
        return np.isin(np.arange(256), self.ids(names))

    @cached_property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """sRGB per class, free space last."""
        if self.colors:
            return self.colors
        import colorsys

        hues = (colorsys.hsv_to_rgb(i / len(self.names), 0.75, 0.9) for i in range(len(self.names)))
        return (*((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues), (255, 255, 255))

    def class_of_category(self, category: str) -> int | None:
        """The class id of a category of boxes; None where it is none of the classes."""
        name = self.categories.get(category)
        return None if name is None else self.id_of(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()},
            "prompts": {name: list(words) for name, words in self.prompts.items()},
            "colors": [list(color) for color in self.colors],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Taxonomy:
        """From what `to_dict` gave."""
        tuples = {n: tuple(plain[n]) for n in ("names", "sky_prompts", "moving", "thin", "ground", "vague")}
        return cls(
            **tuples,
            prompts={name: tuple(words) for name, words in plain["prompts"].items()},
            colors=tuple(tuple(color) for color in plain["colors"]),
            categories=dict(plain["categories"]),
        )


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """Classes on a voxel grid: what a label, a prediction or a network's output is given in.

    Attributes:
        grid: voxels in the ego frame of a key frame.
        taxonomy: classes.

    >>> LabelSpace.from_dict(OCC3D.to_dict()) == OCC3D
    True
    """

    grid: VoxelGrid
    taxonomy: Taxonomy

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        grid = {name: list(value) for name, value in asdict(self.grid).items()}
        return {"grid": grid, "taxonomy": self.taxonomy.to_dict()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LabelSpace:
        """From what `to_dict` gave."""
        grid = {name: tuple(value) for name, value in plain["grid"].items()}
        return cls(grid=VoxelGrid(**grid), taxonomy=Taxonomy.from_dict(plain["taxonomy"]))

    def check_same(self, other: LabelSpace, mine: str, others: str) -> None:
        """Sees to it that two spaces have the same grid and the same classes; prompts and colours may differ.

        Args:
            mine, others: what has them, such as "the checkpoint a.ckpt" and "the labels in out/".

        Raises:
            ConfigError: they differ; names both and says in what.
        """
        this, that = ({"grid": asdict(s.grid), "classes": s.taxonomy.names} for s in (self, other))
        if unlike := differences(this, that):
            raise ConfigError(
                f"{mine} and {others} are not about the same grid and classes ({unlike}; 'there' is the "
                "former, 'now' the latter); use them with others of their own kind"
            )

    def __str__(self) -> str:
        x, y, z = self.grid.shape
        return f"{len(self.taxonomy.names)} classes on {x}×{y}×{z} voxels of {self.grid.voxel_size_m[0]:g} m"


CLASS_NAMES: Final[tuple[str, ...]] = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
)

OTHERS: Final = 0
BARRIER: Final = 1
BICYCLE: Final = 2
BUS: Final = 3
CAR: Final = 4
CONSTRUCTION_VEHICLE: Final = 5
MOTORCYCLE: Final = 6
PEDESTRIAN: Final = 7
TRAFFIC_CONE: Final = 8
TRAILER: Final = 9
TRUCK: Final = 10
DRIVEABLE_SURFACE: Final = 11
OTHER_FLAT: Final = 12
SIDEWALK: Final = 13
TERRAIN: Final = 14
MANMADE: Final = 15
VEGETATION: Final = 16
FREE: Final = 17

NUM_CLASSES: Final = 18
"""Classes of a prediction: 17 semantic ones and free."""

DYNAMIC_CLASSES: Final[frozenset[int]] = frozenset(
    {BICYCLE, BUS, CAR, CONSTRUCTION_VEHICLE, MOTORCYCLE, PEDESTRIAN, TRAILER, TRUCK}
)
"""Classes whose objects may move between two frames; their points are not fused over time (EasyOcc)."""

CLASS_COLORS: Final[tuple[tuple[int, int, int], ...]] = (
    (60, 60, 60),
    (255, 120, 50),
    (255, 192, 203),
    (255, 220, 0),
    (0, 150, 245),
    (0, 225, 225),
    (200, 180, 0),
    (230, 30, 30),
    (255, 240, 150),
    (135, 60, 0),
    (160, 32, 240),
    (255, 0, 255),
    (139, 137, 137),
    (75, 0, 75),
    (150, 240, 80),
    (213, 213, 213),
    (0, 150, 30),
    (255, 255, 255),
)
"""sRGB per class, after the palette in which Occ3D-nuScenes is usually drawn."""

CATEGORY_TO_CLASS: Final[dict[str, int]] = {
    "animal": OTHERS,
    "human.pedestrian.adult": PEDESTRIAN,
    "human.pedestrian.child": PEDESTRIAN,
    "human.pedestrian.construction_worker": PEDESTRIAN,
    "human.pedestrian.personal_mobility": OTHERS,
    "human.pedestrian.police_officer": PEDESTRIAN,
    "human.pedestrian.stroller": OTHERS,
    "human.pedestrian.wheelchair": OTHERS,
    "movable_object.barrier": BARRIER,
    "movable_object.debris": OTHERS,
    "movable_object.pushable_pullable": OTHERS,
    "movable_object.trafficcone": TRAFFIC_CONE,
    "static_object.bicycle_rack": OTHERS,
    "vehicle.bicycle": BICYCLE,
    "vehicle.bus.bendy": BUS,
    "vehicle.bus.rigid": BUS,
    "vehicle.car": CAR,
    "vehicle.construction": CONSTRUCTION_VEHICLE,
    "vehicle.emergency.ambulance": OTHERS,
    "vehicle.emergency.police": OTHERS,
    "vehicle.motorcycle": MOTORCYCLE,
    "vehicle.trailer": TRAILER,
    "vehicle.truck": TRUCK,
}
"""The 23 nuScenes object categories → class id (the grouping of nuScenes-lidarseg, which Occ3D uses)."""

CLASS_PROMPTS: Final[dict[int, tuple[str, ...]]] = {
    BARRIER: ("barrier", "barricade", "concrete barrier"),
    BICYCLE: ("bicycle", "bicyclist"),
    BUS: ("bus",),
    CAR: ("car", "sedan"),
    CONSTRUCTION_VEHICLE: ("crane",),
    MOTORCYCLE: ("motorcycle", "motorcyclist"),
    PEDESTRIAN: ("pedestrian", "adult", "child"),
    TRAFFIC_CONE: ("cone",),
    TRAILER: ("trailer",),
    TRUCK: ("truck",),
    DRIVEABLE_SURFACE: ("highway", "road"),
    OTHER_FLAT: ("traffic island", "rail track", "lake", "river"),
    SIDEWALK: ("sidewalk",),
    TERRAIN: ("terrain", "grass", "soil", "sand", "gravel"),
    MANMADE: (
        "building",
        "bridge",
        "pole",
        "billboard",
        "light",
        "wall",
        "guard rail",
        "fence",
        "hydrant",
        "traffic sign",
        "traffic light",
    ),
    VEGETATION: ("tree", "bush"),
    FREE: ("sky",),
}
"""What a teacher that reads text is asked for, per class, in the order in which it is asked.

The words that OccNeRF (arXiv 2312.09243) and GaussTR (arXiv 2412.13193) use. `others` has no word: it is what the other
classes are not. Sky is free along the whole ray.
"""

OCC3D_TAXONOMY: Final = Taxonomy(
    names=CLASS_NAMES[:FREE],
    prompts={CLASS_NAMES[number]: words for number, words in CLASS_PROMPTS.items() if number != FREE},
    sky_prompts=CLASS_PROMPTS[FREE],
    colors=CLASS_COLORS,
    moving=tuple(CLASS_NAMES[number] for number in sorted(DYNAMIC_CLASSES)),
    thin=("barrier", "bicycle", "motorcycle", "pedestrian", "traffic_cone"),
    ground=("driveable_surface", "other_flat", "sidewalk", "terrain"),
    vague=("others", "other_flat"),
    categories={category: CLASS_NAMES[number] for category, number in CATEGORY_TO_CLASS.items()},
)
"""The 17 classes of Occ3D-nuScenes."""

OCC3D: Final = LabelSpace(grid=OCC3D_GRID, taxonomy=OCC3D_TAXONOMY)
"""Occ3D-nuScenes: its classes on 200×200×16 voxels of 0.4 m. The default everywhere."""
