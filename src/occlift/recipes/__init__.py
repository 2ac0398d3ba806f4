"""Whole runs as functions that return frozen dataclasses."""
