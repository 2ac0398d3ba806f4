"""The index of annotations, as flat arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from occlift.datasets.nuscenes.packed import PackedStrings
from occlift.datasets.nuscenes.references import (
    check_quaternions,
    dangling,
    matrix,
    positions_of,
    resolve,
    starts,
    table_path,
    tokens_of,
)
from occlift.datasets.nuscenes.tables import (
    AnnotationRow,
    InstanceRow,
    NameRow,
    VisibilityRow,
    read_blocks,
    read_table,
)
from occlift.errors import DataError

BOX_TABLES: Final = ("attribute", "category", "instance", "sample_annotation")
"""The tables that the box index is made of, besides those of the frame index."""

VISIBILITY_TABLE: Final = "visibility"
"""Says what the visibility of boxes means; without it the tokens 1 to 4 mean nuScenes' four bins."""

_NUSCENES_BINS: Final = {"1": 0.4, "2": 0.6, "3": 0.8, "4": 1.0}
_WORDS: Final = {"full": 1.0, "most": 1.0, "partial": 0.5, "none": 0.1, "unavailable": np.nan}
"""Levels of Tier IV's T4 format: occluded not at all, by less than half, by more, by 90 % or more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxIndex:
    """Annotations, ordered by key frame (as in `FrameIndex`) and then as in the table. Global frame, metres.

    Attributes:
        sample_starts: annotations `sample_starts[k]` to `sample_starts[k + 1]` belong to key frame k.
        tokens, instances, translations_m, quaternions, sizes_wlh_m, velocities_m_s, visibilities, lidar_points: per
            annotation; `instances` are indices into `instance_tokens`, `visibilities` upper bounds of the visible
            fraction, NaN where nothing is known.
        attribute_starts, attributes: annotation a has the attributes number `attributes[attribute_starts[a]]` to
            `attributes[attribute_starts[a + 1] - 1]`.
        instance_tokens, instance_categories: per instance; a category is an index into `category_names`.
    """

    sample_starts: Int[np.ndarray, "samples_plus_1"]
    tokens: PackedStrings
    instances: Int[np.ndarray, "boxes"]
    translations_m: Float[np.ndarray, "boxes 3"]
    quaternions: Float[np.ndarray, "boxes 4"]
    sizes_wlh_m: Float[np.ndarray, "boxes 3"]
    velocities_m_s: Float[np.ndarray, "boxes 3"]
    visibilities: Float[np.ndarray, "boxes"]
    lidar_points: Int[np.ndarray, "boxes"]
    attribute_starts: Int[np.ndarray, "boxes_plus_1"]
    attributes: Int[np.ndarray, "attributed"]
    instance_tokens: PackedStrings
    instance_categories: Int[np.ndarray, "instances"]
    category_names: PackedStrings
    attribute_names: PackedStrings


def has_boxes(folder: Path) -> bool:
    """Whether there are annotations: all tables are there, and that of annotations is not empty, as in a test set."""
    paths = [table_path(folder, table) for table in BOX_TABLES]
    # "[]", in however many bytes; no row is so short.
    return all(path.exists() for path in paths) and table_path(folder, "sample_annotation").stat().st_size > 16


def index_boxes(folder: Path, sample_positions: dict[str, int], timestamps_us: Int[np.ndarray, "samples"]) -> BoxIndex:
    """Builds the box index from the tables in `folder`.

    Args:
        sample_positions: from `index_frames`; `timestamps_us` are those of the key frames in that order.

    Raises:
        DataError: a table is missing or damaged; a token names no row or occurs twice; a rotation or a visibility is
            none.
    """
    path = table_path(folder, "sample_annotation")
    categories = read_table(table_path(folder, "category"), NameRow)
    attribute_rows = read_table(table_path(folder, "attribute"), NameRow)
    instances_path = table_path(folder, "instance")
    instances = read_table(instances_path, InstanceRow)
    category_positions = positions_of(table_path(folder, "category"), tokens_of(categories))
    attribute_positions = positions_of(table_path(folder, "attribute"), tokens_of(attribute_rows))
    instance_positions = positions_of(instances_path, tokens_of(instances))

    visible_up_to = _visibility_levels(folder)
    tokens: list[str] = []
    neighbours: list[tuple[str, str]] = []
    integers: list[NDArray[np.int32]] = []
    floats: list[NDArray[np.float64]] = []
    attributes: list[int] = []
    for block in read_blocks(path, AnnotationRow):
        # One array per block and kind: a million row objects would take gigabytes.
        block_integers = np.empty((len(block), 4), dtype=np.int32)
        for number, row in enumerate(block):
            tokens.append(row.token)
            neighbours.append((row.prev, row.next))
            attributes += [
                resolve(attribute_positions, path, row, "attribute_tokens", token, "attribute")
                for token in row.attribute_tokens
            ]
            block_integers[number] = (
                resolve(sample_positions, path, row, "sample_token", row.sample_token, "sample"),
                resolve(instance_positions, path, row, "instance_token", row.instance_token, "instance"),
                row.num_lidar_pts,
                len(row.attribute_tokens),
            )
        integers.append(block_integers)
        floats.append(
            matrix(
                [(*row.translation, *row.size, *row.rotation, _visibility(path, row, visible_up_to)) for row in block],
                11,
            )
        )

    number_columns = np.concatenate(integers) if integers else np.empty((0, 4), dtype=np.int32)
    float_columns = np.concatenate(floats) if floats else np.empty((0, 11))
    del integers, floats
    check_quaternions(path, float_columns[:, 6:10], tokens)
    samples = number_columns[:, 0]
    velocities = _velocities(path, tokens, neighbours, float_columns[:, :3], timestamps_us[samples])
    del neighbours

    order = np.argsort(samples, kind="stable")
    attribute_counts = number_columns[:, 3]
    return BoxIndex(
        sample_starts=starts(np.bincount(samples, minlength=len(timestamps_us))),
        tokens=PackedStrings.pack(tokens[row] for row in order),
        instances=number_columns[order, 1],
        translations_m=float_columns[order, :3],
        quaternions=float_columns[order, 6:10],
        sizes_wlh_m=float_columns[order, 3:6],
        velocities_m_s=velocities[order],
        visibilities=float_columns[order, 10],
        lidar_points=number_columns[order, 2],
        attribute_starts=starts(attribute_counts[order]),
        attributes=_reordered(np.asarray(attributes, dtype=np.int16), attribute_counts, order),
        instance_tokens=PackedStrings.pack(tokens_of(instances)),
        instance_categories=np.array(
            [
                resolve(category_positions, instances_path, row, "category_token", row.category_token, "category")
                for row in instances
            ],
            dtype=np.int16,
        ),
        category_names=PackedStrings.pack(row.name for row in categories),
        attribute_names=PackedStrings.pack(row.name for row in attribute_rows),
    )


def _velocities(
    path: Path,
    tokens: Sequence[str],
    neighbours: Sequence[tuple[str, str]],
    translations_m: Float[np.ndarray, "boxes 3"],
    timestamps_us: Int[np.ndarray, "boxes"],
) -> Float[np.ndarray, "boxes 3"]:
    """Velocities in the global frame, m/s, by the rule of the devkit's `box_velocity`.

    The difference between the next and the previous annotation of the track, or the one that exists and the current
    one, over their times; NaN where there is neither, or where they lie more than 1.5 s apart (3 s if both exist).
    """
    positions = positions_of(path, tokens)
    first, last = np.arange(len(tokens)), np.arange(len(tokens))
    for row, (before, after) in enumerate(neighbours):
        for token, field, target in ((before, "prev", first), (after, "next", last)):
            if token:
                position = positions.get(token)
                if position is None:
                    raise dangling(path, tokens[row], field, token, "sample_annotation")
                target[row] = position
    has_both = np.array([bool(before and after) for before, after in neighbours], dtype=np.bool_)
    # Each time in seconds before the difference, as the devkit does it: the last digits agree then.
    elapsed_s = 1e-6 * timestamps_us[last] - 1e-6 * timestamps_us[first]
    known = (first != last) & (elapsed_s <= np.where(has_both, 3.0, 1.5))
    velocities = np.full((len(tokens), 3), np.nan)
    moved_m = translations_m[last[known]] - translations_m[first[known]]
    with np.errstate(divide="ignore", invalid="ignore"):
        velocities[known] = moved_m / elapsed_s[known, None]
    return velocities


def _visibility_levels(folder: Path) -> dict[str, float] | None:
    """Token of a visibility → upper bound of the visible fraction, NaN where it says nothing; None without the table.

    Tokens are names of rows, no more: some data sets number them the other way round, or have digests.
    """
    path = table_path(folder, VISIBILITY_TABLE)
    if not path.exists():
        return None
    rows = read_table(path, VisibilityRow)
    positions_of(path, tokens_of(rows))
    return {row.token: _visible_up_to(path, row) for row in rows}


def _visible_up_to(path: Path, row: VisibilityRow) -> float:
    level = row.level.strip().lower()
    if bin := re.fullmatch(r"v?(\d+)\s*-\s*(\d+)", level):
        return min(int(bin[2]), 100) / 100
    if level in _WORDS:
        return _WORDS[level]
    if not level and row.token in _NUSCENES_BINS:
        return _NUSCENES_BINS[row.token]
    raise DataError(
        f"{path}: row {row.token}: field level is {row.level!r}; expected a bin in per cent, such as v0-40, or one of "
        f"{', '.join(_WORDS)}"
    )


def _visibility(path: Path, row: AnnotationRow, visible_up_to: dict[str, float] | None) -> float:
    token = row.visibility_token
    if not token:
        return np.nan
    levels = _NUSCENES_BINS if visible_up_to is None else visible_up_to
    if token in levels:
        return levels[token]
    if visible_up_to is not None:
        raise dangling(path, row, "visibility_token", token, VISIBILITY_TABLE)
    raise DataError(
        f"{path}: row {row.token}: field visibility_token should be one of 1, 2, 3, 4 or empty where there is no "
        f"{VISIBILITY_TABLE}.json, got {token!r}"
    )


def _reordered(values: NDArray[Any], counts: NDArray[Any], order: NDArray[Any]) -> NDArray[Any]:
    """`values` in groups of `counts`, with the groups put into another order."""
    old_starts, new_counts = starts(counts)[:-1], counts[order]
    offsets_in_group = np.arange(len(values)) - np.repeat(starts(new_counts)[:-1], new_counts)
    return values[np.repeat(old_starts[order], new_counts) + offsets_in_group]
