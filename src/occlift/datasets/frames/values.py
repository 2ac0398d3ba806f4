"""Reads the values of a `frames:` folder, and says file, field, found and expected where one is wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

import msgspec
import numpy as np
from jaxtyping import Float

from occlift.datasets.frames.layout import Pose, Transform
from occlift.errors import DataError
from occlift.geometry.transforms import rigid_transform, rotation_from_quaternion

HELP: Final = "docs/own_data.md shows the format"

_LOOSE: Final = 1e-3
"""Numbers typed with three decimals deviate so far from a rotation."""

_EXACT: Final = 1e-6
"""Rotations that deviate less are taken as they are."""

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Place:
    """Where in a file a value stands."""

    file: Path
    line: int | None = None
    field: str = ""

    def at(self, *names: str) -> Place:
        """The place of a field of this value."""
        return Place(self.file, self.line, ".".join((self.field, *names) if self.field else names))

    def fail(self, problem: str) -> NoReturn:
        """Raises the error for this place."""
        raise DataError(f"{self}: {problem}")

    def __str__(self) -> str:
        line = "" if self.line is None else f": line {self.line}"
        return f"{self.file}{line}" + (f": field {self.field}" if self.field else "")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    return _parse(Place(path), _read_text(path))


def read_lines(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The objects in a file of one JSON object per line, and where each stands; empty lines are skipped."""
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if line.strip():
            place = Place(path, number)
            yield place, _parse(place, line)


def convert(place: Place, value: Any, kind: type[_Kind]) -> _Kind:
    """The value as the type that the layout says.

    Raises:
        DataError: it is of another type, a field is missing or unknown, or a number is out of range.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        field = where.rstrip("`").lstrip(".")
        known = getattr(kind, "__struct_fields__", ())
        if "unknown field" in message and not field and known:
            message += f" (known: {', '.join(known)})"
        (place.at(field) if field else place).fail(f"{message}; {HELP}")


def transform(place: Place, value: Transform) -> Float[np.ndarray, "4 4"]:
    """A rigid transform, float64; rotations that were rounded when they were typed are made exact.

    Raises:
        DataError: it holds no rotation, or a number that is not finite.
    """
    if isinstance(value, Pose):
        rotation = _rotation(place.at("rotation"), value.rotation)
        finite(place.at("translation_m"), value.translation_m)
        return rigid_transform(rotation, value.translation_m)
    if value[3] != [0.0, 0.0, 0.0, 1.0]:
        place.fail(f"the last row of a 4×4 transform should be [0, 0, 0, 1], but is {value[3]}")
    rotation = _orthonormal(place, [row[:3] for row in value[:3]])
    position = [row[3] for row in value[:3]]
    finite(place, position)
    return rigid_transform(rotation, position)


def inside_path(place: Place, folder: Path, name: str) -> Path:
    """The file that a name inside a folder means.

    Raises:
        DataError: the name leads out of the folder, or is no name.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    strange = re.search(r"[\x00-\x1f\x7f\\]", name) or re.match(r"[A-Za-z]:", name)
    if not parts or name.startswith("/") or ".." in parts or strange:
        place.fail(
            f"{name!r} does not lie inside {folder}; expected a path relative to it with forward slashes, such as "
            "images/front/000.jpg"
        )
    return folder.joinpath(*parts)


def finite(place: Place, numbers: Sequence[float]) -> None:
    """Raises DataError unless all numbers are finite."""
    if not all(map(math.isfinite, numbers)):
        place.fail(f"expected finite numbers, got {list(numbers)}")


def _rotation(place: Place, value: Sequence[float | Sequence[float]]) -> Float[np.ndarray, "3 3"]:
    expected = "expected a 3×3 matrix (three rows of three numbers) or a unit quaternion [w, x, y, z]"
    lengths = [len(row) if isinstance(row, list) else 0 for row in value]
    if lengths == [3, 3, 3]:
        return _orthonormal(place, cast("Sequence[Sequence[float]]", value))
    if lengths != [0, 0, 0, 0]:
        place.fail(f"{expected}, got {value}")
    length = float(np.linalg.norm(np.array(value, np.float64)))
    if not abs(length - 1) <= 1e-2:
        place.fail(f"{expected}, got {value}, which has the length {length:.4g}")
    return rotation_from_quaternion(np.array(value, np.float64).tolist())


def _orthonormal(place: Place, rows: Sequence[Sequence[float]]) -> Float[np.ndarray, "3 3"]:
    # Without numpy, which takes twenty times as long for nine numbers; a fleet has millions of poses.
    for row in rows:
        finite(place, row)
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = rows
    deviation = max(
        abs(ax * ax + ay * ay + az * az - 1), abs(bx * bx + by * by + bz * bz - 1),
        abs(cx * cx + cy * cy + cz * cz - 1), abs(ax * bx + ay * by + az * bz),
        abs(ax * cx + ay * cy + az * cz), abs(bx * cx + by * cy + bz * cz),
    )  # fmt: skip
    matrix = np.array(rows, np.float64)
    if deviation > _LOOSE:
        place.fail(
            f"expected a rotation, whose rows have length 1 and are at right angles (they deviate by {deviation:.2g}), "
            f"got {matrix.tolist()}"
        )
    if ax * (by * cz - bz * cy) - ay * (bx * cz - bz * cx) + az * (bx * cy - by * cx) < 0:
        place.fail(
            f"expected a rotation, got a mirror image (determinant -1), {matrix.tolist()}; an axis has the wrong sign "
            "or two axes are swapped"
        )
    if deviation <= _EXACT:
        return matrix
    left, _, right = np.linalg.svd(matrix)
    return left @ right


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {HELP}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8 ({error}); {HELP}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _parse(place: Place, text: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            place.fail(f"{twice!r} stands twice in one object; the second would silently replace the first")
        return found

    def number(text: str) -> NoReturn:
        place.fail(f"{text} is no number of JSON; expected finite numbers")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=number)
    except (ValueError, RecursionError) as error:
        place.fail(f"not valid JSON ({error}); {HELP}")
    if not isinstance(value, dict):
        place.fail(f"expected a JSON object in braces, got {type(value).__name__}; {HELP}")
    return value
