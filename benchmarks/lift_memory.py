"""Sparse lifting against dense lifting: peak memory and time, forward and backward, in full size.

    python benchmarks/lift_memory.py [--stride 1] [--channels 64] [--height 84] [--width 168]

Six cameras around the vehicle, feature maps of a 336×672 image at stride 4, 200×200×16 voxel centres. Each way runs in
a process of its own, because the peak of a process never falls.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
import time

import torch
from torch.nn import functional as F

from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.models.lift import lift, visible_pairs

YAWS_DEG = (55, 0, -55, 110, 180, -110)
FOCAL_PER_WIDTH = (0.79, 0.79, 0.79, 0.79, 0.5, 0.79)
"""About those of nuScenes, in the order of its cameras in this project."""


def surround_rig(height: int, width: int) -> CameraRig:
    intrinsics_px, ego_from_camera = [], []
    for yaw_deg, focal in zip(YAWS_DEG, FOCAL_PER_WIDTH, strict=True):
        cosine, sine = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
        transform = torch.eye(4)
        transform[:3, :3] = torch.tensor([[sine, 0, cosine], [-cosine, 0, sine], [0, -1, 0]])
        transform[:3, 3] = torch.tensor([1 + cosine, 0.5 * sine, 1.5])
        ego_from_camera.append(transform)
        intrinsics_px.append(torch.tensor([[focal * width, 0, width / 2], [0, focal * width, height / 2], [0, 0, 1]]))
    return CameraRig(
        intrinsics_px=torch.stack(intrinsics_px)[None],
        ego_from_camera=torch.stack(ego_from_camera)[None],
        height=height,
        width=width,
    )


def sparse(features: torch.Tensor, rig: CameraRig, points_ego: torch.Tensor) -> torch.Tensor:
    return lift(features, visible_pairs(rig, points_ego))


def dense(features: torch.Tensor, rig: CameraRig, points_ego: torch.Tensor) -> torch.Tensor:
    """The usual way: a sampled volume per camera, a mask, the mean."""
    pixels, _, visible = rig.project(points_ego)
    grid = 2 * pixels[0] / pixels.new_tensor([rig.width, rig.height]) - 1
    volumes = F.grid_sample(features[0], grid[:, None], padding_mode="border", align_corners=False)[:, :, 0]
    seen = visible[0, :, None].to(volumes.dtype)
    return ((volumes * seen).sum(0) / seen.sum(0).clamp(min=1)).T[None]


def measure(way: str, stride: int, channels: int, height: int, width: int, queue: multiprocessing.Queue) -> None:
    torch.manual_seed(0)
    x, y, z = OCC3D_GRID.shape
    size_x, size_y, size_z = OCC3D_GRID.voxel_size_m
    grid = VoxelGrid(
        lower_m=OCC3D_GRID.lower_m,
        voxel_size_m=(size_x * stride, size_y * stride, size_z),
        shape=(x // stride, y // stride, z),
    )
    points_ego = torch.from_numpy(grid.centers()).float().reshape(-1, 3)
    rig = surround_rig(4 * height, 4 * width)
    features = torch.randn(1, 6, channels, height, width, requires_grad=True)
    function = {"sparse": sparse, "dense": dense}[way]
    before = peak_bytes()
    forward_s, backward_s = [], []
    for _ in range(3):
        started = time.perf_counter()
        lifted = function(features, rig, points_ego)
        forward_s.append(time.perf_counter() - started)
        gradient = torch.ones_like(lifted)
        started = time.perf_counter()
        lifted.backward(gradient)
        backward_s.append(time.perf_counter() - started)
    queue.put((peak_bytes() - before, min(forward_s), min(backward_s)))


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=1, help="horizontal stride of the grid")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--height", type=int, default=84, help="of the feature maps")
    parser.add_argument("--width", type=int, default=168)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{'way':8} {'added peak MiB':>15} {'forward s':>10} {'backward s':>11}")
    for way in ("sparse", "dense"):
        queue = context.Queue()
        arguments = (way, options.stride, options.channels, options.height, options.width, queue)
        process = context.Process(target=measure, args=arguments)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{way}: the process ended with {process.exitcode}")
        added, forward_s, backward_s = queue.get()
        print(f"{way:8} {added / 2**20:15.0f} {forward_s:10.3f} {backward_s:11.3f}")


if __name__ == "__main__":
    main()
