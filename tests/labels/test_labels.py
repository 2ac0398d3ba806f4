"""Labels from images of worlds whose occupancy is known: small voxel worlds, drawn by the ray caster."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from occlift.datasets.nuscenes.channels import CAMERA_CHANNELS
from occlift.datasets.nuscenes.lidar_file import LidarFile
from occlift.errors import ConfigError, DataError
from occlift.evaluation.audit_measures import agreement
from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.geometry.raycast import first_hit, observed_by_camera
from occlift.geometry.transforms import inverse, rigid_transform, rotation_about_z, transform_points
from occlift.label_space import (
    CAR,
    DRIVEABLE_SURFACE,
    FREE,
    MANMADE,
    OCC3D,
    PEDESTRIAN,
    SIDEWALK,
    TERRAIN,
    UNKNOWN,
    VEGETATION,
)
from occlift.labels.config import LabelConfig
from occlift.labels.decide import MAX_MIN_POINTS, DecisionConfig, decide
from occlift.labels.files import label_path, read_label
from occlift.labels.fuse import EVERYTHING, carried_by_boxes, standing_still, static_classes, window
from occlift.labels.generate import generate_labels
from occlift.labels.manifest import TIMINGS_NAME, read_manifest
from occlift.labels.unproject import unproject
from occlift.labels.view import View, strided, view_of
from occlift.labels.vote import Tally, Votes, read_votes
from occlift.labels.vote_torch import count_votes
from occlift.scenes.dataset import KeyFrameList
from occlift.scenes.frames import BoxAnnotation, CameraImage, KeyFrame, LidarSweep
from occlift.scenes.sources import ImageFile
from occlift.scenes.truth_maps import TruthMaps, read_truth_maps, truth_maps_path, write_truth_maps
from occlift.teachers.teacher import DepthMap, SemanticMap

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Rotation ego_from_camera of a camera that looks ahead."""
HEIGHT, WIDTH = 48, 88
PERFECT = LabelConfig(
    semantics="oracle:perfect",
    depth="oracle:perfect",
    frames=5,
    free_stride=1,
    decision=DecisionConfig(fusion="votes", min_points=1),
)


@dataclass
class World:
    """Classes of voxels in the global frame (17 free); everything outside of the grid is sky."""

    grid: VoxelGrid
    classes: np.ndarray

    def classes_at(self, points_global: np.ndarray) -> np.ndarray:
        index, inside_grid = self.grid.indices(points_global)
        index = np.where(inside_grid[..., None], index, 0)
        return np.where(inside_grid, self.classes[tuple(np.moveaxis(index, -1, 0))], FREE)

    def maps(self, image: CameraImage) -> TruthMaps:
        """What a camera sees. Depth is that of the middle of a ray's way through the voxel: no point is on a face."""
        v, u = np.mgrid[: image.height, : image.width] + 0.5
        rays = np.stack((u, v, np.ones_like(u)), -1).reshape(-1, 3) @ np.linalg.inv(image.intrinsics_px).T
        origin = image.global_from_camera[:3, 3]
        directions = rays @ image.global_from_camera[:3, :3].T
        hits = first_hit(self.classes != FREE, self.grid, np.broadcast_to(origin, rays.shape), directions)
        range_m = (hits.entry_range_m + hits.exit_range_m) / 2
        classes = np.where(hits.found, self.classes[tuple(hits.voxel.T)], FREE)
        shape = image.height, image.width
        return TruthMaps(
            semantics=classes.astype(np.uint8).reshape(shape),
            depth_m=(range_m / np.linalg.norm(rays, axis=1)).astype(np.float32).reshape(shape),
            instance=np.zeros(shape, np.uint16),
        )


class TinyData(KeyFrameList):
    """Key frames of the scene `tiny`, with boxes and truth maps."""

    def __init__(self, frames: tuple[KeyFrame, ...]) -> None:
        super().__init__(frames)
        self.frames = {"tiny": frames}
        self.annotations: dict[str, tuple[BoxAnnotation, ...]] = {}

    def boxes(self, token: str) -> tuple[BoxAnnotation, ...]:
        return self.annotations[token]

    def truth_maps(self, image: CameraImage) -> TruthMaps:
        return read_truth_maps(maps_path(image))


def maps_path(image: CameraImage) -> Path:
    """Where the truth maps of an image lie."""
    return truth_maps_path(Path(image.source.name))


