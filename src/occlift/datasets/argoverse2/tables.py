"""Columns of Argoverse 2's feather files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from occlift.datasets.nuscenes.references import are_rotations
from occlift.errors import DataError
from occlift.geometry.transforms import rigid_transform, rotation_from_quaternion
from occlift.runtime.extras import needs_extra

POSE: tuple[str, ...] = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
"""A transform: unit quaternion and translation."""


def read_columns(path: Path, *, words: Sequence[str] = (), numbers: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Columns of a feather file: words as str, times (`_ns`) as int64, other numbers as float64.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: the file is missing or damaged; a column is, or has empty, non-finite or other values.
    """
    with needs_extra("argoverse2", f"{path}: argoverse2"):
        from pyarrow import ArrowException, feather
    try:
        table = feather.read_table(path, memory_map=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; download this log again") from None
    except (OSError, ArrowException) as error:
        raise DataError(f"{path}: not a readable feather file ({error}); download it again") from error
    found: dict[str, NDArray[Any]] = {}
    for name in (*words, *numbers):
        if name not in table.column_names:
            raise DataError(f"{path}: has no column {name!r}; it has {', '.join(table.column_names) or 'none'}")
        if table.column(name).null_count:
            raise DataError(f"{path}: column {name!r} has empty values; download this file again")
        values = table.column(name).to_numpy()
        kind = np.dtype(np.int64 if name.endswith("_ns") else np.float64)
        if name in words:
            found[name] = values.astype(str)
            continue
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise DataError(f"{path}: column {name!r} should hold finite numbers without gaps, got {values[:5]}")
        found[name] = values.astype(kind)
    return found


def transforms_of(path: Path, columns: dict[str, NDArray[Any]]) -> list[Float[np.ndarray, "4 4"]]:
    """The transforms in the columns `POSE`, row by row.

    Raises:
        DataError: a quaternion is none.
    """
    rows = np.stack([columns[name] for name in POSE], axis=1)
    usable = are_rotations(rows[:, :4])
    if not usable.all():
        row = int(np.argmin(usable))
        raise DataError(f"{path}: row {row}: qw, qx, qy, qz should be a quaternion that is not 0, got {rows[row, :4]}")
    return [rigid_transform(rotation_from_quaternion(row[:4].tolist()), row[4:]) for row in rows]
