"""Writes one scene of a town: images, sweeps, truth, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float
from PIL import Image

from occlift.datasets import table_writer as tables
from occlift.geometry.grids import OCC3D_GRID
from occlift.geometry.raycast import observed_by_camera
from occlift.geometry.transforms import inverse, quaternion_from_rotation, rotation_about_z, transform_points
from occlift.label_space import DRIVEABLE_SURFACE, SIDEWALK
from occlift.labels.files import OccupancyLabel, label_path, write_label
from occlift.runtime.files import replacing
from occlift.scenes.truth_maps import TruthMaps, truth_maps_path, write_truth_maps
from occlift.town.config import TownConfig
from occlift.town.layout import TownScene, build_scene
from occlift.town.map_expansion import write_map_expansion
from occlift.town.rig import MountedCamera, SensorRig, build_rig, sweep_lidar, visible_share
from occlift.town.shade import Rendered, render_image
from occlift.town.truth import SceneTruth

TABLES: Final = "v1.0-town"
"""The folder of the tables in a town."""
GTS: Final = "gts"
"""The folder of the truth in a town."""
_PERIOD_US: Final = 500_000
_SWEEP_PERIOD_US: Final = 83_333
"""From image to image of a camera, at 12 Hz."""
_EPOCH_US: Final = 1_600_000_000_000_000
_BOX_MARGIN_M: Final = 0.05
_ANNOTATED_WITHIN_M: Final = 80.0


def finished_mark(out: Path, scene: str) -> Path:
    """The file that holds the rows of a finished scene; the tables are put together from all of them."""
    return out / TABLES / ".scenes" / f"{scene}.json"


def scene_of_town(config: TownConfig, number: int) -> TownScene:
    """What exists in a scene of a town."""
    return build_scene((config.seed, number), frames=config.frames, static=config.static)


class SceneWriter:
    """Writes one scene; files are compressed and written by threads while the next images are drawn."""

    def __init__(self, out: Path, config: TownConfig, number: int) -> None:
        self._out, self._config, self._number = out, config, number
        self._name = config.scene_name(number)
        self._rows: tables.Tables = {}
        self._sensor_rows: dict[str, list[tables.Row]] = {}
        self._annotations: dict[int, list[tables.Row]] = {}

    def steps(self) -> list[Callable[[], None]]:
        """One call per key frame; they must be made in order."""
        return [lambda index=index: self._step(index) for index in range(self._config.frames)]  # type: ignore[misc]

    def _step(self, index: int) -> None:
        if index == 0:
            self._open()
        self._frame(index)
        if index == self._config.frames - 1:
            self._close()

    def _open(self) -> None:
        config = self._config
        self._scene: TownScene = scene_of_town(config, self._number)
        self._rng = np.random.default_rng((config.seed, self._number, 1))
        # Of its own: what is seen in key frames does not depend on whether there are sweeps.
        self._sweep_rng = np.random.default_rng((config.seed, self._number, 2))
        self._rig: SensorRig = build_rig(self._rng, height=config.image_height, width=config.image_width)
        self._truth = SceneTruth(self._scene)
        self._start_us = _EPOCH_US + 1_000_000_000 * self._number
        self._pool = ThreadPoolExecutor(max_workers=2)
        self._pending: list[Future[None]] = []
        self._seen_from: list[list[tuple[MountedCamera, Float[np.ndarray, "4 4"]]]] = []
        self._poses: list[tuple[str, Float[np.ndarray, "4 4"], float]] = []
        self._log_token = tables.token(self._name, "log")
        map_token = tables.token(self._name, "map")
        map_file = f"maps/{map_token}.png"
        self._write_map(map_file)
        write_map_expansion(self._out, self._name, self._scene)
        self._rows = {
            "log": [
                {"token": self._log_token, "logfile": self._name, "vehicle": "town", "date_captured": "2020-09-13",
                 "location": self._name}
            ],
            "map": [
                {"token": map_token, "log_tokens": [self._log_token], "category": "semantic_prior",
                 "filename": map_file}
            ],
            "calibrated_sensor": [
                _calibration(self._name, tables.LIDAR_CHANNEL, self._rig.ego_from_lidar, []),
                *(_calibration(self._name, c.camera, c.ego_from_camera, c.intrinsics_px.tolist())
                  for c in self._rig.cameras),
            ],
            "ego_pose": [],
            "sample": [],
            "sample_data": [],
        }  # fmt: skip

    def _write_map(self, file: str) -> None:
        ground = self._scene.ground
        on_map = np.isin(ground.class_id, (DRIVEABLE_SURFACE, SIDEWALK))
        # Rasters are [x, y] with y up; the picture has its first row at the largest y.
        picture = Image.fromarray((on_map.T[::-1] * 255).astype(np.uint8))
        size = tuple(round(n * ground.cell_m / 0.1) for n in on_map.shape)
        path = self._out / file
        with replacing(path) as stream:
            picture.resize((size[0], size[1]), Image.Resampling.NEAREST).save(stream, "PNG")

    def _data(
        self, index: int, channel: str, timestamp_us: int, file: str, size: tuple[int, int], beside: str = ""
    ) -> None:
        """Rows of one sensor reading and of the ego pose at its time; `beside` names a sweep of the key frame."""
        time_s = (timestamp_us - self._start_us) / 1e6
        what = (channel, beside) if beside else (channel,)
        pose_token = tables.token(self._name, index, *what, "ego_pose")
        pose = self._scene.drive.global_from_ego(time_s)
        self._rows["ego_pose"].append(
            {"token": pose_token, "timestamp": timestamp_us, "rotation": list(quaternion_from_rotation(pose[:3, :3])),
             "translation": pose[:3, 3].tolist()}
        )  # fmt: skip
        row = {
            "token": tables.token(self._name, index, *what, "sample_data"),
            "sample_token": tables.token(self._name, index, "sample"),
            "ego_pose_token": pose_token,
            "calibrated_sensor_token": tables.token(self._name, channel, "calibrated_sensor"),
            "timestamp": timestamp_us,
            "fileformat": "pcd" if channel == tables.LIDAR_CHANNEL else "jpg",
            "is_key_frame": not beside,
            "height": size[0],
            "width": size[1],
            "filename": file,
        }
        self._sensor_rows.setdefault(channel, []).append(row)

    def _frame(self, index: int) -> None:
        scene, config = self._scene, self._config
        timestamp_us = self._start_us + index * _PERIOD_US
        time_s = index * _PERIOD_US / 1e6
        sample_token = tables.token(self._name, index, "sample")
        self._rows["sample"].append(
            {"token": sample_token, "timestamp": timestamp_us, "scene_token": tables.token(self._name, "scene")}
        )
        global_from_ego = scene.drive.global_from_ego(time_s)
        global_from_lidar = global_from_ego @ self._rig.ego_from_lidar
        sweep = sweep_lidar(scene, global_from_lidar, time_s, self._rng)
        file = f"samples/{tables.LIDAR_CHANNEL}/{self._name}__{tables.LIDAR_CHANNEL}__{timestamp_us}.pcd.bin"
        self._write(file, sweep.tobytes())
        self._data(index, tables.LIDAR_CHANNEL, timestamp_us, file, (0, 0))
        points_lidar = sweep[:, :3].astype(np.float64)
        self._truth.add_beams(global_from_lidar[:3, 3], transform_points(global_from_lidar, points_lidar))
        self._poses.append((sample_token, global_from_ego, time_s))
        views = []
        for camera in self._rig.cameras:
            image_us = timestamp_us - camera.lag_us
            if config.sweeps and index > 0:
                self._image(index, camera, image_us - _SWEEP_PERIOD_US, beside="before")
            global_from_camera, image_s = self._image(index, camera, image_us)
            if config.sweeps and index + 1 < config.frames:
                self._image(index, camera, image_us + _SWEEP_PERIOD_US, beside="after")
            views.append((camera, global_from_camera, image_s))
        self._seen_from.append([(camera, global_from_camera) for camera, global_from_camera, _ in views])
        shares = visible_share(scene, views, height=config.image_height, width=config.image_width, rng=self._rng)
        self._annotate(sample_token, index, time_s, global_from_lidar, points_lidar, shares)

    def _image(
        self, index: int, camera: MountedCamera, image_us: int, *, beside: str = ""
    ) -> tuple[Float[np.ndarray, "4 4"], float]:
        """Draws an image of a key frame, or of a sweep beside it; where its camera was, and when, seconds."""
        scene, config = self._scene, self._config
        image_s = (image_us - self._start_us) / 1e6
        global_from_camera = scene.drive.global_from_ego(image_s) @ camera.ego_from_camera
        rng = self._sweep_rng if beside else self._rng
        rendered = render_image(
            scene.ground, scene.light, scene.static, scene.moving(image_s), intrinsics_px=camera.intrinsics_px,
            global_from_camera=global_from_camera, height=config.image_height, width=config.image_width,
            seed=int(rng.integers(1 << 40)),
        )  # fmt: skip
        folder = "sweeps" if beside else "samples"
        file = f"{folder}/{camera.camera}/{self._name}__{camera.camera}__{image_us}.jpg"
        maps = config.maps and not beside
        self._pending.append(self._pool.submit(_write_image, self._out / file, rendered, maps))
        self._data(index, camera.camera, image_us, file, (config.image_height, config.image_width), beside)
        return global_from_camera, image_s

    def _annotate(
        self, sample_token: str, index: int, time_s: float, global_from_lidar: Float[np.ndarray, "4 4"],
        points_lidar: Float[np.ndarray, "n 3"], shares: Float[np.ndarray, "objects"],
    ) -> None:  # fmt: skip
        """Boxes of all objects that the lidar hit; a little larger than the thing, as annotators draw them."""
        points = transform_points(global_from_lidar, points_lidar)
        for thing, (x, y, z, yaw), share in zip(self._scene.objects, self._scene.poses(time_s), shares, strict=True):
            if np.hypot(x - global_from_lidar[0, 3], y - global_from_lidar[1, 3]) > _ANNOTATED_WITHIN_M:
                continue
            length, width, height = (n + 2 * _BOX_MARGIN_M for n in thing.shape.size_lwh_m)
            center = np.array([x, y, z + height / 2 - _BOX_MARGIN_M])
            reach = 0.5 * np.hypot(length, width)
            close = points[(np.abs(points[:, 0] - x) < reach) & (np.abs(points[:, 1] - y) < reach)]
            local = np.abs((close - center) @ rotation_about_z(yaw))
            count = int(np.sum(np.all(local <= np.array([length, width, height]) / 2, axis=1)))
            if count == 0:
                continue
            yaw = float(np.arctan2(np.sin(yaw), np.cos(yaw)))
            self._annotations.setdefault(thing.instance, []).append(
                {
                    "token": tables.token(self._name, index, "annotation", thing.instance),
                    "sample_token": sample_token,
                    "instance_token": tables.token(self._name, "instance", thing.instance),
                    "visibility_token": tables.visibility_token(float(share)),
                    "attribute_tokens": [tables.attribute_token(thing.attribute)] if thing.attribute else [],
                    "translation": center.tolist(),
                    "size": [width, length, height],
                    "rotation": [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))],
                    "num_lidar_pts": count,
                    "num_radar_pts": 0,
                }
            )

    def _write(self, file: str, data: bytes) -> None:
        with replacing(self._out / file) as stream:
            stream.write(data)

    def _close(self) -> None:
        """Truth, which needs the beams of the whole scene, and the rows that need all frames."""
        config, grid = self._config, OCC3D_GRID
        for (sample_token, global_from_ego, time_s), views in zip(self._poses, self._seen_from, strict=True):
            semantics = self._truth.semantics(global_from_ego, time_s)
            mask_lidar = self._truth.mask_lidar(global_from_ego)
            mask_camera = np.zeros(grid.shape, dtype=bool)
            for camera, global_from_camera in views:
                mask_camera |= observed_by_camera(
                    semantics < 17, grid, camera.intrinsics_px, inverse(global_from_ego) @ global_from_camera,
                    config.image_height, config.image_width, among=mask_lidar & ~mask_camera,
                )  # fmt: skip
            label = OccupancyLabel(semantics=semantics, mask_lidar=mask_lidar, mask_camera=mask_camera)
            path = label_path(self._out / GTS, self._name, sample_token)
            self._pending.append(self._pool.submit(write_label, path, label))
        for future in self._pending:
            future.result()
        self._pool.shutdown()
        self._finish_rows()
        tables.write_json(finished_mark(self._out, self._name), self._rows)

    def _finish_rows(self) -> None:
        rows = self._rows
        tables.link(rows["sample"])
        for readings in self._sensor_rows.values():
            tables.link(readings)
            rows["sample_data"].extend(readings)
        rows["sample_annotation"], rows["instance"] = [], []
        for thing in self._scene.objects:
            chain = self._annotations.get(thing.instance, [])
            if not chain:
                continue
            tables.link(chain)
            rows["sample_annotation"].extend(chain)
            rows["instance"].append(
                {"token": chain[0]["instance_token"], "category_token": tables.category_token(thing.shape.category),
                 "nbr_annotations": len(chain), "first_annotation_token": chain[0]["token"],
                 "last_annotation_token": chain[-1]["token"]}
            )  # fmt: skip
        rows["scene"] = [
            {"token": tables.token(self._name, "scene"), "log_token": self._log_token,
             "nbr_samples": len(rows["sample"]),
             "first_sample_token": rows["sample"][0]["token"], "last_sample_token": rows["sample"][-1]["token"],
             "name": self._name, "description": f"{self._scene.style.name} quarter"}
        ]  # fmt: skip


def _calibration(
    scene: str, channel: str, mounting: Float[np.ndarray, "4 4"], intrinsics: list[list[float]]
) -> tables.Row:
    return {
        "token": tables.token(scene, channel, "calibrated_sensor"),
        "sensor_token": tables.sensor_token(channel),
        "translation": mounting[:3, 3].tolist(),
        "rotation": list(quaternion_from_rotation(mounting[:3, :3])),
        "camera_intrinsic": intrinsics,
    }


def _write_image(path: Path, rendered: Rendered, maps: bool) -> None:
    with replacing(path) as stream:
        Image.fromarray(rendered.rgb).save(stream, format="JPEG", quality=92)
    if maps:
        truth = TruthMaps(semantics=rendered.class_id, depth_m=rendered.depth_m, instance=rendered.instance)
        write_truth_maps(truth_maps_path(path), truth)