def street(lower_m: tuple[float, float, float], size_m: float, shape: tuple[int, int, int]) -> World:
    """A road along x with sidewalks, walls, trees, a parked car and a pedestrian, in voxels of any size."""
    grid = VoxelGrid(lower_m=lower_m, voxel_size_m=(size_m,) * 3, shape=shape)
    classes = np.full(shape, FREE, np.uint8)
    x, y, z = np.moveaxis(grid.centers(), -1, 0)
    ground = z < -0.6
    classes[ground & (np.abs(y) < 5.2)] = DRIVEABLE_SURFACE
    classes[ground & (np.abs(y) >= 5.2)] = SIDEWALK
    classes[ground & (np.abs(y) >= 7.2)] = TERRAIN
    classes[(np.abs(y - 10.6) < 1.4) & (z < 3.0) & (np.mod(x, 14) < 9)] = MANMADE
    classes[(y < -8.8) & (y > -9.6) & (z < 2.2)] = MANMADE
    trunk = (np.mod(x, 8) < 0.8) & (np.abs(y + 6.4) < 0.4)
    crown = (np.abs(np.mod(x, 8) - 0.4) < 1.2) & (np.abs(y + 6.4) < 1.2)
    classes[(trunk & (z < 2.2)) | (crown & (z > 1.8) & (z < 3.8))] = VEGETATION
    classes[(np.abs(x - 9) < 2) & (np.abs(y - 4) < 0.8) & (z < 1.0)] = CAR
    classes[(np.abs(x - 5) < 0.4) & (np.abs(y + 3) < 0.4) & (z < 1.0)] = PEDESTRIAN
    return World(grid, classes)


def key_frames(folder: Path, poses: list[np.ndarray]) -> tuple[KeyFrame, ...]:
    """Key frames at these ego poses with six cameras; every image has a time and with it an ego pose of its own."""
    intrinsics_px = np.array([[62.0, 0.0, 44.3], [0.0, 63.0, 24.6], [0.0, 0.0, 1.0]])
    frames = []
    for index, global_from_ego in enumerate(poses):
        cameras = []
        for number, channel in enumerate(CAMERA_CHANNELS):
            mounting = rigid_transform(
                rotation_about_z(number * np.pi / 3 + 0.1) @ FORWARD, (0.3 + 0.1 * number, 0.05 * number, 1.43)
            )
            # By the time this camera fires the ego has moved and turned a little.
            motion = rigid_transform(rotation_about_z(0.01 * (number - 2)), (0.06 * (number - 2), 0.01, 0.004))
            cameras.append(
                CameraImage(
                    camera=channel,
                    key=f"{index}-{channel}",
                    source=ImageFile(folder / f"{index}-{channel}.jpg"),
                    timestamp_us=0,
                    height=HEIGHT,
                    width=WIDTH,
                    intrinsics_px=intrinsics_px,
                    ego_at_image_from_camera=mounting,
                    global_from_ego_at_image=global_from_ego @ motion,
                )
            )
        lidar = LidarSweep(
            key="",
            source=LidarFile(folder / "none"),
            timestamp_us=0,
            ego_from_lidar=np.eye(4),
            global_from_ego=global_from_ego,
        )
        frames.append(
            KeyFrame(
                token=f"frame{index}",
                scene="tiny",
                index=index,
                timestamp_us=0,
                cameras=tuple(cameras),
                lidar=lidar,
                global_from_ego=lidar.global_from_ego,
            )
        )
    return tuple(frames)


def data_with_maps(folder: Path, worlds: list[World], poses: list[np.ndarray]) -> TinyData:
    """Key frames with their truth maps on the disk; one world per frame."""
    frames = key_frames(folder, poses)
    for frame, world in zip(frames, worlds, strict=True):
        for image in frame.cameras:
            write_truth_maps(maps_path(image), world.maps(image))
    return TinyData(frames)


def truth_in_ego(world: World, grid: VoxelGrid, global_from_ego: np.ndarray, *, samples: int = 1) -> np.ndarray:
    """The world's occupancy in a grid of the ego frame; a voxel is of the most frequent class that it touches."""
    offsets = (np.arange(samples) + 0.5) / samples - 0.5
    votes = np.zeros((*grid.shape, FREE), np.int32)
    for offset in np.stack(np.meshgrid(offsets, offsets, offsets), -1).reshape(-1, 3):
        found = world.classes_at(transform_points(global_from_ego, grid.centers() + offset * grid.voxel_size_m))
        for class_id in np.unique(found[found != FREE]):
            votes[..., class_id] += found == class_id
    return np.where(votes.any(axis=-1), votes.argmax(axis=-1), FREE).astype(np.uint8)


def shifted(steps: int) -> np.ndarray:
    return rigid_transform(np.eye(3), (0.4 * steps, 0.0, 0.0))


@pytest.fixture(scope="module")
def lattice() -> World:
    """A street of 0.4 m voxels, onto which those of the ego frames of `shifted` fall."""
    return street((-48.0, -40.0, -1.0), 0.4, (240, 200, 16))


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory, lattice: World) -> TinyData:
    return data_with_maps(tmp_path_factory.mktemp("static"), [lattice] * 5, [shifted(4 * i) for i in range(5)])


def perfect_view(image: CameraImage, world: World) -> View:
    maps = world.maps(image)
    ones = np.ones(maps.depth_m.shape, np.float32)
    return view_of(
        image, SemanticMap(class_id=maps.semantics, score=ones), DepthMap(depth_m=maps.depth_m, confidence=ones)
    )


def semantics_of(votes: Votes, min_points: int) -> np.ndarray:
    return decide(votes, DecisionConfig(fusion="votes", min_points=min_points)).semantics


def votes_of(views: list[View], global_from_ego: np.ndarray, grid: VoxelGrid) -> Votes:
    tally = Tally(grid)
    for view in views:
        tally.add_view(view, inverse(global_from_ego) @ view.global_from_camera, EVERYTHING)
    return tally.votes()


