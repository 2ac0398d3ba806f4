"""The official nuScenes v1.0 splits, and a split for data sets that have none.

The scene names in `splits/*.txt` are those of the nuScenes v1.0 release: train 700, val 150, test 150 scenes, and
mini_train 8, mini_val 2. The mini scenes are also scenes of train or val; two of mini_train are in val.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Final

from occlift.errors import ConfigError, DataError

OFFICIAL_SPLITS: Final = ("train", "val", "test", "mini_train", "mini_val")

SPLITS: Final = (*OFFICIAL_SPLITS, "all")


@cache
def official_scenes(split: str) -> frozenset[str]:
    """The scene names of one of `OFFICIAL_SPLITS`."""
    assert split in OFFICIAL_SPLITS, split
    text = resources.files("occlift.datasets.nuscenes").joinpath("splits", f"{split}.txt").read_text(encoding="utf-8")
    return frozenset(text.split())


def scenes_of_split(split: str, scenes: Sequence[str], data_set: str) -> tuple[str, ...]:
    """Those of `scenes` that belong to a split, in the given order.

    If any of the scenes is in an official list, the official lists hold. Otherwise `train` is the first 80 % of the
    scenes (rounded down) and `val` the rest, each with at least one scene if there are two; the other splits are empty.

    Args:
        data_set: what to call it in errors.

    Raises:
        ConfigError: there is no split of this name.
        DataError: the split has no scene; says which splits have.
    """
    if split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    chosen = _scenes_of_split(split, scenes)
    if chosen:
        return chosen
    if split == "val" and len(scenes) == 1:
        raise DataError(
            f"{data_set}: the split val is empty, because the data set has one scene ({scenes[0]}), which is train; "
            "use the split all, or add a second scene"
        )
    others = {other: len(_scenes_of_split(other, scenes)) for other in SPLITS}
    listed = ", ".join(f"{other} ({count})" for other, count in others.items() if count)
    raise DataError(
        f"{data_set}: the split {split} has no scene; splits with scenes: {listed or 'none, the scene table is empty'}"
    )


def _scenes_of_split(split: str, scenes: Sequence[str]) -> tuple[str, ...]:
    if split == "all":
        return tuple(scenes)
    if any(scene in official_scenes(official) for official in OFFICIAL_SPLITS for scene in scenes):
        return tuple(scene for scene in scenes if scene in official_scenes(split))
    num_train = min(max(len(scenes) * 4 // 5, 1), max(len(scenes) - 1, 1))
    return tuple({"train": scenes[:num_train], "val": scenes[num_train:]}.get(split, ()))
