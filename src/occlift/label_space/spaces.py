"""Classes, and classes on a voxel grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from jaxtyping import Bool

from occlift.errors import ConfigError
from occlift.geometry.grids import VoxelGrid
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
        reserved = {"free", "unknown"}.intersection(self.names)
        if not 1 <= len(self.names) <= 250 or len(set(self.names)) < len(self.names) or reserved:
            raise ConfigError(
                f"the classes are {', '.join(self.names) or 'none'}; expected 1 to 250 names, each once, and none of "
                "them 'free' (free space is always the last class) or 'unknown'"
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

    >>> from occlift import OCC3D
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
            mine: what has this one, such as "the checkpoint a.ckpt".
            others: what has the other, such as "the labels in out/".

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
