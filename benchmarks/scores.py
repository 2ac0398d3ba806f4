"""What scoring costs: the histogram and the rays beside plain NumPy, in one run, and a split of nuScenes' size.

    occlift town FOLDER --scenes 4 --frames 40 --image-height 48 --image-width 88
    python benchmarks/scores.py FOLDER [--frames 40]

Truth is the town's; the prediction is the truth moved by a voxel, so that classes and distances differ everywhere.
Ratios are per core: numba is held to one thread, as NumPy is. Times are the best of three.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

# Before NumPy is loaded: the comparison is per core.
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numba
import numpy as np
import torch

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.evaluation.occupancy import evaluate
from occlift.geometry.grids import OCC3D_GRID
from occlift.geometry.raycast import first_hit
from occlift.label_space import FREE, NUM_CLASSES
from occlift.labels.files import label_paths, prediction_path, read_label, write_prediction
from occlift.metrics.occupancy import histogram, histograms
from occlift.metrics.rays import ray_directions, ray_histogram, ray_origins
from occlift.town.scene_writer import GTS

NUSCENES_VAL = 6019
NUMPY_BLOCK = 14_040


def best_of_three(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def plain_histogram(truth: np.ndarray, prediction: np.ndarray, evaluated: np.ndarray | None) -> np.ndarray:
    """As most code has it."""
    if evaluated is not None:
        truth, prediction = truth[evaluated], prediction[evaluated]
    joint = truth.astype(np.int64).ravel() * NUM_CLASSES + prediction.ravel()
    return np.bincount(joint, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def tuned_numpy_first_hit(
    occupied: np.ndarray, origins_m: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(flat voxel or −1, exit range): rays in lock-step, those that are done taken out after every step.

    As fast as plain NumPy was found to be: one array per axis, and blocks of rays that stay in the processor's cache.
    """
    blocks = [
        _numpy_block_first_hit(occupied, origins_m[i : i + NUMPY_BLOCK], directions[i : i + NUMPY_BLOCK])
        for i in range(0, len(origins_m), NUMPY_BLOCK)
    ]
    voxels, exits_m = zip(*blocks, strict=True)
    return np.concatenate(voxels), np.concatenate(exits_m)


