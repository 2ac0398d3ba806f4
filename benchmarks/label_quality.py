"""How good labels are by each fusion rule: against a town's exact truth, and against measured depth on real sequences.

    python benchmarks/label_quality.py [--town TOWN] [--real FOLDER] [--rules REGEX] [--per-class] [--cache FILE]

TOWN: `occlift town TOWN --scenes 20 --frames 13 --image-height 96 --image-width 176 --maps`. FOLDER holds
`kitti-sequence` and `ddad-three-frames`. Prints one Markdown row per rule of `RULES`, in per cent, and with --per-class
a table of classes on the town:

- town: IoU and mIoU of 12 validation labels of `oracle:foundation`, 13 frames fused, unknown as free, within the camera
  mask and without a mask, and RayIoU.
- KITTI network: IoU of labels of 13 frames (every other one, the current one included) from the depth of a network,
  against what their stereo depth says together.
- KITTI stereo: of 12 frames from stereo depth, against the stereo depth of the current one, which is left out.
- DDAD: of two frames from lidar depth, against the third one's lidar.

The real rows compare voxels within 30 m whose state the reference measures. Occupied: at least 10 stereo points of all
13 frames, 2 of the current one, or a lidar point. Free: more than 0.6 m in front of what the current frame measured in
that direction, with fewer points than 2 of all frames or none of the current one. Lidar rays skim the road between two
rings, so for DDAD a voxel beside one with a lidar point, at the same height, is neither.
"""

from __future__ import annotations

import argparse
import pickle
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from real_sequences import ddad, kitti
from scipy import ndimage

from occlift import OCC3D
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.evaluation.audit_measures import LabelCounts, count_against_truth
from occlift.geometry.evidence import ray_evidence
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import UNKNOWN
from occlift.labels.decide import DecisionConfig, decide, decide_surface
from occlift.labels.files import label_path, read_label
from occlift.labels.from_views import add_views
from occlift.labels.fuse import window
from occlift.labels.surface import fuse_surface
from occlift.labels.unproject import unproject
from occlift.labels.view import View, clean_view, default_free_stride, view_of
from occlift.labels.vote import Tally
from occlift.metrics.occupancy import Mask
from occlift.metrics.rays import RayCounts, ray_histogram, ray_origins
from occlift.scenes.dataset import DrivingDataset
from occlift.teachers.registry import depth_teacher, semantics_teacher
from occlift.town.scene_writer import GTS

GRID, FREE = OCC3D.grid, OCC3D.taxonomy.free
MOVING = np.array(OCC3D.taxonomy.ids(OCC3D.taxonomy.moving))

PosedViews = Sequence[tuple[View, np.ndarray, bool]]
"""Views with the transform from their camera to the label's ego frame, and whether they are of its own time."""

Rule = Callable[[PosedViews], np.ndarray]
"""From views to the classes of a label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One label to be made, and what is known about it.

    Attributes:
        truth, mask_camera, ray_origins_m: of a town.
        occupied, free: voxels whose state was measured, of a real sequence.
    """

    row: str
    views: PosedViews
    truth: np.ndarray | None = None
    mask_camera: np.ndarray | None = None
    ray_origins_m: np.ndarray | None = None
    occupied: np.ndarray | None = None
    free: np.ndarray | None = None


def town_cases(root: Path, positions: Sequence[int] = (2, 6, 10)) -> Iterator[Case]:
    data = NuScenes.open(root)
    semantics, depth = semantics_teacher("oracle:foundation", data), depth_teacher("oracle:foundation", data)
    for scene in data.scenes("val"):
        tokens = data.key_frame_tokens(scene)
        views = [_views(data, token, semantics.semantics, depth.depth) for token in tokens]
        global_from_lidar = np.stack([data.key_frame(token).lidar_sweep().global_from_lidar for token in tokens])
        for position in positions:
            truth = read_label(label_path(root / GTS, scene, tokens[position]))
            global_from_ego = data.key_frame(tokens[position]).global_from_ego
            ego_from_global = inverse(global_from_ego)
            posed = [
                (view, ego_from_global @ view.global_from_camera, i == position)
                for i in window(position, len(tokens), 13)
                for view in views[i]
            ]
            yield Case(
                row="town",
                views=posed,
                truth=truth.semantics,
                mask_camera=truth.mask_camera,
                ray_origins_m=ray_origins(global_from_lidar, global_from_ego),
            )


