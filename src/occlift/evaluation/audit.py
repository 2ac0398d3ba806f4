"""Measures the quality of a folder of labels: against truth if there is any, and by itself.

Definitions stand where they are computed: `occlift.evaluation.audit_measures` and `occlift.metrics.occupancy`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int, UInt8

from occlift.errors import ConfigError, DataError
from occlift.evaluation.audit_depth import DepthAgreement, MeasuredDepth, compare_with_rays, flat_road
from occlift.evaluation.audit_measures import (
    KindAgreement,
    LabelCounts,
    Levels,
    NeighbourAgreement,
    count_against_truth,
    ground_levels,
    ground_offsets,
    level_height_m,
    neighbour_agreement,
    precision,
    recall,
    shift,
    shift_label,
)
from occlift.evaluation.label_tokens import LabelSample, in_time_order, select_labels
from occlift.evaluation.occupancy import space_field
from occlift.geometry.transforms import inverse
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace
from occlift.labels.files import (
    OccupancyTruth,
    check_some_free,
    label_path,
    read_confidence,
    read_label,
    read_truth,
    write_label,
)
from occlift.labels.manifest import MANIFEST_NAME, check_label_space, open_manifest, read_manifest
from occlift.metrics.occupancy import MASKS, Mask, evaluated_voxels, stored_masks
from occlift.runtime.folder_lock import sole_writer
from occlift.runtime.npz import MissingArray
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset

FORMAT: Final = "occlift audit"

SHIFT_KEY: Final = "shift_voxels"
"""Key in the manifest of shifted labels: number of voxels by which they were moved up."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthAudit:
    """Agreement with measured depth (`occlift.evaluation.audit_depth`).

    Attributes:
        name, offset: where it is from, as in `MeasuredDepth`.
        frames: number of labels that were compared: those of key frames whose scene has one `offset` further on.
        independent: whether the labels were made without it, as far as their manifest says.
        labels: of the labels, before they were moved.
        flat: of a flat road in their place.
    """

    name: str
    offset: int
    frames: int
    independent: bool
    labels: DepthAgreement
    flat: DepthAgreement


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """Measures of the labels in a folder.

    Attributes:
        labels: folder of the labels.
        truth: folder of the truth; None: there was none.
        shift_voxels: number of voxels by which the labels were moved up before everything but the agreement of
            neighbours.
        tokens: the samples, sorted.
        voxels: number of voxels per class, free included, and (last) of unknown ones.
        ground: levels (index z) of the labels' ground around the ego.
        counts: against truth.
        ground_offset: the ground's height against that of the truth, in voxels.
        truth_ground: as `ground`, of the truth.
        neighbours: agreement of neighbouring key frames; None without a data set, which has the poses.
        truth_neighbours: agreement of neighbouring truth, over its `mask_lidar` if that is asked for: the upper bound
            that resampling leaves.
        depth: agreement with measured depth; None: none was asked for.
        without_label, without_truth: samples that were left out.
        space: grid and classes of labels and truth.
    """

    labels: str
    truth: str | None
    shift_voxels: int
    tokens: tuple[str, ...]
    voxels: Int[np.ndarray, "classes_and_unknown"]
    ground: Levels
    counts: LabelCounts | None = None
    ground_offset: Levels | None = None
    truth_ground: Levels | None = None
    neighbours: NeighbourAgreement | None = None
    truth_neighbours: NeighbourAgreement | None = None
    depth: DepthAudit | None = None
    without_label: tuple[str, ...] = ()
    without_truth: tuple[str, ...] = ()
    space: LabelSpace = OCC3D

    @property
    def unknown_share_of_grid(self) -> float:
        """Share of unknown voxels in the labels, per cent."""
        return 100.0 * float(self.voxels[-1]) / float(self.voxels.sum())

    @property
    def ground_height_m(self) -> float:
        """Height of the labels' ground around the ego (voxel centres), metres in the ego frame; NaN if none."""
        return level_height_m(self.ground.median, self.space.grid)

    @property
    def ground_offset_m(self) -> float:
        """Height of the labels' ground above that of the truth, metres; NaN without truth or ground."""
        return self.ground_offset.median * self.space.grid.voxel_size_m[2] if self.ground_offset else float("nan")

    def precision(self, mask: Mask) -> dict[str, float]:
        """Precision per class name, unknown taken as free; NaN where nothing is called so."""
        assert self.counts, "precision needs truth"
        return self._by_class(precision(self.counts.unknown_as_free.histograms[mask]))

    def recall(self, mask: Mask) -> dict[str, float]:
        """Recall per class name, unknown taken as free; NaN where the truth has none."""
        assert self.counts, "recall needs truth"
        return self._by_class(recall(self.counts.unknown_as_free.histograms[mask]))

    def _by_class(self, scores: Float[np.ndarray, "classes"]) -> dict[str, float]:
        return dict(zip(self.space.taxonomy.all_names, scores.tolist(), strict=True))

    def to_json(self) -> str:
        """Everything, NaN (nothing to say) as null; the space unless it is Occ3D's."""
        counts = self.counts
        masks = list(counts.unknown_as_free.histograms) if counts else []
        names = (*self.space.taxonomy.all_names, "unknown")
        plain: dict[str, Any] = {
            "format": FORMAT,
            **space_field(self.space),
            "labels": self.labels,
            "truth": self.truth,
            "frames": len(self.tokens),
            "shift_voxels": self.shift_voxels,
            "voxels": dict(zip(names, self.voxels.tolist(), strict=True)),
            "unknown_share": {
                "grid": self.unknown_share_of_grid,
                **({mask: counts.unknown_share(mask) for mask in masks} if counts else {}),
            },
            "ground": {"height_m": self.ground_height_m, **_levels(self.ground)},
            "neighbours": _neighbours(self.neighbours),
            "depth": _depth(self.depth),
        }
        if counts:
            assert self.ground_offset is not None, "with truth"
            assert self.truth_ground is not None, "with truth"
            plain |= {
                "ground_offset": {"median_m": self.ground_offset_m, **_levels(self.ground_offset)},
                "truth_ground": {
                    "height_m": level_height_m(self.truth_ground.median, self.space.grid),
                    **_levels(self.truth_ground),
                },
                "truth_neighbours": _neighbours(self.truth_neighbours),
                "scores_unknown_as_free": counts.unknown_as_free.named(),
                "scores_known": counts.known.named(),
            }
            for mask in masks:
                plain[f"class_iou_{mask}"] = counts.unknown_as_free.class_iou(mask)
                plain[f"class_precision_{mask}"] = self.precision(mask)
                plain[f"class_recall_{mask}"] = self.recall(mask)
            for name, counted in (("unknown_as_free", counts.unknown_as_free), ("known", counts.known)):
                plain[f"histograms_{name}"] = {mask: h.tolist() for mask, h in counted.histograms.items()}
        plain |= {
            "without_label": list(self.without_label),
            "without_truth": list(self.without_truth),
            "tokens": list(self.tokens),
        }
        return json_by_line(plain)


