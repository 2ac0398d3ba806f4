"""Points that lie apart from all others of their key frame: statistical outlier removal.

A point is left out if the mean distance to its neighbours exceeds that of the whole cloud by more than some standard
deviations (Rusu et al., Towards 3D Point Cloud Based Object Maps for Household Environments, RAS 2008), by the rule and
the usual numbers of Open3D: 20 neighbours, the point itself among them, and 2 standard deviations. The cloud of an
image is the sparser the farther away it is, so that much of what is far goes as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from occlift.label_space import UNKNOWN
from occlift.labels.unproject import unproject
from occlift.labels.view import View, strided
from occlift.teachers.teacher import DepthMap

_NEIGHBOURS: Final = 20
_DEVIATIONS: Final = 2.0


def are_outliers(points: Float[np.ndarray, "points 3"]) -> Bool[np.ndarray, " points"]:
    """Which points of a cloud (finite, of any unit and frame) lie apart; none of fewer than 21.

    >>> row = np.linspace(0, 1, 100)[:, None] * [1.0, 0, 0]
    >>> np.flatnonzero(are_outliers(np.concatenate([row, [[5.0, 0, 0]]]))).tolist()
    [100]
    """
    if len(points) <= _NEIGHBOURS:
        return np.zeros(len(points), bool)
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(points).query(points, k=_NEIGHBOURS)
    mean = distance.mean(axis=1)
    return np.asarray(mean > mean.mean() + _DEVIATIONS * mean.std(ddof=1))


def without_outliers(depth: Sequence[DepthMap], views: Sequence[View]) -> tuple[DepthMap, ...]:
    """The depth maps of a key frame, without depth where the points of its views, taken together, lie apart."""
    clouds = [
        unproject(view.depth_m, view.intrinsics_px, view.global_from_camera, stride=view.stride) for view in views
    ]
    # What has no class, is no point.
    known = [~np.isnan(view.depth_m) & (view.class_id != UNKNOWN) for view in views]
    apart = are_outliers(np.concatenate([cloud[has] for cloud, has in zip(clouds, known, strict=True)]))
    parts = np.split(apart, np.cumsum([has.sum() for has in known])[:-1])
    kept = []
    for one, view, has, part in zip(depth, views, known, parts, strict=True):
        depth_m = np.array(one.depth_m, np.float32)
        strided(depth_m, view.stride)[has] = np.where(part, np.float32(np.nan), view.depth_m[has])
        kept.append(replace(one, depth_m=depth_m))
    return tuple(kept)
