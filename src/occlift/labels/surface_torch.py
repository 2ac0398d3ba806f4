"""Surfaces averaged for maps that are already on an accelerator: what `occlift.labels.surface` computes, in tensors.

Double precision and the order of operations are those of the compiled pass, so that the two differ by rounding. Views
are added one after the other, each to all voxels that its camera may see: no two numbers that are added at once belong
to one voxel, so that sums have one order, and the same input gives the same bits. Besides the maps, memory is that of
the grid's arrays and of the voxels worked on at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8
from torch import Tensor

from occlift.geometry.grids import VoxelGrid
from occlift.label_space import OCC3D, UNKNOWN, Taxonomy
from occlift.labels.device_views import Camera, Lattice, PosedDeviceView
from occlift.labels.fuse import EVERYTHING, static_classes
from occlift.labels.surface import (
    PIXELS_PER_VIEW,
    SCALE_SHARE,
    SCALE_VOXELS,
    DepthError,
    Surface,
    pairs_to_compare,
    points_step,
    thin_movers,
)
from occlift.labels.surface_kernels import (
    NEAREST_M,
    ON_SURFACE_M,
    SAME_SURFACE,
    SIGMA_M,
    SIGMA_PER_M,
    STEPS,
    SURFACE_SIGMA_M,
    SURFACE_SIGMA_SHARE,
    TRUNCATION,
    TRUNCATION_M,
)


def fuse_surface_on_device(
    views: Iterable[PosedDeviceView],
    grid: VoxelGrid,
    taxonomy: Taxonomy = OCC3D.taxonomy,
    *,
    carried: Sequence[tuple[Float[np.ndarray, "_ 3"], UInt8[np.ndarray, " _"]]] = (),
) -> Surface:
    """The surface on which views agree, as `occlift.labels.surface.fuse_surface` finds it; its arrays are NumPy's.

    Args:
        views: at least one; their maps are on one device.
        carried: points (metres, the grid's frame; NaN: none) and their classes that count besides those of the views.
    """
    posed = list(views)
    device = posed[0][0].depth_m.device
    static, everything = (torch.from_numpy(table).to(device) for table in (static_classes(taxonomy), EVERYTHING))
    cameras = [Camera.of(view, pose, everything if moves else static) for view, pose, moves in posed]
    error = _depth_error(posed, cameras, static, taxonomy.free)
    relative = torch.from_numpy(error.by_metre()).to(device)
    lower_m, size_m = np.asarray(grid.lower_m, float), np.asarray(grid.voxel_size_m, float)
    # Every other voxel, at its own centre.
    coarse = Lattice(tuple((n + 1) // 2 for n in grid.shape), lower_m - size_m / 2, size_m * 2)
    lattice = Lattice(grid.shape, lower_m, size_m)
    scale = _scales(cameras, coarse, taxonomy, relative)
    average = _Average.of(cameras, scale, lattice, taxonomy, relative)
    extent_m = _extents(average.distance_m.reshape(grid.shape), (average.weight > 0).reshape(grid.shape)).reshape(-1)
    points = torch.zeros(grid.num_voxels, dtype=torch.int32, device=device)
    grazed = torch.zeros(grid.num_voxels, device=device)
    thin = thin_movers(taxonomy)
    thin_points = torch.zeros((grid.num_voxels, len(thin)), dtype=torch.int32, device=device)
    for camera, factor in zip(cameras, scale, strict=True):
        if thin:
            _add_thin(camera, lattice, thin, thin_points)
        step = points_step(camera.view.intrinsics_px, camera.view.stride, grid)
        _add_points(camera, lattice, taxonomy.free, step, factor, relative, average, extent_m, points, grazed)
    for points_grid, class_id in carried:
        index, inside = grid.indices(points_grid)
        flat = torch.from_numpy(np.ravel_multi_index(tuple(index[inside].T), grid.shape)).to(device)
        _count(flat, points)
        _count(flat * taxonomy.free + torch.from_numpy(class_id[inside].astype(np.int64)).to(device), average.classes)
    classes = average.classes.reshape(grid.num_voxels, taxonomy.free)
    best, total = classes.amax(dim=1), classes.sum(dim=1)
    thin_id = torch.full((grid.num_voxels,), UNKNOWN, dtype=torch.long, device=device)
    if thin:
        found = torch.tensor(thin, device=device)[_first_largest(thin_points)]
        thin_id = torch.where(thin_points.amax(dim=1) > 0, found, thin_id)

    def array(tensor: Tensor, kind: type[np.generic] = np.float32) -> np.ndarray:
        return tensor.cpu().numpy().astype(kind).reshape(grid.shape)

    return Surface(
        distance_m=array(average.distance_m),
        extent_m=array(extent_m),
        near=array((average.near + grazed) / average.weight.clamp(min=1e-12)),
        views=array(average.views, np.uint8),
        sigma_m=array(average.sigma_m),
        class_id=array(torch.where(total > 0, _first_largest(classes), UNKNOWN), np.uint8),
        class_share=array(torch.where(total > 0, best / total.clamp(min=1e-30), 0.0)),
        points=array(points, np.uint32),
        thin=array(thin_id, np.uint8),
        error=error,
        scale=scale,
    )


class _Average(NamedTuple):
    """Sums over views, per voxel; `distance_m` divided by `weight`."""

    distance_m: Float32[Tensor, " voxels"]
    weight: Float32[Tensor, " voxels"]
    near: Float32[Tensor, " voxels"]
    views: Int[Tensor, " voxels"]
    sigma_m: Float32[Tensor, " voxels"]
    classes: Float32[Tensor, " _voxels_times_classes"]

    @classmethod
    def of(
        cls, cameras: Sequence[Camera], scale: Float64[np.ndarray, " views"], lattice: Lattice, taxonomy: Taxonomy,
        relative: Float64[Tensor, "100"], *, with_classes: bool = True,
    ) -> _Average:  # fmt: skip
        number, device = int(np.prod(lattice.shape)), relative.device
        distance, weight, near = torch.zeros((3, number), device=device).unbind()
        views = torch.zeros(number, dtype=torch.int32, device=device)
        sigma_m = torch.full((number,), torch.inf, device=device)
        classes = torch.zeros(number * taxonomy.free if with_classes else 0, device=device)
        for camera, factor in zip(cameras, scale.tolist(), strict=True):
            for voxel, ahead, class_id, depth_m in camera.voxels(lattice):
                depth_m, sky = depth_m * factor, class_id == taxonomy.free
                sigma = SIGMA_M + SIGMA_PER_M * torch.where(sky, ahead, depth_m)
                limit = (TRUNCATION * sigma).clamp(min=TRUNCATION_M)
                signed = torch.where(sky, limit, depth_m - ahead)
                # Comparisons with NaN are false.
                known = (class_id <= taxonomy.free) & camera.counted[class_id] & (signed >= -limit)
                voxel, share = voxel[known], (1 / (sigma * sigma))[known]
                signed, limit = signed[known], limit[known]
                _add(weight, voxel, share)
                _add(distance, voxel, share * torch.minimum(signed, limit))
                views[voxel] += 1
                close = signed < limit
                voxel, share, depth_m = voxel[close], share[close], depth_m[known][close]
                _add(near, voxel, share)
                sigma = relative[depth_m.long().clamp(max=99)] * depth_m
                sigma_m[voxel] = torch.minimum(sigma_m[voxel], sigma.float())
                if with_classes:
                    _add(classes, voxel * taxonomy.free + class_id[known][close], share)
        distance = torch.where(weight > 0, distance / weight, distance)
        return cls(distance, weight, near, views.clamp(max=255), sigma_m, classes)

    def distance_at(self, place: tuple[Tensor, ...], shape: tuple[int, ...]) -> Float64[Tensor, " n"]:
        """The distance at places (in voxels), between those of the nearest centres that are known; NaN if none is."""
        low = [torch.floor(part - 0.5).long() for part in place]
        total = parts = torch.zeros_like(place[0])
        for corner in np.ndindex(2, 2, 2):
            cell = [start + step for start, step in zip(low, corner, strict=True)]
            part, inside = torch.ones_like(total), torch.ones_like(total, dtype=torch.bool)
            for axis in range(3):
                part = part * (1 - (place[axis] - 0.5 - cell[axis]).abs())
                inside &= (cell[axis] >= 0) & (cell[axis] < shape[axis])
            i, j, k = (torch.where(inside, part_of, 0) for part_of in cell)
            voxel = (i * shape[1] + j) * shape[2] + k
            part = torch.where(inside & (self.weight[voxel] > 0), part, 0.0)
            total, parts = total + part * self.distance_m[voxel], parts + part
        return torch.where(parts > 1e-6, total / parts, torch.nan)


def _scales(
    cameras: Sequence[Camera], lattice: Lattice, taxonomy: Taxonomy, relative: Float64[Tensor, "100"]
) -> Float64[np.ndarray, " views"]:
    """By what the depth of each view is to be multiplied to agree with the average of all."""
    scale = np.ones(len(cameras))
    average = _Average.of(cameras, scale, lattice, taxonomy, relative, with_classes=False)
    for number, camera in enumerate(cameras):
        found = []
        for voxel, ahead, class_id, depth_m in camera.voxels(lattice):
            distance_m = average.distance_m[voxel].double()
            close = (average.weight[voxel] > 0) & (distance_m.abs() < ON_SURFACE_M)
            close &= (ahead + distance_m >= NEAREST_M) & ((depth_m - ahead).abs() < SAME_SURFACE * depth_m)
            close &= (class_id < taxonomy.free) & camera.counted[class_id]
            found.append(torch.log((ahead + distance_m)[close] / depth_m[close]))
        ratio = torch.cat(found).sort().values if found else torch.zeros(0)
        if len(ratio) > SCALE_VOXELS:
            middle = float(ratio[(len(ratio) - 1) // 2] + ratio[len(ratio) // 2]) / 2
            scale[number] = np.exp(SCALE_SHARE * middle)
    return scale


def _depth_error(
    posed: Sequence[PosedDeviceView], cameras: Sequence[Camera], static: Bool[Tensor, "256"], free: int
) -> DepthError:
    """As `occlift.labels.surface.depth_error`: what views show, beside what others show at the same place."""
    pairs, metre = pairs_to_compare([pose for _, pose, _ in posed]), Lattice((0, 0, 0), np.zeros(3), np.ones(3))
    samples = {}
    for number in sorted({i for i, _ in pairs}):
        view = cameras[number].view
        step = max(1, round((view.depth_m.numel() / PIXELS_PER_VIEW) ** 0.5))
        class_id, depth_m = (part[step // 2 :: step, step // 2 :: step] for part in (view.class_id, view.depth_m))
        shown = (class_id < free) & static[class_id.long()] & ~depth_m.isnan()
        row, column = (cells * step + step // 2 for cells in shown.nonzero().unbind(dim=1))
        depth, place = depth_m[shown].double(), cameras[number].rays(metre, row, column)
        samples[number] = (*place.at(depth)[0], depth, class_id[shown].long())
    ratios, depths = [np.zeros(0)], [np.zeros(0)]
    for number in sorted({j for _, j in pairs}):
        parts = zip(*(samples[i] for i, j in pairs if j == number), strict=True)
        x, y, z, depth, class_id = (torch.cat(part) for part in parts)
        column, row, ahead = cameras[number].project(x, y, z)
        inside, found, seen = cameras[number].look(column, row)
        both = inside & (ahead >= NEAREST_M) & (found == class_id) & ~seen.isnan()
        ratios.append(torch.log(seen[both] / ahead[both]).abs().cpu().numpy())
        depths.append(depth[both].cpu().numpy())
    return DepthError.of(np.concatenate(ratios), np.concatenate(depths))


def _extents(distance_m: Float32[Tensor, "x y z"], known: Bool[Tensor, "x y z"]) -> Float32[Tensor, "x y z"]:
    """Half the sum over the axes of the larger difference to a neighbour that is known."""
    extent_m = torch.zeros_like(distance_m)
    for axis in range(3):
        first, second = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
        change = torch.where(known[first] & known[second], (distance_m[second] - distance_m[first]).abs(), 0.0)
        largest = torch.zeros_like(distance_m)
        largest[first] = change
        largest[second] = torch.maximum(largest[second], change)
        extent_m = extent_m + largest
    return 0.5 * extent_m


def _add_thin(camera: Camera, lattice: Lattice, thin: Sequence[int], thin_points: Int[Tensor, "voxels thin"]) -> None:
    """The points of thin classes where they lie by themselves."""
    device = thin_points.device
    column_of = torch.full((256,), -1, dtype=torch.long, device=device)
    column_of[torch.tensor(thin, device=device)] = torch.arange(len(thin), device=device)
    column_of = torch.where(camera.counted, column_of, -1)
    column = column_of[camera.view.class_id.long()]
    shown = (column >= 0) & ~camera.view.depth_m.isnan()
    rays = camera.rays(lattice, *shown.nonzero().unbind(dim=1))
    place, inside = rays.at(camera.view.depth_m[shown].double())
    _count((rays.voxel(place, inside) * len(thin) + column[shown])[inside], thin_points.reshape(-1))


def _add_points(
    camera: Camera, lattice: Lattice, free: int, step: int, scale: float, relative: Float64[Tensor, "100"],
    average: _Average, extent_m: Float32[Tensor, " voxels"], points: Int[Tensor, " voxels"],
    grazed: Float32[Tensor, " voxels"],
) -> None:  # fmt: skip
    """The points of every `step`-th pixel where they lie on the surface. How they are moved there, and which
    views graze it, says `occlift.labels.surface_kernels.add_points`."""
    some = slice(step // 2, None, step)
    class_id, depth_m = camera.view.class_id[some, some].long(), camera.view.depth_m[some, some]
    shown = (class_id < free) & camera.counted[class_id] & ~depth_m.isnan()
    rays = camera.rays(lattice, *(cells * step + step // 2 for cells in shown.nonzero().unbind(dim=1)))
    class_id, depth = class_id[shown], depth_m[shown].double() * scale
    place, kept = rays.at(depth)
    sigma = relative[depth.long().clamp(max=99)] * depth
    surface_sigma = (SURFACE_SIGMA_SHARE * 2 * extent_m[rays.voxel(place, kept)].double()).clamp(min=SURFACE_SIGMA_M)
    allowed = torch.sqrt(sigma * sigma + surface_sigma * surface_sigma)
    # What is exact to a voxel stays.
    moves = kept & (sigma > float(lattice.size_m.min()))
    along, start, sigma, allowed = rays.of(moves), depth[moves], sigma[moves], allowed[moves]
    moved, going = torch.zeros_like(start), torch.ones_like(start, dtype=torch.bool)
    for _ in range(STEPS):
        place, inside = along.at(start + moved)
        distance = average.distance_at(place, lattice.shape)
        going = going & inside & ~distance.isnan()
        moved = torch.where(going, moved + distance, moved)
        going = going & (moved.abs() <= allowed)
    kept[moves] = moved.abs() <= allowed
    depth[moves] = start + moved * sigma * sigma / (allowed * allowed)
    place, inside = rays.at(depth)
    kept = kept & inside
    voxel, class_id = rays.voxel(place, inside)[kept], class_id[kept]
    _count(voxel, points)
    hit = torch.unique(voxel)
    hit = hit[average.near[hit] < average.weight[hit]]
    _add(grazed, hit, _weight_of_passing(camera, lattice, hit, free, scale))
    # Where no view sees a surface through the centre of the voxel, its points name it.
    unseen = average.near[voxel] == 0
    _count(voxel[unseen] * free + class_id[unseen], average.classes)


def _weight_of_passing(
    camera: Camera, lattice: Lattice, voxel: Int[Tensor, " n"], free: int, scale: float
) -> Float64[Tensor, " n"]:
    """The weight of a view where it looks through the centre of a voxel, and sees no surface near it; 0 elsewhere."""
    _, ny, nz = lattice.shape
    cells = (voxel // (ny * nz), voxel // nz % ny, voxel % nz)
    column, row, ahead = camera.project(*(lattice.centers(axis, voxel.device)[cell] for axis, cell in enumerate(cells)))
    inside, class_id, depth_m = camera.look(column, row)
    depth_m = depth_m * scale
    sigma = SIGMA_M + SIGMA_PER_M * depth_m
    passing = inside & (ahead >= NEAREST_M) & (class_id < free)
    passing &= depth_m - ahead >= (TRUNCATION * sigma).clamp(min=TRUNCATION_M)
    return torch.where(passing, 1 / (sigma * sigma), 0.0)


def _add(total: Float32[Tensor, " n"], index: Int[Tensor, " m"], values: Float64[Tensor, " m"]) -> None:
    """Adds values to places that all differ, each sum rounded once."""
    total[index] = (total[index].double() + values).float()


def _count(index: Int[Tensor, " m"], counts: Tensor) -> None:
    """Adds 1 at every place, which may be named several times."""
    counts.index_add_(0, index, torch.ones(len(index), dtype=counts.dtype, device=counts.device))


def _first_largest(values: Tensor) -> Int[Tensor, " n"]:
    """Per row the first column of those with the largest value."""
    columns = torch.arange(values.shape[1], device=values.device)
    return torch.where(values == values.amax(dim=1, keepdim=True), columns, values.shape[1]).amin(dim=1)