def _numpy_block_first_hit(
    occupied: np.ndarray, origins_m: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    nx, ny, nz = occupied.shape
    origin = (origins_m - np.asarray(OCC3D_GRID.lower_m)) / np.asarray(OCC3D_GRID.voxel_size_m)
    direction = directions / np.asarray(OCC3D_GRID.voxel_size_m)
    index = np.floor(origin).astype(np.int64)
    sign = np.where(direction >= 0, 1, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = np.where(direction != 0, (index + (sign > 0) - origin) / direction, np.inf)
        delta = np.where(direction != 0, sign / direction, np.inf)
    voxel, exit_m = np.full(len(origin), -1), np.full(len(origin), np.inf)
    flat, ray = occupied.ravel(), np.arange(len(origin))
    columns = (np.ascontiguousarray(column) for array in (index, sign, plane, delta) for column in array.T)
    x, y, z, sign_x, sign_y, sign_z, tx, ty, tz, delta_x, delta_y, delta_z = columns
    while len(ray):
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny) & (z >= 0) & (z < nz)
        here = (x * ny + y) * nz + z
        met = np.zeros(len(ray), bool)
        met[inside] = flat[here[inside]]
        if met.any():
            voxel[ray[met]], exit_m[ray[met]] = here[met], np.minimum(np.minimum(tx, ty), tz)[met]
        going = inside & ~met
        if not going.all():
            state = (ray, x, y, z, sign_x, sign_y, sign_z, tx, ty, tz, delta_x, delta_y, delta_z)
            ray, x, y, z, sign_x, sign_y, sign_z, tx, ty, tz, delta_x, delta_y, delta_z = (a[going] for a in state)
        # Of planes at the same t: z before y before x.
        along_z = tz <= np.minimum(tx, ty)
        along_y = ~along_z & (ty <= tx)
        along_x = ~(along_z | along_y)
        x, y, z = x + sign_x * along_x, y + sign_y * along_y, z + sign_z * along_z
        tx, ty, tz = (
            np.where(along_x, tx + delta_x, tx),
            np.where(along_y, ty + delta_y, ty),
            np.where(along_z, tz + delta_z, tz),
        )
    return voxel, exit_m


def simple_numpy_first_hit(
    occupied: np.ndarray, origins_m: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(flat voxel or −1, exit range): all rays in lock-step, as one writes it down, those that are done taken out."""
    size, lower, shape = 0.4, np.asarray(OCC3D_GRID.lower_m), np.asarray(OCC3D_GRID.shape)
    origin = (origins_m - lower) / size
    direction = directions / size
    index = np.floor(origin).astype(np.int64)
    step = np.where(direction >= 0, 1, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = np.where(direction != 0, (index + (step > 0) - origin) / direction, np.inf)
        delta = np.where(direction != 0, step / direction, np.inf)
    voxel, exit_m = np.full(len(origin), -1), np.full(len(origin), np.inf)
    flat, ray = occupied.ravel(), np.arange(len(origin))
    while len(ray):
        inside = ((index >= 0) & (index < shape)).all(axis=1)
        ray, index, step, plane, delta = ray[inside], index[inside], step[inside], plane[inside], delta[inside]
        here = (index[:, 0] * shape[1] + index[:, 1]) * shape[2] + index[:, 2]
        met = flat[here]
        voxel[ray[met]], exit_m[ray[met]] = here[met], plane[met].min(axis=1)
        ray, index, step, plane, delta = ray[~met], index[~met], step[~met], plane[~met], delta[~met]
        # The last of equal values: z before y before x.
        axis = 2 - np.argmin(plane[:, ::-1], axis=1)
        number = np.arange(len(ray))
        index[number, axis] += step[number, axis]
        plane[number, axis] += delta[number, axis]
    return voxel, exit_m


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=40, help="key frames that are read")
    arguments = parser.parse_args()
    data = NuScenes.open(arguments.folder)
    tokens = [token for scene in data.scenes() for token in data.key_frame_tokens(scene)]
    read = tokens[: arguments.frames]
    truths = [read_label(path) for path in label_paths(arguments.folder / GTS, data, read)]
    predictions = [np.roll(truth.semantics, 1, axis=0) for truth in truths]
    pairs = list(zip(truths, predictions, strict=True))
    numba.set_num_threads(1)

    print(f"## Histogram of 200×200×16 voxels, one core, ms per key frame ({len(read)} key frames)\n")
    print("| evaluated voxels | plain NumPy | occlift | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for name, masks in (("camera, lidar, none", ("camera", "lidar", "none")), ("none", ("none",))):

        def plain(masks: tuple[str, ...] = masks) -> None:
            for truth, prediction in pairs:
                by_name = {"camera": truth.mask_camera, "lidar": truth.mask_lidar, "none": None}
                for mask in masks:
                    plain_histogram(truth.semantics, prediction, by_name[mask])

        def ours(masks: tuple[str, ...] = masks) -> None:
            for truth, prediction in pairs:
                by_name = {"camera": truth.mask_camera, "lidar": truth.mask_lidar, "none": None}
                histograms(
                    truth=truth.semantics, prediction=prediction, evaluated={mask: by_name[mask] for mask in masks}
                )  # type: ignore[misc]

        seconds = best_of_three(plain), best_of_three(ours)
        ms = [1000 * s / len(pairs) for s in seconds]
        print(f"| {name} | {ms[0]:.2f} | {ms[1]:.2f} | {ms[0] / ms[1]:.1f} |")
    for truth, prediction in pairs:
        same = plain_histogram(truth.semantics, prediction, truth.mask_camera)
        assert (histogram(truth=truth.semantics, prediction=prediction, evaluated=truth.mask_camera) == same).all()

    frames = [data.key_frame(token) for token in read]
    poses = {
        scene: np.stack([data.key_frame(t).lidar_sweep().global_from_lidar for t in data.key_frame_tokens(scene)])
        for scene in {frame.scene for frame in frames}
    }  # fmt: skip
    origins = [ray_origins(poses[frame.scene], frame.global_from_ego) for frame in frames]
    directions = ray_directions()
    occupied = truths[0].semantics < FREE
    starts = np.repeat(origins[0], len(directions), axis=0)
    rays = np.tile(directions, (len(origins[0]), 1))
    print(f"\n## First hit of {len(rays):,} rays, one core\n")
    print("| caster | M rays/s | ratio to simple NumPy | to tuned NumPy |")
    print("| --- | ---: | ---: | ---: |")
    simple_s = best_of_three(lambda: simple_numpy_first_hit(occupied, starts, rays))
    tuned_s = best_of_three(lambda: tuned_numpy_first_hit(occupied, starts, rays))
    compiled_s = best_of_three(lambda: first_hit(occupied, OCC3D_GRID, starts, rays))
    pair_s = best_of_three(
        lambda: ray_histogram(truth=truths[0].semantics, prediction=predictions[0], origins_m=origins[0])
    )
    torch.set_num_threads(1)
    torch_s = best_of_three(
        lambda: ray_histogram(
            truth=truths[0].semantics, prediction=predictions[0], origins_m=origins[0], device="cpu:0"
        )
    )
    rows = [
        ("vectorised NumPy as one writes it down, one volume", len(rays) / simple_s),
        ("vectorised NumPy, tuned, one volume", len(rays) / tuned_s),
        ("compiled, one volume", len(rays) / compiled_s),
        ("compiled, truth and prediction in one walk, counted", 2 * len(rays) / pair_s),
        ("torch on the CPU, truth and prediction, counted", 2 * len(rays) / torch_s),
    ]
    if torch.cuda.is_available():
        cuda_s = best_of_three(
            lambda: ray_histogram(
                truth=truths[0].semantics, prediction=predictions[0], origins_m=origins[0], device="cuda"
            )
        )
        rows.append((f"torch on {torch.cuda.get_device_name()}, counted", 2 * len(rays) / cuda_s))
    for name, rate in rows:
        ratios = [rate * seconds / len(rays) for seconds in (simple_s, tuned_s)]
        print(f"| {name} | {rate / 1e6:.3f} | {ratios[0]:.1f} | {ratios[1]:.1f} |")
    hits = first_hit(occupied, OCC3D_GRID, starts, rays)
    flat = np.where(hits.found, np.ravel_multi_index(tuple(np.maximum(hits.voxel, 0).T), OCC3D_GRID.shape), -1)
    differing = int((flat != tuned_numpy_first_hit(occupied, starts, rays)[0]).sum())
    print(f"\nNumPy and compiled meet another voxel on {differing} of {len(rays):,} rays (t summed up or computed).")

    print("\n## A split\n")
    print("| threads | s per key frame, masks | and RayIoU | nuScenes val (6,019), minutes |")
    print("| ---: | ---: | ---: | ---: |")
    with TemporaryDirectory(dir=arguments.folder) as folder:
        for token, path in zip(tokens, label_paths(arguments.folder / GTS, data, tokens), strict=True):
            write_prediction(prediction_path(Path(folder), token), np.roll(read_label(path).semantics, 1, axis=0))
        for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
            numba.set_num_threads(threads)
            seconds = []
            for with_rays in (None, data):
                started = time.perf_counter()
                evaluate(Path(folder), arguments.folder / GTS, tokens=tokens, rays=with_rays)
                seconds.append((time.perf_counter() - started) / len(tokens))
            print(f"| {threads} | {seconds[0]:.4f} | {seconds[1]:.4f} | {seconds[1] * NUSCENES_VAL / 60:.1f} |")
    print(f"\nReading included, over {len(tokens)} key frames.")


if __name__ == "__main__":
    main()
