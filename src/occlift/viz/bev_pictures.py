"""Pictures of bird's-eye-view networks: what a pretraining asks for, and what a fine-tuned network answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from occlift.errors import ConfigError
from occlift.geometry.grids import BEV_GRID, VoxelGrid
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace, Taxonomy
from occlift.metrics.bev import THRESHOLD
from occlift.models.occfeat import OccFeatHeadConfig
from occlift.runtime.files import replacing
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, require_lidar
from occlift.scenes.rigs import single_rigs
from occlift.training.volume_targets import OCCUPIED, OPEN, Untouched, check_coarser
from occlift.viz.bev_maps import agreement_image, agreement_legend, probability_image
from occlift.viz.canvas import add_caption, panel, readable_name, stack
from occlift.viz.occupancy import colored_groups, height_levels, scale_bar, top_view, voxel_size_px
from occlift.viz.overlay import draw_occupancy, resize
from occlift.viz.show import PANEL_WIDTH, camera_caption, read_images

_GROUPS: Final = 17
"""Number of groups of like features."""
_PIXELS_PER_VOXEL: Final = 3


@dataclass(frozen=True, kw_only=True)
class TargetPictures:
    """Result of `show_targets`: written files and numbers of voxels.

    Attributes:
        paths: paths of the PNG files.
        occupied: target voxels that are occupied.
        open: target voxels that are empty.
        unknown: target voxels that the loss leaves out.
        with_features: occupied voxels that an image sees, so that there is a feature to predict.
    """

    paths: tuple[Path, ...]
    occupied: int
    open: int
    unknown: int
    with_features: int


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Which targets are drawn; fields as in the configuration of a pretraining.

    Attributes:
        labels: a folder in Occ3D's layout that occupancy comes from; None: from the lidar.
        space: grid and classes of the labels.
        teacher: name of the teacher of features; None: occupancy alone.
    """

    labels: Path | None = None
    space: LabelSpace = OCC3D
    sweeps: int = 1
    untouched: Untouched = "empty"
    teacher: str | None = None
    teacher_options: Mapping[str, str] = field(default_factory=dict)
    grid: VoxelGrid = field(default_factory=lambda: OccFeatHeadConfig().grid)

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise ConfigError(f"at least the key frame's own sweep is needed, got {self.sweeps} sweeps")