def files_in(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != TIMINGS_NAME)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_perfect_teachers_and_a_static_world_give_the_truth(static: TinyData, lattice: World, tmp_path: Path) -> None:
    run = generate_labels(static, tmp_path, PERFECT)
    assert (run.done, run.reused, run.failed) == (5, 0, {})
    for frame in static.frames["tiny"]:
        label = read_label(label_path(tmp_path, "tiny", frame.token), allow_unknown=True)
        truth = truth_in_ego(lattice, OCC3D_GRID, frame.global_from_ego)
        found = agreement(label.semantics, truth)
        assert found.share_equal >= 0.99, found
        assert found.off_boundary == 0, found
        assert found.compared > 60_000
        assert (label.semantics < FREE).sum() > 4_000
        assert np.array_equal(label.mask_lidar, label.semantics != UNKNOWN)
        assert not (label.mask_camera & ~label.mask_lidar).any()
        # The masks of label and truth mean the same.
        seen = np.zeros(OCC3D_GRID.shape, bool)
        for image in frame.cameras:
            seen |= observed_by_camera(
                truth != FREE, OCC3D_GRID, image.intrinsics_px, frame.ego_from_camera(image), HEIGHT, WIDTH
            )
        assert (label.mask_camera & seen).sum() > 0.95 * label.mask_camera.sum()
        assert (label.mask_camera & seen).sum() > 0.6 * seen.sum()


def test_perfect_teachers_off_the_lattice() -> None:
    """Ego frames turned against a world of 0.1 m voxels: surfaces cut through voxels as they do outside."""
    world = street((-20.0, -16.0, -1.0), 0.1, (400, 320, 56))
    poses = [rigid_transform(rotation_about_z(0.2 + 0.05 * i), (1.3 * i - 2.5, 0.17 * i, 0.03)) for i in range(5)]
    grid = VoxelGrid(lower_m=(-10.0, -10.0, -1.4), voxel_size_m=(0.4, 0.4, 0.4), shape=(50, 50, 16))
    frames = key_frames(Path("unused"), poses)
    views = [perfect_view(image, world) for frame in frames for image in frame.cameras]
    votes = votes_of(views, frames[2].global_from_ego, grid)
    truth = truth_in_ego(world, grid, frames[2].global_from_ego, samples=4)
    # Whether a voxel at the border of the grid is on a boundary, the grid does not tell.
    among = np.zeros(grid.shape, bool)
    among[1:-1, 1:-1, 1:-1] = True
    found = agreement(semantics_of(votes, 1), truth, among=among)
    assert found.compared > 15_000
    assert found.share_equal >= 0.99, found
    assert found.off_boundary == 0, found


def test_dropping_what_moves_removes_the_ghosts(lattice: World, tmp_path: Path) -> None:
    """A car drives ahead of the ego, 2.4 m per frame, on the other lane."""
    worlds = []
    for index in range(5):
        classes = lattice.classes.copy()
        classes[classes == CAR] = FREE
        classes[120 + 6 * index : 130 + 6 * index, 94:98, 1:4] = CAR
        worlds.append(World(lattice.grid, classes))
    data = data_with_maps(tmp_path, worlds, [shifted(2 * i) for i in range(5)])
    truth = truth_in_ego(worlds[2], OCC3D_GRID, data.frames["tiny"][2].global_from_ego)
    counted = {}
    for moving in ("drop", "keep"):
        out = tmp_path / f"labels-{moving}"
        generate_labels(data, out, dataclasses.replace(PERFECT, moving=moving))
        label = read_label(label_path(out, "tiny", "frame2"), allow_unknown=True)
        car = label.semantics == CAR
        counted[moving] = int((car & (truth != CAR)).sum()), int((car & (truth == CAR)).sum())
    ghosts, right = counted["drop"]
    assert ghosts == 0, counted
    assert right > 20, counted
    assert counted["keep"][0] > 50, counted


def test_votes_give_the_label_of_another_threshold(static: TinyData, tmp_path: Path) -> None:
    noisy = dataclasses.replace(PERFECT, semantics="oracle:foundation", depth="oracle:foundation", frames=3)
    generate_labels(static, tmp_path / "one", noisy, keep_votes=True)
    votes = read_votes(label_path(tmp_path / "one", "tiny", "frame1").with_name("votes.npz"))
    different = set()
    for min_points in (2, 6):
        generate_labels(
            static,
            tmp_path / str(min_points),
            dataclasses.replace(noisy, decision=DecisionConfig(fusion="votes", min_points=min_points)),
        )
        fresh = read_label(label_path(tmp_path / str(min_points), "tiny", "frame1"), allow_unknown=True)
        again = semantics_of(votes, min_points)
        assert np.array_equal(again, fresh.semantics)
        different.add(again.tobytes())
    assert len(different) == 2
    for min_points in (0, MAX_MIN_POINTS + 1):
        with pytest.raises(ConfigError, match="min_points"):
            semantics_of(votes, min_points)


