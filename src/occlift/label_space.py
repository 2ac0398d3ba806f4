"""The Occ3D-nuScenes classes: ids, names, colours, and how nuScenes categories map to them.

Ids 0..16 are the semantic classes, 17 is free space (Occ3D-nuScenes). 255 is ours: *unknown*, a voxel or a pixel
about which nothing was observed. In per-image class maps 17 stands for sky: free along the whole ray.
"""

from __future__ import annotations

from typing import Final

CLASS_NAMES: Final[tuple[str, ...]] = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
)

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
UNKNOWN: Final = 255

NUM_CLASSES: Final = 18
"""Classes of a prediction: 17 semantic ones and free."""

DYNAMIC_CLASSES: Final[frozenset[int]] = frozenset(
    {BICYCLE, BUS, CAR, CONSTRUCTION_VEHICLE, MOTORCYCLE, PEDESTRIAN, TRAILER, TRUCK}
)
"""Classes whose objects may move between two frames; their points are not fused over time (EasyOcc)."""

CLASS_COLORS: Final[tuple[tuple[int, int, int], ...]] = (
    (60, 60, 60),
    (255, 120, 50),
    (255, 192, 203),
    (255, 220, 0),
    (0, 150, 245),
    (0, 225, 225),
    (200, 180, 0),
    (230, 30, 30),
    (255, 240, 150),
    (135, 60, 0),
    (160, 32, 240),
    (255, 0, 255),
    (139, 137, 137),
    (75, 0, 75),
    (150, 240, 80),
    (213, 213, 213),
    (0, 150, 30),
    (255, 255, 255),
)
"""sRGB per class, after the palette in which Occ3D-nuScenes is usually drawn."""

CATEGORY_TO_CLASS: Final[dict[str, int]] = {
    "animal": OTHERS,
    "human.pedestrian.adult": PEDESTRIAN,
    "human.pedestrian.child": PEDESTRIAN,
    "human.pedestrian.construction_worker": PEDESTRIAN,
    "human.pedestrian.personal_mobility": OTHERS,
    "human.pedestrian.police_officer": PEDESTRIAN,
    "human.pedestrian.stroller": OTHERS,
    "human.pedestrian.wheelchair": OTHERS,
    "movable_object.barrier": BARRIER,
    "movable_object.debris": OTHERS,
    "movable_object.pushable_pullable": OTHERS,
    "movable_object.trafficcone": TRAFFIC_CONE,
    "static_object.bicycle_rack": OTHERS,
    "vehicle.bicycle": BICYCLE,
    "vehicle.bus.bendy": BUS,
    "vehicle.bus.rigid": BUS,
    "vehicle.car": CAR,
    "vehicle.construction": CONSTRUCTION_VEHICLE,
    "vehicle.emergency.ambulance": OTHERS,
    "vehicle.emergency.police": OTHERS,
    "vehicle.motorcycle": MOTORCYCLE,
    "vehicle.trailer": TRAILER,
    "vehicle.truck": TRUCK,
}
"""The 23 nuScenes object categories → class id (the grouping of nuScenes-lidarseg, which Occ3D uses)."""

CLASS_PROMPTS: Final[dict[int, tuple[str, ...]]] = {
    BARRIER: ("barrier", "barricade", "concrete barrier"),
    BICYCLE: ("bicycle", "bicyclist"),
    BUS: ("bus",),
    CAR: ("car", "sedan"),
    CONSTRUCTION_VEHICLE: ("crane",),
    MOTORCYCLE: ("motorcycle", "motorcyclist"),
    PEDESTRIAN: ("pedestrian", "adult", "child"),
    TRAFFIC_CONE: ("cone",),
    TRAILER: ("trailer",),
    TRUCK: ("truck",),
    DRIVEABLE_SURFACE: ("highway", "road"),
    OTHER_FLAT: ("traffic island", "rail track", "lake", "river"),
    SIDEWALK: ("sidewalk",),
    TERRAIN: ("terrain", "grass", "soil", "sand", "gravel"),
    MANMADE: (
        "building",
        "bridge",
        "pole",
        "billboard",
        "light",
        "wall",
        "guard rail",
        "fence",
        "hydrant",
        "traffic sign",
        "traffic light",
    ),
    VEGETATION: ("tree", "bush"),
    FREE: ("sky",),
}
"""What a teacher that reads text is asked for, per class, in the order in which it is asked.

The words that OccNeRF (arXiv 2312.09243) and GaussTR (arXiv 2412.13193) use. `others` has no word: it is what the other
classes are not. Sky is free along the whole ray.
"""