def _views(data: DrivingDataset, token: str, semantics: Callable, depth: Callable, stride: int = 1) -> list[View]:  # type: ignore[type-arg]
    frame = data.key_frame(token)
    maps = zip(frame.cameras, semantics(frame), depth(frame), strict=True)
    return [
        view_of(image, c, d, stride=stride, free_stride=default_free_stride(*d.depth_m.shape)) for image, c, d in maps
    ]


def kitti_cases(folder: Path) -> Iterator[Case]:
    data = kitti(folder)
    (scene,) = data.scenes()
    frames = [data.key_frame(token) for token in data.key_frame_tokens(scene)]
    images = [frame.cameras[0] for frame in frames]
    classes = [_png(folder / "network_classes" / f"{image.stem}.png").astype(np.uint8) for image in images]
    depths = {
        kind: [_metres(folder / f"{kind}_depth" / f"{image.stem}.png") for image in images]
        for kind in ("stereo", "network")
    }
    views = {
        kind: [
            _clean(c, d, i.intrinsics_px, i.global_from_camera) for c, d, i in zip(classes, maps, images, strict=True)
        ]
        for kind, maps in depths.items()
    }
    for current in range(13, len(frames) - 13, 4):
        ego_from_global = inverse(frames[current].global_from_ego)
        around = range(current - 12, current + 13, 2)

        def posed(kind: str, among: Sequence[int], now: int | None) -> PosedViews:
            return [(views[kind][i], ego_from_global @ images[i].global_from_camera, i == now) for i in among]  # noqa: B023

        def points(i: int) -> np.ndarray:
            near = np.where(depths["stereo"][i] < 30, depths["stereo"][i], np.float32(np.nan))
            seen = classes[i] if i == current else np.where(np.isin(classes[i], MOVING), np.uint8(UNKNOWN), classes[i])  # noqa: B023
            return _counted(seen, near, images[i].intrinsics_px, ego_from_global @ images[i].global_from_camera)  # noqa: B023

        camera_from_ego = inverse(ego_from_global @ images[current].global_from_camera)
        x, y, z = transform_points(camera_from_ego, GRID.centers().reshape(-1, 3)).T.reshape(3, *GRID.shape)
        intrinsics, ahead = images[current].intrinsics_px, np.maximum(z, 0.3)
        u, v = (intrinsics[i, i] * a / ahead + intrinsics[i, 2] for i, a in ((0, x), (1, y)))
        height, width = classes[current].shape
        seen = (z > 2) & (z < 30) & (u >= 0) & (v >= 0) & (u < width - 1) & (v < height - 1)
        at = tuple(np.where(seen, a, 0).astype(int) for a in (v, u))
        d = np.where(seen, depths["stereo"][current][at], np.nan)
        together = sum(points(i) for i in around)
        yield Case(
            row="KITTI network",
            views=posed("network", around, current),
            occupied=(together >= 10) & seen & ~(d <= z - 1),
            free=seen & (d > z + 0.6) & (together < 2),
        )
        near = np.where(depths["stereo"][current] < 30, depths["stereo"][current], np.float32(np.nan))
        still = np.where(np.isin(classes[current], MOVING), np.uint8(UNKNOWN), classes[current])
        alone = _counted(still, near, intrinsics, inverse(camera_from_ego))
        yield Case(
            row="KITTI stereo",
            views=posed("stereo", [i for i in around if i != current], None),
            occupied=alone >= 2,
            free=seen & (d > z + 0.6) & (alone == 0) & ~np.isin(classes[current][at], MOVING),
        )


