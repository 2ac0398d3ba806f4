"""Transforms, cameras, voxel grids and ray casting: no files, no configuration."""
