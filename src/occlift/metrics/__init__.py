"""Metrics; each module docstring is the definition of its metric."""
