"""Losses: functions of tensors, usable alone in any training loop."""
