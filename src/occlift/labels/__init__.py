"""From teachers' views of many images to one labelled voxel grid per key frame."""