def audit(
    labels: Path,
    *,
    truth: Path | None = None,
    data: DrivingDataset | None = None,
    tokens: Collection[str] | None = None,
    masks: Sequence[Mask] = MASKS,
    depth: MeasuredDepth | None = None,
    shift_voxels: int = 0,
    allow_missing: bool = False,
    space: LabelSpace = OCC3D,
) -> Audit:
    """Audits all labels of a folder, `<labels>/<scene>/<token>/labels.npz`, ours or anybody's.

    Args:
        truth: a folder of the same layout; None: only what needs no truth.
        data: the data set, whose poses say how neighbouring key frames lie; None: no agreement of neighbours.
        tokens: the samples of a split; by default all that have a label.
        masks: voxels over which is counted; truth whose files lack a mask that they need is refused.
        depth: what the labels are compared with where they are, moved or not; None: with none.
        shift_voxels: move the labels up by so many voxels first, for truth whose road lies elsewhere.
        allow_missing: leave samples out that lack label or truth, instead of refusing.
        space: grid and classes of labels and truth.

    Raises:
        ConfigError: the labels' manifest says that they have another grid or other classes.
        DataError: a sample lacks its label or its truth, the data set does not know it, or a file is damaged.
    """
    check_label_space(labels, space)
    selection = select_labels(labels, truth, tokens=tokens, allow_missing=allow_missing)
    taxonomy = space.taxonomy
    voxels = np.zeros(taxonomy.num_classes + 1, np.int64)
    ground = truth_ground = ground_levels(np.full(space.grid.shape, UNKNOWN, np.uint8), space=space)
    counts: LabelCounts | None = None
    offset: Levels | None = None
    mine = theirs = NeighbourAgreement()
    with_depth = flat = DepthAgreement.zero()
    depth_frames = 0
    before: tuple[LabelSample, UInt8[np.ndarray, "x y z"], OccupancyTruth | None] | None = None
    for is_neighbour, sample in track(_with_neighbours(selection.samples, data), "audit", total=len(selection.samples)):
        unshifted = read_truth(sample.label, (), space=space).semantics
        check_some_free(sample.label, unshifted, space)
        semantics = shift(unshifted, shift_voxels, fill=UNKNOWN)
        found = np.bincount(semantics.ravel(), minlength=256)
        voxels += np.append(found[: taxonomy.num_classes], found[UNKNOWN])
        ground += ground_levels(semantics, space=space)
        frame = None
        if sample.truth:
            frame = read_truth(sample.truth, stored_masks(masks), space=space)
            check_some_free(sample.truth, frame.semantics, space)
            try:
                counted = count_against_truth(
                    semantics,
                    frame.semantics,
                    evaluated_voxels(
                        masks, truth=frame.semantics, stored=frame.masks, num_classes=taxonomy.num_classes
                    ),
                    taxonomy=taxonomy,
                )
            except DataError as error:
                raise DataError(f"{sample.truth}: {error}") from error
            counts = counts + counted if counts else counted
            here = ground_offsets(semantics, frame.semantics, taxonomy=taxonomy)
            offset = offset + here if offset else here
            truth_ground += ground_levels(frame.semantics, space=space)
        if depth and (rays := depth.rays(sample.token)):
            with_depth += compare_with_rays(unshifted, *rays, space=space)
            flat += compare_with_rays(flat_road(unshifted, space=space), *rays, space=space)
            depth_frames += 1
        if data and before and is_neighbour:
            global_from_earlier = data.key_frame(before[0].token).global_from_ego
            global_from_later = data.key_frame(sample.token).global_from_ego
            later_from_earlier = inverse(global_from_later) @ global_from_earlier
            mine += neighbour_agreement(before[1], unshifted, later_from_earlier, space=space)
            if frame and before[2]:
                theirs += neighbour_agreement(_observed(before[2]), _observed(frame), later_from_earlier, space=space)
        before = sample, unshifted, frame
    depth_audit = None
    if depth:
        config = read_manifest(labels).config if (labels / MANIFEST_NAME).exists() else {}
        depth_audit = DepthAudit(
            name=depth.name, offset=depth.offset, frames=depth_frames, independent=not depth.made(config),
            labels=with_depth, flat=flat,
        )  # fmt: skip
    return Audit(
        labels=str(labels),
        truth=None if truth is None else str(truth),
        shift_voxels=shift_voxels,
        tokens=selection.tokens,
        voxels=voxels,
        ground=ground,
        counts=counts,
        ground_offset=offset,
        truth_ground=truth_ground if truth else None,
        neighbours=mine if data else None,
        truth_neighbours=theirs if data and truth else None,
        depth=depth_audit,
        without_label=selection.without_label,
        without_truth=selection.without_truth,
        space=space,
    )


