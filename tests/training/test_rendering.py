"""Rays, warped images, the rendered volume and its losses, each against a plain twin or a number worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lenses import through_half_a_lens
from networks import tiny_easyocc
from torch import Tensor

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.contraction import contracted, expanded
from occlift.geometry.grids import OCC3D_GRID
from occlift.geometry.reproject import warp_to_target
from occlift.label_space import FREE, NUM_CLASSES, UNKNOWN
from occlift.losses.rendering import (
    distortion_loss,
    last_alpha_entropy,
    photometric_error,
    photometric_loss,
    rendered_class_loss,
    rendered_depth_loss,
    smoothness_loss,
)
from occlift.models.rendering import RenderingConfig, RenderingModel
from occlift.scenes.dataset import KeyFrameList
from occlift.scenes.frames import CameraImage
from occlift.scenes.truth_maps import TruthMaps, read_truth_beside
from occlift.teachers.registry import depth_teacher, semantics_teacher
from occlift.training.frames import OccupancyFrames
from occlift.training.rendering_frames import Neighbours, RenderingFrames, at_rays

TINY = tiny_easyocc(image=(48, 88))
RENDERING = RenderingConfig(network=TINY, ray_height=6, ray_width=11, samples=24, reach_m=48.0)


def ring(cameras: int = 3, *, height: int = 48, width: int = 88, seed: int = 0) -> CameraRig:
    """Cameras 1.5 m above the ground that look around, one batch."""
    random = np.random.default_rng(seed)
    transforms = []
    for yaw in random.uniform(-math.pi, math.pi, cameras):
        forward, left = np.array([math.cos(yaw), math.sin(yaw), 0]), np.array([-math.sin(yaw), math.cos(yaw), 0])
        transform = np.eye(4)
        transform[:3, :3] = np.stack((-left, [0, 0, -1], forward), 1)
        transform[:3, 3] = [*random.uniform(-1, 1, 2), 1.5]
        transforms.append(transform)
    intrinsics = torch.tensor([[60.0, 0, width / 2 + 1], [0, 55.0, height / 2 - 2], [0, 0, 1]])
    return CameraRig(
        intrinsics_px=intrinsics.expand(1, cameras, 3, 3).clone(),
        ego_from_camera=torch.from_numpy(np.stack(transforms)).float()[None],
        height=height,
        width=width,
    )


@pytest.mark.parametrize("share", [0.3, 2 / 3, 0.9])
def test_contraction_is_undone_and_smooth_at_the_box(share: float) -> None:
    r = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    c = contracted(r, share)
    assert torch.allclose(expanded(c, share), r, atol=1e-9)
    assert bool((c.diff() > 0).all()), "order is kept"
    assert c.abs().max() < 1
    inside = r.abs() <= 1
    assert torch.allclose(c[inside], share * r[inside])
    edge = torch.tensor([1 - 1e-6, 1 + 1e-6], dtype=torch.float64)
    slopes = (contracted(edge + 1e-7, share) - contracted(edge - 1e-7, share)) / 2e-7
    assert torch.allclose(slopes, torch.full_like(slopes, share), rtol=1e-4)


def test_a_ray_passes_through_the_centre_of_its_cell() -> None:
    rig = ring()
    origins, directions = rig.rays(6, 11)
    points_ego = (origins[:, :, None, None] + 7.5 * directions)[0]
    for camera in range(rig.num_cameras):
        pixels, depth_m, _ = rig.project(points_ego[camera].flatten(0, 1))
        expected_u = (torch.arange(11) + 0.5) * 88 / 11
        expected_v = (torch.arange(6) + 0.5) * 48 / 6
        assert torch.allclose(depth_m[0, camera], torch.tensor(7.5), atol=1e-4)
        assert torch.allclose(pixels[0, camera].view(6, 11, 2)[..., 0], expected_u.expand(6, 11), atol=1e-3)
        assert torch.allclose(pixels[0, camera].view(6, 11, 2)[..., 1], expected_v[:, None].expand(6, 11), atol=1e-3)


def test_geometry_keeps_its_precision_under_autocast() -> None:
    """A pixel coordinate in bf16 is off by a pixel; networks train under autocast."""
    rig = ring()
    points_ego = torch.randn(500, 3) * torch.tensor([20.0, 20.0, 2.0])
    moved = torch.eye(4).expand(3, 4, 4)
    image, depth_m = torch.rand(3, 3, 48, 88), torch.full((3, 48, 88), 9.0)
    arguments = (image, depth_m, rig.intrinsics_px[0], rig.intrinsics_px[0], moved)
    exact = (rig.project(points_ego)[0], rig.rays(6, 11)[1], rig.camera_from_ego(), warp_to_target(*arguments)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = (rig.project(points_ego)[0], rig.rays(6, 11)[1], rig.camera_from_ego(), warp_to_target(*arguments)[0])
    assert all(torch.equal(a, b) for a, b in zip(exact, under, strict=True))


def test_a_wall_that_the_camera_passes_moves_by_its_parallax() -> None:
    """Camera 1 m to the right of the target, wall 10 m away, focal length 60: everything shifts by 6 pixels."""
    intrinsics = torch.tensor([[[60.0, 0, 44], [0, 60.0, 24], [0, 0, 1]]])
    source = torch.rand(1, 3, 48, 88, generator=torch.Generator().manual_seed(0))
    source_from_target = torch.eye(4)[None].clone()
    source_from_target[0, 0, 3] = -1.0
    warped, visible = warp_to_target(source, torch.full((1, 48, 88), 10.0), intrinsics, intrinsics, source_from_target)
    assert torch.allclose(warped[..., 6:], source[..., :-6], atol=1e-4)
    assert bool(visible[..., 6:].all())
    assert not bool(visible[..., :6].any())
    behind = torch.eye(4)[None].clone()
    behind[0, 2, 3] = -20.0
    assert not bool(warp_to_target(source, torch.full((1, 48, 88), 10.0), intrinsics, intrinsics, behind)[1].any())


def plain_photometric_error(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel."""
    colours, height, width = image.shape
    padded = [np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="reflect") for x in (image, other)]
    error = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            dissimilarity = []
            for colour in range(colours):
                a, b = (x[colour, row : row + 3, column : column + 3] for x in padded)
                covariance = ((a - a.mean()) * (b - b.mean())).mean()
                similarity = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
                similarity /= (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var() + b.var() + 9e-4)
                dissimilarity.append(min(max((1 - similarity) / 2, 0), 1))
            l1 = np.abs(image[:, row, column] - other[:, row, column]).mean()
            error[row, column] = 0.85 * np.mean(dissimilarity) + 0.15 * l1
    return error


