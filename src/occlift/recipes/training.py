"""The loop that every training here runs in: what is written while it runs, and how it is resumed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from occlift.recipes.run_folder import LAST_CHECKPOINT
from occlift.tasks.precision import Precision, lightning_precision

if TYPE_CHECKING:
    import lightning


def make_trainer(
    out: Path,
    description: str,
    *,
    last_step: int,
    checkpoint_every: int,
    validation_every: int | None,
    precision: Precision,
    devices: int,
) -> lightning.Trainer:
    """A trainer that logs every scalar and keeps one checkpoint, both in the run folder `out`.

    Args:
        description: of the progress.
        last_step: after which the training stops.
        checkpoint_every: steps between two checkpoints.
        validation_every: steps between two validations; None: none.
        devices: processes; more than one trains with DistributedDataParallel.
    """
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    from occlift.tasks.callbacks import ScalarLog, ShownProgress

    return lightning.Trainer(
        accelerator=default_device(),
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision=lightning_precision(precision, default_device()),
        max_steps=last_step,
        val_check_interval=validation_every,
        check_val_every_n_epoch=1 if validation_every is None else None,
        limit_val_batches=0 if validation_every is None else None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ScalarLog(out / "losses.csv"),
            ShownProgress(description, last_step=last_step),
            # One file, rewritten: the state to resume from.
            ModelCheckpoint(
                dirpath=out,
                filename=Path(LAST_CHECKPOINT).stem,
                every_n_train_steps=checkpoint_every,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            ),
        ],
        default_root_dir=out,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keeps back what Lightning says about choices that were made here on purpose."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings():
        for message in (
            # A resumed run lives in the folder that it began in.
            ".*Checkpoint directory .* exists and is not empty",
            # The order of the frames follows from the step (`TrainingOrder`).
            ".*your dataloader is not resumable",
            # Decoded frames are cached in the training process.
            ".*does not have many workers",
            # Inside Lightning.
            ".*isinstance\\(treespec, LeafSpec\\)",
        ):
            warnings.filterwarnings("ignore", message=message)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def default_device() -> str:
    """An accelerator where there is one, else the CPU, as torch and Lightning name them."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
