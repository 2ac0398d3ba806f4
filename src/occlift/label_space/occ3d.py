"""Occ3D-nuScenes, the default label space, and the ids of its classes by name."""

from __future__ import annotations

from typing import Final

from occlift.label_space.space_file import read_space
from occlift.label_space.spaces import LabelSpace

OCC3D: Final[LabelSpace] = read_space("occ3d")
"""Occ3D-nuScenes: its 17 classes on 200×200×16 voxels of 0.4 m. The default everywhere."""

OTHERS: Final = 0
BARRIER: Final = 1
BICYCLE: Final = 2
BUS: Final = 3
CAR: Final = 4
CONSTRUCTION_VEHICLE: Final = 5
MOTORCYCLE: Final = 6
PEDESTRIAN: Final = 7
TRAFFIC_CONE: Final = 8
TRAILER: Final = 9
TRUCK: Final = 10
DRIVEABLE_SURFACE: Final = 11
OTHER_FLAT: Final = 12
SIDEWALK: Final = 13
TERRAIN: Final = 14
MANMADE: Final = 15
VEGETATION: Final = 16
FREE: Final = 17

NUM_CLASSES: Final = 18
"""Classes of a prediction: 17 semantic ones and free."""
