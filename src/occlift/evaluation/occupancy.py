"""Folders of predictions against folders of truth: every named score, whole or in parts that add up.

What an evaluation keeps are counts (`OccupancyCounts`, `RayCounts`) and the tokens they come from. So parts that were
scored on several machines add up to the whole to the last bit, and a frame that is counted twice is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from occlift.errors import ConfigError, DataError
from occlift.evaluation.by_scene import SceneCounts, added
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace, Taxonomy
from occlift.labels.files import (
    OccupancyTruth,
    check_some_free,
    labels_by_token,
    prediction_path,
    read_prediction,
    read_truth,
)
from occlift.metrics.occupancy import MASKS, Mask, OccupancyCounts, evaluated_voxels, histograms, stored_masks
from occlift.metrics.rays import (
    RayCounts,
    RayWalk,
    check_walk,
    float32_ray_origins,
    ray_histogram,
    ray_histogram_shape,
    ray_origins,
)
from occlift.runtime.devices import torch_device
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, require_lidar

FORMAT: Final = "occlift evaluation"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of predictions against truth.

    Attributes:
        predictions: folder of the predictions.
        truth: folder of the truth.
        tokens: the samples that were scored, sorted.
        counts: histograms per mask, and what follows from them.
        rays: histogram of RayIoU; None if it was not asked for.
        scenes: what of `counts` and `rays` was counted in which scene, for `by_scene.scene_draws`; evaluations of
            earlier versions have none.
        without_prediction: samples that were left out because nobody predicted them.
        without_truth: samples that were left out because they have no truth.
        space: grid and classes of predictions and truth.
    """

    predictions: str
    truth: str
    tokens: tuple[str, ...]
    counts: OccupancyCounts
    rays: RayCounts | None = None
    scenes: SceneCounts = field(default_factory=dict)
    without_prediction: tuple[str, ...] = ()
    without_truth: tuple[str, ...] = ()
    space: LabelSpace = OCC3D

    @property
    def frames(self) -> int:
        """Number of key frames that were scored."""
        return len(self.tokens)

    @property
    def complete(self) -> bool:
        """Whether no sample was left out."""
        return not self.without_prediction and not self.without_truth

    def named(self) -> dict[str, float]:
        """Every score by its full name, per cent; NaN where nothing can be said."""
        return {**self.counts.named(), **(self.rays.named() if self.rays else {})}

    def class_iou(self) -> dict[str, dict[str, float]]:
        """IoU per class name, per mask and (as `rays`) for RayIoU; NaN where absent."""
        per_class = {str(mask): self.counts.class_iou(mask) for mask in self.counts.histograms}
        return {**per_class, **({"rays": self.rays.class_iou()} if self.rays else {})}

    def to_json(self) -> str:
        """Histograms, every named score, and IoU per class; NaN (absent) as null; the space unless it is Occ3D's."""
        plain = {
            "format": FORMAT,
            **space_field(self.space),
            "predictions": self.predictions,
            "truth": self.truth,
            "frames": self.frames,
            "scores": _nan_as_none(self.named()),
            "class_iou": {name: _nan_as_none(scores) for name, scores in self.class_iou().items()},
            **_plain_counts(self.counts, self.rays),
            **({"ray_walk": self.rays.walk} if self.rays else {}),
            "scenes": {name: _plain_counts(*counts) for name, counts in sorted(self.scenes.items())},
            "without_prediction": list(self.without_prediction),
            "without_truth": list(self.without_truth),
            "tokens": list(self.tokens),
        }
        # One line per entry: a histogram with every number on a line of its own helps nobody.
        return "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in plain.items()) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """From what `to_json` wrote; the scores follow from the histograms.

        Raises:
            DataError: the text is something else.
        """
        try:
            plain = json.loads(text)
            if plain["format"] != FORMAT:
                raise ValueError(f"its format is {plain['format']!r}")
            space = LabelSpace.from_dict(plain["space"]) if "space" in plain else OCC3D
            taxonomy, walk = space.taxonomy, plain.get("ray_walk", "float64")
            counts, *rays = _read_counts(plain, taxonomy, walk)
            return cls(
                predictions=plain["predictions"],
                truth=plain["truth"],
                tokens=tuple(plain["tokens"]),
                counts=counts,
                rays=rays[0] if rays else None,
                scenes={name: _read_counts(part, taxonomy, walk) for name, part in plain.get("scenes", {}).items()},
                without_prediction=tuple(plain["without_prediction"]),
                without_truth=tuple(plain["without_truth"]),
                space=space,
            )
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise DataError(
                f"not an evaluation as `occlift evaluate --json` writes it ({type(error).__name__}: {error})"
            ) from error


def read_evaluation(path: Path) -> Evaluation:
    """Reads what `occlift evaluate --json` wrote.

    Raises:
        DataError: the file is missing or something else.
    """
    try:
        return Evaluation.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, DataError) as error:
        raise DataError(f"{path}: {error}") from error


def evaluate(
    predictions: Path,
    truth: Path,
    *,
    tokens: Sequence[str] | None = None,
    masks: Sequence[Mask] = MASKS,
    rays: DrivingDataset | None = None,
    device: str = "cpu",
    ray_walk: RayWalk = "float64",
    allow_missing: bool = False,
    part: tuple[int, int] = (1, 1),
    space: LabelSpace = OCC3D,
) -> Evaluation:
    """Scores anybody's predictions (`<token>.npz`, key `semantics`) against `<truth>/<scene>/<token>/labels.npz`.

    Args:
        tokens: the samples of the split. Without them every scene of which something is predicted must be complete.
        masks: evaluated voxels; truth whose files lack a mask that they need is refused.
        rays: the data set whose lidar poses say where RayIoU's rays start; None: no RayIoU.
        device: where RayIoU's rays are cast, as torch names it; the answer is the same everywhere.
        ray_walk: how RayIoU's rays walk (`occlift.metrics.rays`); `float32` as those of the public code.
        allow_missing: leave samples out that are missing on one side, instead of refusing to score.
        part: (i, n), score the i-th of n parts of the samples, i from 1; see `merge`.
        space: grid and classes of predictions and truth.

    Raises:
        ConfigError: `part` is none, there is no such device, the rays cannot walk so, or RayIoU is asked for and the
            data set has no lidar.
        DataError: a token is missing on one side (all such are counted, the first are listed) or has truth twice, a
            file is damaged, a prediction holds a value that is no class, or a file is of another class list
            (`labels.files.check_some_free`).
    """
    for folder in (predictions, truth):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    if rays is not None:
        torch_device(device)  # refused now, not after the first samples
        check_walk(ray_walk, device, space.grid)
    number, parts = part
    if not 1 <= number <= parts:
        raise ConfigError(f"part {number}/{parts}: expected i/n with i from 1 to n")
    where = labels_by_token(truth)
    predicted = {path.stem for path in predictions.glob("*.npz")}
    if not predicted:
        labels = "labels.npz lie in it: score labels with `occlift audit LABELS --truth TRUTH`"
        remedy = f"; {labels}" if any(predictions.glob("*/*/labels.npz")) else ""
        raise DataError(f"{predictions}: no prediction (<token>.npz) to score{remedy}")
    if tokens is None:
        touched = {where[token].parent.parent.name for token in predicted & where.keys()}
        wanted = predicted | {token for token, path in where.items() if path.parent.parent.name in touched}
    else:
        wanted = set(tokens)
    without_prediction, without_truth = sorted(wanted - predicted), sorted(wanted - where.keys())
    if not allow_missing:
        _require_none_missing(predictions, without_prediction, truth, without_truth)
    # By scene, so that the poses of a scene are looked up once; and every part gets whole runs of it.
    found = sorted(wanted & predicted & where.keys(), key=lambda token: (where[token].parent.parent.name, token))
    scored = found[len(found) * (number - 1) // parts : len(found) * number // parts]
    if not scored:
        raise DataError(f"{predictions}: nothing to score: no sample has both a prediction and truth in {truth}")
    if rays is not None:
        require_lidar(rays, scored, "RayIoU, whose rays start at the lidar")
    taxonomy = space.taxonomy
    scenes: dict[str, tuple[Any, ...]] = {}
    origins = _RayOrigins(rays, space.grid, ray_walk) if rays else None
    for token in track(scored, "evaluate"):
        path, predicted_path = where[token], prediction_path(predictions, token)
        frame = read_truth(path, stored_masks(masks), space=space)
        prediction = read_prediction(predicted_path, space=space)
        check_some_free(path, frame.semantics, space)
        _check_known(path, frame, masks, rays=rays is not None, space=space)
        check_some_free(predicted_path, prediction, space)
        try:
            counted = histograms(
                truth=frame.semantics, prediction=prediction,
                evaluated=evaluated_voxels(
                    masks, truth=frame.semantics, stored=frame.masks, num_classes=taxonomy.num_classes
                ),
                num_classes=taxonomy.num_classes,
            )  # fmt: skip
            counts: tuple[Any, ...] = (OccupancyCounts(histograms=counted, taxonomy=taxonomy),)
            if origins:
                h = ray_histogram(
                    truth=frame.semantics, prediction=prediction, origins_m=origins.of(token), space=space,
                    device=device, walk=ray_walk,
                )  # fmt: skip
                counts += (RayCounts(histogram=h, taxonomy=taxonomy, walk=ray_walk),)
        except DataError as error:
            raise DataError(f"{path} and {predicted_path}: {error}") from error
        scene = path.parent.parent.name
        scenes[scene] = added((scenes[scene], counts)) if scene in scenes else counts
    total, *ray_total = added(scenes.values())
    return Evaluation(
        predictions=str(predictions),
        truth=str(truth),
        tokens=tuple(sorted(scored)),
        counts=total,
        rays=ray_total[0] if ray_total else None,
        scenes=scenes,
        without_prediction=tuple(without_prediction),
        without_truth=tuple(without_truth),
        space=space,
    )


def _check_known(path: Path, truth: OccupancyTruth, masks: Sequence[Mask], *, rays: bool, space: LabelSpace) -> None:
    """Refuses truth that is unknown where it is evaluated, as labels are, and says what can be scored against it."""
    unknown = truth.semantics == UNKNOWN
    if not unknown.any():
        return
    evaluated = evaluated_voxels(
        masks, truth=truth.semantics, stored=truth.masks, num_classes=space.taxonomy.num_classes
    )
    wrong = [f"the mask {mask}" for mask, voxels in evaluated.items() if voxels is None or (unknown & voxels).any()]
    if rays:
        wrong.append("RayIoU")
    if not wrong:
        return
    try:
        camera_fits = not (unknown & read_truth(path, ["camera"], space=space).masks["camera"]).any()
    except DataError:
        camera_fits = False
    raise DataError(
        f"{path}: {unknown.sum()} of {unknown.size} voxels are unknown (255), as in labels of `occlift label`, and "
        f"{', '.join(wrong)} would score them: "
        + ("score what the label knows (--mask camera, without --rays), or " if camera_fits else "")
        + "name truth that decides everywhere, such as Occ3D's or a town's gts"
    )


def merge(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of all samples from evaluations of parts of them, in any order; equal to the last bit.

    Raises:
        ConfigError: the parts have different grids or classes.
        DataError: a sample is in two parts, or the parts differ in masks, in RayIoU, or in what they scored.
    """
    if not evaluations:
        raise DataError("nothing to merge: give at least one evaluation")
    first = evaluations[0]
    seen: set[str] = set()
    for number, evaluation in enumerate(evaluations, start=1):
        first.space.check_same(evaluation.space, "part 1", f"part {number}")
        if twice := sorted(seen.intersection(evaluation.tokens)):
            raise DataError(
                f"{len(twice)} samples are in more than one part and would count twice: {_some(twice)}; merge parts "
                "of one split, each once"
            )
        seen.update(evaluation.tokens)
        scored = [
            (sorted(e.counts.histograms), f", rays ({e.rays.walk})" if e.rays else "") for e in (first, evaluation)
        ]
        if scored[0] != scored[1]:
            described = [f"masks {', '.join(masks)}{rays}" for masks, rays in scored]
            raise DataError(f"parts hold different scores ({described[0]}; {described[1]}); score them alike")
    rays = [evaluation.rays for evaluation in evaluations if evaluation.rays]
    # A part may end within a scene. Of parts that do not know their scenes the sum does not, either.
    scenes: dict[str, Any] = {}
    for name, counts in ((name, counts) for e in evaluations for name, counts in e.scenes.items()):
        scenes[name] = added((scenes[name], counts)) if name in scenes else counts
    return Evaluation(
        predictions=", ".join(sorted({e.predictions for e in evaluations})),
        truth=", ".join(sorted({e.truth for e in evaluations})),
        tokens=tuple(sorted(seen)),
        counts=reduce(OccupancyCounts.__add__, (e.counts for e in evaluations)),
        rays=reduce(RayCounts.__add__, rays) if rays else None,
        scenes=scenes if all(evaluation.scenes for evaluation in evaluations) else {},
        without_prediction=tuple(sorted({t for e in evaluations for t in e.without_prediction})),
        without_truth=tuple(sorted({t for e in evaluations for t in e.without_truth})),
        space=first.space,
    )


