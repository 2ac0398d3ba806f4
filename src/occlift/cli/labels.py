"""Commands about labels: make them, and look at them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from tyro.conf import Positional, UseAppendAction, arg

from occlift.cli.evaluation import EVERY_MASK, Masks
from occlift.cli.options import Given, named_values, options, whole_number
from occlift.cli.spaces import Space, space_of
from occlift.errors import DataError, OccliftError
from occlift.runtime.files import write_text
from occlift.runtime.words import alike, counted, such_as

Layout = Literal["occ3d", "surroundocc", "openoccupancy", "npz"]

if TYPE_CHECKING:
    from occlift.labels.config import LabelConfig
    from occlift.labels.engine import Engine
    from occlift.scenes.dataset import DrivingDataset


_OWN_LAYOUT: Final[dict[str, Layout]] = {"surroundocc": "surroundocc", "openoccupancy": "openoccupancy"}
"""Presets whose labels are files of a layout of their own."""


def _configs() -> dict[str, LabelConfig]:
    from occlift.labels.config import LabelConfig

    return {"occlift": LabelConfig(), "easyocc": LabelConfig.easyocc()}


def label(
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    out: Annotated[Path, arg(help="folder of the labels, in Occ3D's layout")],
    given: Annotated[Given, options(_configs)],
    recipe: Annotated[
        Literal["occlift", "easyocc"],
        arg(help="defaults of the options that make a label: this project's, or EasyOcc's by its authors' words"),
    ] = "occlift",
    space: Space = None,
    split: Annotated[str, arg(help="split of ROOT: train, val, test, mini_train, mini_val or all")] = "all",
    workers: Annotated[int, arg(help="number of processes, each with its own teachers")] = 1,
    engine: Annotated[
        Literal["local", "ray"], arg(help="place of the processes: this machine, or a Ray cluster")
    ] = "local",
    address: Annotated[
        str | None,
        arg(
            help="address of the Ray cluster",
            help_behavior_hint="(default: RAY_ADDRESS, or a cluster of this machine alone)",
        ),
    ] = None,
    gpus_per_worker: Annotated[float, arg(help="share of a GPU per worker, with ray; 0 hides all GPUs")] = 0.0,
    keep_votes: Annotated[
        bool, arg(help="write the votes behind each label of --fusion votes, for `occlift audit --sweep`")
    ] = False,
    keep_maps: Annotated[
        Path | None, arg(help="folder that keeps the teachers' maps", help_behavior_hint="(default: not kept)")
    ] = None,
    plan: Annotated[
        bool, arg(help="print what this run would take, from a probe of three key frames, and write nothing")
    ] = False,
) -> None:
    """Make occupancy labels from what teachers see in the images. Run it again, and it goes on."""
    from occlift.labels.files import label_path
    from occlift.labels.generate import generate_labels
    from occlift.labels.summary import depth_report, summarise_labels
    from occlift.scenes.dataset import open_dataset

    data, label_space = open_dataset(root), space_of(space, out)
    config = given.onto(_configs()[recipe])
    if doubt := _doubt_of_threshold(config, data, split):
        print(f"  ! {doubt}", file=sys.stderr)
    if plan:
        from occlift.cli.tables import print_label_plan
        from occlift.evaluation.label_plan import plan_labels

        scenes = data.scenes(split)
        planned = plan_labels(data, out, config, scenes=scenes, keep_votes=keep_votes, space=label_space)
        print_label_plan(planned, workers=workers, semantics=config.semantics, depth=config.depth)
        return
    run = generate_labels(
        data, out, config, scenes=data.scenes(split), workers=workers,
        engine=_engine(engine, address, workers, gpus_per_worker), keep_votes=keep_votes, keep_maps=keep_maps,
        space=label_space,
    )  # fmt: skip
    print(
        f"{run.out}: {counted(run.done, 'label')} made ({run.seconds_per_label:.2f} s each), "
        f"{run.reused} were there already"
    )
    if run.reused:
        print("  those that were there are kept; where images, maps or poses changed since, remove them first")
    tokens = [(scene, token) for scene in data.scenes(split) for token in data.key_frame_tokens(scene)]
    made = [path for scene, token in tokens if (path := label_path(run.out, scene, token)).exists()]
    summary = summarise_labels(made, space=label_space)
    if summary.labels:
        print(f"  {summary}")
        for doubt in summary.doubts:
            print(f"  ! {doubt}")
        for line in depth_report(run.out, made):
            print(f"  {line}")
    if run.incomplete:
        print(
            f"  {counted(len(run.incomplete), 'label')} had to do without some key frames of their windows, which "
            f"could not be read ({run.out / 'manifest.json'} lists them): {such_as(list(run.incomplete))}",
            file=sys.stderr,
        )
    if run.failed:
        for reason, failed in alike(run.failed):
            print(f"  no label for {counted(len(failed), 'key frame')} ({such_as(failed)}): {reason}", file=sys.stderr)
        rest = (
            f"; {counted(run.untried, 'label')} were not tried, because all before them failed for the same reason"
            if run.untried
            else ""
        )
        raise OccliftError(
            f"{counted(len(run.failed), 'label')} could not be made{rest}; {run.out / 'manifest.json'} says why"
        )


def preview(
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    given: Annotated[
        Given,
        options(
            _configs,
            "semantics",
            "semantics_options",
            "depth",
            "depth_options",
            "stride",
            "min_score",
            "min_confidence",
            "seed",
        ),
    ],
    token: Annotated[
        Positional[str | None],
        arg(
            help="token of the key frame",
            metavar="TOKEN",
            help_behavior_hint="(default: the first of the split that can be read)",
        ),
    ] = None,
    split: Annotated[str, arg(help="split of ROOT: train, val, test, mini_train, mini_val or all")] = "all",
    space: Space = None,
    out: Annotated[Path, arg(help="folder of the page preview.html")] = Path("runs/preview"),
) -> None:
    """Look at one key frame as the teachers see it, before a whole data set is paid for."""
    from occlift.cli.tables import print_depth_against_lidar
    from occlift.evaluation.preview import preview as run_preview
    from occlift.evaluation.preview_page import write_page
    from occlift.labels.config import LabelConfig
    from occlift.scenes.dataset import open_dataset

    config = given.onto(LabelConfig())
    seen = run_preview(open_dataset(root), config, token=token, split=split, space=space_of(space))
    path = out / "preview.html"
    words = ["occlift", "preview", root, seen.frame.token]
    for kind in ("semantics", "depth"):
        words += [f"--{kind}", getattr(config, kind)]
        if set_options := getattr(config, f"{kind}_options"):
            words += [f"--{kind}-option", *(f"{name}={value}" for name, value in set_options.items())]
    for name in ("stride", "min_score", "min_confidence", "seed"):
        if (value := getattr(config, name)) != getattr(LabelConfig(), name):
            words += ["--" + name.replace("_", "-"), str(value)]
    words += [*(["--space", space] if space else []), "--out", str(out)]
    write_page(path, seen, command=shlex.join(words), teachers=(config.semantics, config.depth))
    for note in seen.notes:
        print(note, file=sys.stderr)
    print(f"{seen.frame.scene}, key frame {seen.frame.token}: {counted(len(seen.frame.cameras), 'image')}")
    for name, kind, took in (
        (config.semantics, "classes", seen.semantics_time), (config.depth, "depth", seen.depth_time)
    ):  # fmt: skip
        print(f"  {name} ({kind}): {took.per_image_s:.2f} s per image; {took.first_s:.1f} s for the first")
    if seen.against_lidar:
        print_depth_against_lidar(seen.against_lidar)
    for line in str(seen.check).splitlines():
        print(f"  {line}")
    for doubt in seen.check.doubts:
        print(f"  ! {doubt}")
    print(path)


def _doubt_of_threshold(config: LabelConfig, data: DrivingDataset, split: str) -> str | None:
    """Why the threshold of votes does not suit the first key frame's images; None if it does, or none can be read."""
    for scene in data.scenes(split):
        for token in data.key_frame_tokens(scene):
            try:
                cameras = data.key_frame(token).cameras
            except DataError:  # said where its label is made
                return None
            return next(filter(None, (config.doubt_of_threshold(c.height, c.width) for c in cameras)), None)
    return None