def test_majority_and_ties() -> None:
    grid = VoxelGrid(lower_m=(0.0, 0.0, 0.0), voxel_size_m=(1.0, 1.0, 1.0), shape=(4, 1, 1))
    in_voxel = {0: [CAR, VEGETATION, VEGETATION], 1: [VEGETATION, CAR], 2: [UNKNOWN, FREE], 3: [CAR]}
    points = [[voxel + 0.5, 0.5, 0.5] for voxel, classes in in_voxel.items() for _ in classes]
    classes = [class_id for classes in in_voxel.values() for class_id in classes]
    tally = Tally(grid)
    tally.add_points(
        np.array([*points, [np.nan, 0.5, 0.5], [-0.5, 0.5, 0.5]]), np.array([*classes, CAR, CAR], np.uint8)
    )
    votes = tally.votes()
    assert votes.count.sum() == 6
    assert semantics_of(votes, 1).ravel().tolist() == [VEGETATION, CAR, UNKNOWN, CAR]
    assert semantics_of(votes, 2).ravel().tolist() == [VEGETATION, CAR, UNKNOWN, UNKNOWN]


def ahead(depth_m: list[float], class_id: list[int]) -> View:
    """A camera of one row that looks along x: one pixel per point, all on one line."""
    depth = np.array([depth_m], np.float32)
    return View(
        class_id=np.array([class_id], np.uint8), depth_m=depth, stride=1, free_depth_m=depth,
        free_class_id=np.array([class_id], np.uint8), free_stride=1,
        # Nearly no opening angle: all pixels look straight ahead.
        intrinsics_px=np.array([[1e9, 0, 0.5], [0, 1e9, 0.5], [0, 0, 1.0]]),
        global_from_camera=rigid_transform(FORWARD, (0.5, 0.5, 0.5)),
    )  # fmt: skip


def test_a_ray_frees_nothing_behind_what_is_occupied_at_the_threshold() -> None:
    grid = VoxelGrid(lower_m=(0.0, 0.0, 0.0), voxel_size_m=(1.0, 1.0, 1.0), shape=(6, 1, 1))
    tally = Tally(grid)
    tally.add_points(np.array([[2.5, 0.5, 0.5], [2.4, 0.5, 0.5]]), np.full(2, CAR, np.uint8))
    view = ahead([5.0], [CAR])
    tally.add_view(view, view.global_from_camera, EVERYTHING)
    votes = tally.votes()
    two, three = (semantics_of(votes, min_points).ravel().tolist() for min_points in (2, 3))
    assert two == [FREE, FREE, CAR, UNKNOWN, UNKNOWN, UNKNOWN]
    assert three == [FREE, FREE, FREE, FREE, FREE, UNKNOWN]
    assert votes.passed.ravel().tolist() == [1, 1, 1, 1, 1, 0]
    assert tally.votes().voxel.size == 0  # a tally starts anew


def test_ground_between_two_rows_of_pixels_is_not_free() -> None:
    """One image of flat ground, low in its voxels: where rows hit it metres apart, the voxels between are unknown."""
    image = key_frames(Path("unused"), [np.eye(4)])[0].cameras[1]
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    rays = np.stack((u, v, np.ones_like(u)), -1) @ np.linalg.inv(image.intrinsics_px).T
    down = rays @ image.global_from_camera[2, :3]
    depth_m = np.where(down < 0, (-0.9 - image.global_from_camera[2, 3]) / np.minimum(down, -1e-9), np.inf)
    ones = np.ones((HEIGHT, WIDTH), np.float32)
    view = view_of(
        image,
        SemanticMap(class_id=np.where(down < 0, DRIVEABLE_SURFACE, FREE).astype(np.uint8), score=ones),
        DepthMap(depth_m=depth_m.astype(np.float32), confidence=ones),
    )
    semantics = semantics_of(votes_of([view], np.eye(4), OCC3D_GRID), 1)
    ground = semantics[..., 0]
    assert (ground == DRIVEABLE_SURFACE).sum() > 100
    assert (ground == UNKNOWN).sum() > 1000
    # Rays that went to their own depth would call 3,600 of these free.
    assert (ground == FREE).sum() <= 60
    assert (semantics[..., 3] == FREE).sum() > 1000


def test_a_point_lands_where_it_should() -> None:
    """A camera with an ego pose of its own, far from the origin of the global frame."""
    rng = np.random.default_rng(3)
    far = rigid_transform(rotation_about_z(2.1), (1812.4, -977.3, 12.9))
    frame = key_frames(Path("unused"), [far])[0]
    for image in frame.cameras:
        row, column, depth_m = 30, 17, 21.625
        pixel = np.array([column + 0.5, row + 0.5, 1.0])
        point_global = transform_points(
            image.global_from_ego_at_image,
            transform_points(image.ego_at_image_from_camera, depth_m * np.linalg.solve(image.intrinsics_px, pixel)),
        )
        expected_ego = transform_points(inverse(frame.lidar.global_from_ego), point_global)
        depth = rng.uniform(5, 40, (HEIGHT, WIDTH)).astype(np.float32)
        depth[row, column] = depth_m
        points_ego = unproject(depth, image.intrinsics_px, frame.ego_from_camera(image))
        assert np.abs(points_ego[row, column] - expected_ego).max() < 1e-6
        # A stride takes some of the same points.
        assert np.array_equal(
            unproject(strided(depth, 3), image.intrinsics_px, frame.ego_from_camera(image), stride=3),
            points_ego[1::3, 1::3],
        )


