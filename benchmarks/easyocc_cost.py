"""EasyOcc against the rendering baseline: a training step and an inference, time and peak memory; and where time goes.

    python benchmarks/easyocc_cost.py [--size full] [--device cuda] [--repeats 10] [--json FILE]

Every measurement runs in a process of its own, on the same made-up key frame (six images, a surround rig, a label of
which half is unknown), in the precision that training would choose. A training step is forward, loss, backward,
clipping and optimiser, with a batch in memory; an inference ends with the class of every voxel. Times are medians.

Memory on a GPU: the most that tensors took. On a CPU: the largest resident size, less that after the model and the
data were built, so that what the interpreter and its libraries take is left out; weights and their optimiser's state
stand in a column of their own.

Per stage of EasyOcc's inference: operations are those of convolutions and matrix products (`FlopCounterMode`; a
multiplication and an addition are two), and of lifting four corners per visible (voxel, camera) pair. Bytes are what
every module without children reads and writes once: its input, its output, its weights as they are stored; sums,
up-sampling and casts between them are not counted. The machine's floor of a stage is the longer of operations at the
rate of a large matrix product and bytes at the rate of copying, both measured in the same process.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from lift_memory import surround_rig
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from occlift.geometry.grids import OCC3D_GRID
from occlift.label_space import DRIVEABLE_SURFACE, FREE, NUM_CLASSES, UNKNOWN
from occlift.losses.occupancy import class_weights, drawn_occupancy_loss
from occlift.models.easyocc import EasyOcc, EasyOccConfig
from occlift.models.lift import visible_pairs
from occlift.models.rendering import RenderingConfig
from occlift.runtime.devices import lightning_precision
from occlift.training.frames import FrameBatch
from occlift.training.loop import prepare_network
from occlift.training.occupancy import TrainConfig
from occlift.training.optimizer import OptimizerConfig, adamw_one_cycle
from occlift.training.rendering_frames import RenderingBatch
from occlift.training.rendering_task import RenderingLossConfig, RenderingTask

STAGES = ("encoder", "lift", "volume", "head")


class EasyOccCandidate:
    """EasyOcc with the loss of its recipe."""

    def __init__(self, size: str, device: str, *, checkpointing: bool = False, compiled: bool = False) -> None:
        training = TrainConfig.full() if size == "full" else TrainConfig()
        self.config = training.model
        self.model = EasyOcc(self.config).to(device)
        prepare_network(self.model, devices=1, gradient_checkpointing=checkpointing, compiled=compiled)
        self.parameters = list(self.model.parameters())
        self.frame = made_up_frame(self.config).to(device)
        assert self.frame.semantics is not None, "a made-up frame has a label"
        counts = self.frame.semantics.flatten().long().bincount(minlength=UNKNOWN + 1)[:NUM_CLASSES]
        self._loss, self._weights = training.loss, class_weights(counts, training.loss.class_weighting)
        self._generator = torch.Generator().manual_seed(0)

    def loss(self) -> Tensor:
        """Forward pass and loss of one key frame."""
        (volume,) = self.model.volume_features(self.frame.images, self.frame.rig)
        assert self.frame.semantics is not None, "a made-up frame has a label"
        terms = drawn_occupancy_loss(
            partial(self.model.logits_at, volume), self.frame.semantics, weights=self._weights, config=self._loss,
            generator=self._generator,
        )  # fmt: skip
        return torch.stack(tuple(terms.values())).sum()

    def infer(self) -> Tensor:
        """The class of every voxel."""
        return self.model(self.frame.images, self.frame.rig).argmax(1)


class RenderingCandidate:
    """The rendering baseline with its 2-D losses, and with the pseudo-loss if asked for."""

    def __init__(self, size: str, device: str, *, pseudo: bool = False, checkpointing: bool = False) -> None:
        config = RenderingConfig.full() if size == "full" else RenderingConfig.demo()
        training = TrainConfig.full() if size == "full" else TrainConfig()
        self.task = RenderingTask(
            model=config.to_dict(), loss=asdict(RenderingLossConfig()), optimizer=asdict(OptimizerConfig()),
            pseudo=asdict(training.loss) if pseudo else None, ray_counts=[1] * NUM_CLASSES,
            label_counts=[1] * NUM_CLASSES if pseudo else None, seed=0, mirror=False,
        ).to(device)  # fmt: skip
        prepare_network(self.task.model.network, devices=1, gradient_checkpointing=checkpointing)
        self.parameters = list(self.task.parameters())
        frame = made_up_frame(config.network)
        generator = torch.Generator().manual_seed(1)
        # A metre ahead and a metre behind.
        moved = torch.eye(4).repeat(1, 2, 1, 1)
        moved[0, :, 0, 3] = torch.tensor([1.0, -1.0])
        rays = (1, 6, config.ray_height, config.ray_width)
        self.batch = RenderingBatch(
            frame=frame, neighbours=(made_up_frame(config.network, seed=2), made_up_frame(config.network, seed=3)),
            neighbour_ego_from_ego=moved, exists=torch.ones(1, 2, dtype=torch.bool),
            class_id=torch.randint(0, NUM_CLASSES, rays, generator=generator).to(torch.uint8), depth_m=None,
        ).to(device)  # fmt: skip
        self._generator = torch.Generator().manual_seed(0)

    def loss(self) -> Tensor:
        """Forward pass, rendering and losses of one key frame."""
        volume = self.task.model.volume(self.batch.frame.images, self.batch.frame.rig)
        rendering = self.task.rendered(volume, self.batch, self._generator)
        return torch.stack(tuple(self.task.losses(volume, self.batch, self._generator, rendering).values())).sum()

    def infer(self) -> Tensor:
        """The class of every voxel."""
        return self.task.model(self.batch.frame.images, self.batch.frame.rig).argmax(1)


Candidate = EasyOccCandidate | RenderingCandidate

CANDIDATES: dict[str, Callable[[str, str], Candidate]] = {
    "EasyOcc": EasyOccCandidate,
    "EasyOcc, checkpointing": partial(EasyOccCandidate, checkpointing=True),
    "EasyOcc, compiled": partial(EasyOccCandidate, compiled=True),
    "rendering": RenderingCandidate,
    "rendering, checkpointing": partial(RenderingCandidate, checkpointing=True),
    "rendering + pseudo-loss": partial(RenderingCandidate, pseudo=True),
}

DEFAULT_CANDIDATES = ("EasyOcc", "rendering", "rendering + pseudo-loss")


def made_up_frame(config: EasyOccConfig, seed: int = 0) -> FrameBatch:
    """Random images, a surround rig, and a label: a road, things on it, and half of everything unknown."""
    generator = torch.Generator().manual_seed(seed)
    height, width = config.image_height, config.image_width
    semantics = torch.full((1, *OCC3D_GRID.shape), FREE, dtype=torch.uint8)
    semantics[:, :, :, 2] = DRIVEABLE_SURFACE
    things = torch.rand(semantics.shape, generator=generator) < 0.03
    classes = torch.randint(0, FREE, semantics.shape, generator=generator).to(torch.uint8)
    semantics = torch.where(things, classes, semantics)
    semantics[torch.rand(semantics.shape, generator=generator) < 0.5] = UNKNOWN
    return FrameBatch(
        tokens=("made-up",),
        images=torch.randn(1, 6, 3, height, width, generator=generator),
        rig=surround_rig(height, width),
        semantics=semantics,
        mask_camera=semantics != UNKNOWN,
    )


def measure(
    name: str, what: str, size: str, device: str, precision: str, repeats: int, queue: multiprocessing.Queue
) -> None:
    """Measures one candidate at one thing, and answers with a dictionary."""
    torch.manual_seed(0)
    cuda = device.startswith("cuda")
    candidate = CANDIDATES[name](size, device)
    bf16 = lightning_precision(precision, torch.device(device).type) == "bf16-mixed"
    model = candidate.model if isinstance(candidate, EasyOccCandidate) else candidate.task.model
    state_bytes = sum(p.numel() * p.element_size() for p in candidate.parameters)
    if what == "training step":
        model.train()
        optimizer, _ = adamw_one_cycle(candidate.parameters, OptimizerConfig())
        # Gradients and both moments of AdamW.
        state_bytes *= 4
    else:
        model.eval()

    def once() -> None:
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
            if what == "training step":
                loss = candidate.loss()
            else:
                with torch.inference_mode():
                    candidate.infer()
        if what == "training step":
            loss.backward()
            nn.utils.clip_grad_norm_(candidate.parameters, 10.0)
            optimizer.step()
            optimizer.zero_grad()

    gc.collect()
    before = resident_bytes()
    # The first calls compile, and on a GPU choose among kernels.
    for _ in range(5 if cuda else 1):
        once()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = [timed(once, device) for _ in range(repeats)]
    queue.put(
        {
            "candidate": name,
            "what": what,
            "precision": "bf16" if bf16 else "fp32",
            "seconds": statistics.median(seconds),
            "fastest_s": min(seconds),
            "state_bytes": state_bytes,
            "peak_bytes": torch.cuda.max_memory_allocated() if cuda else peak_resident_bytes() - before,
        }
    )


def measure_stages(size: str, device: str, precision: str, repeats: int, queue: multiprocessing.Queue) -> None:
    """The stages of EasyOcc's inference beside the machine's floor."""
    torch.manual_seed(0)
    candidate = EasyOccCandidate(size, device)
    kind = torch.device(device).type
    candidate.model.eval()
    bf16 = lightning_precision(precision, kind) == "bf16-mixed"
    dtype = torch.bfloat16 if bf16 else torch.float32
    with torch.no_grad(), torch.autocast(kind, dtype=torch.bfloat16, enabled=bf16):
        for _ in range(5):
            candidate.infer()
        seconds = stage_seconds(candidate, device, repeats)
        flops, read_and_written = stage_operations(candidate), stage_bytes(candidate)
    flops_per_s, bytes_per_s = matmul_rate(device, dtype), copy_rate(device)
    rows = [
        {
            "stage": stage,
            "seconds": seconds[stage],
            "flop": flops[stage],
            "bytes": read_and_written[stage],
            "floor_s": max(flops[stage] / flops_per_s, read_and_written[stage] / bytes_per_s),
        }
        for stage in STAGES
    ]
    precision = "bf16" if bf16 else "fp32"
    queue.put({"precision": precision, "flop_per_s": flops_per_s, "bytes_per_s": bytes_per_s, "stages": rows})


def stage_seconds(candidate: EasyOccCandidate, device: str, repeats: int) -> dict[str, float]:
    """Medians; waiting for the device between the stages makes the sum a little more than an inference takes."""
    model, marks = candidate.model, {}

    def mark(name: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            synchronize(device)
            marks[name] = time.perf_counter()

        return note

    handles = []
    for stage, module in (("encoder", model.encoder), ("volume", model.volume)):
        handles += [
            module.register_forward_pre_hook(mark(f"{stage} begins")),
            module.register_forward_hook(mark(f"{stage} ends")),
        ]
    found = defaultdict(list)
    for _ in range(repeats):
        mark("begin")()
        candidate.infer()
        mark("end")()
        encoder = marks["encoder ends"] - marks["encoder begins"]
        found["encoder"].append(encoder)
        # The pairs may be listed before or after the images are encoded; the embeddings are added here too.
        found["lift"].append(marks["volume begins"] - marks["begin"] - encoder)
        found["volume"].append(marks["volume ends"] - marks["volume begins"])
        found["head"].append(marks["end"] - marks["volume ends"])
    for handle in handles:
        handle.remove()
    return {stage: statistics.median(values) for stage, values in found.items()}


def stage_operations(candidate: EasyOccCandidate) -> dict[str, float]:
    """Multiplications and additions."""
    with FlopCounterMode(display=False) as counter:
        candidate.infer()
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    flops = {stage: float(by_module.get(f"EasyOcc.{stage}", 0)) for stage in STAGES}
    flops["lift"] = 2.0 * 4 * number_of_pairs(candidate) * candidate.config.feature_channels
    return flops


def stage_bytes(candidate: EasyOccCandidate) -> dict[str, float]:
    """Read and written once by every module without children, and by lifting."""
    model, total = candidate.model, dict.fromkeys(STAGES, 0.0)

    def counting(stage: str) -> Callable[..., None]:
        def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            tensors = [t for t in (*inputs, output) if isinstance(t, Tensor)] + list(module.parameters(recurse=False))
            total[stage] += sum(t.numel() * t.element_size() for t in tensors)

        return count

    handles = [
        module.register_forward_hook(counting(stage))
        for stage, parent in (("encoder", model.encoder), ("volume", model.volume), ("head", model.head))
        for module in parent.modules()
        if not list(module.children())
    ]
    logits = candidate.model(candidate.frame.images, candidate.frame.rig)
    for handle in handles:
        handle.remove()
    config, pairs = candidate.config, number_of_pairs(candidate)
    table = 6 * config.feature_channels * (config.image_height * config.image_width) // config.feature_stride**2
    voxels = config.working_grid.num_voxels * config.feature_channels
    # Four indices of 8 bytes and four weights of 4 per pair; the table and the lifted volume in float32.
    total["lift"] = pairs * 4 * (8 + 4) + 4.0 * (table + voxels)
    # The logits are put in their place, and the largest is looked for.
    total["head"] += 3.0 * logits.numel() * logits.element_size()
    return total


def number_of_pairs(candidate: EasyOccCandidate) -> int:
    """(voxel, camera) pairs that see each other."""
    return len(visible_pairs(candidate.frame.rig, candidate.model.voxel_centers_ego).point)


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a large product of matrices."""
    n = 8192 if device.startswith("cuda") else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * n**3 / min(timed(lambda: a @ b, device) for _ in range(6))


