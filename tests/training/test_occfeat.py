"""What a network is pretrained to say about a volume: targets, head, loss, and weights that go on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lenses import through_half_a_lens
from torch import nn

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.datasets.nuscenes.lidar_file import LidarFile
from occlift.errors import ConfigError
from occlift.geometry.ego_vehicle import on_ego
from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import CAR, DRIVEABLE_SURFACE, FREE, NUM_CLASSES, UNKNOWN
from occlift.labels.files import label_path, read_label
from occlift.losses.occfeat import class_term, feature_term, occupancy_term
from occlift.models.bev_network import BevNetwork, BevNetworkConfig
from occlift.models.occfeat import OccFeatHead, OccFeatHeadConfig
from occlift.scenes.dataset import split_tokens
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.sources import ImageFile
from occlift.teachers.feature_cache import FeatureCache
from occlift.teachers.teacher import FeatureMap
from occlift.training.frames import OccupancyFrames
from occlift.training.loaders import CachedTrainingData, fill_caches
from occlift.training.occfeat import PretrainConfig
from occlift.training.occfeat_frames import OccFeatFrames, collate_occfeat
from occlift.training.pretrained import load_by_name
from occlift.training.volume_targets import feature_targets, lidar_occupancy, pooled_label, sampled, seen_voxels

COARSE = VoxelGrid(lower_m=(-50.0, -50.0, -1.0), voxel_size_m=(1.0, 1.0, 0.8), shape=(100, 100, 8))


@dataclass(frozen=True)
class Patches:
    """A feature map: its values and where its cells lie."""

    features: np.ndarray
    stride_px: tuple[float, float]
    offset_px: tuple[float, float]


def first_frame(root: Path) -> tuple[NuScenes, str]:
    data = NuScenes.open(root)
    return data, split_tokens(data, "all")[0]


def test_the_lidar_occupies_what_it_touches(small_town: Path) -> None:
    data, token = first_frame(small_town)
    frame = data.key_frame(token)
    points_lidar = frame.lidar_sweep().source.read()[:, :3].astype(np.float64)
    expected = set()
    for x, y, z in transform_points(frame.lidar.ego_from_lidar, points_lidar):
        if -1.4 < x < 4.2 and abs(y) < 1.45:
            continue
        index = (math.floor(x + 50), math.floor(y + 50), math.floor((z + 1.0) / 0.8))
        if all(0 <= i < n for i, n in zip(index, COARSE.shape, strict=True)):
            expected.add(index)
    found = lidar_occupancy(frame, COARSE)
    assert {tuple(index) for index in np.argwhere(found == 1).tolist()} == expected
    assert set(np.unique(found)) == {0, 1}
    careful = lidar_occupancy(frame, COARSE, untouched="ignore")
    assert np.array_equal(careful == 1, found == 1)
    assert (careful[..., -1] == UNKNOWN).any(), "no beam goes everywhere"
    assert (careful == 0).any()


def test_returns_from_the_bonnet_are_no_target(small_town: Path, tmp_path: Path) -> None:
    data, token = first_frame(small_town)
    frame = data.key_frame(token)
    # On the real frame: at x = 2.3 m, 1 m above the ground, 1.4 m from the lidar; and a neighbouring car.
    points_ego = np.array([[2.3, 0.5, 1.0], [2.3, 2.5, 1.0]])
    sweep = np.zeros((2, 5), np.float32)
    sweep[:, :3] = transform_points(inverse(frame.lidar.ego_from_lidar), points_ego)
    sweep.tofile(tmp_path / "sweep.pcd.bin")
    seen = replace(frame, lidar=replace(frame.lidar, source=LidarFile(tmp_path / "sweep.pcd.bin")))
    for found in (lidar_occupancy(seen, COARSE), lidar_occupancy(seen, COARSE, untouched="ignore")):
        assert np.argwhere(found == 1).tolist() == [[52, 52, 2]]


def test_no_target_of_the_real_frame_is_the_vehicle_itself(real_frame: Path) -> None:
    data, token = first_frame(real_frame)
    fine = OccFeatHeadConfig().grid
    centers_ego = fine.centers()[lidar_occupancy(data.key_frame(token), fine) == 1]
    above = centers_ego[(np.abs(centers_ego[:, 0] - 1.4) < 2.3) & (np.abs(centers_ego[:, 1]) < 0.95)]
    assert len(centers_ego) > 4000
    assert not len(above)


def test_earlier_sweeps_are_moved_to_where_the_vehicle_is_now(small_town: Path) -> None:
    data = NuScenes.open(small_town)
    before, frame = (data.key_frame(token) for token in data.key_frame_tokens(data.scenes()[0])[:2])
    assert np.linalg.norm((before.global_from_ego - frame.global_from_ego)[:2, 3]) > 1.0
    points_lidar = before.lidar_sweep().source.read()[:, :3].astype(np.float64)
    points_lidar = points_lidar[~on_ego(transform_points(before.lidar.ego_from_lidar, points_lidar))]
    points_global = transform_points(before.global_from_ego @ before.lidar.ego_from_lidar, points_lidar)
    moved = COARSE.occupied_by(transform_points(inverse(frame.global_from_ego), points_global))
    here, there = (lidar_occupancy(sweep, COARSE) == 1 for sweep in (frame, before))
    assert np.array_equal(lidar_occupancy(frame, COARSE, others=[before]) == 1, here | moved)
    assert (here & moved).sum() > (here & there).sum(), "what stands still is touched by both"


def test_labels_on_larger_voxels_are_counted_by_hand(small_town: Path) -> None:
    data, token = first_frame(small_town)
    path = label_path(small_town / "gts", data.key_frame(token).scene, token)
    semantics = read_label(path).semantics.copy()
    semantics[:, :60] = UNKNOWN
    occupancy, classes = pooled_label(semantics, COARSE)
    centers = OCC3D_GRID.centers()
    generator = np.random.default_rng(0)
    touched = np.argwhere(occupancy == 1)
    voxels = np.concatenate([generator.permutation(touched)[:40], generator.integers((100, 100, 8), size=(200, 3))])
    for voxel in voxels:
        lower = np.array(COARSE.lower_m) + voxel * COARSE.voxel_size_m
        upper = lower + COARSE.voxel_size_m
        inside = ((centers >= lower) & (centers < upper)).all(-1)
        held = semantics[inside]
        occupied = held[held < FREE]
        if len(occupied):
            assert occupancy[tuple(voxel)] == 1
            counts = np.bincount(occupied, minlength=NUM_CLASSES)
            assert classes[tuple(voxel)] == int(counts.argmax())
        elif (held == FREE).any():
            assert (occupancy[tuple(voxel)], classes[tuple(voxel)]) == (0, FREE)
        else:
            assert (occupancy[tuple(voxel)], classes[tuple(voxel)]) == (UNKNOWN, UNKNOWN)
    assert {0, 1, UNKNOWN} == set(np.unique(occupancy))


def test_patches_are_sampled_where_they_lie_and_padding_is_not_read() -> None:
    """Values that are linear in (u, v) are read back exactly between the outermost centres, and held beyond them."""
    camera = CameraImage(
        camera="CAM_FRONT", key="", source=ImageFile(Path()), timestamp_us=0, height=40, width=80,
        intrinsics_px=np.eye(3),
        ego_at_image_from_camera=np.eye(4), global_from_ego_at_image=np.eye(4),
    )  # fmt: skip
    rows, columns = np.arange(7), np.arange(12)
    v, u = np.meshgrid(-5.0 + 8 * rows, 3.0 + 8 * columns, indexing="ij")
    values = np.stack([u, v]).astype(np.float32)
    # The first row has its centre above the image, the last at 43 below it, the last columns right of it.
    values[:, 0], values[:, -1], values[:, :, -2:] = 1e6, 1e6, 1e6
    patches = Patches(values, (8.0, 8.0), (3.0, -5.0))
    pixels = np.array([[20.0, 10.0], [33.3, 27.7], [3.0, 3.0], [0.5, 0.5], [79.9, 39.9]])
    expected = np.array([[20.0, 10.0], [33.3, 27.7], [3.0, 3.0], [3.0, 3.0], [75.0, 35.0]])
    assert np.allclose(sampled(patches, camera, pixels), expected, atol=1e-3)


def test_feature_targets_are_means_over_the_cameras_that_see_a_voxel(small_town: Path) -> None:
    """The twin projects every voxel by hand; maps are linear in (u, v), so that a bilinear sample is the pixel."""
    data, token = first_frame(small_town)
    frame = data.key_frame(token)
    occupied = lidar_occupancy(frame, COARSE) == 1
    maps = {}
    for number, camera in enumerate(frame.cameras):
        v, u = np.meshgrid(np.arange(camera.height) + 0.5, np.arange(camera.width) + 0.5, indexing="ij")
        maps[camera.camera] = Patches(
            np.stack([u, v, np.full_like(u, number)]).astype(np.float32), (1.0, 1.0), (0.5, 0.5)
        )
    index, features = feature_targets(occupied, COARSE, frame, maps)
    assert 100 < len(index) < occupied.sum(), "some are hidden"
    seen = seen_voxels(occupied, COARSE, frame)
    views = []
    for voxel, found in list(zip(index, features, strict=True))[::7]:
        center = np.array(COARSE.lower_m) + (voxel + 0.5) * COARSE.voxel_size_m
        values = []
        for number, camera in enumerate(frame.cameras):
            x, y, z = transform_points(inverse(frame.ego_from_camera(camera)), center[None])[0]
            if z <= 0.1 or not seen[camera.camera][tuple(voxel)]:
                continue
            u, v, _ = camera.intrinsics_px @ (x / z, y / z, 1.0)
            if 0 <= u < camera.width and 0 <= v < camera.height:
                values.append((np.clip(u, 0.5, camera.width - 0.5), np.clip(v, 0.5, camera.height - 0.5), number))
        assert np.allclose(found, np.mean(values, 0), atol=2e-2)
        views.append(len(values))
    assert {1, 2} <= set(views), "a voxel between two cameras was looked at"


def test_features_come_from_valid_pixels(small_town: Path) -> None:
    """Maps say in which half of the image a pixel lies, sharply."""
    data, token = first_frame(small_town)
    whole = data.key_frame(token)
    occupied = lidar_occupancy(whole, COARSE) == 1
    halves = np.tile((np.arange(88) >= 44).astype(np.float32), (1, 48, 1))
    maps = {camera.camera: Patches(halves, (1.0, 1.0), (0.5, 0.5)) for camera in whole.cameras}
    index, features = feature_targets(occupied, COARSE, whole, maps)
    right_index, right = feature_targets(occupied, COARSE, through_half_a_lens(whole), maps)
    assert 100 < len(right_index) < len(index)
    assert features.min() == 0
    # Bilinear within a pixel of the border.
    assert right.min() >= 0.5


class Rows:
    """A teacher of features that are linear in the column, and different in every camera; counts images."""

    settings: dict[str, object] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked: list[str] = []

    def features(self, frame: KeyFrame) -> list[FeatureMap]:
        self.asked += [camera.key for camera in frame.cameras]
        return [
            FeatureMap(
                features=np.tile(np.arange(11, dtype=np.float32) + 100 * i, (2, 6, 1)), stride_px=(8.0, 8.0),
                offset_px=(4.0, 4.0),
            )
            for i in range(len(frame.cameras))
        ]  # fmt: skip


def frames_of(root: Path, **options: object) -> OccFeatFrames:
    data = NuScenes.open(root)
    images = OccupancyFrames(data, split_tokens(data, "all"), height=48, width=88)
    return OccFeatFrames(data, images, grid=COARSE, **options)  # type: ignore[arg-type]


def test_batches_are_mirrored_taken_apart_and_put_together(small_town: Path) -> None:
    frames = frames_of(small_town, features=Rows(), labels=small_town / "gts", cache_bytes=10**9)
    assert frames.feature_channels == 2
    first, second = frames[0], frames[1]
    assert torch.equal(frames[0].features, first.features), "from memory"
    assert first.semantics is not None
    batch = collate_occfeat([first, second])
    assert batch.voxel[:, 0].unique().tolist() == [0, 1]
    for part, whole in zip(batch.frames(), (first, second), strict=True):
        assert torch.equal(part.voxel, whole.voxel)
        assert torch.equal(part.features, whole.features)
        assert torch.equal(part.occupancy, whole.occupancy)
    mirrored = first.mirrored()
    x, y, z = first.voxel[5, 1:].tolist()
    assert mirrored.voxel[5].tolist() == [0, x, 99 - y, z]
    assert mirrored.occupancy[0, x, 99 - y, z] == first.occupancy[0, x, y, z] == 1
    assert mirrored.semantics is not None
    assert mirrored.semantics[0, x, 99 - y, z] == first.semantics[0, x, y, z]
    assert torch.equal(mirrored.mirrored().voxel, first.voxel)
    assert not torch.equal(mirrored.frame.images, first.frame.images)


def test_items_of_a_filled_cache_never_ask_the_teacher(small_town: Path, tmp_path: Path) -> None:
    teacher = Rows()
    frames = frames_of(small_town, features=FeatureCache(tmp_path, teacher))
    fill_caches(frames, rank=1, world_size=2)
    images = 6 * len(frames)
    assert len(set(teacher.asked)) == len(teacher.asked) == images
    # Its own share comes first, then what others have not made, from the other end.
    data, first = first_frame(small_town)
    assert teacher.asked[0] == data.key_frame(split_tokens(data, "all")[1]).cameras[0].key
    assert teacher.asked[-6] == data.key_frame(first).cameras[0].key
    fill_caches(frames, rank=0, world_size=2)
    plain = frames_of(small_town, features=Rows())
    for index in range(len(frames)):
        assert torch.equal(frames[index].features, plain[index].features)
    plain.fill_cache(0)
    frames_of(small_town).fill_cache(0)
    assert len(teacher.asked) == images


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_made_before_workers_start(small_town: Path, tmp_path: Path, workers: int) -> None:
    teacher = Rows()
    frames = frames_of(small_town, features=FeatureCache(tmp_path, teacher))
    data = CachedTrainingData(frames, collate_occfeat, replace(PretrainConfig.demo(), workers=workers))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    data.setup("fit")
    assert len(teacher.asked) == (6 * len(frames) if workers else 0)


def test_the_lidar_brings_no_classes_and_no_teacher_no_features(small_town: Path) -> None:
    item = frames_of(small_town)[0]
    assert item.semantics is None
    assert item.voxel.shape == (0, 4)
    assert frames_of(small_town).feature_channels == 0


def test_a_head_unfolds_the_map_at_the_right_place() -> None:
    """What changes in one cell of the map changes the volume above that cell and its neighbours, nowhere else."""
    torch.manual_seed(0)
    config = OccFeatHeadConfig(channels=4, blocks=1, horizontal_stride=2, heights=3, feature_channels=5, classes=True)
    head = OccFeatHead(config, bev_channels=6).eval()
    assert config.grid.shape == (100, 100, 3)
    bev = torch.randn(1, 6, 200, 200)
    changed = bev.clone()
    changed[0, :, 40, 151] += 1.0
    with torch.no_grad():
        one, other = head(bev), head(changed)
    touched = (one != other).any(-1)[0].nonzero()
    assert touched[:, 0].unique().tolist() == [19, 20, 21]
    assert touched[:, 1].unique().tolist() == [74, 75, 76]
    assert head.occupancy_logits(one).shape == (1, 100, 100, 3)
    voxel = torch.tensor([[0, 20, 75, 1], [0, 3, 4, 2]])
    assert torch.allclose(head.features_at(one, voxel)[1], head.features(one[0, 3, 4, 2]))  # type: ignore[misc]
    assert head.class_logits_at(one, voxel).shape == (2, FREE)


def test_terms_are_what_their_definitions_say() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, 3.0])
    occupancy = torch.tensor([1, 0, UNKNOWN, 0], dtype=torch.uint8)
    sigmoid = [1 / (1 + math.exp(-value)) for value in (2.0, -1.0, 3.0)]
    expected = -(3 * math.log(sigmoid[0]) + math.log(1 - sigmoid[1]) + math.log(1 - sigmoid[2])) / 3
    assert float(occupancy_term(logits, occupancy, positive_weight=3.0)) == pytest.approx(expected, abs=1e-5)
    assert float(occupancy_term(logits, torch.full((4,), UNKNOWN, dtype=torch.uint8))) == 0.0
    predicted, target = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [3.0, 3.0]])
    assert float(feature_term(predicted, target.half())) == pytest.approx(0.5, abs=1e-3)
    assert float(feature_term(predicted[:0], target[:0])) == 0.0
    class_logits = torch.zeros(2, FREE)
    class_logits[0, CAR] = 5.0
    classes = torch.tensor([CAR, DRIVEABLE_SURFACE], dtype=torch.uint8)
    right = -math.log(math.exp(5) / (math.exp(5) + 16))
    other = math.log(17)
    assert float(class_term(class_logits, classes)) == pytest.approx((right + other) / 2, abs=1e-5)


def saved(model: nn.Module, path: Path) -> Path:
    state = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"state_dict": {**state, "head.weight": torch.ones(1)}, "hyper_parameters": {}}, path)
    return path


def test_weights_go_on_by_name_and_the_account_says_which(tmp_path: Path) -> None:
    old = nn.ModuleDict({"encoder": nn.Linear(3, 4), "bev": nn.Linear(4, 4), "gone": nn.Linear(1, 1)})
    new = nn.ModuleDict({"encoder": nn.Linear(3, 4), "bev": nn.Linear(5, 4), "heads": nn.Linear(4, 1)})
    before = new["heads"].weight.clone()  # type: ignore[union-attr, operator]
    report = load_by_name(new, saved(old, tmp_path / "old.ckpt"))
    assert report.loaded == ("encoder.weight", "encoder.bias", "bev.bias")
    assert report.reshaped == ("bev.weight",)
    assert report.missing == ("heads.weight", "heads.bias")
    assert report.unused == ("gone.weight", "gone.bias")
    assert torch.equal(new["encoder"].weight, old["encoder"].weight)  # type: ignore[union-attr, arg-type]
    assert torch.equal(new["heads"].weight, before)  # type: ignore[union-attr, arg-type]
    assert "3 of 6 weights" in report.summary()
    assert "(heads)" in report.summary()


def test_counters_of_batch_norms_are_no_weights_that_fit(tmp_path: Path) -> None:
    """Of networks of two sizes the counters alone have one shape, and they say nothing."""
    small = replace(BevNetworkConfig.demo("simple_bev"), image_height=32, image_width=64)
    other = replace(
        small, backbone="efficientnet-b0", feature_channels=24, bev_channels=40,
        encoder=replace(small.encoder, widths=(40, 56)),
    )  # fmt: skip
    old = BevNetwork(small)
    del old.heads
    for norm in old.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked += 7
    path = saved(old, tmp_path / "old.ckpt")
    same = BevNetwork(small)
    report = load_by_name(same, path)
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in old.state_dict().items())
    assert report.unused == report.reshaped == ()
    assert report.loaded == tuple(name for name in old.state_dict() if "num_batches_tracked" not in name)
    with pytest.raises(ConfigError, match="fine-tune the architecture and size that were pretrained"):
        load_by_name(BevNetwork(other), path)


def test_a_checkpoint_of_which_nothing_fits_is_an_error(tmp_path: Path) -> None:
    path = saved(nn.ModuleDict({"encoder": nn.Linear(3, 4)}), tmp_path / "old.ckpt")
    with pytest.raises(ConfigError, match=r"old\.ckpt: none of its 2 weights .*encoder.* the network decoder"):
        load_by_name(nn.ModuleDict({"decoder": nn.Linear(3, 4)}), path)
