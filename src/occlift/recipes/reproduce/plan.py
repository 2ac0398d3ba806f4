"""What is to be run, and which tables follow: pure data.

A run is known by its name and by its *digest*: of its settings and of the digests of the runs it needs, so that a
network trained on other labels, or on another town, is another run. Several tables may show the same run.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from occlift.labels.config import LabelConfig
from occlift.town.config import TownConfig
from occlift.town.scene_writer import GTS
from occlift.training.occupancy import TrainConfig
from occlift.training.optimizer import OptimizerConfig

if TYPE_CHECKING:
    from occlift.training.bev import FinetuneConfig
    from occlift.training.occfeat import PretrainConfig
    from occlift.training.rendering import RenderingTrainConfig

FRAMES_FIELD: Final = "{frames}"
"""In the name of a folder of labels: where the number of key frames fused stands."""


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """Something that is done once and kept.

    Attributes:
        name: of its folder.
        needs: runs that must be finished before, and whose outcome this one depends on.
        minutes: about how long it takes on the machine that its size is meant for.
    """

    name: str
    needs: tuple[str, ...] = ()
    minutes: float = 0.0

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What it depends on besides the runs it needs, in plain JSON types."""


@dataclass(frozen=True, kw_only=True)
class Given(Run):
    """A data set, or labels, that exist already: nothing is done.

    Attributes:
        facts: what tells them from others.
        missing: why they cannot be used; None: they can.
    """

    facts: Mapping[str, Any]
    missing: str | None = None

    def settings(self) -> dict[str, Any]:
        return {"kind": "given", **self.facts}


@dataclass(frozen=True, kw_only=True)
class MakeTown(Run):
    """Builds the data set."""

    config: TownConfig

    def settings(self) -> dict[str, Any]:
        return {"kind": "town", "config": asdict(self.config)}


@dataclass(frozen=True, kw_only=True)
class MakeLabels(Run):
    """Makes the labels of both splits; the validation split's are scored, never trained on."""

    config: LabelConfig

    def settings(self) -> dict[str, Any]:
        return {"kind": "labels", "config": self.config.identity({}, {})}


@dataclass(frozen=True, kw_only=True)
class Reference(Run):
    """Scores what no network predicted.

    Attributes:
        what: the most frequent class of every voxel in the training labels, or the labels themselves.
        frames: fused in these labels.
    """

    what: Literal["prior", "labels"]
    frames: int

    def settings(self) -> dict[str, Any]:
        return {"kind": self.what, "frames": self.frames}


@dataclass(frozen=True, kw_only=True)
class Training(Run):
    """Trains a network in steps that a later call can go on with; what is scored of it is decided by its kind."""

    @property
    @abstractmethod
    def optimizer(self) -> OptimizerConfig:
        """Says how many steps there are."""


@dataclass(frozen=True, kw_only=True)
class OccupancyTraining(Training):
    """Trains a network on the training split, and scores its predictions of the validation split.

    Attributes:
        config: says by its type what is trained: an EasyOcc, or a rendering model.
        frames: fused in the labels; None: it is trained without labels.
    """

    config: TrainConfig | RenderingTrainConfig
    frames: int | None

    @property
    def optimizer(self) -> OptimizerConfig:
        return self.config.optimizer

    def settings(self) -> dict[str, Any]:
        kind = "easyocc" if isinstance(self.config, TrainConfig) else "rendering"
        return {"kind": kind, "frames": self.frames, "config": _plain(self.config.to_dict())}


@dataclass(frozen=True, kw_only=True)
class Pretraining(Training):
    """Pretrains a bird's-eye-view network on the training split; nothing of it is scored.

    Attributes:
        frames: fused in the labels that occupancy comes from; None: it comes from the lidar.
    """

    config: PretrainConfig
    frames: int | None

    @property
    def optimizer(self) -> OptimizerConfig:
        return self.config.optimizer

    def settings(self) -> dict[str, Any]:
        return {"kind": "pretraining", "frames": self.frames, "config": _plain(self.config.to_dict())}


@dataclass(frozen=True, kw_only=True)
class Finetuning(Training):
    """Trains a bird's-eye-view network on a share of the labels, and scores it on the validation split.

    Attributes:
        start: name of the pretraining that it goes on from; None: random weights.
    """

    config: FinetuneConfig
    start: str | None

    @property
    def optimizer(self) -> OptimizerConfig:
        return self.config.optimizer

    def settings(self) -> dict[str, Any]:
        return {"kind": "finetuning", "start": self.start, "config": _plain(self.config.to_dict())}