def test_maps_of_another_size_than_the_image() -> None:
    image = key_frames(Path("unused"), [np.eye(4)])[0].cameras[0]
    depth = np.full((HEIGHT // 2, WIDTH // 2), 7.0, np.float32)
    ones = np.ones_like(depth)
    classes = np.full(depth.shape, CAR, np.uint8)
    view = view_of(image, SemanticMap(class_id=classes, score=ones), DepthMap(depth_m=depth, confidence=ones))
    corner = unproject(view.depth_m, view.intrinsics_px, np.eye(4))[0, 0]
    assert np.allclose(image.intrinsics_px @ corner / 7, [1.0, 1.0, 1.0])
    with pytest.raises(DataError, match="one resolution"):
        view_of(image, SemanticMap(class_id=classes, score=ones), DepthMap(depth_m=depth[1:], confidence=ones[1:]))
    narrow = DepthMap(depth_m=depth[:, 5:], confidence=ones[:, 5:])
    with pytest.raises(DataError, match="whole image"):
        view_of(image, SemanticMap(class_id=classes[:, 5:], score=ones[:, 5:]), narrow)


def test_sky_is_free_and_unknown_is_never_free() -> None:
    image = key_frames(Path("unused"), [np.eye(4)])[0].cameras[1]
    grid = VoxelGrid(lower_m=(-20.0, -20.0, -6.0), voxel_size_m=(0.8, 0.8, 0.8), shape=(50, 50, 16))
    ones = np.ones((HEIGHT, WIDTH), np.float32)

    def label(class_id: int, depth_m: float, *, score: float = 1.0, confidence: float = 1.0) -> np.ndarray:
        view = view_of(
            image,
            SemanticMap(class_id=np.full(ones.shape, class_id, np.uint8), score=score * ones),
            DepthMap(depth_m=depth_m * ones, confidence=confidence * ones),
            min_score=0.3,
            min_confidence=0.3,
        )
        return semantics_of(votes_of([view], np.eye(4), grid), 1)

    center_rays = observed_by_camera(
        np.zeros(grid.shape, bool), grid, image.intrinsics_px, image.global_from_camera, HEIGHT, WIDTH
    )
    depth_m = transform_points(inverse(image.global_from_camera), grid.centers())[..., 2]
    for sky in (label(FREE, np.inf), label(FREE, 3.0)):
        # Depth that a network gives to the sky does not matter.
        assert (sky[center_rays] == FREE).mean() > 0.999
        assert set(np.unique(sky)) == {FREE, UNKNOWN}
        assert (sky[depth_m < -1.5] == UNKNOWN).all()
    wall = label(MANMADE, 10.0)
    assert (wall[center_rays & (depth_m < 9)] == FREE).mean() > 0.999
    assert (wall[depth_m > 11.5] == UNKNOWN).all()
    assert (wall == MANMADE).sum() > 50
    # No class: no vote, but what is before the surface is free. No depth: nothing.
    for unlabelled in (label(UNKNOWN, 10.0), label(CAR, 10.0, score=0.1)):
        assert np.array_equal((unlabelled == FREE) & (depth_m < 9), (wall == FREE) & (depth_m < 9))
        assert (unlabelled[depth_m > 11.5] == UNKNOWN).all()
        assert set(np.unique(unlabelled)) == {FREE, UNKNOWN}
    for nothing in (label(CAR, np.nan), label(CAR, np.inf), label(CAR, -1.0), label(CAR, 10.0, confidence=0.1)):
        assert (nothing == UNKNOWN).all()


def test_window() -> None:
    assert list(window(10, 40, 13)) == list(range(4, 17))
    assert list(window(0, 40, 13)) == list(range(7))
    assert list(window(39, 40, 13)) == list(range(33, 40))
    assert list(window(5, 40, 4)) == [3, 4, 5, 6]
    assert list(window(5, 40, 1)) == [5]
    assert list(window(5, 40, 3, "past")) == [3, 4, 5]
    assert list(window(1, 40, 3, "past")) == [0, 1]
    assert list(window(5, 40, 3, "scene")) == list(range(40))


def test_two_runs_are_identical_and_the_second_call_reuses(static: TinyData, tmp_path: Path) -> None:
    config = LabelConfig(frames=3)
    first = generate_labels(static, tmp_path / "a", config)
    assert first.done == 5
    generate_labels(static, tmp_path / "b", config)
    before = files_in(tmp_path / "a")
    assert len(before) == 12  # five labels, what was measured beside them, the manifest and a lock; not timings
    assert before == files_in(tmp_path / "b")
    label_path(tmp_path / "a", "tiny", "frame3").unlink()
    again = generate_labels(static, tmp_path / "a", config)
    assert (again.done, again.reused) == (1, 4)
    assert files_in(tmp_path / "a") == before


def test_a_folder_of_another_configuration_is_refused(static: TinyData, tmp_path: Path) -> None:
    generate_labels(static, tmp_path, dataclasses.replace(PERFECT, frames=1))
    before = files_in(tmp_path)
    with pytest.raises(ConfigError, match=r"decision.min_points: 1 there, 3 now") as error:
        generate_labels(
            static,
            tmp_path,
            dataclasses.replace(PERFECT, frames=1, decision=DecisionConfig(fusion="votes", min_points=3)),
        )
    assert "frames" not in str(error.value)
    assert files_in(tmp_path) == before
    with pytest.raises(ConfigError, match="there is no teacher of depth called 'tape'; choose one of oracle:perfect"):
        generate_labels(static, tmp_path, dataclasses.replace(PERFECT, depth="tape"))
    with pytest.raises(ConfigError, match="no scene nowhere"):
        generate_labels(static, tmp_path, PERFECT, scenes=["nowhere"])
    with pytest.raises(ConfigError, match="free_stride"):
        generate_labels(static, tmp_path, dataclasses.replace(PERFECT, free_stride=0))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json"):
        generate_labels(static, tmp_path, PERFECT)


def test_a_broken_frame_is_recorded_and_repaired(lattice: World, tmp_path: Path) -> None:
    data = data_with_maps(tmp_path / "data", [lattice] * 4, [shifted(2 * i) for i in range(4)])
    config = dataclasses.replace(PERFECT, frames=3)
    generate_labels(data, tmp_path / "whole", config)
    broken = maps_path(data.frames["tiny"][1].cameras[3])
    content = broken.read_bytes()
    broken.unlink()
    run = generate_labels(data, tmp_path / "out", config)
    assert run.done == 3
    assert list(run.failed) == ["frame1"]
    assert "make the town with --maps" in run.failed["frame1"]
    assert run.incomplete == {"frame0": ["frame1"], "frame2": ["frame1"]}
    manifest = read_manifest(tmp_path / "out")
    assert manifest.failed == run.failed
    assert {entry["state"] for entry in manifest.labels.values()} == {"done", "failed", "incomplete"}
    assert not label_path(tmp_path / "out", "tiny", "frame1").exists()

    broken.write_bytes(content[: len(content) // 2])
    assert "frame1" in generate_labels(data, tmp_path / "out", config).failed
    broken.write_bytes(content)
    run = generate_labels(data, tmp_path / "out", config)
    assert (run.done, run.reused, run.failed, run.incomplete) == (3, 1, {}, {})
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


def one_voxel(votes_by_class: dict[int, int], *, passed: int = 0, obstruction: int = 255) -> Votes:
    classes = sorted(votes_by_class)
    return Votes(
        voxel=np.zeros(len(classes), np.uint32),
        class_id=np.array(classes, np.uint8),
        count=np.array([votes_by_class[c] for c in classes], np.uint32),
        obstruction=np.full((1, 1, 1), obstruction, np.uint8),
        passed=np.full((1, 1, 1), passed, np.uint8),
        points_per_ray=4.0,
    )


@pytest.mark.parametrize(
    ("votes", "rules", "expected"),
    [
        ({DRIVEABLE_SURFACE: 6, PEDESTRIAN: 3}, {}, DRIVEABLE_SURFACE),
        # Feet on the ground: a third of the votes is enough, a ninth is not, and too few points are not.
        ({DRIVEABLE_SURFACE: 6, PEDESTRIAN: 3}, {"thin_share": 0.3}, PEDESTRIAN),
        ({DRIVEABLE_SURFACE: 24, PEDESTRIAN: 3}, {"thin_share": 0.3}, DRIVEABLE_SURFACE),
        ({DRIVEABLE_SURFACE: 3, PEDESTRIAN: 2}, {"thin_share": 0.3}, DRIVEABLE_SURFACE),
        # What is thin has no precedence over what is not ground.
        ({MANMADE: 6, PEDESTRIAN: 3}, {"thin_share": 0.3}, MANMADE),
        ({VEGETATION: 5}, {"class_min_points": {"vegetation": 6}}, UNKNOWN),
        ({CAR: 2}, {"class_min_points": {"car": 2}}, CAR),
        ({CAR: 2}, {}, UNKNOWN),
    ],
)
def test_rules_decide_about_a_voxel(votes: dict[int, int], rules: dict[str, object], expected: int) -> None:
    config = DecisionConfig(fusion="votes", min_points=3, **rules)  # type: ignore[arg-type]
    assert decide(one_voxel(votes), config).semantics.item() == expected


def test_rays_overrule_points_where_the_rules_say_so() -> None:
    # 8 points and 4 rays with 4 points each: twice as many passed as ended.
    seen_through = one_voxel({CAR: 8}, passed=4, obstruction=0)
    assert decide(seen_through, DecisionConfig(fusion="votes", carve=2.0)).semantics.item() == CAR
    assert decide(seen_through, DecisionConfig(fusion="votes", carve=1.9)).semantics.item() == FREE
    # Seen through, but only behind something: nothing is known.
    assert decide(one_voxel({CAR: 8}, passed=4), DecisionConfig(fusion="votes", carve=1.9)).semantics.item() == UNKNOWN


def test_confidence_grows_with_evidence_and_falls_with_contradiction() -> None:
    def confidence(votes: dict[int, int], **kind: int) -> float:
        return decide(one_voxel(votes, **kind), DecisionConfig(fusion="votes", min_points=3)).confidence.item() / 255

    assert confidence({CAR: 3}) == pytest.approx(3 / 6, abs=0.5 / 16 + 0.002)
    assert confidence({CAR: 30}) == pytest.approx(30 / 33, abs=0.5 / 16 + 0.002)
    assert confidence({CAR: 20, TERRAIN: 10}) == pytest.approx(20 / 33, abs=0.5 / 16 + 0.002)
    assert confidence({CAR: 30}, passed=5) == pytest.approx(30 / (33 + 20), abs=0.5 / 16 + 0.002)
    assert confidence({}, passed=3, obstruction=0) == pytest.approx(3 / 4, abs=0.5 / 16 + 0.002)
    assert confidence({}) == 0


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ({"class_min_points": {"tree": 3}}, "no class tree"),
        ({"class_min_points": {"car": 0}}, "threshold car is 0"),
        ({"thin_share": 0.0}, "thin_share"),
        ({"carve": 0.0}, "carve"),
    ],
)
def test_rules_out_of_range_are_refused(rules: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        decide(one_voxel({CAR: 3}), DecisionConfig(fusion="votes", **rules))  # type: ignore[arg-type]


def test_votes_equal_their_twin(static: TinyData) -> None:
    """Every point by itself, in the plainest way."""
    frame = static.frames["tiny"][2]
    views = [perfect_view(image, street((-48.0, -40.0, -1.0), 0.4, (240, 200, 16))) for image in frame.cameras[:2]]
    tally, expected = Tally(OCC3D_GRID), {}
    for view in views:
        ego_from_camera = inverse(frame.global_from_ego) @ view.global_from_camera
        tally.add_view(view, ego_from_camera, static_classes(OCC3D.taxonomy))
        for row, column in np.ndindex(*view.depth_m.shape):
            class_id = int(view.class_id[row, column])
            if class_id >= FREE or class_id in (CAR, PEDESTRIAN) or np.isnan(view.depth_m[row, column]):
                continue
            ray = np.linalg.solve(view.intrinsics_px, [column + 0.5, row + 0.5, 1.0])
            point = transform_points(ego_from_camera, view.depth_m[row, column] * ray)
            index = np.floor((point - OCC3D_GRID.lower_m) / 0.4).astype(int)
            if ((index >= 0) & (index < OCC3D_GRID.shape)).all():
                key = int(np.ravel_multi_index(tuple(index), OCC3D_GRID.shape)), class_id
                expected[key] = expected.get(key, 0) + 1
    votes = tally.votes()
    found = dict(
        zip(zip(votes.voxel.tolist(), votes.class_id.tolist(), strict=True), votes.count.tolist(), strict=True)
    )
    assert found == expected
    assert list(found) == sorted(found)


@pytest.mark.parametrize("stride", [1, 3])
def test_votes_on_a_device_are_the_same_votes(static: TinyData, lattice: World, stride: int) -> None:
    frame, moving = static.frames["tiny"][2], frozenset(OCC3D.taxonomy.ids(OCC3D.taxonomy.moving))
    tally, counts = Tally(OCC3D_GRID), 0
    for image in frame.cameras:
        maps = lattice.maps(image)
        ones = np.ones(maps.depth_m.shape, np.float32)
        view = view_of(
            image, SemanticMap(class_id=maps.semantics, score=ones), DepthMap(depth_m=maps.depth_m, confidence=ones),
            stride=stride,
        )  # fmt: skip
        tally.add_view(view, frame.ego_from_camera(image), static_classes(OCC3D.taxonomy))
        depth_m = np.where(maps.semantics == FREE, np.nan, maps.depth_m).astype(np.float32)
        counts = counts + count_votes(
            torch.from_numpy(maps.semantics), torch.from_numpy(depth_m), image.intrinsics_px,
            frame.ego_from_camera(image), OCC3D_GRID, without=moving, stride=stride,
        )  # fmt: skip
    votes = tally.votes()
    assert isinstance(counts, torch.Tensor)
    found = counts.reshape(-1, FREE).numpy()
    assert found.sum() == votes.count.sum() > 100
    assert np.array_equal(found[votes.voxel, votes.class_id], votes.count)


def box_at(x_m: float, *, token: str = "a car") -> BoxAnnotation:
    return BoxAnnotation(
        instance=token, category="vehicle.car", size_lwh_m=(4.0, 2.0, 1.6),
        global_from_box=rigid_transform(rotation_about_z(0.3), (x_m, 5.0, 0.8)),
    )  # fmt: skip


def test_points_go_with_their_boxes() -> None:
    on_car = transform_points(box_at(3.0).global_from_box, np.array([[1.9, 0.9, 0.5], [-1.0, 0.0, 0.79]]))
    beside = transform_points(box_at(3.0).global_from_box, np.array([[0.0, 1.4, 0.0]]))
    points = np.concatenate([on_car, beside])
    carried = carried_by_boxes(points, [box_at(3.0)], [box_at(11.0)], OCC3D.taxonomy)
    np.testing.assert_allclose(carried[:2], on_car + np.array([8.0, 0.0, 0.0]), atol=1e-9)
    assert np.isnan(carried[2]).all()
    # Gone by now: nobody knows where to.
    assert np.isnan(carried_by_boxes(points, [box_at(3.0)], [box_at(11.0, token="another")], OCC3D.taxonomy)).all()


def test_only_what_stays_stands_still() -> None:
    grid = VoxelGrid(lower_m=(0.0, 0.0, 0.0), voxel_size_m=(1.0, 1.0, 1.0), shape=(8, 1, 1))
    parked = np.array([[6.5, 0.5, 0.5]])
    frames = [np.concatenate([parked, [[i + 0.5, 0.5, 0.5]]]) for i in range(4)]
    still = standing_still(grid, frames, frames=3)
    assert np.flatnonzero(still).tolist() == [6]


@pytest.mark.parametrize("moving", ["still", "boxes"])
def test_parked_cars_are_fused_and_driving_ones_are_not_drawn_twice(
    lattice: World, tmp_path: Path, moving: str
) -> None:
    """The parked car of the street gets votes of other key frames, the driving one leaves no ghosts."""
    worlds, poses = [], [shifted(2 * i) for i in range(5)]
    for index in range(5):
        classes = lattice.classes.copy()
        classes[120 + 6 * index : 130 + 6 * index, 94:98, 1:4] = CAR
        worlds.append(World(lattice.grid, classes))
    data = data_with_maps(tmp_path, worlds, poses)
    data.annotations = {
        f"frame{index}": (
            # The street's own car, and the one that drives, in the coordinates of their voxels.
            car_box("parked", (9.0, 4.0)), car_box("driving", (-48 + 0.4 * (125 + 6 * index), -40 + 0.4 * 96)),
        )
        for index in range(5)
    }  # fmt: skip
    truth = truth_in_ego(worlds[2], OCC3D_GRID, poses[2])
    counted = {}
    for policy in ("drop", moving):
        config = dataclasses.replace(PERFECT, moving=policy, still_frames=5)
        generate_labels(data, tmp_path / policy, config, keep_votes=True)
        label = read_label(label_path(tmp_path / policy, "tiny", "frame2"), allow_unknown=True)
        votes = read_votes(label_path(tmp_path / policy, "tiny", "frame2").with_name("votes.npz"))
        car = label.semantics == CAR
        near = np.stack(np.nonzero(car & (truth != CAR)), 1)
        counted[policy] = len(near), int((car & (truth == CAR)).sum()), int(votes.count[votes.class_id == CAR].sum())
    assert counted["drop"][0] == 0
    assert counted[moving][0] == 0, counted
    assert counted[moving][1] >= counted["drop"][1], counted
    assert counted[moving][2] > 1.5 * counted["drop"][2], counted


def car_box(name: str, middle: tuple[float, float]) -> BoxAnnotation:
    return BoxAnnotation(
        instance=name, category="vehicle.car", size_lwh_m=(4.1, 1.7, 1.8),
        global_from_box=rigid_transform(np.eye(3), (*middle, 0.1)),
    )  # fmt: skip


def test_a_depth_map_without_any_depth_is_a_failure(lattice: World, tmp_path: Path) -> None:
    data = data_with_maps(tmp_path / "data", [lattice] * 2, [shifted(2 * i) for i in range(2)])
    image = data.frames["tiny"][1].cameras[2]
    maps = lattice.maps(image)
    nothing = np.full_like(maps.depth_m, np.inf)
    write_truth_maps(maps_path(image), dataclasses.replace(maps, depth_m=nothing))
    run = generate_labels(data, tmp_path / "out", dataclasses.replace(PERFECT, frames=1))
    assert list(run.failed) == ["frame1"]
    assert "no pixel that is finite and above 0 m" in run.failed["frame1"]


def test_maps_that_were_kept_make_the_same_labels(static: TinyData, tmp_path: Path) -> None:
    noisy = LabelConfig(frames=3)
    generate_labels(static, tmp_path / "labels", noisy, keep_maps=tmp_path / "maps")
    kept = dataclasses.replace(
        noisy, semantics=f"files:{tmp_path / 'maps/semantics'}", depth=f"files:{tmp_path / 'maps/depth'}"
    )
    generate_labels(static, tmp_path / "again", kept)
    for frame in static.frames["tiny"]:
        paths = [label_path(tmp_path / name, "tiny", frame.token) for name in ("labels", "again")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_threshold_far_too_low_for_the_size_of_images_is_doubted() -> None:
    votes = LabelConfig(decision=DecisionConfig(fusion="votes"))
    assert votes.doubt_of_threshold(96, 176) is None
    assert "about 28 are usual (--min-points 28)" in str(votes.doubt_of_threshold(900, 1600))
    assert dataclasses.replace(votes, stride=4).doubt_of_threshold(900, 1600) is None
    assert LabelConfig().doubt_of_threshold(900, 1600) is None
    one = dataclasses.replace(votes, decision=DecisionConfig(fusion="votes", min_points=1))
    assert one.doubt_of_threshold(96, 176) is None
