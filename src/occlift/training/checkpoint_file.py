"""How Lightning writes a checkpoint here: whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from occlift.runtime.extras import needs_extra
from occlift.runtime.files import replacing

with needs_extra("train", "training"):
    from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the file that is replaced, then renames.

    Lightning's own writer goes through the system's folder for temporary files: where that is another file system, the
    last step is a copy, and a process that is killed in it leaves half a checkpoint and nothing else.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        assert storage_options is None, storage_options
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)