def convert_labels(
    labels: Annotated[
        Positional[Path],
        arg(
            help="folder of labels: Occ3D's layout, files of SurroundOcc or OpenOccupancy, or .npz of this command",
            metavar="LABELS",
        ),
    ],
    out: Annotated[Path, arg(help="folder of the converted labels")],
    to: Annotated[str, arg(help="classes and grid wanted: a preset or a .toml file", metavar="PRESET|FILE")],
    given: Annotated[
        str | None,
        arg(
            name="from",
            help="classes and grid of LABELS",
            help_behavior_hint="(default: those that they were made with; else of their kind)",
            metavar="PRESET|FILE",
        ),
    ] = None,
    layout: Annotated[
        Layout | None,
        arg(
            help="files to write: Occ3D's, SurroundOcc's, OpenOccupancy's, or plain .npz that explain themselves",
            help_behavior_hint="(default: that of the preset --to; else occ3d)",
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        arg(
            help='TOML file, a line per class: from = "to", "free" or "unknown"',
            help_behavior_hint="(default: equal names, and what is built in between presets)",
            metavar="FILE",
        ),
    ] = None,
    root: Annotated[
        str | None,
        arg(
            help="data set, for files of SurroundOcc and OpenOccupancy, whose voxels are in the frame of the lidar",
            help_behavior_hint="(default: none)",
            metavar="ROOT",
        ),
    ] = None,
) -> None:
    """Convert labels to other classes, another grid, or the files of another project."""
    from occlift.label_space import read_mapping, read_space
    from occlift.labels.layouts import convert_labels as run_conversion
    from occlift.labels.layouts import layout_of
    from occlift.labels.manifest import recorded_space
    from occlift.scenes.dataset import open_dataset

    found = layout_of(labels)
    if given is None and found in _OWN_LAYOUT and recorded_space(labels) is None:
        given = found
    run = run_conversion(
        labels, out, source=space_of(given, labels, option="--from"), target=read_space(to),
        layout=layout or _OWN_LAYOUT.get(to, "occ3d"),
        mapping=read_mapping(mapping) if mapping else None, data=open_dataset(root) if root else None,
        file=str(mapping) if mapping else "without --mapping",
    )  # fmt: skip
    for name, becomes in run.classes.items():
        if name != becomes:
            print(f"  {name} → {becomes}")
    print(f"{run.out}: {counted(run.labels, 'label')}")


def audit(
    labels: Annotated[Positional[Path], arg(help="folder of labels in Occ3D's layout", metavar="LABELS")],
    truth: Annotated[
        Path | None,
        arg(
            help="folder of the truth, <scene>/<token>/labels.npz",
            help_behavior_hint="(default: only what needs no truth)",
        ),
    ] = None,
    space: Space = None,
    root: Annotated[
        str | None,
        arg(
            help="data set, for the agreement of neighbours, --split, and sweeps that read images again",
            help_behavior_hint="(default: none)",
        ),
    ] = None,
    split: Annotated[
        str | None,
        arg(help="split of ROOT to audit, exactly", help_behavior_hint="(default: everything that has a label)"),
    ] = None,
    mask: Annotated[Masks, arg(help="masks of evaluated voxels")] = EVERY_MASK,
    sweep: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(
            help="settings to compare, as frames=1,3,5 or min_points=1,2,4 or moving=drop,keep; may be given for each",
            metavar="NAME=VALUES",
        ),
    ] = (),
    out: Annotated[Path, arg(help="folder of the figures and numbers of a sweep")] = Path("runs/audit"),
    against_depth: Annotated[
        str | None,
        arg(
            help="measured depth of --root to hold the labels against: lidar (its points), or a teacher of depth",
            help_behavior_hint="(default: none)",
            metavar="lidar|TEACHER",
        ),
    ] = None,
    depth_option: Annotated[
        tuple[str, ...],
        arg(help="options of that teacher", help_behavior_hint="(default: none)", metavar="NAME=VALUE"),
    ] = (),
    depth_offset: Annotated[
        int, arg(help="number of key frames from a label's to the one whose depth judges it, such as one not fused")
    ] = 0,
    shift_voxels: Annotated[int, arg(help="number of voxels to move labels up by before they are scored")] = 0,
    write_shifted: Annotated[
        Path | None, arg(help="folder for the labels so moved", help_behavior_hint="(default: not written)")
    ] = None,
    json: Annotated[Path | None, arg(help="file for every number", help_behavior_hint="(default: none)")] = None,
    allow_missing: Annotated[
        bool, arg(help="leave out key frames that lack label or truth, instead of refusing")
    ] = False,
) -> None:
    """Look at labels: against truth or measured depth, their ground, their neighbours; and what other settings give."""
    from occlift.cli.tables import print_audit, print_comparison
    from occlift.errors import ConfigError
    from occlift.evaluation import audit as recipe
    from occlift.labels.files import labels_by_token
    from occlift.labels.summary import depth_report
    from occlift.scenes.dataset import open_dataset, split_tokens

    if split and root is None:
        raise ConfigError("--split needs --root: of which data set?")
    if write_shifted and not shift_voxels:
        raise ConfigError("--write-shifted needs --shift-voxels: by how many?")
    if against_depth and root is None:
        raise ConfigError("--against-depth needs --root: the data set whose depth it is")
    if (depth_option or depth_offset) and against_depth is None:
        raise ConfigError(f"{'--depth-option' if depth_option else '--depth-offset'} needs --against-depth")
    if sweep and truth is None:
        raise ConfigError("--sweep needs --truth: labels are scored against it")
    axes, label_space = _axes(sweep), space_of(space, labels, truth)
    data = open_dataset(root) if root else None
    tokens = split_tokens(data, split) if data and split else None
    depth = None
    if data and against_depth:
        from occlift.evaluation.audit_depth import MeasuredDepth

        depth = MeasuredDepth(data, against_depth, options=named_values(depth_option), offset=depth_offset)
    found = recipe.audit(
        labels, truth=truth, data=data, tokens=tokens, masks=mask, depth=depth, shift_voxels=shift_voxels,
        allow_missing=allow_missing, space=label_space,
    )  # fmt: skip
    if json:
        write_text(json, found.to_json())
    number = recipe.write_shifted(labels, write_shifted, shift_voxels, space=label_space) if write_shifted else 0
    swept, written = None, []
    if axes and truth:
        from occlift.evaluation.label_sweep import sweep as run_sweep

        swept = run_sweep(
            labels, truth, data=data, tokens=tokens, masks=mask, shift_voxels=shift_voxels,
            allow_missing=allow_missing, **axes,
        )  # fmt: skip
        write_text(out / "sweep.json", swept.to_json())
        written = [out / "sweep.json", *swept.write_figures(out)]
    # Last of all: whoever reads it may close the pipe.
    print_audit(found)
    audited = set(found.tokens)
    for line in depth_report(labels, [path for token, path in labels_by_token(labels).items() if token in audited]):
        print(line)
    if write_shifted:
        print(f"{write_shifted}: {counted(number, 'label')}, {shift_voxels:+d} voxels")
    if swept is not None:
        print_comparison(swept.table())
    for path in written:
        print(path)


def _engine(name: str, address: str | None, workers: int, gpus_per_worker: float) -> Engine | None:
    """None: this machine's own processes."""
    from occlift.errors import ConfigError

    if name == "ray":
        from occlift.labels.ray_engine import ray_engine

        return ray_engine(address, workers=workers, gpus_per_worker=gpus_per_worker)
    if address is not None or gpus_per_worker:
        raise ConfigError(f"{'--gpus-per-worker' if address is None else '--address'} needs --engine ray")
    return None


def _axes(options: tuple[str, ...]) -> dict[str, Any]:
    """What `--sweep` says, as arguments of `occlift.evaluation.label_sweep.sweep`."""
    from occlift.errors import ConfigError

    axes: dict[str, Any] = {}
    for name, values in named_values(options).items():
        if name not in ("frames", "min_points", "moving"):
            raise ConfigError(f"--sweep {name}: expected frames, min_points or moving")
        words = values.split(",")
        axes[name] = tuple(words) if name == "moving" else tuple(whole_number(w, f"--sweep {name}") for w in words)
    return axes
