"""One run, or as much of it as fits into the time, in this process.

A training goes as far as the time allows and is resumed by the next call; the next step is the one that would have
followed. Everything else is short, or goes on by itself where it was killed.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from occlift.errors import DataError
from occlift.evaluation.baselines import label_predictions, prior_predictions
from occlift.evaluation.occupancy import Evaluation, evaluate
from occlift.labels.generate import generate_labels
from occlift.recipes.reproduce.plan import (
    Corrupted,
    Finetuning,
    MakeLabels,
    MakeTown,
    OccupancyTraining,
    Place,
    Pretraining,
    Reference,
    Run,
    Training,
)
from occlift.recipes.reproduce.record import (
    TRAINING_NAME,
    Call,
    Result,
    append_call,
    checkpoint_in,
    median_step_seconds,
    read_calls,
    source_commit,
)
from occlift.recipes.reproduce.scores import VEHICLE, corrupted
from occlift.runtime.threads import usable_cores
from occlift.scenes.dataset import open_dataset, split_tokens
from occlift.town.write import write_town
from occlift.training.occupancy import TrainConfig, predict, train
from occlift.training.run_folder import peak_memory_bytes
from occlift.viz.frame_report import environment_facts

_PROBE_STEPS: Final = 20
"""Done first where nothing says how long a step takes."""

_SCORING_S: Final = 60.0
"""Predictions and scores are begun only if so much time is left."""

_CORES_PER_LABELLER: Final = 4

FEATURES_NAME: Final = "features"
"""In the folder of a reproduction: the teacher's features, made once and read by every pretraining."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run for a process of its own.

    Attributes:
        ends_at: when to have ended, as `time.time` counts; None: take the time that it takes.
    """

    run: Run
    digest: str
    place: Place
    ends_at: float | None

    def seconds_left(self) -> float | None:
        """Until the end of the time; None: no end."""
        return None if self.ends_at is None else self.ends_at - time.time()


def perform(job: Job) -> bool:
    """Does a run, or a part of it; true if it is finished, and its result written.

    Raises:
        OccliftError: data, labels or the folder are not what they should be, or the training diverged.
    """
    started = time.monotonic()
    run, place = job.run, job.place
    folder = place.run(run.name)
    if isinstance(run, Training):
        return _train(job, run, folder)
    scores = _Scored()
    if isinstance(run, MakeTown):
        write_town(place.data(), run.config)
    elif isinstance(run, MakeLabels):
        _make_labels(run, place)
    elif isinstance(run, Corrupted):
        network = checkpoint_in(place.run(run.network))
        scores = _Scored(bev=_corrupted_bev_scores(network, place))
    else:
        assert isinstance(run, Reference), run
        predictions = folder / "predictions"
        make = prior_predictions if run.what == "prior" else label_predictions
        make(place.data(), place.labels(run.frames), predictions)
        scores = _Scored(evaluation=_scores(predictions, place))
    _result(job, scores, seconds=time.monotonic() - started).write(folder)
    return True


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What a run was scored by: occupancy, the bird's-eye view, or nothing."""

    evaluation: Evaluation | None = None
    bev: dict[str, float] | None = None


def steps_in_time(done: int, steps: int, *, step_s: float | None, seconds: float | None) -> int:
    """The step at which a call should end: the last one, or the last that fits.

    Args:
        done: steps before this call.
        steps: of the schedule.
        step_s: what a step takes, everything included; None: nobody knows yet.
        seconds: that are left; None: as many as it takes.
    """
    if seconds is None:
        return steps
    if step_s is None:
        return min(steps, done + _PROBE_STEPS)
    return min(steps, done + max(0, int(seconds / step_s)))


def _train(job: Job, run: Training, folder: Path) -> bool:
    from occlift.training.checkpoint import checkpoint_parts

    training, checkpoint = folder / TRAINING_NAME, checkpoint_in(folder)
    steps = run.optimizer.steps
    done = int(checkpoint_parts(checkpoint)["global_step"]) if checkpoint.exists() else 0
    if done < steps:
        last = steps_in_time(done, steps, step_s=_step_seconds(folder), seconds=job.seconds_left())
        if last == done:
            return False
        append_call(folder, _training_call(job, run, training, checkpoint, done, last))
        if last < steps:
            return False
    left = job.seconds_left()
    if left is not None and left < _SCORING_S:
        return False
    started = time.monotonic()
    scores = _scores_of_training(run, job.place, folder, checkpoint)
    calls = read_calls(folder)
    device_peaks = [call.peak_device_bytes for call in calls if call.peak_device_bytes is not None]
    _result(
        job,
        scores,
        steps=steps,
        step_seconds=median_step_seconds(training),
        seconds=sum(call.seconds for call in calls) + time.monotonic() - started,
        peak_memory_bytes=max((call.peak_memory_bytes for call in calls), default=None),
        peak_device_bytes=max(device_peaks, default=None),
    ).write(folder)
    return True


