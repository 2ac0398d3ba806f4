"""What labels are about: classes (`Taxonomy`) on a voxel grid (`LabelSpace`); by default Occ3D-nuScenes'.

Class ids 0..n−1 are the n semantic classes in the order of `Taxonomy.names`; n is free space, in images the sky (free
along the whole ray); 255 is *unknown*, a voxel or a pixel about which nothing was observed.

A label space can be written down in a file (`read_space`, `to_toml`); those that were published are presets.
`class_mapping` leads from the classes of one to those of another.
"""

from occlift.label_space.mapping import class_mapping, class_table, read_mapping
from occlift.label_space.occ3d import (
    BARRIER,
    BICYCLE,
    BUS,
    CAR,
    CONSTRUCTION_VEHICLE,
    DRIVEABLE_SURFACE,
    FREE,
    MANMADE,
    MOTORCYCLE,
    NUM_CLASSES,
    OCC3D,
    OTHER_FLAT,
    OTHERS,
    PEDESTRIAN,
    SIDEWALK,
    TERRAIN,
    TRAFFIC_CONE,
    TRAILER,
    TRUCK,
    VEGETATION,
)
from occlift.label_space.space_file import preset_names, preset_text, read_space, read_space_file, to_toml
from occlift.label_space.spaces import UNKNOWN, LabelSpace, Taxonomy

__all__ = [
    "BARRIER",
    "BICYCLE",
    "BUS",
    "CAR",
    "CONSTRUCTION_VEHICLE",
    "DRIVEABLE_SURFACE",
    "FREE",
    "MANMADE",
    "MOTORCYCLE",
    "NUM_CLASSES",
    "OCC3D",
    "OTHERS",
    "OTHER_FLAT",
    "PEDESTRIAN",
    "SIDEWALK",
    "TERRAIN",
    "TRAFFIC_CONE",
    "TRAILER",
    "TRUCK",
    "UNKNOWN",
    "VEGETATION",
    "LabelSpace",
    "Taxonomy",
    "class_mapping",
    "class_table",
    "preset_names",
    "preset_text",
    "read_mapping",
    "read_space",
    "read_space_file",
    "to_toml",
]