def test_the_photometric_error_is_its_definition() -> None:
    image, other = np.random.default_rng(0).random((2, 3, 7, 9))
    found = photometric_error(torch.from_numpy(image)[None], torch.from_numpy(other)[None])
    assert np.allclose(found[0], plain_photometric_error(image, other))
    same = torch.rand(1, 3, 7, 9)
    assert torch.allclose(photometric_error(same, same), torch.zeros(()), atol=1e-6)


def test_the_photometric_loss_takes_the_best_neighbour_and_rewards_no_hiding() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 8, 10, generator=generator)
    noise = torch.rand(1, 2, 3, 8, 10, generator=generator)
    both = torch.tensor([[True, True]])
    seen = torch.ones(1, 2, 8, 10, dtype=torch.bool)
    perfect_second = torch.stack((noise[:, 0], image), 1)
    assert photometric_loss(image, perfect_second, seen, noise, both) < 1e-6
    unmoved = torch.stack([photometric_error(image, noise[:, k]) for k in range(2)], 1).amin(1).mean()
    worse = torch.rand(1, 2, 3, 8, 10, generator=generator)
    assert photometric_loss(image, worse, seen, noise, both) <= unmoved
    # Nothing seen, nothing gained: as the unmoved neighbours, and no gradient.
    assert torch.allclose(photometric_loss(image, perfect_second, ~seen, noise, both), unmoved)
    only_first = torch.tensor([[True, False]])
    first = photometric_error(image, noise[:, 0]).mean()
    assert torch.allclose(photometric_loss(image, perfect_second, seen, noise, only_first), first)
    assert photometric_loss(image, worse, seen, noise, torch.tensor([[False, False]])) == 0


def test_smoothness_is_cheap_at_edges_of_the_image() -> None:
    flat = torch.full((1, 4, 6), 5.0)
    step = flat.clone()
    step[..., 3:] = 10.0
    grey = torch.zeros(1, 3, 4, 6)
    edged = grey.clone()
    edged[..., 3:] = 1.0
    assert smoothness_loss(flat, grey) == 0
    # Inverse depths 0.2 and 0.1 over their mean 0.15: a jump of 2/3 at one of five places along every row.
    assert torch.allclose(smoothness_loss(step, grey), torch.tensor(2 / 3 / 5))
    assert torch.allclose(smoothness_loss(step, edged), torch.tensor(2 / 3 / 5 * math.exp(-1)))