def copy_rate(device: str) -> float:
    """Bytes per second, read and written, of copying what no cache holds."""
    source = torch.zeros(256 * 2**20 if device.startswith("cuda") else 64 * 2**20, device=device)
    target = torch.empty_like(source)
    size = 2.0 * source.numel() * source.element_size()
    return size / min(timed(lambda: target.copy_(source), device) for _ in range(6))


def timed(call: Callable[[], object], device: str) -> float:
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def resident_bytes() -> int:
    return _process_status("VmRSS")


def peak_resident_bytes() -> int:
    # Not `getrusage`: its peak is also that of the process that started this one.
    return _process_status("VmHWM")


def _process_status(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def in_process(function: Callable[..., None], *arguments: object) -> dict[str, Any] | None:
    """What the function answers from a process of its own; None if it died, as it does when memory runs out."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=function, args=(*arguments, queue))
    process.start()
    answer = None
    while answer is None and (process.is_alive() or not queue.empty()):
        with suppress(Empty):
            answer = queue.get(timeout=0.5)
    process.join()
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="small", help="the demo's network, or the full")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=tuple(CANDIDATES), default=None, help="candidates; EasyOcc first")
    parser.add_argument("--without-training", action="store_true", help="inference alone")
    parser.add_argument("--json", type=Path, help="write every number here")
    options = parser.parse_args()
    names = options.only or DEFAULT_CANDIDATES
    machine = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{os.cpu_count()} cores"
    print(f"{machine}, torch {torch.__version__}, size {options.size}, one key frame of six images\n")
    print(f"| {' | '.join(COLUMNS)} |\n| --- | --- |" + " ---: |" * (len(COLUMNS) - 2), flush=True)
    rows = []
    for what in ("inference",) if options.without_training else ("training step", "inference"):
        first = None
        for name in names:
            row = in_process(measure, name, what, options.size, options.device, options.precision, options.repeats)
            if row is None:
                print(f"| {name} | {what} | the process died |", flush=True)
                continue
            rows.append(row)
            first = first or row
            print_row(row, first)
    stages = in_process(measure_stages, options.size, options.device, options.precision, options.repeats)
    if stages is None:
        sys.exit("the process that measures the stages died")
    print_stages(stages)
    if options.json:
        plain = {"machine": machine, "torch": torch.__version__, "size": options.size, "rows": rows, "stages": stages}
        options.json.write_text(json.dumps(plain, indent=1), encoding="utf-8")


COLUMNS = ("network", "what", "s", "per second", "times as long", "peak GB", "times as much", "of it state GB")


def print_row(row: dict[str, Any], first: dict[str, Any]) -> None:
    cells = (
        row["candidate"],
        f"{row['what']}, {row['precision']}",
        f"{row['seconds']:.4f}",
        f"{1 / row['seconds']:.2f}",
        f"{row['seconds'] / first['seconds']:.2f}",
        f"{row['peak_bytes'] / 1e9:.2f}",
        f"{row['peak_bytes'] / first['peak_bytes']:.2f}",
        f"{row['state_bytes'] / 1e9:.2f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def print_stages(found: dict[str, Any]) -> None:
    total = sum(row["seconds"] for row in found["stages"])
    print(
        f"\nEasyOcc's inference by stage, {found['precision']}; a large matrix product runs at "
        f"{found['flop_per_s'] / 1e12:.2f} TFLOP/s, copying at {found['bytes_per_s'] / 1e9:.1f} GB/s:\n"
    )
    print("| stage | s | share % | GFLOP | GB | floor s | times the floor |\n| --- |" + " ---: |" * 6)
    floors = sum(row["floor_s"] for row in found["stages"])
    for row in found["stages"]:
        numbers = (row["seconds"], 100 * row["seconds"] / total, row["flop"] / 1e9, row["bytes"] / 1e9, row["floor_s"])
        print(
            f"| {row['stage']} | {numbers[0]:.4f} | {numbers[1]:.1f} | {numbers[2]:.1f} | {numbers[3]:.2f} | "
            f"{numbers[4]:.4f} | {numbers[0] / numbers[4]:.1f} |"
        )
    print(f"| all | {total:.4f} | 100 | | | {floors:.4f} | {total / floors:.1f} |")


if __name__ == "__main__":
    main()
