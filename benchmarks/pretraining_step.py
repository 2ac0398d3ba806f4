"""OccFeat's pretraining in full size: what a step and its targets take, on one key frame.

    python benchmarks/pretraining_step.py ROOT [--network simple_bev] [--backbone efficientnet-b0]
        [--image-size 224 400] [--steps 3]

ROOT: a nuScenes-format data set; the first key frame of its training split is used. The command's own recipe runs
(`occlift pretrain occfeat`): the full network, occupancy from the lidar, features from a
DINOv2-small. Its weights are random, made here and read by the real adapter, because what a step takes does not depend
on them. Everything runs in one process; the first step is told apart, because it chooses kernels.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from transformers import Dinov2Config, Dinov2Model

from occlift.scenes.dataset import open_dataset
from occlift.training.callbacks import read_scalars
from occlift.training.occfeat import OccFeatPretraining, PretrainConfig
from occlift.training.run import run_training
from occlift.training.run_folder import peak_memory_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--network", choices=("simple_bev", "bevformer", "lift_splat"), default="simple_bev")
    parser.add_argument("--backbone", default="efficientnet-b0")
    parser.add_argument("--image-size", type=int, nargs=2, default=(224, 400), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        teacher = Path(folder) / "dinov2-small"
        Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6)).save_pretrained(teacher)
        base = PretrainConfig.full(options.network)
        config = replace(
            base,
            model=replace(
                base.model,
                backbone=options.backbone,
                image_height=options.image_size[0],
                image_width=options.image_size[1],
            ),
            batch_size=1,
            teacher="dinov2",
            teacher_options={"model": str(teacher), "input_height": "224", "input_width": "392"},
        )
        before_gb = peak_memory_bytes() / 1e9
        started = time.perf_counter()
        spec = OccFeatPretraining(data=open_dataset(options.root), config=config)
        run = run_training(spec, Path(folder) / "run", max_steps=options.steps)
        whole_s = time.perf_counter() - started
        scalars = read_scalars(run.losses)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    print(f"{device}, torch {torch.__version__}; {config.model.backbone}, images of {config.model.image_height}×"
          f"{config.model.image_width}, {options.network}")  # fmt: skip
    step_s = [value for _, name, value in scalars if name == "step_seconds"]
    print(f"a step: the first {step_s[0]:.2f} s, then {median(step_s[1:] or step_s):.2f} s")
    print(f"everything: {whole_s:.1f} s, the teacher's features of six images and loading among it")
    print(f"peak memory: {peak_memory_bytes() / 1e9:.2f} GB, {before_gb:.2f} GB of it before anything was built")
    for step, name, value in scalars:
        if name.startswith("loss"):
            print(f"step {step}: {name} {value:.4f}")


if __name__ == "__main__":
    main()
