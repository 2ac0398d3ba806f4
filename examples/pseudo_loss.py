"""The pseudo-loss of EasyOcc, added to somebody else's network in ten lines.

    occlift town data/town --scenes 2 --frames 6 --image-height 96 --image-width 176 --maps
    occlift label data/town --out data/labels --frames 5
    python examples/pseudo_loss.py data/town data/labels

`Frames`, `TheirModel` and `their_loss` stand for a project that never heard of occlift. It reads nuScenes itself,
keeps its batches in dictionaries, has a grid of its own (0.8 m) with axes z, y, x, puts free at index 0, and learns
from lidar returns where something is, but not what. The ten lines that are added end in `# 1` to `# 10`;
docs/pseudo_loss.md says what they do. About a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from occlift.geometry.grids import VoxelGrid  # 1
from occlift.labels.folder import LabelFolder, collate_labels  # 2
from occlift.losses import OccupancyLossConfig, PseudoLoss  # 3

LOWER_M, VOXEL_M, SHAPE = (-40.0, -40.0, -1.0), 0.8, (100, 100, 8)
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
FREE, NUM_CLASSES = 0, 18


class Frames(Dataset[dict[str, Any]]):
    """Their data set: key frames of a nuScenes folder, as dictionaries of tensors."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (tables,) = root.glob("v1.0-*")
        table = {path.stem: json.loads(path.read_text()) for path in tables.glob("*.json")}
        self.poses = {row["token"]: _matrix(row) for row in table["ego_pose"]}
        self.sensors = {row["token"]: row for row in table["calibrated_sensor"]}
        channels = {row["token"]: row["channel"] for row in table["sensor"]}
        self.records: dict[str, dict[str, dict[str, Any]]] = {row["token"]: {} for row in table["sample"]}
        for row in table["sample_data"]:
            if row["is_key_frame"]:
                channel = channels[self.sensors[row["calibrated_sensor_token"]]["sensor_token"]]
                self.records[row["sample_token"]][channel] = row
        self.tokens = list(self.records)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        records = self.records[self.tokens[index]]
        lidar = records["LIDAR_TOP"]
        global_from_ego = self.poses[lidar["ego_pose_token"]]
        images, pixel_from_ego = [], []
        for channel in CAMERAS:
            record = records[channel]
            image = np.asarray(Image.open(self.root / record["filename"]).convert("RGB"), np.float32)
            images.append(image.transpose(2, 0, 1) / 127.5 - 1)
            sensor = self.sensors[record["calibrated_sensor_token"]]
            global_from_camera = self.poses[record["ego_pose_token"]] @ _matrix(sensor)
            camera_from_ego = np.linalg.inv(global_from_camera) @ global_from_ego
            pixel_from_ego.append(np.array(sensor["camera_intrinsic"]) @ camera_from_ego[:3])
        points = np.fromfile(self.root / lidar["filename"], np.float32).reshape(-1, 5)[:, :3]
        ego_from_lidar = _matrix(self.sensors[lidar["calibrated_sensor_token"]])
        points_ego = points @ ego_from_lidar[:3, :3].T + ego_from_lidar[:3, 3]
        voxel = np.floor((points_ego - LOWER_M) / VOXEL_M).astype(int)
        voxel = voxel[((voxel >= 0) & (voxel < SHAPE)).all(1)]
        hit = np.zeros(SHAPE[::-1], np.float32)
        hit[tuple(voxel.T[::-1])] = 1
        return {
            "token": self.tokens[index],
            "images": torch.from_numpy(np.stack(images)),
            "pixel_from_ego": torch.from_numpy(np.stack(pixel_from_ego)).float(),
            "hit": torch.from_numpy(hit),
        }


def _matrix(row: dict[str, Any]) -> np.ndarray:
    """The 4×4 transform of a row with `rotation` (w, x, y, z) and `translation`."""
    w, x, y, z = row["rotation"]
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = row["translation"]
    return matrix


