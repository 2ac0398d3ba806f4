"""The command line: parse, call, print. A command's module is imported when the command is called."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from occlift.errors import OccliftError
from occlift.runtime.files import DISK_FULL, disk_full
from occlift.runtime.interrupts import stopping_soon
from occlift.runtime.streams import patient_streams

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": (
        "occlift.cli.demo:demo",
        "Everything once: a town, labels, training, baselines, scores, a report. No GPU, no downloads.",
    ),
    "town": ("occlift.cli.town:town", "Build a procedural town: a nuScenes-format data set with exact truth."),
    "check": (
        "occlift.cli.datasets:check",
        "Check files, times, calibration and poses of a data set, and draw one key frame.",
    ),
    "write-frames": (
        "occlift.cli.datasets:write_frames",
        "Write a data set as a plain folder of frames, with pinhole cameras in the place of distorted ones.",
    ),
    "teachers": (
        "occlift.cli.teachers:teachers",
        "List the teachers, what each needs, and whether it is there; or every option of one.",
    ),
    "space": (
        "occlift.cli.spaces:space",
        "Print classes and grid as a file to edit: `occlift space occ3d > mine.toml`, then `--space mine.toml`.",
    ),
    "label": (
        "occlift.cli.labels:label",
        "Make occupancy labels from what teachers see in the images. Run it again, and it goes on.",
    ),
    "convert-labels": (
        "occlift.cli.labels:convert_labels",
        "Convert labels to other classes, another grid, or the files of another project.",
    ),
    "audit": (
        "occlift.cli.labels:audit",
        "Look at labels: against truth, their ground, their neighbours; and what other settings would give.",
    ),
    "train": ("occlift.cli.training:train", "Train EasyOcc on labels."),
    "predict": ("occlift.cli.training:predict", "Write predictions in the layout of Occ3D submissions."),
    "export": (
        "occlift.cli.training:export",
        "Write a network as ONNX: images and calibration in, logits out; checked against torch.",
    ),
    "train-rendering": (
        "occlift.cli.rendering:train_rendering",
        "Train the rendering baseline on images and class maps, with or without the pseudo-loss.",
    ),
    "evaluate-rendering": (
        "occlift.cli.rendering:evaluate_rendering",
        "Score what is rendered: depth against lidar, classes against class maps, each beside guesses.",
    ),
    "pretrain": (
        "occlift.cli.bev:pretrain",
        "Pretrain a bird's-eye-view network by occupancy and features (OccFeat), with lidar or without.",
    ),
    "finetune": (
        "occlift.cli.bev:finetune",
        "Train a bird's-eye-view network on all labels or a few, from pretrained weights or not.",
    ),
    "evaluate": ("occlift.cli.evaluation:evaluate", "Score predictions: IoU, every mIoU by name, RayIoU."),
    "evaluate-bev": (
        "occlift.cli.evaluation:evaluate_bev",
        "Score a bird's-eye-view network, also on corrupted images.",
    ),
    "merge": (
        "occlift.cli.evaluation:merge",
        "Add up evaluations of parts of a split; equal to scoring it whole, to the last bit.",
    ),
    "compare": ("occlift.cli.evaluation:compare", "Compare runs: every score beside the others', the best marked."),
    "view": (
        "occlift.cli.view:view",
        "Look at data sets, labels, predictions and truth in 3-D, in a browser: any mix of paths.",
    ),
    "show": (
        "occlift.cli.pictures:show",
        "Draw one key frame: lidar and occupancy on the images, and from above; or its scene as a video.",
    ),
    "show-targets": (
        "occlift.cli.pictures:show_targets",
        "Draw what a pretraining would be asked to predict of one key frame, on the images and from above.",
    ),
    "show-bev": (
        "occlift.cli.pictures:show_bev",
        "Draw what a fine-tuned network predicts for one key frame: probabilities, hits, misses and false alarms.",
    ),
}
"""Name of a command → its function, and the first line of that function's docstring."""


def load_command(name: str) -> Callable[..., None]:
    """The function of a command; imports its module."""
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(importlib.import_module(module), function)


def main() -> None:
    """The entry point: errors that a user can mend are printed in one line, all others with their stack trace."""
    with stopping_soon() as stop:
        streams = None
        try:
            with patient_streams() as streams:
                _run(sys.argv[1:])
        # SystemExit, too: some libraries make one of Ctrl-C.
        except BaseException as error:
            if stop.sentence:
                stop.end(str(error) if isinstance(error, KeyboardInterrupt) else "")
            if isinstance(error, KeyboardInterrupt):
                _exit(str(error) or "interrupted; run the same command again", stop.status)
            if not isinstance(error, SystemExit) or error.code:
                text = _sentence(error)
                if not text:
                    raise
                _exit(text, 1)
        if streams and streams.broken:
            # Whoever read our output has had enough (`occlift --help | head -1`).
            sys.exit(141)


def _sentence(error: BaseException) -> str:
    """What the user is told; empty for what is our own mistake."""
    if isinstance(error, OccliftError):
        return str(error)
    if isinstance(error, OSError):
        # What a folder does not allow, or a disk; other errors without a file are ours.
        if error.errno in DISK_FULL:
            return str(disk_full(error))
        if error.filename is not None:
            file = error.filename2 or error.filename
            return f"{file}: {error.strerror}; choose another place, or make this one usable"
    return ""


def _exit(message: str, status: int) -> NoReturn:
    with patient_streams():
        print(f"occlift: {message}", file=sys.stderr)
    sys.exit(status)


def _run(words: Sequence[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        sys.exit(0 if words else 2)
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=3)
        what = f"did you mean {' or '.join(near)}?" if near else "`occlift --help` lists the commands"
        _exit(f"there is no command {words[0]!r}; {what}", 2)
    # Where users keep modules of their own, such as a data set's; `python -m` does the same.
    sys.path.append(str(Path.cwd()))
    import tyro

    from occlift.cli.options import greedy_options, taken_words
    from occlift.runtime.launchers import is_first_process
    from occlift.runtime.progress import shown_progress

    command = load_command(name)
    with shown_progress() if is_first_process() else contextlib.nullcontext():
        try:
            tyro.cli(command, prog=f"occlift {name}", args=words[1:])
        except SystemExit as error:
            # How tyro ends where the words are wrong; it does not say who took those that are missing.
            if error.code == 2 and (taken := taken_words(words[1:], greedy_options(command))):
                print(f"occlift: {taken}", file=sys.stderr)
            raise


def _help() -> str:
    width = max(60, min(shutil.get_terminal_size((120, 1)).columns, 120))
    column = 2 + max(map(len, COMMANDS)) + 2
    lines = ["usage: occlift COMMAND [options]", "", "What images show, lifted to 3-D supervision.", "", "commands:"]
    for name, (_, summary) in COMMANDS.items():
        first = f"  {name}".ljust(column)
        lines += textwrap.wrap(summary, width, initial_indent=first, subsequent_indent=" " * column)
    return "\n".join([*lines, "", "`occlift COMMAND --help` says what each option does."])
