"""Data sets in the format of nuScenes."""
