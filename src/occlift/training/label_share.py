"""Which key frames of a split are labelled when only a share of its labels may be used.

The shares are 100 %, 10 % and 1 %, and each is chosen within the next larger one, so with one seed the 1 % are among
the 10 %. Where the share of the split's scenes is one scene or more, whole scenes are drawn at random, as labels are
bought. Where it is less, single key frames are drawn: those of the larger share, in their order, are cut into as many
equal runs as there are key frames to choose, and each run gives one at random; so they lie evenly over the scenes.
Of 700 scenes: 70 scenes and 7 scenes. A town of 10 scenes (8 of train, 40 key frames each): 32 and 3
key frames.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from occlift.errors import ConfigError
from occlift.scenes.dataset import DrivingDataset, split_tokens

LABEL_SHARES: Final = (1.0, 0.1, 0.01)


def labelled_tokens(data: DrivingDataset, split: str, share: float, seed: int) -> tuple[str, ...]:
    """Sample tokens of the key frames of a split that are labelled, in the split's order; one at least.

    Args:
        share: one of `LABEL_SHARES`.
        seed: of the choice, not negative; the same seed gives the same key frames.

    Raises:
        ConfigError: the share is none of `LABEL_SHARES`, the seed is negative, or there is no split of this name.
        DataError: the split holds no key frame.
    """
    if share not in LABEL_SHARES:
        raise ConfigError(
            f"the share of the labels is {share}; expected {', '.join(f'{100 * s:g} %' for s in LABEL_SHARES)}"
        )
    if seed < 0:
        raise ConfigError(f"the seed of the choice of labels is {seed}; expected 0 or more")
    scenes, tokens = data.scenes(split), split_tokens(data, split)
    order = np.random.default_rng((seed, 0)).permutation(len(scenes))
    chosen = tokens
    for step, smaller in enumerate(LABEL_SHARES[1 : LABEL_SHARES.index(share) + 1], start=1):
        # The first scenes of one random order: fewer scenes are among more scenes.
        if smaller * len(scenes) >= 1:
            kept = sorted(order[: round(smaller * len(scenes))].tolist())
            chosen = tuple(token for number in kept for token in data.key_frame_tokens(scenes[number]))
        else:
            count = min(max(round(smaller * len(tokens)), 1), len(chosen))
            bounds = np.arange(count + 1) * len(chosen) // count
            drawn = np.random.default_rng((seed, step)).integers(bounds[:-1], bounds[1:])
            chosen = tuple(chosen[number] for number in drawn.tolist())
    return chosen
