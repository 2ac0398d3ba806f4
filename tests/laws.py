"""What hypothesis draws for the tests of laws: transforms, cameras, and arrays that follow from a drawn seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import rigid_transform, rotation_from_quaternion

coordinates_m = st.floats(-1e3, 1e3)
randoms = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@st.composite
def quaternions(draw: Any) -> tuple[float, ...]:
    """Four numbers that are not all near zero."""
    numbers = st.tuples(*[st.floats(-1, 1)] * 4)
    return draw(numbers.filter(lambda q: np.linalg.norm(q) > 1e-3))


@st.composite
def rigid_transforms(draw: Any) -> np.ndarray:
    return rigid_transform(rotation_from_quaternion(draw(quaternions())), [draw(coordinates_m) for _ in range(3)])


@st.composite
def rigs(draw: Any, *, max_size: int = 40) -> CameraRig:
    """One to three cameras of one image size in double precision, with skew."""
    height, width = draw(st.integers(2, max_size)), draw(st.integers(2, max_size))
    intrinsics_px, ego_from_camera = [], []
    for _ in range(draw(st.integers(1, 3))):
        focal_u, focal_v = (draw(st.floats(0.3, 3.0)) * width for _ in range(2))
        skew, centre_u, centre_v = draw(st.floats(-1, 1)), draw(st.floats(0, width)), draw(st.floats(0, height))
        intrinsics_px.append([[focal_u, skew, centre_u], [0.0, focal_v, centre_v], [0.0, 0.0, 1.0]])
        ego_from_camera.append(draw(rigid_transforms()))
    return CameraRig(
        intrinsics_px=torch.tensor(intrinsics_px, dtype=torch.float64),
        ego_from_camera=torch.from_numpy(np.stack(ego_from_camera)),
        height=height,
        width=width,
    )


@st.composite
def voxel_grids(draw: Any) -> VoxelGrid:
    """Up to 7 voxels along an axis, of any size and place."""
    lower_m, size_m, shape = (
        tuple(draw(st.tuples(*[numbers] * 3))) for numbers in (coordinates_m, st.floats(0.01, 10.0), st.integers(1, 7))
    )
    return VoxelGrid(lower_m=lower_m, voxel_size_m=size_m, shape=shape)