def _training_call(job: Job, run: Training, training: Path, checkpoint: Path, done: int, last: int) -> Call:
    """Trains from step `done` to step `last`."""
    import torch

    started = time.monotonic()
    _learn(run, job.place, training, resume=checkpoint if checkpoint.exists() else None, last=last)
    return Call(
        first_step=done,
        last_step=last,
        seconds=time.monotonic() - started,
        peak_memory_bytes=peak_memory_bytes(),
        peak_device_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    )


def _step_seconds(folder: Path) -> float | None:
    """What a step took in the last call, its start included; None before the first."""
    calls = read_calls(folder)
    return calls[-1].seconds / (calls[-1].last_step - calls[-1].first_step) if calls else None


def _make_labels(run: MakeLabels, place: Place) -> None:
    cores = usable_cores()
    out = place.labels(run.config.frames)
    made = generate_labels(open_dataset(place.data()), out, run.config, workers=max(1, cores // _CORES_PER_LABELLER))
    if made.failed:
        token, reason = next(iter(made.failed.items()))
        raise DataError(f"{len(made.failed)} labels could not be made, {token} because {reason}; see {out}")


def _learn(run: Training, place: Place, training: Path, *, resume: Path | None, last: int) -> None:
    """Trains up to step `last`."""
    # Imported where they are needed: a run needs one of them.
    if isinstance(run, Finetuning):
        from occlift.training.bev import finetune

        start = None if run.start is None else checkpoint_in(place.run(run.start))
        finetune(place.data(), training, run.config, pretrained=start, resume=resume, max_steps=last)
        return
    assert isinstance(run, OccupancyTraining | Pretraining), run
    labels = None if run.frames is None else place.labels(run.frames)
    if isinstance(run, Pretraining):
        from occlift.training.occfeat import pretrain

        pretrain(
            place.data(), training, run.config, labels=labels, feature_cache=place.out / FEATURES_NAME, resume=resume,
            max_steps=last,
        )  # fmt: skip
    elif isinstance(run.config, TrainConfig):
        assert labels is not None, run.name
        train(place.data(), labels, training, run.config, resume=resume, max_steps=last)
    else:
        from occlift.training.rendering import train_rendering

        train_rendering(place.data(), training, run.config, labels=labels, resume=resume, max_steps=last)


def _scores_of_training(run: Training, place: Place, folder: Path, checkpoint: Path) -> _Scored:
    if isinstance(run, Pretraining):
        return _Scored()
    if isinstance(run, Finetuning):
        from occlift.training.bev import evaluate_bev

        (evaluation,) = evaluate_bev(checkpoint, place.data())
        return _Scored(bev={"frames": evaluation.frames, **evaluation.named()})
    predictions = folder / "predictions"
    predict(place.data(), predictions, checkpoint=checkpoint)
    return _Scored(evaluation=_scores(predictions, place))


def _corrupted_bev_scores(checkpoint: Path, place: Place) -> dict[str, float]:
    """Scores of the images as they are, and vehicle IoU under every corruption, the mean over its strengths."""
    from occlift.training.bev import evaluate_bev
    from occlift.training.corrupt import CORRUPTIONS, STRENGTHS, Corruption

    (as_they_are,) = evaluate_bev(checkpoint, place.data())
    found: dict[str, float] = {"frames": as_they_are.frames, **as_they_are.named()}
    for name in CORRUPTIONS:
        corruptions = [Corruption(name=name, strength=strength) for strength in STRENGTHS]
        evaluations = evaluate_bev(checkpoint, place.data(), corruptions=corruptions)
        found[corrupted(name)] = fmean(evaluation.named()[VEHICLE] for evaluation in evaluations)
    return found


def _scores(predictions: Path, place: Place) -> Evaluation:
    """Scores the predictions of the validation split, and removes them: the histograms say all that tables need."""
    data = open_dataset(place.data())
    evaluation = evaluate(predictions, place.truth_folder(), tokens=split_tokens(data, "val"), rays=data)
    shutil.rmtree(predictions)
    return evaluation


def _result(
    job: Job,
    scores: _Scored,
    *,
    seconds: float,
    steps: int = 0,
    step_seconds: float | None = None,
    peak_memory_bytes: int | None = None,
    peak_device_bytes: int | None = None,
) -> Result:
    import torch

    facts = dict(environment_facts())
    if torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name()
    return Result(
        name=job.run.name, digest=job.digest, settings=job.run.settings(), evaluation=scores.evaluation,
        bev=scores.bev, steps=steps, step_seconds=step_seconds, seconds=seconds, peak_memory_bytes=peak_memory_bytes,
        peak_device_bytes=peak_device_bytes, commit=source_commit(), facts=facts,
    )  # fmt: skip