class TheirModel(nn.Module):
    """Their network: images → features at voxel centres → 3-D convolutions → logits [batch, z, y, x, classes]."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
        )
        axes = [torch.from_numpy(LOWER_M[i] + (np.arange(SHAPE[i]) + 0.5) * VOXEL_M).float() for i in (2, 1, 0)]
        z, y, x = torch.meshgrid(*axes, indexing="ij")
        self.register_buffer("centers", torch.stack((x, y, z, torch.ones_like(x)), -1).view(-1, 4), persistent=False)
        self.place = nn.Parameter(torch.zeros(channels, *SHAPE[::-1]))
        self.volume = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(channels, NUM_CLASSES)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        images = batch["images"]
        frames, cameras, _, height, width = images.shape
        features = self.encoder(images.flatten(0, 1))
        u, v, depth = (batch["pixel_from_ego"].flatten(0, 1) @ self.centers.T).unbind(1)
        where = torch.stack((2 * u / depth / width - 1, 2 * v / depth / height - 1), -1)
        seen = ((where.abs() < 1).all(-1) & (depth > 0.1)).float()
        where = where.where(seen[..., None] > 0, -2.0)
        sampled = F.grid_sample(features, where[:, None], align_corners=False)[:, :, 0] * seen[:, None]
        lifted = sampled.view(frames, cameras, -1, *SHAPE[::-1]).sum(1)
        views = seen.view(frames, cameras, 1, *SHAPE[::-1]).sum(1).clamp(min=1)
        volume = lifted / views + self.place
        return self.head(self.volume(volume).movedim(1, -1))


def their_loss(logits: Tensor, batch: dict[str, Any]) -> Tensor:
    """Something is where the lidar says so; elsewhere there is rather nothing."""
    log_p = logits.log_softmax(-1)
    log_occupied = log_p[..., FREE + 1 :].logsumexp(-1)
    hit = batch["hit"]
    return -(hit * log_occupied).sum() / hit.sum().clamp(min=1) - ((1 - hit) * log_p[..., FREE]).mean()


@torch.no_grad()
def agreement(model: nn.Module, frames: Frames, labels: LabelFolder) -> float:
    """Of the known voxels that label or network call occupied, the per cent that both give the same class; 4 frames."""
    right = total = 0
    for index in range(min(4, len(frames))):
        semantics = labels.label(frames.tokens[index]).semantics
        coarse = model(default_collate([frames[index]]))[0].argmax(-1).permute(2, 1, 0)
        # Their classes begin after free, and each of their voxels covers 2×2×2 of the labels'.
        predicted = ((coarse - 1) % NUM_CLASSES).repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
        occupied = (semantics != 255) & ((semantics != 17) | (predicted != 17))
        right += int((predicted == semantics)[occupied].sum())
        total += int(occupied.sum())
    return 100 * right / max(total, 1)


def train(root: Path, folder: Path, *, steps: int, batch_size: int = 1) -> list[dict[str, float]]:
    """Their training loop; returns the losses of every step, and prints some."""
    torch.manual_seed(0)
    frames = Frames(root)
    loader = DataLoader(frames, batch_size=batch_size, shuffle=True)
    model = TheirModel()
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    labels = LabelFolder(folder)  # 4
    grid = VoxelGrid(lower_m=LOWER_M, voxel_size_m=(VOXEL_M,) * 3, shape=SHAPE)  # 5
    config = OccupancyLossConfig(class_weighting="inverse_log", max_voxels=50_000, max_lovasz_voxels=20_000)  # 6
    pseudo_loss = PseudoLoss(grid, class_counts=labels.class_counts(), config=config, axes="bzyxc", free=FREE)  # 7

    print(f"before: {agreement(model, frames, labels):.1f} % of what is occupied has the class of its label")
    history: list[dict[str, float]] = []
    while len(history) < steps:
        for batch in loader:
            logits = model(batch)
            terms = {"lidar": their_loss(logits, batch)}
            label = collate_labels([labels.label(token) for token in batch["token"]])  # 8
            terms |= pseudo_loss.terms(logits, label.semantics, label.confidence)  # 9
            loss = torch.stack(list(terms.values())).sum()  # 10
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            history.append({name: float(term.detach()) for name, term in terms.items()})
            if len(history) == 1 or len(history) % 10 == 0:
                print(f"step {len(history)}: " + ", ".join(f"{name} {v:.3f}" for name, v in history[-1].items()))
            if len(history) == steps:
                break
    print(f"after: {agreement(model, frames, labels):.1f} % of what is occupied has the class of its label")
    return history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a nuScenes-format data set")
    parser.add_argument("labels", type=Path, help="its labels, from `occlift label`")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    train(arguments.root, arguments.labels, steps=arguments.steps)


if __name__ == "__main__":
    main()