class _RayOrigins:
    """Origins of the rays of a key frame; caches the lidar poses of one scene."""

    def __init__(self, data: DrivingDataset, grid: VoxelGrid, walk: RayWalk) -> None:
        self._data, self._grid, self._walk = data, grid, walk
        self._scene: str | None = None
        self._global_from_lidar: Float[np.ndarray, "n 4 4"] = np.zeros((0, 4, 4))

    def of(self, token: str) -> Float[np.ndarray, "n 3"]:
        frame = self._data.key_frame(token)
        if frame.scene != self._scene:
            sweeps = [self._data.key_frame(t).lidar_sweep() for t in self._data.key_frame_tokens(frame.scene)]
            self._global_from_lidar = np.stack([sweep.global_from_lidar for sweep in sweeps])
            self._scene = frame.scene
        if self._walk == "float32":
            sweep = frame.lidar_sweep()
            current = self._data.key_frame_tokens(frame.scene).index(token)
            return float32_ray_origins(
                self._global_from_lidar, current, frame.ego_from_lidar(sweep), grid=self._grid
            )  # fmt: skip
        return ray_origins(self._global_from_lidar, frame.global_from_ego, grid=self._grid)


def _require_none_missing(
    predictions: Path, without_prediction: Sequence[str], truth: Path, without_truth: Sequence[str]
) -> None:
    problems = [
        f"{len(tokens)} without a {what} in {folder}: {_some(tokens)}"
        for tokens, what, folder in (
            (without_prediction, "prediction", predictions),
            (without_truth, "truth", truth),
        )
        if tokens
    ]
    if problems:
        raise DataError(
            f"predictions and truth must hold the same samples; {'; '.join(problems)}. Make what is missing, or score "
            "the rest with --allow-missing: its score is not that of the split"
        )


