"""What the options of a training cost and bring: memory and time of a step with each, beside a plain one.

    python benchmarks/training_options.py [--size demo|full] [--steps 5] [--compile]

Every variant runs in a process of its own, on random images and labels, on an accelerator where there is one. `kept` is
what the forward pass keeps for the backward pass, weights excluded (not counted for compiled networks); `peak` is the
largest size of the allocator on an accelerator.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

VARIANTS = ("plain", "channels first", "gradient checkpointing", "compile")


def measure(variant: str, size: str, steps: int) -> dict[str, float]:
    import torch

    from occlift.losses.occupancy import OccupancyLossConfig, class_weights, occupancy_loss
    from occlift.models.easyocc import EasyOcc, EasyOccConfig
    from occlift.runtime.devices import computes_bf16, default_device
    from occlift.training.export import random_inputs
    from occlift.training.loop import prepare_network

    device = default_device()
    torch.manual_seed(0)
    model = EasyOcc(EasyOccConfig.demo() if size == "demo" else EasyOccConfig.full()).to(device)
    prepare_network(
        model, devices=1, gradient_checkpointing=variant == "gradient checkpointing", compiled=variant == "compile"
    )
    if variant == "channels first":
        # What the volume network would get if lifting did not hand over its memory with the channels last.
        model.volume.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    images, rig = random_inputs(model.config, batch=1, cameras=6, seed=0)
    images, rig = images.to(device), rig.to(device)
    labels = torch.randint(0, 18, (1, 200, 200, 16), dtype=torch.uint8, device=device)
    weights = class_weights(torch.ones(18, dtype=torch.long), "none").to(device)
    loss = OccupancyLossConfig(max_voxels=100_000, max_lovasz_voxels=30_000)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step(*, counted: bool = False) -> None:
        counting = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with counting if counted else contextlib.nullcontext():
            with torch.autocast(device, dtype=torch.bfloat16, enabled=computes_bf16(device)):
                logits = model(images, rig)
            terms = occupancy_loss(logits, labels, weights=weights, config=loss)
        optimizer.zero_grad()
        torch.stack(tuple(terms.values())).sum().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    began = time.perf_counter()
    step(counted=variant != "compile")
    first_s = time.perf_counter() - began
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    median_s = sorted(seconds)[len(seconds) // 2]
    return {"first_s": first_s, "step_s": median_s, "kept_gb": sum(kept.values()) / 1e9, "peak_gb": peak / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("demo", "full"), default="demo")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too: a minute or more")
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one here and print JSON")
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.variant, arguments.size, arguments.steps)))
        return
    print("| variant | first step s | step s | kept GB | peak GB |\n| --- | --- | --- | --- | --- |")
    for variant in VARIANTS:
        if variant == "compile" and not arguments.compile:
            continue
        command = [sys.executable, str(Path(__file__)), "--variant", variant]
        command += ["--size", arguments.size, "--steps", str(arguments.steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        numbers = json.loads(done.stdout.splitlines()[-1])
        row = (variant, *(f"{numbers[key]:.3f}" for key in ("first_s", "step_s", "kept_gb", "peak_gb")))
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
