"""Annotations of shapes are checked in every test; see shape_checks.py."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
import torch

from occlift.geometry.grids import OCC3D_GRID
from occlift.geometry.transforms import transform_points
from occlift.labels.files import OccupancyLabel
from occlift.models.easyocc import fine_voxels

REFUSED = jaxtyping.TypeCheckError


def test_functions_refuse_arrays_of_another_shape() -> None:
    with pytest.raises(REFUSED, match="points"):
        transform_points(np.eye(4), np.zeros((5, 2)))


def test_methods_refuse_arrays_of_another_type() -> None:
    with pytest.raises(REFUSED, match="points"):
        OCC3D_GRID.occupied_by(np.zeros((5, 3), np.int64))


def test_dataclasses_refuse_arrays_of_another_shape() -> None:
    mask = np.ones(OCC3D_GRID.shape, np.bool_)
    with pytest.raises(REFUSED, match="mask_lidar"):
        OccupancyLabel(semantics=mask.astype(np.uint8), mask_lidar=mask[:100], mask_camera=mask)


@pytest.mark.usefixtures("without_shape_checks")
def test_a_test_may_do_without() -> None:
    assert OCC3D_GRID.indices(np.zeros((2, 1, 3), np.int64))[0].shape == (2, 1, 3)


def test_what_fits_passes() -> None:
    assert fine_voxels(torch.zeros(1, 2, 3, 4, 8), 2).shape == (1, 4, 6, 4, 2)
