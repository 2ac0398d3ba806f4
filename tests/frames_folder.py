"""A `frames:` folder as docs/own_data.md shows it, with lidar, boxes and splits added."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[1]

FORWARD: dict[str, Any] = {"translation_m": [0, 0, 0], "rotation": [1, 0, 0, 0]}


def documented() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The calibration and the lines of the example in docs/own_data.md."""
    text = (REPOSITORY / "docs" / "own_data.md").read_text(encoding="utf-8")
    calibration, lines = re.findall(r"```json\n(.*?)```", text, re.DOTALL)[:2]
    return json.loads(calibration), [json.loads(line) for line in lines.splitlines()]


def complete() -> dict[str, Any]:
    """All files of a folder of two scenes, by their names, as values of JSON (a list: one per line)."""
    files: dict[str, Any] = {"splits.json": {"train": ["monday"], "val": ["tuesday"]}}
    for scene in ("monday", "tuesday"):
        calibration, lines = documented()
        calibration["lidar"] = {"ego_from_lidar": {"translation_m": [1, 0, 1.8], "rotation": [1, 0, 0, 0]}}
        for number, line in enumerate(lines):
            line["lidar"] = {"path": f"lidar/{number}.npy", "timestamp_us": line["timestamp_us"] + 20_000}
            line["boxes"] = [
                {
                    "instance": "7", "category": "vehicle.car", "size_lwh_m": [4.5, 1.9, 1.6], "visibility": 0.8,
                    "ego_from_box": {"translation_m": [10, 2, 0.8], "rotation": [1, 0, 0, 0]},
                }
            ]  # fmt: skip
        files[f"{scene}/calibration.json"], files[f"{scene}/frames.jsonl"] = calibration, lines
    return files


def write(root: Path, files: dict[str, Any], *, pixels: bool = True) -> Path:
    """Writes the folder; with `pixels` the images, masks and sweeps too."""
    rng = np.random.default_rng(0)
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, str | bytes):
            path.write_bytes(value if isinstance(value, bytes) else value.encode())
        elif isinstance(value, list):
            path.write_text("".join(json.dumps(line) + "\n" for line in value))
        else:
            path.write_text(json.dumps(value))
    if not pixels:
        return root
    for name in ("monday", "tuesday"):
        if f"{name}/calibration.json" not in files:
            continue
        calibration, scene = files[f"{name}/calibration.json"], root / name
        for camera, described in calibration["cameras"].items():
            height, width = described["height"], described["width"]
            if "mask" in described:
                mask = np.zeros((height, width), np.uint8)
                mask[-height // 8 :] = 255
                _save(scene / described["mask"], mask)
            for number in range(len(files[f"{name}/frames.jsonl"])):
                image = rng.integers(0, 255, (height, width, 3), np.uint8)
                _save(scene / "images" / camera / f"{number}.jpg", image)
        for number in range(len(files[f"{name}/frames.jsonl"])):
            (scene / "lidar").mkdir(exist_ok=True)
            np.save(scene / "lidar" / f"{number}.npy", rng.normal(0, 10, (50, 4)).astype(np.float32))
    return root


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
