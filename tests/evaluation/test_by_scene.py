"""The bootstrap over scenes: against the formula, and of networks that were scored on the same scenes."""

from __future__ import annotations

import numpy as np
import pytest

from occlift.errors import DataError
from occlift.evaluation.by_scene import added, scene_draws
from occlift.metrics.bev import BevCounts


def counts(both: int, predicted: int, true: int) -> tuple[BevCounts]:
    return (BevCounts(classes=("vehicle",), cells={"unfiltered": np.array([[both, predicted, true]])}),)


def test_draws_spread_as_a_mean_of_scenes_does() -> None:
    # Unions of 100 cells in every scene: the IoU of a draw is the mean of the scenes' IoUs.
    hits = np.random.default_rng(0).integers(20, 80, 30)
    scenes = {f"scene-{i}": counts(int(hit), 100, int(hit)) for i, hit in enumerate(hits)}
    draws = scene_draws(scenes, draws=4000)["bev_iou_vehicle_unfiltered"]
    assert draws.shape == (4000,)
    assert draws.mean() == pytest.approx(hits.mean(), abs=0.3)
    assert draws.std() == pytest.approx(hits.std() / np.sqrt(30), rel=0.05)
    (whole,) = added(scenes.values())
    assert whole.named()["bev_iou_vehicle_unfiltered"] == pytest.approx(hits.mean())


def test_the_same_scenes_are_drawn_for_every_network() -> None:
    names = ("b", "a", "c")
    worse = {name: counts(10 * (i + 1), 100, 10 * (i + 1)) for i, name in enumerate(names)}
    better = {name: counts(10 * (i + 1) + 5, 100, 10 * (i + 1) + 5) for i, name in reversed(list(enumerate(names)))}
    first, second = (scene_draws(scenes)["bev_iou_vehicle_unfiltered"] for scenes in (worse, better))
    assert first.std() > 1
    np.testing.assert_allclose(second - first, 5.0)
    with pytest.raises(DataError, match="no counts by scene"):
        scene_draws({})