def show_targets(data: DrivingDataset, token: str, out: Path, targets: Targets) -> TargetPictures:
    """Draws the targets of a pretraining for one key frame: on the images, and from above.

    Args:
        token: token of the key frame.
        out: gets `occupancy_on_images.png` and `occupancy.png`, coloured by height, and with a teacher
            `features_on_images.png` and `features.png`: voxels of like features in one colour, the more alike two
            groups are, the more alike their colours.

    Raises:
        ConfigError: the teacher cannot be had, there are neither labels nor lidar, or the labels' voxels are larger
            than the targets'.
        DataError: data, labels, or what the teacher needs are missing or damaged.
    """
    from occlift.teachers.registry import feature_teacher
    from occlift.training.frames import OccupancyFrames
    from occlift.training.occfeat_frames import OccFeatFrames

    if targets.labels is None:
        require_lidar(data, [token], "pretraining targets without labels")
    else:
        check_coarser(targets.grid, targets.space)
    key_frame, grid = data.key_frame(token), targets.grid
    images, rigs = read_images(key_frame), single_rigs(key_frame)
    teacher = (
        None if targets.teacher is None else feature_teacher(targets.teacher, data, options=targets.teacher_options)
    )
    # Through the data set that training reads, so that what is drawn is what is trained on; its images are not used.
    frame = OccFeatFrames(
        data, OccupancyFrames(data, [token], height=rigs[0].height // 8, width=rigs[0].width // 8), grid=grid,
        labels=targets.labels, space=targets.space, features=teacher, sweeps=targets.sweeps,
        untouched=targets.untouched,
    )[0]  # fmt: skip
    occupancy = frame.occupancy[0].numpy()
    small = [rig.resized(round(PANEL_WIDTH * rig.height / rig.width), PANEL_WIDTH) for rig in rigs]
    reduced = [resize(image, rig.height, rig.width) for image, rig in zip(images, small, strict=True)]
    names = [camera_caption(camera.camera) for camera in key_frame.cameras]

    heights, levels = height_levels(occupancy == OCCUPIED)
    heights[occupancy == OPEN] = levels.free
    volumes = {"occupancy": (heights, levels)}
    if teacher is not None:
        volumes["features"] = _group_features(frame.voxel[:, 1:].numpy(), frame.features.float().numpy(), grid.shape)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (ids, groups) in volumes.items():
        space = LabelSpace(grid=grid, taxonomy=groups)
        drawn = [
            add_caption(Image.fromarray(draw_occupancy(image, rig, ids, space=space)), caption)
            for image, rig, caption in zip(reduced, small, track(names, f"drawing {name}"), strict=True)
        ]
        above = top_view(ids, space=space, pixels_per_voxel=_PIXELS_PER_VOXEL)
        pictures = {
            f"{name}_on_images.png": panel(drawn, 3),
            f"{name}.png": scale_bar(above, grid.voxel_size_m[1] / voxel_size_px(grid, _PIXELS_PER_VOXEL)[1]),
        }
        for file, picture in pictures.items():
            with replacing(out / file) as stream:
                picture.save(stream, "PNG")
            paths.append(out / file)
    count = [int((occupancy == value).sum()) for value in (OCCUPIED, OPEN, UNKNOWN)]
    return TargetPictures(
        paths=tuple(paths), occupied=count[0], open=count[1], unknown=count[2], with_features=len(frame.voxel)
    )


def _group_features(
    voxel: Int[np.ndarray, "voxels 3"], features: Float[np.ndarray, "voxels channels"], shape: tuple[int, int, int]
) -> tuple[UInt8[np.ndarray, "x y z"], Taxonomy]:
    """Groups of like features (k-means) as classes, free elsewhere; colours are the three main axes of their means."""
    from scipy.cluster.vq import kmeans2

    ids = np.full(shape, _GROUPS, dtype=np.uint8)
    colors = np.zeros((_GROUPS, 3), dtype=np.uint8)
    if not len(features):
        return ids, colored_groups("features", colors)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)
    groups = min(_GROUPS, len(unit))
    means, group = kmeans2(unit.astype(np.float64), groups, iter=20, minit="++", rng=np.random.default_rng(0))
    ids[tuple(voxel.T)] = group
    axes = np.linalg.svd(unit - unit.mean(0), full_matrices=False)[2][:3]
    place = (means - unit.mean(0)) @ axes.T
    spread = np.maximum(np.abs(place).max(0), 1e-6)
    colors[:groups, : place.shape[1]] = np.round(127.5 + 110 * place / spread)
    return ids, colored_groups("features", colors)


def show_prediction(data: DrivingDataset, checkpoint: Path, token: str, out: Path) -> Path:
    """Draws what a fine-tuned network predicts for one key frame, from above, beside the truth and under the images.

    Args:
        checkpoint: checkpoint of a fine-tuned bird's-eye-view network.
        out: gets `bev-<token>.png`: the images; per class its probability, and which cells were found, missed or
            invented.

    Raises:
        ConfigError: the network was trained on other cameras.
        DataError: checkpoint, data or maps are missing or damaged.
    """
    import torch

    from occlift.training.bev_frames import BevFrames
    from occlift.training.checkpoint import check_cameras, load_bev_network, trained_blind

    network = load_bev_network(checkpoint)
    check_cameras(checkpoint, data)
    config = network.config
    batch = BevFrames(
        data, [token], height=config.image_height, width=config.image_width, classes=config.classes,
        blind=trained_blind(checkpoint),
    )[0]  # fmt: skip
    with torch.inference_mode():
        probability = network(batch.frame.images, batch.frame.rig).segmentation[0].float().sigmoid().numpy()
    maps = []
    for number, name in enumerate(config.classes):
        truth, ignored = (tensor[0, number].numpy() for tensor in (batch.truth, batch.ignored))
        agreement = agreement_image(probability[number] > THRESHOLD, truth, ignored, BEV_GRID)
        maps += [
            add_caption(probability_image(probability[number], BEV_GRID), f"{readable_name(name)}: probability"),
            add_caption(agreement, f"{readable_name(name)}: at {THRESHOLD:g}"),
        ]
    below = panel(maps, 2)
    key_frame = data.key_frame(token)
    width = below.width // 3 - 11
    images = panel(
        [
            add_caption(
                Image.fromarray(resize(image, round(width * camera.height / camera.width), width)),
                camera_caption(camera.camera),
            )
            for image, camera in zip(read_images(key_frame), key_frame.cameras, strict=True)
        ],
        3,
    )
    path = out / f"bev-{token}.png"
    with replacing(path) as stream:
        stack((images, below, agreement_legend(below.width))).save(stream, "PNG")
    return path
