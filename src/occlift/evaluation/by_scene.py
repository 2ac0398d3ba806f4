"""How much a score depends on which scenes were scored: the bootstrap over scenes.

Key frames of one scene resemble one another; scenes are what was drawn from the world. So scenes, not key frames, are
drawn again, with replacement, as many as there are, and every score is computed from the sum of their counts
(Efron, *Bootstrap methods: another look at the jackknife*, 1979). With n scenes the spread is too small by about
√((n − 1)/n): of four scenes it says little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Final, Protocol

import numpy as np
from jaxtyping import Float

from occlift.errors import DataError
from occlift.runtime.noise import generator_of

DRAWS: Final = 400


class Counts(Protocol):
    """What adds up over key frames, such as `OccupancyCounts`, `RayCounts` or `BevCounts`, and the scores behind it."""

    def __add__(self, other: Any, /) -> Any:
        """The counts of both."""
        ...

    def named(self) -> dict[str, float]:
        """Every score by its full name."""
        ...


SceneCounts = Mapping[str, Sequence[Counts]]
"""By the name of the scene what was counted there, the same kinds of counts everywhere, in one order."""


def added(scenes: Iterable[Sequence[Counts]]) -> tuple[Any, ...]:
    """The counts of several scenes together, kind by kind."""
    return tuple(reduce(lambda one, other: one + other, kind) for kind in zip(*scenes, strict=True))


def scene_draws(scenes: SceneCounts, *, draws: int = DRAWS) -> dict[str, Float[np.ndarray, "draws"]]:
    """Every score under `draws` draws of the scenes with replacement, per cent.

    Which scenes are drawn follows from their names alone: of two networks that were scored on the same scenes, the
    scores of the same draws can be subtracted.

    Raises:
        DataError: there is no scene.
    """
    if not scenes:
        raise DataError("no counts by scene to draw from: evaluations of earlier versions hold their sum alone")
    names = sorted(scenes)
    drawn = generator_of("scenes", *names).integers(0, len(names), (draws, len(names)))
    found: list[dict[str, float]] = []
    for numbers in drawn:
        counts = added(scenes[names[i]] for i in numbers)
        found.append({name: score for one in counts for name, score in one.named().items()})
    return {name: np.array([scores[name] for scores in found]) for name in found[0]}
