"""What a run leaves: whose folder it is, what each call cost, and at the end its result.

runs/<name>/run.json       name, digest and settings: written first, and compared by whoever comes later
runs/<name>/calls.csv      steps, seconds and peak memory of every call that ended by itself
runs/<name>/training/      the training's own folder: configuration, losses, last checkpoint
runs/<name>/result.json    scores, costs, versions, machine, commit: a run that has it is finished
"""

from __future__ import annotations

import csv
import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import occlift
from occlift.errors import ConfigError, DataError
from occlift.evaluation.occupancy import Evaluation
from occlift.recipes.reproduce.plan import Place, Plan, Run, Training
from occlift.runtime.differences import differences
from occlift.runtime.files import replacing
from occlift.training.run_folder import LAST_CHECKPOINT

FORMAT: Final = "occlift reproduction"
RUN_NAME: Final = "run.json"
CALLS_NAME: Final = "calls.csv"
RESULT_NAME: Final = "result.json"
TRAINING_NAME: Final = "training"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a training that ended by itself.

    Attributes:
        first_step: at which it began; 0 at the very beginning.
        last_step: at which it ended.
        seconds: wall clock, reading the data included.
        peak_memory_bytes: the largest resident size of its process while it trained.
        peak_device_bytes: the most that tensors took on the accelerator; None without one.
    """

    first_step: int
    last_step: int
    seconds: float
    peak_memory_bytes: int
    peak_device_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run.

    Attributes:
        settings: of the run.
        evaluation: its scores; None for one that prepares others, or that is scored in the bird's-eye view.
        bev: scores in the bird's-eye view by name, per cent, and as `frames` of how many key frames; None for others.
        steps: of the training; 0 where nothing was trained.
        step_seconds: the median over the steps, from a batch in memory to updated weights; None: nothing was trained.
        seconds: wall clock of the calls that ended by themselves.
        peak_memory_bytes: the largest over the training's calls; None if nothing was trained, or every call was killed.
        peak_device_bytes: the same, of tensors on the accelerator.
        commit: of the source, `+` behind it if files differed; None where it lies in no repository.
        facts: versions and the machine.
    """

    name: str
    digest: str
    settings: dict[str, Any]
    evaluation: Evaluation | None = None
    bev: dict[str, float] | None = None
    steps: int = 0
    step_seconds: float | None = None
    seconds: float
    peak_memory_bytes: int | None = None
    peak_device_bytes: int | None = None
    commit: str | None
    facts: dict[str, str]

    @property
    def frames(self) -> int | None:
        """How many key frames were scored; None: none was."""
        if self.evaluation is not None:
            return self.evaluation.frames
        return None if self.bev is None else int(self.bev["frames"])

    @property
    def seed(self) -> int | None:
        """Of the training; None where nothing was trained."""
        seed = self.settings.get("config", {}).get("seed")
        return seed if self.steps else None

    def write(self, folder: Path) -> None:
        """Writes `result.json`, atomically."""
        plain = {"format": FORMAT, **{key: getattr(self, key) for key in self.__dataclass_fields__}}
        plain["evaluation"] = None if self.evaluation is None else json.loads(self.evaluation.to_json())
        text = "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in plain.items()) + "\n}\n"
        with replacing(folder / RESULT_NAME) as file:
            file.write(text.encode())


def read_result(folder: Path) -> Result | None:
    """The result of a run; None if it is not finished.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / RESULT_NAME
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain.pop("format") != FORMAT:
            raise ValueError("another format")
        scores = plain.pop("evaluation")
        return Result(**plain, evaluation=None if scores is None else Evaluation.from_json(json.dumps(scores)))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise DataError(
            f"{path}: not a result of `occlift reproduce` ({error}); remove {folder} and run again"
        ) from error


def claim(plan: Plan, place: Place, run: Run, *, write: bool) -> None:
    """Sees to it that the folder of a run is this run's.

    Args:
        write: make the folder if there is none.

    Raises:
        ConfigError: the folder holds a run of other settings, or one that was made with other data or labels.
        DataError: the record in the folder is damaged.
    """
    folder = place.run(run.name)
    path, digest = folder / RUN_NAME, plan.digest(run.name)
    settings = run.settings()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["digest"] != digest:
            unlike = differences(found["settings"], settings) or "what it needs: data or labels"
            raise ConfigError(
                f"{folder} holds a run of another configuration ({unlike}); remove it, or choose another --out"
            )
    except FileNotFoundError:
        result = read_result(folder)
        if result is not None and result.digest != digest:
            raise ConfigError(
                f"{folder / RESULT_NAME} is of another configuration; remove {folder}, or choose another --out"
            ) from None
        if write:
            with replacing(path) as file:
                file.write(json.dumps({"name": run.name, "digest": digest, "settings": settings}, indent=1).encode())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not readable ({error!r}); remove {folder} and run again") from error


def finished_result(plan: Plan, place: Place, run: Run) -> Result | None:
    """The result of a run if it is finished and of this configuration.

    Raises:
        DataError: the file is damaged.
    """
    result = read_result(place.run(run.name))
    return result if result is not None and result.digest == plan.digest(run.name) else None


def checkpoint_in(folder: Path) -> Path:
    """Where a training keeps its state, in the folder of its run."""
    return folder / TRAINING_NAME / LAST_CHECKPOINT


def steps_logged(place: Place, run: Training) -> int:
    """How many steps the training has done, by its log: the checkpoint may be a little behind."""
    from occlift.training.callbacks import read_scalars

    log = place.run(run.name) / TRAINING_NAME / "losses.csv"
    return max((step for step, _, _ in read_scalars(log)), default=0) if log.exists() else 0


def median_step_seconds(training: Path) -> float | None:
    """Over all steps in the log of a training."""
    from occlift.training.callbacks import read_scalars

    seconds = [value for _, name, value in read_scalars(training / "losses.csv") if name == "step_seconds"]
    return median(seconds) if seconds else None


def append_call(folder: Path, call: Call) -> None:
    """Adds a line to `calls.csv`."""
    path = folder / CALLS_NAME
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(Call.__dataclass_fields__)
        writer.writerow("" if value is None else value for value in asdict(call).values())


def read_calls(folder: Path) -> tuple[Call, ...]:
    """What `append_call` wrote.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / CALLS_NAME
    if not path.exists():
        return ()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return tuple(
                Call(
                    first_step=int(row["first_step"]),
                    last_step=int(row["last_step"]),
                    seconds=float(row["seconds"]),
                    peak_memory_bytes=int(row["peak_memory_bytes"]),
                    peak_device_bytes=int(row["peak_device_bytes"]) if row["peak_device_bytes"] else None,
                )
                for row in csv.DictReader(file)
            )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not readable ({error}); remove {folder} and run again") from error


def source_commit() -> str | None:
    """The commit that this code is of, `+` behind it if files in the repository differ; None in no repository."""
    here = Path(occlift.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        # An environment may lie inside a repository that knows nothing of what is installed in it.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
