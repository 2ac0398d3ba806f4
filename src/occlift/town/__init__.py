"""A procedural town, written as a nuScenes-format data set with exact truth."""
