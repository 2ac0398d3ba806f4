"""Readers of data-set formats; each package here reads one."""
