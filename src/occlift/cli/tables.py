"""What commands print as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from occlift.evaluation.score_table import format_score
from occlift.metrics.occupancy import ABSENT_RULES, class_sets
from occlift.metrics.rays import THRESHOLDS_M, ray_score_name
from occlift.runtime.words import counted, duration

if TYPE_CHECKING:
    from occlift.demo import DemoRun
    from occlift.evaluation.audit import Audit, DepthAudit
    from occlift.evaluation.bev import BevEvaluation
    from occlift.evaluation.label_plan import LabelPlan
    from occlift.evaluation.occupancy import Evaluation
    from occlift.evaluation.preview import DepthAgainstLidar
    from occlift.evaluation.rendering import RenderedEvaluation
    from occlift.evaluation.score_table import ScoreTable
    from occlift.label_space.space_file import SpaceFile
    from occlift.teachers.registry import TeacherOptions, TeacherStatus


def _console() -> Console:
    # Names of files and packages may have square brackets; they are no markup.
    return Console(highlight=False, markup=False)


def print_evaluation(evaluation: Evaluation) -> None:
    """Every variant of the scores: mask, class set and rule for absent classes stand beside each number."""
    console = _console()
    counts = evaluation.counts
    table = Table(title=f"{counted(evaluation.frames, 'key frame')}, per cent", title_justify="left")
    sets = tuple(class_sets(counts.taxonomy))
    means = [f"mIoU {classes}{rule}" for rule in ("", ", absent = 0") for classes in sets]
    for column in ("mask", "IoU", *means):
        table.add_column(column, justify="left" if column == "mask" else "right")
    for mask in counts.histograms:
        scores = [counts.mean_iou(mask, classes=classes, absent=absent) for absent in ABSENT_RULES for classes in sets]
        table.add_row(mask, *map(format_score, (counts.geometric_iou(mask), *scores)))
    console.print(table)
    console.print(
        "mIoU: mean over the classes that occur in truth or prediction; absent = 0 divides by all "
        f"{' or '.join(map(str, sets))}."
    )
    if evaluation.rays:
        named = evaluation.rays.named()
        title = f"RayIoU, no mask, absent skipped, {evaluation.rays.walk} walk, per cent"
        table = Table(title=title, title_justify="left")
        for column in ("classes", "RayIoU", *(f"at {m:.0f} m" for m in THRESHOLDS_M)):
            table.add_column(column, justify="right")
        for classes in sets:
            scores = [named[ray_score_name(classes, threshold_m)] for threshold_m in (None, *THRESHOLDS_M)]
            table.add_row(str(classes), *map(format_score, scores))
        console.print(table)
    _print_left_out(console, evaluation.without_prediction, "prediction")
    _print_left_out(console, evaluation.without_truth, "truth")


def print_bev(evaluations: Sequence[BevEvaluation]) -> None:
    """IoU per class, a row per corruption."""
    console = _console()
    first = evaluations[0]
    table = Table(title=f"Bird's-eye-view IoU, {counted(first.frames, 'key frame')}, per cent", title_justify="left")
    table.add_column("images")
    for name in first.named():
        table.add_column(name.removeprefix("bev_iou_").replace("_", " "), justify="right")
    for evaluation in evaluations:
        corruption = evaluation.corruption
        what = "as they are" if corruption is None else f"{corruption.name} {corruption.strength}"
        table.add_row(what, *map(format_score, evaluation.named().values()))
    console.print(table)
    console.print(
        "filtered: cells of objects that the images show to less than 40 % are left out. Predicted: more probable than "
        "0.5."
    )


def print_depth_against_lidar(rows: Sequence[DepthAgainstLidar]) -> None:
    """What a preview found of depth, by camera and by distance."""
    from occlift.evaluation.preview import DEPTH_HEADS, depth_cells

    table = Table(title="Depth against lidar", title_justify="left", box=SIMPLE_HEAD)
    for column in DEPTH_HEADS:
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*depth_cells(row))
    _console().print(table)


def print_label_plan(plan: LabelPlan, *, workers: int, semantics: str, depth: str) -> None:
    """What a run of `occlift label` would take."""
    there = f"; {plan.there} are there already" if plan.there else ""
    print(f"{counted(plan.labels, 'label')} to make{there}; {counted(plan.images, 'image')} through the teachers")
    for name, kind, took in ((semantics, "classes", plan.semantics), (depth, "depth", plan.depth)):
        loading = ", loading included" if took.only_first else ""
        print(f"  {name} ({kind}): {took.per_image_s:.3g} s per image{loading}")
    print(f"  fusing and writing: {plan.fuse_s:.3g} s per label")
    print(f"  time: {duration(3600 * plan.hours(1))} with one process" + _with_workers(plan, workers))
    print(f"  disk: {_size(plan.labels * plan.label_bytes)} ({plan.label_bytes / 1e3:.0f} kB a label in the probe)")
    print(f"  memory: {_size(plan.peak_bytes(workers))}" + (f" for {workers} processes" if workers > 1 else ""))
    print(f"from a probe of {counted(plan.probed, 'key frame')}; nothing was written")


def _with_workers(plan: LabelPlan, workers: int) -> str:
    if workers == 1:
        return f"; this machine has {plan.cores} cores for --workers" if plan.cores > 1 else ""
    few = f", of which {plan.cores} have a core of this machine" if workers > plan.cores else ""
    return f", {duration(3600 * plan.hours(workers))} with {workers}{few}, if teachers do not share a GPU"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e7 else f"{num_bytes / 1e6:.2f} MB"


def print_audit(audit: Audit) -> None:
    """Scores against truth in both readings, per class, and what needs no truth: ground, unknown, neighbours."""
    console = _console()
    counts = audit.counts
    if counts:
        table = Table(title=f"{counted(len(audit.tokens), 'label')} against truth, per cent", title_justify="left")
        sets = tuple(class_sets(audit.space.taxonomy))
        means = [f"mIoU {classes}" for classes in sets]
        for column in ("mask", "voxels", "unknown", "IoU", *means, f"{means[0]}, absent = 0"):
            table.add_column(column, justify="left" if column in ("mask", "voxels") else "right")
        for name, tally in (("all", counts.unknown_as_free), ("known", counts.known)):
            for mask in tally.histograms:
                unknown = format_score(counts.unknown_share(mask)) if tally is counts.unknown_as_free else ""
                scores = [tally.mean_iou(mask, classes=classes) for classes in sets]
                scores = [tally.geometric_iou(mask), *scores, tally.mean_iou(mask, absent="zero")]
                table.add_row(mask, name, unknown, *map(format_score, scores))
        console.print(table)
        console.print("all: what a label does not know counts as free; known: only what the label knows.")
        mask = next(iter(counts.unknown_as_free.histograms))
        table = Table(title=f"Per class, mask {mask}, unknown as free, per cent", title_justify="left")
        for column in ("class", "precision", "recall", "IoU"):
            table.add_column(column, justify="left" if column == "class" else "right")
        per_class = (audit.precision(mask), audit.recall(mask), counts.unknown_as_free.class_iou(mask))
        for name in per_class[0]:
            table.add_row(name, *(format_score(score[name]) for score in per_class))
        console.print(table)
    moved = f", moved by {audit.shift_voxels:+d} voxels" if audit.shift_voxels else ""
    console.print(
        f"{counted(len(audit.tokens), 'label')}{moved}: {audit.unknown_share_of_grid:.1f} % of the "
        "grid unknown; ground "
        f"around the ego at z = {audit.ground_height_m:+.1f} m in the ego frame (median, to the voxel)",
        soft_wrap=True,
    )
    if audit.ground_offset:
        shares = ", ".join(
            f"{share:.1f} % {level:+d}" for level, share in audit.ground_offset.shares().items() if share >= 0.05
        )
        median = audit.ground_offset.median
        console.print(
            f"Ground against the truth's: {median:+.1f} voxels, {audit.ground_offset_m:+.1f} m (median of "
            f"{audit.ground_offset.total} columns; {shares})",
            soft_wrap=True,
        )
        if abs(median) >= 1:
            console.print(
                f"The truth's road lies elsewhere: try --shift-voxels {audit.shift_voxels - round(median)}",
                style="bold",
            )
    if audit.neighbours:
        table = Table(
            title=f"Neighbouring key frames, {audit.neighbours.pairs} pairs, per cent of what both know",
            title_justify="left",
        )
        for column in ("", "standing: IoU", "standing: same class", "moving: IoU", "moving: same class"):
            table.add_column(column, justify="right" if column else "left")
        for name, found in (("labels", audit.neighbours), ("truth", audit.truth_neighbours)):
            if found:
                kinds = (found.static, found.dynamic)
                table.add_row(name, *(format_score(score) for kind in kinds for score in (kind.iou, kind.equal_share)))
        console.print(table)
    if audit.depth:
        _print_depth(console, audit.depth)
    _print_left_out(console, audit.without_label, "label")
    _print_left_out(console, audit.without_truth, "truth")


def _print_depth(console: Console, depth: DepthAudit) -> None:
    from occlift.evaluation.audit_depth import OUTCOMES

    whose = f" of the key frame {depth.offset:+d}" if depth.offset else ""
    table = Table(
        title=f"{counted(depth.frames, 'label')} against {depth.name}{whose}, per cent of the points",
        title_justify="left",
    )
    for column in ("range", "points", *OUTCOMES[1:]):
        table.add_column(
            f"{column}, m" if column == "range" else column, justify="left" if column == "range" else "right"
        )
    points = [*depth.labels.counts[:, 0].tolist(), depth.labels.counts[:, 0].sum()]
    for (name, shares), number in zip(depth.labels.shares().items(), points, strict=True):
        table.add_row(name, str(number), *(format_score(share) for share in shares.values()))
    table.add_row(
        "a flat road", str(points[-1]), *(format_score(share) for share in depth.flat.shares()["all"].values())
    )
    console.print(table)
    console.print(
        "The point lies in an occupied voxel (hit), in or beside one (near), in a free one (miss), in an unknown one. "
        "Before it, the ray meets an occupied voxel (occluded), and comes out of it again (pierced).",
        soft_wrap=True,
    )
    if not depth.independent:
        console.print(
            "The labels were made from this depth: it says nothing about errors that both share. Use --depth-offset "
            "beyond the fused key frames, or a sensor that was held out.",
            style="bold", soft_wrap=True,
        )  # fmt: skip


def _print_left_out(console: Console, tokens: Sequence[str], what: str) -> None:
    if tokens:
        some = ", ".join(tokens[:10]) + (", ..." if len(tokens) > 10 else "")
        console.print(
            f"NOT THE SCORE OF THE SPLIT: {len(tokens)} samples without a {what} were left out: {some}",
            style="bold red",
            soft_wrap=True,
        )


def print_comparison(scores: ScoreTable) -> None:
    """A table of runs or classes; the best numbers carry an asterisk."""
    console = _console()
    # Narrow, and names get what is left of the line: all scores of a run, with both RayIoUs, fit into 80 columns.
    table = Table(title=scores.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    longest = max(map(len, (*scores.rows, scores.corner)))
    table.add_column(scores.corner, overflow="fold", min_width=min(longest, 12))
    for column in scores.columns:
        heading = column.replace(", ", "\n").replace("camera mask", "camera").replace("RayIoU ", "RayIoU\n")
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values, marks in zip(scores.rows, scores.values, scores.best, strict=True):
        cells = [
            Text(f"{format_score(value)}*", style="bold") if mark else f"{format_score(value)} "
            for value, mark in zip(values, marks, strict=True)
        ]
        table.add_row(name, *cells)
    console.print(table)
    if any(map(any, scores.best)):
        console.print("* best")
    for note in scores.notes:
        console.print(note, style="bold red", soft_wrap=True)


def print_spaces(spaces: Mapping[str, SpaceFile]) -> None:
    """What can be asked for with --space: grid, source, and the classes in the order of their ids."""
    console = _console()
    for name, file in spaces.items():
        grid, names = file.space.grid, file.space.taxonomy.names
        corners = (f"({', '.join(f'{one:g}' for one in corner)})" for corner in (grid.lower_m, grid.upper_m))
        console.print(f"{name}: {file.space}, from {' to '.join(corners)} m", soft_wrap=True)
        console.print(f"  {file.source}", soft_wrap=True)
        console.print(f"  {', '.join(f'{number} {one}' for number, one in enumerate(names))}", soft_wrap=True)


def print_teachers(teachers: Sequence[TeacherStatus]) -> None:
    """What can be asked for with --semantics, --depth and as features."""
    console = _console()
    table = Table()
    for column in ("kind", "name", "what it is", "needs", "ready"):
        table.add_column(column, overflow="fold", no_wrap=column in ("kind", "name", "ready"))
    for status in teachers:
        table.add_row(status.kind, status.name, status.summary, status.needs, "yes" if status.ready else "no")
    console.print(table)
    for status in teachers:
        if not status.ready:
            console.print(f"{status.name}: {status.note}", soft_wrap=True)


def print_teacher_options(teachers: Sequence[TeacherOptions]) -> None:
    """Every option of the teachers of one name, by kind."""
    console = _console()
    flags = {"semantics": "--semantics-option", "depth": "--depth-option", "features": "--teacher-option"}
    for teacher in teachers:
        title = f"{teacher.name} ({teacher.kind}): {teacher.summary}; {flags[teacher.kind]} NAME=VALUE"
        table = Table(title=title, title_justify="left")
        for column in ("option", "values", "unit", "default", "what it is"):
            table.add_column(column, overflow="fold", no_wrap=column in ("option", "unit"))
        for option in teacher.options:
            table.add_row(option.name, option.values, option.unit, option.default or "must be given", option.help)
        console.print(table)


def print_demo(run: DemoRun) -> None:
    """The scores of a demo, and where its report lies."""
    table = Table(title="Unseen scenes of the town, per cent", title_justify="left")
    table.add_column("")
    for mask in ("camera mask", "no mask"):
        for score in ("IoU", "mIoU 17", "mIoU 15"):
            table.add_column(f"{score}\n{mask}", justify="right")
    table.add_column("RayIoU", justify="right")
    for row in run.rows:
        masked, unmasked = row.with_camera_mask, row.without_mask
        values = (masked.iou, *masked.miou, unmasked.iou, *unmasked.miou)
        table.add_row(row.name, *map(format_score, (*values, row.ray_iou)))
    console = _console()
    console.print(table)
    for row in run.rows:
        console.print(f"{row.name}: {row.note}", highlight=False)
    console.print(str(run.comparison))
    console.print(f"{run.seconds:.0f} s, peak memory {run.peak_memory_gb:.1f} GB.", highlight=False)
    console.print(f"Report: {run.report}", soft_wrap=True, highlight=False)
    console.print(f"3-D scene: {run.scene}", soft_wrap=True, highlight=False)


def print_rendered(run: RenderedEvaluation) -> None:
    console = _console()
    table = Table(
        title=f"Depth against lidar, {counted(run.frames, 'key frame')}, per image, metric", title_justify="left"
    )
    table.add_column("")
    rows = {"rendered": run.depth, "constant": run.constant, "ground": run.ground}
    for name in run.depth.measures("per_image", "metric"):
        table.add_column(name, justify="right")
    for label, sums in rows.items():
        table.add_row(label, *(f"{value:.3f}" for value in sums.measures("per_image", "metric").values()))
    console.print(table)
    console.print(
        f"constant: {run.constant_m:.1f} m everywhere, the median of the training lidar; ground: the flat ground "
        "of the ego frame, 80 m above the horizon"
    )
    table = Table(title="Classes of rays, sky included, per cent", title_justify="left")
    for column in ("", f"mIoU {run.taxonomy.free}", "right"):
        table.add_column(column, justify="right" if column else "left")
    for label, scores in run.class_scores().items():
        table.add_row(label, *(f"{score:.2f}" for score in scores.values()))
    console.print(table)
    console.print("frequent: what the ray shows most often in the training class maps")