def test_rendered_classes_and_sky_by_hand() -> None:
    logits = torch.zeros(4, 17)
    logits[0, 3] = 2.0
    opacity = torch.tensor([0.9, 0.5, 0.25, 0.7])
    classes = torch.tensor([3, 5, 17, 255])
    weights = torch.ones(18)
    weights[5], weights[17] = 3.0, 0.5
    of_three = math.log(math.exp(2) + 16) - 2
    expected = (of_three + 3 * math.log(17) + 0.5 * -math.log(0.75)) / 4.5
    assert torch.allclose(rendered_class_loss(logits, opacity, classes, weights), torch.tensor(expected))
    unknown = torch.full((4,), 255)
    assert rendered_class_loss(logits, opacity, unknown, weights) == 0


def test_rendered_depth_by_hand() -> None:
    depth_m = torch.tensor([10.0, 10.0, 10.0, 10.0])
    opacity = torch.tensor([1.0, 1.0, 0.5, 0.5])
    target_m = torch.tensor([20.0, math.nan, math.inf, 60.0])
    inside = torch.tensor([True, False, False, False])
    expected = (math.log(2) + 2 * math.log(2)) / 3
    assert torch.allclose(rendered_depth_loss(depth_m, opacity, target_m, inside), torch.tensor(expected))
    assert rendered_depth_loss(depth_m, opacity, torch.full((4,), math.nan), ~inside) == 0


def test_entropy_is_least_where_rays_decide() -> None:
    assert last_alpha_entropy(torch.tensor([0.0, 1.0])) < 1e-4
    assert torch.allclose(last_alpha_entropy(torch.tensor([0.5])), torch.tensor(math.log(2)))