def write_shifted(labels: Path, out: Path, voxels: int, *, space: LabelSpace = OCC3D) -> int:
    """Writes all labels of a folder once more, moved up (+) or down (−) by whole voxels; returns how many.

    Votes are not moved: the decision stands. The manifest in `out` is that of `labels` with the shift noted in its
    configuration, so that a training on shifted labels can be told from one on others.

    Raises:
        ConfigError: `out` is `labels` or holds other labels, or the manifest says that the labels have another grid or
            other classes.
        DataError: there are no labels, or a file is damaged.
    """
    if out.resolve() == labels.resolve():
        raise ConfigError(f"{out}: shifted labels need a folder of their own")
    check_label_space(labels, space)
    with sole_writer(out):
        return _write_shifted(labels, out, voxels, space)


def _write_shifted(labels: Path, out: Path, voxels: int, space: LabelSpace) -> int:
    samples = select_labels(labels, None).samples
    source = read_manifest(labels) if (labels / MANIFEST_NAME).exists() else None
    config = dict(source.config) if source else {}
    manifest = open_manifest(out, {**config, SHIFT_KEY: voxels + config.get(SHIFT_KEY, 0)}, space)
    manifest.labels.update(source.labels if source else {sample.token: {"state": "done"} for sample in samples})
    manifest.write(out)
    for sample in track(samples, "shift"):
        label = read_label(sample.label, allow_unknown=True, space=space)
        # Labels of other projects have none.
        with contextlib.suppress(MissingArray):
            label = replace(label, confidence=read_confidence(sample.label, space=space))
        write_label(label_path(out, sample.scene, sample.token), shift_label(label, voxels), space=space)
    return len(samples)


def json_by_line(plain: Mapping[str, Any]) -> str:
    """A JSON object with one entry per line, NaN as null: a histogram with every number on a line of its own helps
    nobody."""
    return "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(_finite(plain[key]))}" for key in plain) + "\n}\n"


def _with_neighbours(samples: Sequence[LabelSample], data: DrivingDataset | None) -> Iterator[tuple[bool, LabelSample]]:
    """(whether the sample before is the key frame before it, sample)."""
    if data is None:
        yield from ((False, sample) for sample in samples)
        return
    before = "", -1
    for position, sample in in_time_order(samples, data):
        yield before == (sample.scene, position - 1), sample
        before = sample.scene, position


def _observed(truth: OccupancyTruth) -> UInt8[np.ndarray, "x y z"]:
    """Truth that calls unknown what no lidar observed, as a label does."""
    observed = truth.masks.get("lidar")
    return truth.semantics if observed is None else np.where(observed, truth.semantics, np.uint8(UNKNOWN))


def _levels(levels: Levels) -> dict[str, Any]:
    return {"median_voxels": levels.median, "first": levels.first, "counts": levels.counts.tolist()}


def _neighbours(found: NeighbourAgreement | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "pairs": found.pairs,
        "known": found.known,
        **{kind: _kind(agreed) for kind, agreed in (("static", found.static), ("dynamic", found.dynamic))},
    }


def _depth(found: DepthAudit | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "name": found.name,
        "offset": found.offset,
        "frames": found.frames,
        "independent": found.independent,
        "labels": found.labels.to_dict(),
        "flat_road": found.flat.to_dict(),
    }


def _kind(agreed: KindAgreement) -> dict[str, float]:
    return {
        "iou": agreed.iou,
        "equal_share": agreed.equal_share,
        "both": agreed.both,
        "either": agreed.either,
        "equal": agreed.equal,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
