"""nuScenes tables and Occ3D labels, read and written."""