def test_distortion_is_its_double_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    middle = torch.rand(5, 7, generator=generator, dtype=torch.float64).sort(-1).values * 40
    spacing = torch.rand(7, generator=generator, dtype=torch.float64)
    expected = 0.0
    for w, m in zip(weights.tolist(), middle.tolist(), strict=True):
        expected += sum(w[i] * w[j] * abs(m[i] - m[j]) for i in range(7) for j in range(7))
        expected += sum(w[i] ** 2 * spacing[i].item() for i in range(7)) / 3
    assert torch.allclose(distortion_loss(weights, middle, spacing), torch.tensor(expected / 5, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda w: distortion_loss(w, middle, spacing), (weights,))


def slow_sample(volume: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Trilinear at grid coordinates −1..1, the border kept; volume [channels, x, y, z]."""
    position = [(p + 1) / 2 * n - 0.5 for p, n in zip(point, volume.shape[1:], strict=True)]
    result = np.zeros(volume.shape[0])
    for corner in np.ndindex(2, 2, 2):
        weight, index = 1.0, []
        for axis, (p, n) in enumerate(zip(position, volume.shape[1:], strict=True)):
            low = math.floor(p)
            weight *= p - low if corner[axis] else 1 - (p - low)
            index.append(min(max(low + corner[axis], 0), n - 1))
        result += weight * volume[(slice(None), *index)]
    return result


@pytest.mark.parametrize("share", [None, 0.6])
def test_a_rendering_is_what_its_formulas_say(share: float | None) -> None:
    shape = (200, 200, 16) if share is None else (40, 40, 8)
    config = replace(
        RENDERING, network=replace(TINY, grid_shape=shape), ray_height=2, ray_width=3, class_group=2, inner_share=share,
        far_m=70.0,
    )  # fmt: skip
    model, rig = RenderingModel(config), ring(2)
    volume = torch.randn(1, 18, *shape, generator=torch.Generator().manual_seed(1))
    volume[:, FREE] += 5.5
    jitter = torch.rand(1, 2, 2, 3, generator=torch.Generator().manual_seed(2)) - 0.5
    rendering = model.render(volume, rig, jitter=jitter)
    lower, upper = np.array(OCC3D_GRID.lower_m), np.array(OCC3D_GRID.upper_m)
    origins, directions = (tensor.double().numpy() for tensor in rig.rays(2, 3))
    edges = np.linspace(0, 48, 25)
    if share is not None:
        farthest = contracted(torch.tensor(48 / 40), share)
        edges = (expanded(torch.linspace(0, 1, 25) * farthest, share) * 40).double().numpy()
    grid = volume[0].double().numpy()
    free = np.exp(grid[FREE:]) / np.exp(grid).sum(0)
    log_odds = np.log((1 - free) / free)
    for camera, row, column in np.ndindex(2, 2, 3):
        reached, weights, points, z = 0.0, [], [], []
        for i in range(24):
            depth = (edges[i] + edges[i + 1]) / 2 + jitter[0, camera, row, column].item() * (edges[i + 1] - edges[i])
            ego = origins[0, camera] + depth * directions[0, camera, row, column]
            point = 2 * (ego - lower) / (upper - lower) - 1
            if share is not None:
                point = contracted(torch.from_numpy(point), share).numpy()
            occupied = 1 / (1 + math.exp(-slow_sample(log_odds, point)[0])) if (np.abs(point) < 1).all() else 0.0
            weights.append(min(reached + occupied, 1) - min(reached, 1))
            reached += occupied
            points.append(point)
            z.append(depth)
        opacity = sum(weights)
        down = directions[0, camera, row, column, 2]
        behind = min(70.0, (lower[2] - origins[0, camera, 2]) / down) if share is None and down < 0 else 70.0
        depth = sum(w * d for w, d in zip(weights, z, strict=True)) + (1 - opacity) * behind
        classes = np.zeros(FREE)
        for i in range(0, 24, 2):
            classes += (weights[i] + weights[i + 1]) * slow_sample(grid[:FREE], (points[i] + points[i + 1]) / 2)
        at = (0, camera, row, column)
        assert rendering.opacity[at].item() == pytest.approx(opacity, abs=1e-4)
        assert rendering.depth_m[at].item() == pytest.approx(depth, rel=1e-3)
        assert np.allclose(rendering.class_logits[at], classes, atol=1e-3)
    weights, _, _ = rendering.with_what_lies_behind()
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)


def test_a_wall_is_rendered_where_it_stands() -> None:
    model = RenderingModel(replace(RENDERING, samples=240))
    volume = torch.zeros(1, 18, 200, 200, 16)
    volume[:, FREE] = 20.0
    volume[:, FREE, 130] = -20.0  # x from 12.0 to 12.4 m
    volume[:, 15, 130] = 5.0
    rig = ring(1)
    forward = torch.tensor([[0.0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    rig = replace(rig, ego_from_camera=forward[None, None])
    rendering = model.render(volume, rig)
    wall = rendering.opacity > 0.99
    assert bool(wall[0, 0, 2:4].all()), "the rays through the middle meet the wall"
    assert (rendering.depth_m[wall] - 11.6).abs().max() < 0.35
    assert bool((rendering.class_logits[wall].argmax(-1) == 15).all())
    assert model.ends_inside(torch.full((1, 1, 6, 11), 11.7), rig)[0, 0, 3, 5]
    assert not model.ends_inside(torch.full((1, 1, 6, 11), 45.0), rig)[0, 0, 3, 5]
    assert not model.ends_inside(torch.full((1, 1, 6, 11), math.inf), rig).any()


def test_a_stretched_volume_is_read_at_the_voxels_of_occ3d() -> None:
    """A function of the place, written into the stretched grid, is found again where it was meant."""
    network = replace(TINY, horizontal_stride=2, grid_shape=(300, 300, 24))
    config = replace(RENDERING, network=network, inner_share=2 / 3)
    model = RenderingModel(config)
    axes = [expanded((torch.arange(n) + 0.5) * 2 / n - 1, 2 / 3) for n in (300, 300, 24)]
    scale = torch.tensor([40.0, 40.0, 3.2])
    x, y, z = torch.meshgrid(*(axis * s for axis, s in zip(axes, scale, strict=True)), indexing="ij")
    volume = torch.zeros(1, 18, 300, 300, 24)
    volume[:, FREE] = 0.02 * x - 0.03 * y + 0.2 * z
    centers = torch.from_numpy(OCC3D_GRID.centers()).float() - torch.tensor([0.0, 0.0, 2.2])
    expected = centers @ torch.tensor([0.02, -0.03, 0.2])
    found = model.occ3d_logits(volume)[0, FREE]
    assert torch.allclose(found, expected, atol=1e-3)
    # Where the network looks: the middle of the stretched grid is Occ3D's, the outermost voxels lie far beyond.
    assert torch.allclose(model.network.voxel_centers_ego.mean(0), torch.tensor([0.0, 0.0, 2.2]), atol=1e-2)
    assert model.network.voxel_centers_ego[:, 0].max() > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_group": 5}, "class_group 5 does not divide"),
        ({"inner_share": 1.5}, "between 0 and 1"),
        ({"network": replace(TINY, grid_shape=(40, 40, 8))}, "without inner_share"),
    ],
)
def test_configs_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(RENDERING, **change)


@pytest.mark.parametrize("share", [None, 2 / 3])
def test_the_sky_and_the_entropy_pull_at_an_untrained_volume(share: float | None) -> None:
    """Rays through a fog in which they are opaque have no gradient. Not contracted, the upper rays leave it early."""
    shape = (200, 200, 16) if share is None else (64, 64, 12)
    config = replace(RENDERING, network=replace(TINY, grid_shape=shape), samples=128, inner_share=share, far_m=160.0)
    torch.manual_seed(0)
    model = RenderingModel(config)
    # As the untrained head gives it: features say little yet.
    volume = model.network.head.bias.detach().view(-1, FREE + 1)[0].view(1, -1, 1, 1, 1).repeat(1, 1, *shape)
    for name in ("sky", "entropy"):
        volume = volume.detach().requires_grad_()
        opacity = model.render(volume, ring(2)).opacity
        sky = torch.full((opacity.numel(),), FREE)
        loss = last_alpha_entropy(opacity)
        if name == "sky":
            loss = rendered_class_loss(torch.zeros(len(sky), FREE), opacity.flatten(), sky, torch.ones(NUM_CLASSES))
        (gradient,) = torch.autograd.grad(loss, volume)
        assert gradient[:, FREE].abs().sum() > 1e-3, name
    if share is not None:
        assert 0.3 < opacity.min() <= opacity.max() < 0.9, "no ray is opaque, none is empty"


def test_without_contraction_five_samples_of_a_hundred_are_occupied_in_the_first_fog() -> None:
    bias = RenderingModel(RENDERING).network.head.bias.view(-1, FREE + 1)
    assert torch.allclose(1 - bias.softmax(1)[:, FREE], torch.tensor(0.05))


def test_a_config_survives_json() -> None:
    for config in (RENDERING, RenderingConfig.full(contracted=True)):
        assert RenderingConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="not the configuration of a rendering model"):
        RenderingConfig.from_dict({"network": TINY.to_dict(), "occupied": "1 - softmax(free)"})
    of_before = {name: value for name, value in RENDERING.to_dict().items() if name != "occupied"}
    with pytest.raises(ConfigError, match=r"occupied with 1 - sigmoid\(free\).*train it again"):
        RenderingConfig.from_dict(of_before)


def frames_of(
    root: Path, *, neighbours: Neighbours | None = "key_frames", rows: int = 6, columns: int = 11
) -> RenderingFrames:
    data = NuScenes.open(root)
    tokens = [token for scene in data.scenes("all") for token in data.key_frame_tokens(scene)]
    return RenderingFrames(
        data,
        OccupancyFrames(data, tokens, height=48, width=88, labels=root / "gts"),
        semantics=semantics_teacher("oracle:perfect", data),
        depth=depth_teacher("oracle:perfect", data),
        ray_height=rows,
        ray_width=columns,
        neighbours=neighbours,
    )


def test_neighbours_are_the_key_frames_before_and_after(small_town: Path) -> None:
    data, frames = NuScenes.open(small_town), frames_of(small_town)
    first, second, last = frames[0], frames[1], frames[3]
    for frame, there in ((first, [False, True]), (second, [True, True]), (last, [True, False])):
        assert frame.exists.tolist() == [[[one] * 6 for one in there]]
    assert second.neighbours[1].tokens == frames[2].tokens
    here, there = data.key_frame(second.tokens[0]), data.key_frame(frames[2].tokens[0])
    expected = np.linalg.inv(there.cameras[4].global_from_camera) @ here.cameras[4].global_from_camera
    found = second.neighbour_from_camera()[0, 1, 4]
    assert np.allclose(found, expected, atol=1e-3)


def test_true_depth_explains_the_neighbours_better_than_a_guess(small_town: Path) -> None:
    """Poses, intrinsics, pixel centres and maps at once: any of them wrong, and the images do not match."""
    from occlift.training.rendering_task import _colours, _warped

    batch = frames_of(small_town, rows=48, columns=88)[1]
    assert batch.depth_m is not None
    images = _colours(batch.frame)
    neighbours = torch.stack([_colours(neighbour) for neighbour in batch.neighbours], 1)
    exists = batch.exists.transpose(1, 2).flatten(0, 1)
    truth_m = batch.depth_m[0].clamp(max=80.0)

    def loss(depth_m: Tensor) -> float:
        warped, visible = _warped(neighbours, depth_m, batch)
        return float(photometric_loss(images, warped, visible, neighbours, exists))

    others = [loss(truth_m * 0.8), loss(truth_m * 1.25), loss(torch.full_like(truth_m, 8.0))]
    assert loss(truth_m) < 0.95 * min(others), (loss(truth_m), others)


def test_a_mirrored_batch_is_rendered_mirrored(small_town: Path) -> None:
    batch = frames_of(small_town)[1]
    mirrored = batch.mirrored()
    model = RenderingModel(RENDERING)
    volume = torch.randn(1, 18, 200, 200, 16, generator=torch.Generator().manual_seed(3))
    volume[:, FREE] += 3
    plain = model.render(volume, batch.frame.rig)
    flipped = model.render(volume.flip(3), mirrored.frame.rig)
    assert torch.allclose(flipped.depth_m, plain.depth_m.flip(-1), atol=2e-3)
    assert torch.equal(mirrored.class_id, batch.class_id.flip(-1))
    reflect_x = torch.tensor([-1.0, 1, 1, 1]).diag()
    expected = reflect_x @ batch.neighbour_from_camera() @ reflect_x
    assert torch.allclose(mirrored.neighbour_from_camera(), expected, atol=1e-4)


class HalfTown(KeyFrameList):
    def truth_maps(self, image: CameraImage) -> TruthMaps:
        return read_truth_beside(image)


def test_rays_of_invalid_pixels_are_unknown(small_town: Path) -> None:
    whole = frames_of(small_town)
    data = NuScenes.open(small_town)
    half = HalfTown([through_half_a_lens(data.key_frame(token)) for token in whole._frames.tokens[:2]])
    tokens = half.key_frame_tokens(half.scenes()[0])
    frames = RenderingFrames(
        half, OccupancyFrames(half, tokens, height=48, width=88), semantics=semantics_teacher("oracle:perfect", half),
        depth=depth_teacher("oracle:perfect", half), ray_height=6, ray_width=12, neighbours=None,
    )  # fmt: skip
    class_id, depth_m = frames.maps(0, frames._frames[0].rig)
    assert depth_m is not None
    expected, expected_m = frames_of(small_town, columns=12).maps(0, frames._frames[0].rig)
    assert expected_m is not None
    assert (class_id[..., :6] == UNKNOWN).all()
    assert depth_m[..., :6].isnan().all()
    assert torch.equal(class_id[..., 6:], expected[..., 6:])
    assert torch.equal(depth_m[..., 6:], expected_m[..., 6:])


def test_maps_are_read_where_the_rays_are(small_town: Path) -> None:
    """A window at the right bottom, enlarged twice: the ray of a cell shows the pixel below it."""
    camera = NuScenes.open(small_town).key_frame(frames_of(small_town)[0].tokens[0]).cameras[0]
    values = np.arange(48 * 88).reshape(48, 88)
    rig = CameraRig(
        intrinsics_px=torch.from_numpy(camera.intrinsics_px)[None],
        ego_from_camera=torch.eye(4, dtype=torch.float64)[None],
        height=48,
        width=88,
    )
    assert np.array_equal(at_rays(values, camera, rig.intrinsics_px[0].numpy(), 48, 88), values)
    window = rig.cropped(top=28, left=68, height=20, width=20).resized(40, 40)
    found = at_rays(values, camera, window.intrinsics_px[0].numpy(), 40, 40)
    assert np.array_equal(found, values[28:, 68:].repeat(2, 0).repeat(2, 1))
    # A map of half the size covers the same image.
    halved = at_rays(values[::2, ::2], camera, rig.intrinsics_px[0].numpy(), 48, 88)
    assert np.array_equal(halved, values[::2, ::2].repeat(2, 0).repeat(2, 1))


def test_rays_are_counted_by_class(small_town: Path) -> None:
    frames = frames_of(small_town, neighbours=None)
    counts = frames.class_counts([0, 5])
    expected = torch.cat([frames[i].class_id.flatten() for i in (0, 5)]).long().bincount(minlength=256)[:NUM_CLASSES]
    assert torch.equal(counts, expected)
    assert counts.sum() > 0.9 * 2 * 6 * 6 * 11
