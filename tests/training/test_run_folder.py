"""Whose a run folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from occlift.errors import ConfigError
from occlift.training.run_folder import LAST_CHECKPOINT, claim_run_folder, run_identity


def test_a_run_that_never_trained_leaves_its_folder_to_the_next(tmp_path: Path) -> None:
    first, second = (run_identity({"seed": seed}, None, ("front",)) for seed in (0, 1))
    claim_run_folder(tmp_path, first, resume=None)
    claim_run_folder(tmp_path, second, resume=None)
    (tmp_path / LAST_CHECKPOINT).touch()
    with pytest.raises(ConfigError, match=r"holds a run of another configuration \(config\.seed: 1 there, 0 now"):
        claim_run_folder(tmp_path, first, resume=None)
    with pytest.raises(ConfigError, match="holds a run with this configuration: resume from"):
        claim_run_folder(tmp_path, second, resume=None)