def _plain_counts(counts: Any, rays: Any = None) -> dict[str, Any]:
    """Histograms per mask and that of the rays, in plain JSON types."""
    return {
        "histograms": {mask: h.tolist() for mask, h in counts.histograms.items()},
        "ray_histogram": rays.histogram.tolist() if rays else None,
    }


def _read_counts(plain: Mapping[str, Any], taxonomy: Taxonomy, walk: RayWalk) -> tuple[Any, ...]:
    """The counts that `_plain_counts` wrote: those of the masks, and those of the rays if there are any."""
    found, shape = plain["histograms"], (taxonomy.num_classes, taxonomy.num_classes)
    histograms = {mask: _integers(found[mask], shape) for mask in MASKS if mask in found}
    counts = OccupancyCounts(histograms=histograms, taxonomy=taxonomy)
    if (rays := plain["ray_histogram"]) is None:
        return (counts,)
    rays = _integers(rays, ray_histogram_shape(taxonomy))
    return counts, RayCounts(histogram=rays, taxonomy=taxonomy, walk=walk)


def space_field(space: LabelSpace) -> dict[str, Any]:
    """The field of results in JSON that states their label space; no field for Occ3D's."""
    return {} if space == OCC3D else {"space": space.to_dict()}


def _some(tokens: Collection[str]) -> str:
    listed = list(tokens)[:10]
    return ", ".join(listed) + (", ..." if len(tokens) > len(listed) else "")


def _integers(rows: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(rows)
    if array.shape != shape or array.dtype.kind not in "iu" or (array < 0).any():
        raise ValueError(f"expected counts of shape {shape}, found {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _nan_as_none(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in scores.items()}
