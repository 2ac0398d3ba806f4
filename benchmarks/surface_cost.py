"""What fusing 78 large views costs: as a surface, compiled and in tensors, beside votes, in turn, on one core.

    python benchmarks/surface_cost.py TOWN

TOWN as for label_quality.py. Views of 96×176 pixels are enlarged to 864×1584; seconds are of the processor. Memory
(Linux) is the most that a rule holds at a time beyond what was there before it, the views. The tensors are on the CPU
here, to be compared with what is compiled for it; they are for maps on an accelerator.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import torch
from label_quality import GRID, PosedViews, town_cases

from occlift import OCC3D
from occlift.labels.decide import DecisionConfig, decide, decide_surface
from occlift.labels.device_views import DeviceView
from occlift.labels.from_views import add_views
from occlift.labels.surface import depth_error, fuse_surface
from occlift.labels.surface_torch import fuse_surface_on_device
from occlift.labels.view import View
from occlift.labels.vote import Tally

_TIMES = 9
_ROUNDS = 3


def enlarged(view: View) -> View:
    """The view with every pixel repeated; rays are cast by as many pixels as before."""
    return replace(
        view,
        class_id=np.repeat(np.repeat(view.class_id, _TIMES, 0), _TIMES, 1),
        depth_m=np.repeat(np.repeat(view.depth_m, _TIMES, 0), _TIMES, 1),
        free_stride=view.free_stride * _TIMES,
        intrinsics_px=view.intrinsics_px * np.array([[_TIMES], [_TIMES], [1.0]]),
    )


def memory_mb(*, most: bool = False) -> float:
    """What this process holds, or the most that it held since the last call without `most`."""
    if not most:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:" if most else "VmRSS:")[1].split()[0]) * 1024 / 1e6


def main() -> None:
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    case = next(case for case in town_cases(Path(sys.argv[1]), (6,)))
    views: PosedViews = [(enlarged(view), pose, now) for view, pose, now in case.views]
    tensors = [(DeviceView.of(view, "cpu"), pose, now) for view, pose, now in views]
    tally = Tally(GRID)

    def votes() -> None:
        add_views(tally, views, OCC3D.taxonomy)
        decide(tally.votes(), DecisionConfig(fusion="votes"))

    rules: dict[str, Callable[[], object]] = {
        "votes": votes,
        "surface": lambda: decide_surface(fuse_surface(views, GRID)),
        "of it measuring the error of depth": lambda: depth_error(views),
        "surface in tensors": lambda: decide_surface(fuse_surface_on_device(tensors, GRID)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rules}
    peak_mb: dict[str, float] = {}
    for number in range(_ROUNDS + 1):
        for name, rule in rules.items():
            before_mb = memory_mb()
            started = time.process_time()
            rule()
            # The first round compiles.
            if number:
                seconds[name].append(time.process_time() - started)
                peak_mb[name] = max(peak_mb.get(name, 0.0), memory_mb(most=True) - before_mb)
    size = views[0][0].depth_m.shape
    held_mb = sum(view.class_id.nbytes + view.depth_m.nbytes for view, _, _ in views) / 1e6
    print(f"{len(views)} views of {size[0]}×{size[1]} ({held_mb:.0f} MB), core-seconds a label, least of {_ROUNDS}")
    for name, found in seconds.items():
        ratios = ", ".join(f"{min(found) / min(seconds[other]):.2f} of {other}" for other in ("votes", "surface"))
        print(f"{name}: {min(found):.2f} ({ratios}), {peak_mb[name]:.0f} MB")


if __name__ == "__main__":
    main()
