"""Folders of labels in Occ3D's layout: what they hold, and which truth belongs to it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from occlift.errors import DataError
from occlift.labels.files import labels_by_token
from occlift.scenes.dataset import DrivingDataset


@dataclass(frozen=True, kw_only=True)
class LabelSample:
    """A label, and the truth of the same key frame if there is any.

    Attributes:
        scene: its name.
        token: token of the key frame.
        label, truth: paths of `labels.npz`.
    """

    scene: str
    token: str
    label: Path
    truth: Path | None


@dataclass(frozen=True, kw_only=True)
class LabelSelection:
    """The labels of a folder that are looked at.

    Attributes:
        samples: by scene, then by token.
        without_label: samples that were left out because they have no label.
        without_truth: samples that were left out because they have no truth.
    """

    samples: tuple[LabelSample, ...]
    without_label: tuple[str, ...] = ()
    without_truth: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens of the samples, sorted."""
        return tuple(sorted(sample.token for sample in self.samples))


def select_labels(
    labels: Path, truth: Path | None, *, tokens: Collection[str] | None = None, allow_missing: bool = False
) -> LabelSelection:
    """Finds `<labels>/<scene>/<token>/labels.npz` and the truth of the same tokens.

    Args:
        truth: a folder of the same layout; None: no truth is asked for, and none can be missing.
        tokens: the samples of a split; by default all that have a label, and with truth all samples of their scenes.
        allow_missing: leave samples out that lack label or truth, instead of refusing.

    Raises:
        DataError: a folder does not exist, it holds no label, or a sample lacks its label or its truth (all such are
            counted, the first are listed) or has one of them twice.
    """
    for folder in (labels, truth):
        if folder is not None and not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    made = labels_by_token(labels)
    if not made:
        raise DataError(f"{labels}: no label (<scene>/<token>/labels.npz) to look at")
    true = labels_by_token(truth) if truth else {}
    if tokens is not None:
        wanted = set(tokens)
    else:
        scenes = {path.parent.parent.name for path in made.values()}
        wanted = made.keys() | {token for token, path in true.items() if path.parent.parent.name in scenes}
    without_label = tuple(sorted(wanted - made.keys()))
    without_truth = tuple(sorted(wanted - true.keys())) if truth else ()
    problems = [
        f"{len(missing)} without a {what} in {folder}: {', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}"
        for missing, what, folder in ((without_label, "label", labels), (without_truth, "truth", truth))
        if missing
    ]
    if problems and not allow_missing:
        raise DataError(
            f"samples lack what they are to be compared with; {'; '.join(problems)}. Make what is missing, or look at "
            "the rest with --allow-missing"
        )
    samples = [
        LabelSample(scene=path.parent.parent.name, token=token, label=path, truth=true.get(token))
        for token, path in made.items()
        if token in wanted and not (truth and token not in true)
    ]
    if not samples:
        raise DataError(f"{labels}: no sample that was asked for has a label{' and truth' if truth else ''}")
    return LabelSelection(
        samples=tuple(sorted(samples, key=lambda sample: (sample.scene, sample.token))),
        without_label=without_label,
        without_truth=without_truth,
    )


def in_time_order(samples: Sequence[LabelSample], data: DrivingDataset) -> list[tuple[int, LabelSample]]:
    """(position in its scene, sample), scene by scene, each in the order of time.

    Raises:
        DataError: the data set has no such sample.
    """
    placed = [(data.key_frame(sample.token).index, sample) for sample in samples]
    return sorted(placed, key=lambda entry: (entry[1].scene, entry[0]))
