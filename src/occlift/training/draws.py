"""Whatever a training draws at random, as a function of the seed, the step and the key frame's place in the step.

A step takes `processes × batch_size` key frames; the slot numbers them through. So a resumed run draws what the
uninterrupted one would have drawn, and two processes draw what one process with twice the batch does.
"""

from __future__ import annotations

import numpy as np
import torch


def frame_generator(seed: int, step: int, slot: int) -> torch.Generator:
    """The generator of one key frame in one step, on the CPU: the same draws whatever the device.

    Args:
        slot: rank of the process × key frames per process + index in the process's batch.
    """
    seeds = np.random.SeedSequence((seed, step, slot)).generate_state(1)
    return torch.Generator().manual_seed(int(seeds[0]))
