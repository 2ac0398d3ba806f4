"""A training step with an allocator that keeps what tensors free, and with one that gives it back to the system.

    python benchmarks/allocator.py [--size full] [--steps 15] [--rounds 3]

Every measurement runs in a process of its own, both kinds in turn; EasyOcc's step of `easyocc_cost.py` on the CPU.
Times and page faults are medians over the rounds, the peak is the largest.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from multiprocessing import Queue

import torch
from easyocc_cost import EasyOccCandidate, in_process, peak_resident_bytes
from torch import nn

from occlift.runtime.allocator import keep_freed_memory
from occlift.training.optimizer import OptimizerConfig, adamw_one_cycle

WARM_UP_STEPS = 3


def measure(kept: bool, size: str, steps: int, queue: Queue) -> None:
    """Seconds and page faults of a step, and the peak of the process in bytes."""
    if kept:
        keep_freed_memory()
    torch.manual_seed(0)
    candidate = EasyOccCandidate(size, "cpu")
    candidate.model.train()
    optimizer, _ = adamw_one_cycle(candidate.parameters, OptimizerConfig())

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = candidate.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(candidate.parameters, 10.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM_UP_STEPS):
        step()
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / steps
    queue.put({"seconds": statistics.median(seconds), "faults": faults, "peak_bytes": peak_resident_bytes()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="small", help="the demo's network, or the full")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for _ in range(options.rounds):
        for kept, rows in found.items():
            row = in_process(measure, kept, options.size, options.steps)
            assert row is not None, "the process died"
            rows.append(row)
    print("| freed memory is | a step, s | page faults a step | peak GB |\n| --- | ---: | ---: | ---: |")
    for kept, rows in found.items():
        seconds, faults = (statistics.median(row[name] for row in rows) for name in ("seconds", "faults"))
        peak = max(row["peak_bytes"] for row in rows) / 1e9
        print(f"| {'kept' if kept else 'given back'} | {seconds:.3f} | {faults:.0f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
