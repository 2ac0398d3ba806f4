"""References between tables: a token in one row names a row of another table, once and for certain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from occlift.datasets.nuscenes.tables import Row
from occlift.errors import DataError


def table_path(folder: Path, table: str) -> Path:
    """Where a table lies in a folder of tables (`<root>/v1.0-*`)."""
    return folder / f"{table}.json"


def tokens_of(rows: Sequence[Row]) -> list[str]:
    """The rows' own tokens."""
    return [row.token for row in rows]


def positions_of(path: Path, names: Iterable[str], field: str = "token") -> dict[str, int]:
    """Where each name stands among the rows of the table `path`.

    Raises:
        DataError: a name occurs twice.
    """
    positions: dict[str, int] = {}
    for position, name in enumerate(names):
        if positions.setdefault(name, position) != position:
            raise DataError(
                f"{path}: the {field} {name!r} occurs in two rows; every row needs its own. Were two data sets merged?"
            )
    return positions


def resolve(positions: dict[str, int], path: Path, row: Row, field: str, token: str, table: str) -> int:
    """The position of the row of `table` that a field of a row in the table `path` names.

    Raises:
        DataError: there is no such row.
    """
    position = positions.get(token)
    if position is None:
        raise dangling(path, row, field, token, table)
    return position


def dangling(path: Path, row: Row | str, field: str, token: str, table: str) -> DataError:
    """The error for a field of a row in the table `path` that names no row of `table`."""
    name = row if isinstance(row, str) else row.token
    return DataError(
        f"{path}: row {name}: field {field} is {token!r}, but {table}.json has no such row; the tables do not belong "
        "together, or one of them is incomplete: unpack the metadata archive again"
    )


def check_quaternions(path: Path, quaternions: Float[np.ndarray, "n 4"], tokens: Sequence[str]) -> None:
    """Checks the rotations (w, x, y, z) of the rows `tokens` of the table `path`.

    Raises:
        DataError: one is not finite or zero.
    """
    rotates = are_rotations(quaternions)
    if not rotates.all():
        row = int(np.argmin(rotates))
        raise no_rotation(path, tokens[row], quaternions[row])


def are_rotations(quaternions: Float[np.ndarray, "n 4"]) -> Bool[np.ndarray, " n"]:
    """Which quaternions stand for a rotation: those that are finite and not zero."""
    norms = np.linalg.norm(quaternions, axis=1)
    return np.isfinite(norms) & (norms > 1e-9)


def no_rotation(path: Path, token: str, quaternion: Float[np.ndarray, "4"]) -> DataError:
    """The error for a row of the table `path` whose rotation is none."""
    return DataError(
        f"{path}: row {token}: field rotation should be a quaternion (w, x, y, z) of non-zero length, got "
        f"{quaternion.tolist()}"
    )


def matrix(rows: Sequence[Sequence[float]], columns: int) -> NDArray[np.float64]:
    """Rows of numbers as a matrix, also where there are none."""
    return np.array(rows, dtype=np.float64).reshape(-1, columns)


def starts(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Where groups of `counts` items begin when they stand one after the other, and where the last one ends."""
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)))
