"""Writes tables in the format of nuScenes: rows of one scene, and all scenes together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from occlift.datasets.nuscenes.channels import CAMERA_CHANNELS, LIDAR_CHANNEL
from occlift.datasets.nuscenes.map_expansion import map_expansion_path
from occlift.label_space import OCC3D
from occlift.runtime.files import write_text

__all__ = [
    "LIDAR_CHANNEL", "Row", "Tables", "attribute_token", "category_token", "link", "map_expansion_path", "sensor_token",
    "token", "visibility_token", "write_json", "write_tables",
]  # fmt: skip

TABLES: Final = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample", "sample_annotation",
    "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip
ATTRIBUTES: Final = (
    "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving",
)  # fmt: skip
_VISIBILITY_LEVELS: Final = ("v0-40", "v40-60", "v60-80", "v80-100")

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def token(*what: object) -> str:
    """A 32-digit token that depends on nothing but what it names."""
    return hashlib.md5("/".join(map(str, what)).encode(), usedforsecurity=False).hexdigest()


def attribute_token(name: str) -> str:
    return token("attribute", name)


def category_token(name: str) -> str:
    return token("category", name)


def sensor_token(channel: str) -> str:
    return token("sensor", channel)


def visibility_token(share: float) -> str:
    """nuScenes' four bins of the visible share, "1" (under 40 %) to "4" (80 % and more)."""
    return str(1 + sum(share >= limit for limit in (0.4, 0.6, 0.8)))


def common_rows() -> Tables:
    """Rows that every data set has, whatever its scenes."""
    return {
        "attribute": [{"token": attribute_token(n), "name": n, "description": ""} for n in ATTRIBUTES],
        "category": [{"token": category_token(n), "name": n, "description": ""} for n in OCC3D.taxonomy.categories],
        "sensor": [
            {"token": sensor_token(n), "channel": n, "modality": "lidar" if n == LIDAR_CHANNEL else "camera"}
            for n in (LIDAR_CHANNEL, *CAMERA_CHANNELS)
        ],
        "visibility": [
            {"token": str(k + 1), "level": level, "description": f"visibility of whole object, {level[1:]} %"}
            for k, level in enumerate(_VISIBILITY_LEVELS)
        ],
    }


def link(rows: list[Row]) -> None:
    """Sets `prev` and `next` along rows in time order."""
    for k, row in enumerate(rows):
        row["prev"] = rows[k - 1]["token"] if k else ""
        row["next"] = rows[k + 1]["token"] if k + 1 < len(rows) else ""


def write_json(path: Path, value: object) -> None:
    """Writes atomically, one key per line as nuScenes does."""
    write_text(path, json.dumps(value, indent=0) + "\n")


def write_tables(folder: Path, scenes: Iterable[Tables]) -> None:
    """Writes all thirteen tables of the scenes, in the order given, into `folder`."""
    tables: Tables = {name: [] for name in TABLES}
    for part in (common_rows(), *scenes):
        for name, rows in part.items():
            tables[name].extend(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        write_json(folder / f"{name}.json", rows)