@dataclass(frozen=True, kw_only=True)
class Corrupted(Run):
    """Scores a fine-tuned network once more, under every corruption of the images.

    Attributes:
        network: name of the fine-tuning.
    """

    network: str

    def settings(self) -> dict[str, Any]:
        return {"kind": "corrupted", "network": self.network}


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(config))
    return found


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    Attributes:
        label: what it says in front.
        runs: the same but for the seed; the row is their mean.
        context: it is there to read the others by, and is set in italics.
    """

    label: str
    runs: tuple[str, ...]
    context: bool = False


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says, or what is to be seen, about two rows.

    Attributes:
        text: the claim, a short sentence.
        score: of `occlift.recipes.reproduce.scores.SCORES`.
        row: label of the row that is said to be better.
        than: label of the row it is compared with.
        paper: what the paper says about the two, as the table prints it; empty: nothing.
        over: labels of two other rows: it is the *gain* of `row` over `than` that is said to exceed the gain of the
            first of these over the second; empty: `row` and `than` themselves are compared.
        share: None: `row` is better. Otherwise `row` reaches at least this share of `than`.
        paired: the runs of these rows differ, seed by seed, in what is compared and in nothing else (the same labels,
            say), so the error of a difference follows from the seeds' own differences.
    """

    text: str
    score: str
    row: str
    than: str
    paper: str = ""
    over: tuple[str, str] | tuple[()] = ()
    share: float | None = None
    paired: bool = False


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """A table.

    Attributes:
        letter: by which it is asked for.
        scores: its columns, names of `occlift.recipes.reproduce.scores.SCORES`.
        notes: what a reader must know, below it.
    """

    letter: str
    title: str
    scores: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where everything lies.

    Attributes:
        out: the folder of the reproduction.
        root: the data set; None: the town in `out`.
        truth: folder `gts/<scene>/<token>/labels.npz`; None: that of the data set.
        label_folders: of given labels, `{frames}` for the number of key frames fused; None: made in `out`.
    """

    out: Path
    root: Path | None = None
    truth: Path | None = None
    label_folders: str | None = None

    def data(self) -> Path:
        """The data set."""
        return self.root or self.out / "data"

    def truth_folder(self) -> Path:
        """What predictions are scored against."""
        return self.truth or self.data() / GTS

    def labels(self, frames: int) -> Path:
        """The labels of so many key frames fused."""
        if self.label_folders is None:
            return self.out / f"labels-{frames}"
        return Path(self.label_folders.replace(FRAMES_FIELD, str(frames)))

    def run(self, name: str) -> Path:
        """What a run leaves."""
        return self.out / "runs" / name


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs of a reproduction, in an order in which they can be done, and the tables that show them.

    Attributes:
        recipe: what is reproduced.
        size: at which size.
        data: what the networks see, a few words for the reader of the tables.
        reading: how to read the scores, a few words more.
    """

    recipe: str
    size: str
    data: str
    reading: str
    runs: tuple[Run, ...]
    tables: tuple[TablePlan, ...]
    _by_name: dict[str, Run] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name: dict[str, Run] = {}
        for run in self.runs:
            assert run.name not in by_name, f"two runs are called {run.name}"
            assert set(run.needs) <= by_name.keys(), f"{run.name} needs {run.needs}, which do not stand before it"
            by_name[run.name] = run
        for table in self.tables:
            labels = [row.label for row in table.rows]
            assert len(set(labels)) == len(labels), labels
            assert all(name in by_name for row in table.rows for name in row.runs), table
            named = {label for claim in table.claims for label in (claim.row, claim.than, *claim.over)}
            assert named <= set(labels), (named, labels)
        object.__setattr__(self, "_by_name", by_name)

    def run(self, name: str) -> Run:
        """The run of this name."""
        return self._by_name[name]

    def digest(self, name: str) -> str:
        """16 hexadecimal digits; equal runs on equal data have equal digests."""
        run = self._by_name[name]
        identity = {"settings": run.settings(), "needs": {need: self.digest(need) for need in run.needs}}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def tables_of(self, letters: Sequence[str]) -> tuple[TablePlan, ...]:
        """The tables asked for, in their order; all of them if none is."""
        return tuple(table for table in self.tables if not letters or table.letter in letters)

    def runs_of(self, letters: Sequence[str]) -> tuple[Run, ...]:
        """The runs whose results these tables show, in order; not those that only prepare them."""
        shown = {name for table in self.tables_of(letters) for row in table.rows for name in row.runs}
        return tuple(run for run in self.runs if run.name in shown)

    def needed_for(self, names: Sequence[str]) -> tuple[Run, ...]:
        """These runs and all that they need, in order."""
        wanted = set(names)
        for run in reversed(self.runs):
            if run.name in wanted:
                wanted.update(run.needs)
        return tuple(run for run in self.runs if run.name in wanted)
