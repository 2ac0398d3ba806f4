"""Pictures, the report, the 3-D scene."""
