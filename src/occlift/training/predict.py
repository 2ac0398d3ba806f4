"""What a trained network says of key frames, written as predictions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from occlift.errors import ConfigError
from occlift.labels.files import prediction_path, write_prediction
from occlift.models.easyocc import EasyOcc, EasyOccConfig
from occlift.runtime.devices import Precision, default_device, lightning_precision, torch_device
from occlift.runtime.folder_lock import sole_writer
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, split_tokens
from occlift.training.run_folder import peak_memory_bytes


@dataclass(frozen=True, kw_only=True)
class PredictRun:
    """Predictions that were written.

    Attributes:
        frames: how many.
        seconds: of this call, reading and writing included.
        model_seconds: inside the network.
        peak_memory_bytes: the largest resident size that the process ever had.
        random_weights: no checkpoint was given.
    """

    out: Path
    frames: int
    seconds: float
    model_seconds: float
    peak_memory_bytes: float
    random_weights: bool


def predict(
    data: DrivingDataset,
    out: Path,
    *,
    checkpoint: Path | None = None,
    model: EasyOccConfig | None = None,
    split: str = "val",
    tokens: Sequence[str] | None = None,
    precision: Precision = "auto",
    device: str | None = None,
) -> PredictRun:
    """Writes a prediction per key frame in the layout of Occ3D submissions.

    Args:
        out: the folder of the predictions, `<token>.npz`.
        checkpoint: of an `OccupancyTraining` or a `RenderingTraining`; a network that was trained blind is shown grey
            images again.
        model: without a checkpoint: a network with random weights of this shape, to measure time and memory.
        split: of the data set; unless `tokens` lists the samples.
        device: as torch names it; None: an accelerator where there is one, else the CPU.

    Raises:
        ConfigError: both or neither of `checkpoint` and `model` are given, or the network was trained on other cameras.
        DataError: checkpoint or data are missing or damaged.
        AnotherRun: another run is writing into `out`.
        DiskFull: the disk is full.
    """
    import torch

    from occlift.training.checkpoint import check_cameras, load_easyocc, trained_blind
    from occlift.training.frames import OccupancyFrames

    started = time.monotonic()
    if (checkpoint is None) == (model is None):
        raise ConfigError("give either a checkpoint, or the configuration of a network with random weights")
    if checkpoint is not None:
        network, blind = load_easyocc(checkpoint), trained_blind(checkpoint)
        check_cameras(checkpoint, data)
    else:
        assert model is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network, blind = EasyOcc(model).eval(), False
    frames = OccupancyFrames(
        data,
        split_tokens(data, split) if tokens is None else tokens,
        height=network.config.image_height,
        width=network.config.image_width,
        blind=blind,
    )
    target = torch_device(device or default_device())
    network.to(target)
    bf16 = lightning_precision(precision, target.type) == "bf16-mixed"
    model_seconds = 0.0
    with sole_writer(out):
        for index in track(range(len(frames)), "predict"):
            frame = frames[index].to(target)
            before = time.monotonic()
            with torch.inference_mode(), torch.autocast(target.type, dtype=torch.bfloat16, enabled=bf16):
                semantics = network(frame.images, frame.rig)[0].argmax(0).to(torch.uint8).cpu().numpy()
            model_seconds += time.monotonic() - before
            write_prediction(prediction_path(out, frame.tokens[0]), semantics, space=network.config.space)
    return PredictRun(
        out=out,
        frames=len(frames),
        seconds=time.monotonic() - started,
        model_seconds=model_seconds,
        peak_memory_bytes=peak_memory_bytes(),
        random_weights=checkpoint is None,
    )