def _png(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def _metres(path: Path) -> np.ndarray:
    depth_m = _png(path) / 256.0
    return np.where((depth_m > 0) & (depth_m < 45), depth_m, np.nan).astype(np.float32)


def _clean(class_id: np.ndarray, depth_m: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray) -> View:
    ones = np.ones(class_id.shape, np.float32)
    return clean_view(
        class_id, depth_m, intrinsics, pose, score=ones, confidence=ones, valid=None, stride=1,
        free_stride=default_free_stride(*class_id.shape), min_score=0, min_confidence=0, taxonomy=OCC3D.taxonomy,
    )  # fmt: skip


def _counted(
    class_id: np.ndarray, depth_m: np.ndarray, intrinsics: np.ndarray, grid_from_camera: np.ndarray
) -> np.ndarray:
    """How many points with a class lie in each voxel."""
    shown = np.isfinite(depth_m) & (class_id < FREE)
    points = unproject(np.where(shown, depth_m, np.float32(np.nan)), intrinsics, grid_from_camera)[shown]
    return _histogram(points)


def _histogram(points: np.ndarray) -> np.ndarray:
    index, inside = GRID.indices(points)
    flat = np.ravel_multi_index(tuple(index[inside].T), GRID.shape)
    return np.bincount(flat, minlength=GRID.num_voxels).reshape(GRID.shape)


def ddad_cases(folder: Path) -> Iterator[Case]:
    data = ddad(folder)
    (scene,) = data.scenes()
    tokens = data.key_frame_tokens(scene)
    files = {"root": str(folder / "network_classes"), "pattern": "{camera}/{stem}.png"}
    semantics, depth = semantics_teacher("files", data, options=files), depth_teacher("lidar", data)
    views = [_views(data, token, semantics.semantics, depth.depth, stride=2) for token in tokens]
    for left_out, token in enumerate(tokens):
        frame = data.key_frame(token)
        ego_from_global = inverse(frame.global_from_ego)
        sweep = frame.lidar_sweep()
        ego_from_lidar = ego_from_global @ sweep.global_from_ego @ sweep.ego_from_lidar
        points = transform_points(ego_from_lidar, sweep.source.read()[:, :3].astype(float))
        distance = np.linalg.norm(points - ego_from_lidar[:3, 3], axis=1)
        points, distance = points[(distance > 3) & (distance < 60)], distance[(distance > 3) & (distance < 60)]
        # Only what some camera names, and what does not move by itself, can be compared.
        named = np.full(len(points), UNKNOWN, np.uint8)
        for image, class_map in zip(frame.cameras, semantics.semantics(frame), strict=True):
            x, y, z = transform_points(inverse(ego_from_global @ image.global_from_camera), points).T
            ahead = np.maximum(z, 0.3)
            u, v = (image.intrinsics_px[i, i] * a / ahead + image.intrinsics_px[i, 2] for i, a in ((0, x), (1, y)))
            shown = (z > 0.3) & (u >= 0) & (v >= 0) & (u < image.width) & (v < image.height)
            named[shown] = class_map.class_id[v[shown].astype(int), u[shown].astype(int)]
        still = (named < FREE) & ~np.isin(named, MOVING)
        hit = _histogram(points)
        start = np.broadcast_to(ego_from_lidar[:3, 3], points.shape)
        ends = points - (points - start) * (0.6 / distance)[:, None]
        _, passed = ray_evidence(np.zeros(GRID.shape, np.uint8), GRID, start[still], ends[still])
        beside = ndimage.binary_dilation(hit > 0, np.ones((3, 3, 1)))
        near = np.linalg.norm(GRID.centers()[..., :2], axis=-1) < 30
        yield Case(
            row="DDAD",
            views=[
                (view, ego_from_global @ view.global_from_camera, False)
                for i in range(len(tokens))
                if i != left_out
                for view in views[i]
            ],
            occupied=near & (_histogram(points[still]) > 0),
            free=near & (passed > 0) & ~beside,
        )


def votes_rule(min_points: int) -> Rule:
    tally = Tally(GRID)

    def make(views: PosedViews) -> np.ndarray:
        add_views(tally, views, OCC3D.taxonomy)
        return decide(tally.votes(), DecisionConfig(fusion="votes", min_points=min_points)).semantics

    return make


def surface_rule(views: PosedViews) -> np.ndarray:
    return decide_surface(fuse_surface(views, GRID)).semantics


RULES: Mapping[str, Rule] = {
    **{f"votes, {n} points": votes_rule(n) for n in (1, 3, 10, 35, 100)},
    "surface": surface_rule,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """What a rule reaches.

    Attributes:
        figures: by column, per cent; pairs are precision and recall.
        classes: of the town by class, IoU within the camera mask, IoU without a mask, and RayIoU.
        seconds: for a label of the town.
    """

    figures: dict[str, float | tuple[float, float]]
    classes: dict[str, tuple[float, float, float]]
    seconds: float


def score(rule: Rule, cases: Sequence[Case]) -> Score:
    """Makes the label of every case and counts."""
    real: dict[str, np.ndarray] = {}
    town: list[LabelCounts] = []
    rays = RayCounts.zero()
    seconds = 0.0
    for case in cases:
        started = time.perf_counter()
        semantics = rule(case.views)
        if case.truth is not None:
            assert case.ray_origins_m is not None, case.row
            seconds += time.perf_counter() - started
            masks = {"camera": case.mask_camera, "none": None}
            town.append(count_against_truth(semantics, case.truth, masks))  # type: ignore[arg-type]
            decided = np.where(semantics == UNKNOWN, np.uint8(FREE), semantics)
            rays += RayCounts(
                histogram=ray_histogram(truth=case.truth, prediction=decided, origins_m=case.ray_origins_m)
            )
        else:
            o = semantics < FREE
            assert case.occupied is not None, case.row
            assert case.free is not None, case.row
            real.setdefault(case.row, np.zeros(3))[:] += [
                (o & case.occupied).sum(),
                (o & case.free).sum(),
                (~o & case.occupied).sum(),
            ]
    figures: dict[str, float | tuple[float, float]] = {}
    classes: dict[str, tuple[float, float, float]] = {}
    if town:
        counts = sum(town[1:], town[0]).unknown_as_free
        masks_of_truth: tuple[Mask, ...] = ("camera", "none")
        for mask in masks_of_truth:
            figures[f"town IoU, {mask}"] = counts.geometric_iou(mask)
            figures[f"mIoU, {mask}"] = counts.mean_iou(mask)
        figures["RayIoU"] = rays.named()["ray_iou_17"]
        by_class = (*(counts.class_iou(mask) for mask in masks_of_truth), rays.class_iou())
        classes = {name: (by_class[0][name], by_class[1][name], by_class[2][name]) for name in OCC3D.taxonomy.names}
    for row, (true, false, missed) in real.items():
        figures[row] = 100 * true / (true + false + missed)
        figures[f"{row} precision / recall"] = (100 * true / (true + false), 100 * true / (true + missed))
    return Score(figures=figures, classes=classes, seconds=seconds / max(1, len(town)))


def table(rules: Mapping[str, Rule], cases: Sequence[Case], *, per_class: bool = False) -> None:
    """Prints a row per rule, and then, if asked for, a row per class of the town."""
    scores: dict[str, Score] = {}
    for name, rule in rules.items():
        found = scores[name] = score(rule, cases)
        if len(scores) == 1:
            _row("rule", *(re.sub(".* (precision / recall)", r"\1", c) for c in found.figures), "s / town label")
            _row("---", *["---:"] * (len(found.figures) + 1))
        words = (f"{v:.1f}" if isinstance(v, float) else f"{v[0]:.0f} / {v[1]:.0f}" for v in found.figures.values())
        _row(name, *words, f"{found.seconds:.2f}")
    if per_class:
        print()
        _row("class", *(f"{name}: {what}" for name in scores for what in ("IoU, camera", "IoU, none", "RayIoU")))
        _row("---", *["---:"] * (3 * len(scores)))
        for name in OCC3D.taxonomy.names:
            figures = [figure for found in scores.values() for figure in found.classes[name]]
            if not np.isnan(figures).all():
                _row(name, *(f"{figure:.1f}" for figure in figures))


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def all_cases(town: Path | None, real: Path | None, cache: Path | None) -> list[Case]:
    if cache and cache.exists():
        cases: list[Case] = pickle.loads(cache.read_bytes())
        return cases
    cases = [*town_cases(town)] if town else []
    if real:
        cases += [*kitti_cases(real / "kitti-sequence"), *ddad_cases(real / "ddad-three-frames")]
    if cache:
        cache.write_bytes(pickle.dumps(cases))
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--town", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--rules", default="", help="regular expression; rules with such names")
    parser.add_argument("--per-class", action="store_true", help="a table of the town's classes, too")
    parser.add_argument("--cache", type=Path, help="file for the views, made at the first call")
    arguments = parser.parse_args()
    cases = all_cases(arguments.town, arguments.real, arguments.cache)
    rules = {name: rule for name, rule in RULES.items() if re.search(arguments.rules, name)}
    table(rules, cases, per_class=arguments.per_class)


if __name__ == "__main__":
    main()
