"""What a run is, and the folder that it leaves.

OUT/<name>/run.json       its settings and those of the runs that it needs, written first
OUT/<name>/log.txt        output of its processes
OUT/<name>/calls.jsonl    steps, seconds and peak memory of every training call that ended by itself
OUT/<name>/training/      run folder of occlift: losses, last checkpoint
OUT/<name>/result.json    scores, costs, commit and machine; a run that has it is finished
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import calls
from occlift.errors import ConfigError

CHECKPOINT: Final = "training/last.ckpt"
"""Where a training keeps its state, in the folder of its run."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Work that is done once and kept, in processes and a folder of its own.

    Attributes:
        name: name of the run and of its folder.
        needs: names of the runs that must be finished before.
        train: training function with all arguments but `out`, `resume` and `max_steps`; None: nothing is trained.
        call: function that is called once, after the training if there is one, and returns scores (`calls`); None: the
            training is all.
    """

    name: str
    needs: tuple[str, ...] = ()
    train: partial[None] | None = None
    call: partial[calls.Scores] | None = None

    @property
    def kind(self) -> str:
        """Name of the function that makes the result."""
        function = self.train or self.call
        assert function is not None, f"{self.name} does nothing"
        return function.func.__name__

    @property
    def steps(self) -> int:
        """Number of training steps; 0 where nothing is trained."""
        return int(self.train.keywords["config"].optimizer.steps) if self.train else 0

    @property
    def seed(self) -> int | None:
        """Random seed of the training; None where nothing is trained."""
        return int(self.train.keywords["config"].seed) if self.train else None


@dataclass(frozen=True, kw_only=True)
class Result:
    """Outcome of a finished run.

    Attributes:
        kind: kind of the run.
        seed: random seed of the training; None where nothing was trained.
        scores: scores by name, per cent, and costs; the number of key frames scored as `frames`.
        seconds: wall-clock time of the calls that ended by themselves.
        commit: commit of the source, `+` behind it if files differed; None outside a repository.
        machine: processor or accelerator, and version of torch.
        draws: scores by name under draws of the scored scenes, the same draws wherever the scenes are the same.
    """

    kind: str
    seed: int | None
    scores: dict[str, float]
    seconds: float
    commit: str | None
    machine: str
    draws: dict[str, list[float]] = field(default_factory=dict)


class Runs(dict[str, Run]):
    """Runs by name, what is needed before what needs it; a run that several tables show is added once.

    Args:
        out: folder of the runs.
    """

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out = out

    def add(
        self,
        name: str,
        needs: tuple[str, ...] = (),
        train: partial[None] | None = None,
        call: partial[calls.Scores] | None = None,
    ) -> str:
        """Adds a run, unless it is there, and gives its name."""
        assert self.keys() >= set(needs), f"{name} needs {needs}"
        self.setdefault(name, Run(name=name, needs=needs, train=train, call=call))
        return name

    def add_town(self, config: Any) -> Path:
        """Adds the run that builds a town, and gives the root of the data set."""
        self.add("data", call=partial(calls.make_town, root=self.out / "data/town", config=config))
        return self.out / "data/town"

    def add_labels(self, name: str, config: Any, root: Path, needs: tuple[str, ...]) -> None:
        """Adds the run `labels-<name>` that makes labels."""
        call = partial(calls.make_labels, root=root, labels=self.labels_folder(name), config=config)
        self.add(f"labels-{name}", needs, call=call)

    def labels_folder(self, name: str) -> Path:
        """The folder of labels made by `add_labels`."""
        return self.out / f"labels-{name}/labels"

    def needed_for(self, names: Iterable[str]) -> list[str]:
        """Names of these runs and of all that they need, in order."""
        wanted = set(names)
        for name in reversed(self):
            if name in wanted:
                wanted.update(self[name].needs)
        return [name for name in self if name in wanted]

    def identity(self, name: str) -> dict[str, Any]:
        """What decides the result of a run, in plain JSON types: its calls, and the same of the runs that it needs."""

        def plain(value: Any) -> Any:
            if isinstance(value, Path):
                return str(value.relative_to(self.out) if value.is_relative_to(self.out) else value.resolve())
            return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value

        found = [
            {"function": call.func.__name__, **{key: plain(value) for key, value in call.keywords.items()}}
            for call in (self[name].train, self[name].call)
            if call is not None
        ]
        needs = {need: self.identity(need) for need in self[name].needs}
        return dict(json.loads(json.dumps({"calls": found, "needs": needs}, default=str)))


def describe_town(config: Any) -> str:
    """A town in a few words, for the reader of a table."""
    return (
        f"a town of {config.scenes} scenes of {config.frames} key frames, six images of {config.image_height}×"
        f"{config.image_width}, seed {config.seed}"
    )


def claim(folder: Path, identity: dict[str, Any], *, write: bool) -> None:
    """Checks that a folder holds the run of this identity or nothing.

    Args:
        write: whether the folder is made if it is missing.

    Raises:
        ConfigError: the folder holds a run of another configuration.
    """
    record, result = folder / "run.json", folder / "result.json"
    found = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
    if found != identity and (found or result.exists()):
        raise ConfigError(
            f"{folder} holds a run of another configuration, or one made with other data or labels (see its run.json); "
            "remove it, or choose another --out"
        )
    if found is None and write:
        write_whole(record, json.dumps(identity, indent=1))


def read_result(folder: Path) -> Result | None:
    """The result of a run; None if it is not finished."""
    path = folder / "result.json"
    return Result(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def read_losses(folder: Path, name: str) -> list[tuple[int, float]]:
    """Step and value of everything that the training of a run logged under a name."""
    path = folder / "training/losses.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(int(row["step"]), float(row["value"])) for row in csv.DictReader(file) if row["name"] == name]


def write_whole(path: Path, text: str) -> None:
    """Writes a text file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
