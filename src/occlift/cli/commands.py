"""The commands: in which order and groups they are listed, where they are, what they do, and an example of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command.

    Attributes:
        function: where it is, as module:name; imported when the command is called.
        summary: the first line of this function's docstring.
        example: a whole command line.
    """

    function: str
    summary: str
    example: str


GROUPS: Final[dict[str, dict[str, Command]]] = {
    "start": {
        "demo": Command(
            function="occlift.cli.demo:demo",
            summary="Everything once: a town, labels, training, baselines, scores, a report. No GPU, no downloads.",
            example="occlift demo --out runs/demo",
        ),
        "town": Command(
            function="occlift.cli.town:town",
            summary="Build a procedural town: a nuScenes-format data set with exact truth.",
            example="occlift town data/town --scenes 20 --frames 13 --image-height 96 --image-width 176 --maps",
        ),
    },
    "data": {
        "check": Command(
            function="occlift.cli.datasets:check",
            summary="Check files, times, calibration and poses of a data set, and draw one key frame.",
            example="occlift check frames:rig --out runs/check",
        ),
        "write-frames": Command(
            function="occlift.cli.datasets:write_frames",
            summary=(
                "Write a data set as a plain folder of frames, with pinhole cameras in the place of distorted ones."
            ),
            example="occlift write-frames kitti:kitti/dataset --out frames/kitti",
        ),
        "space": Command(
            function="occlift.cli.spaces:space",
            summary=(
                "Print classes and grid as a file to edit: `occlift space occ3d > mine.toml`, then `--space mine.toml`."
            ),
            example="occlift space occ3d",
        ),
        "view": Command(
            function="occlift.cli.view:view",
            summary="Look at data sets, labels, predictions and truth in 3-D, in a browser: any mix of paths.",
            example="occlift view frames:rig runs/labels",
        ),
        "show": Command(
            function="occlift.cli.pictures:show",
            summary="Draw one key frame: lidar and occupancy on the images, and from above; or its scene as a video.",
            example="occlift show frames:rig TOKEN --labels runs/labels --out runs/show",
        ),
    },
    "labels": {
        "teachers": Command(
            function="occlift.cli.teachers:teachers",
            summary="List the teachers, what each needs, and whether it is there; or every option of one.",
            example="occlift teachers",
        ),
        "preview": Command(
            function="occlift.cli.labels:preview",
            summary="Look at one key frame as the teachers see it, before a whole data set is paid for.",
            example=(
                "occlift preview frames:rig --semantics files:maps/classes --depth files:maps/depth --out runs/preview"
            ),
        ),
        "label": Command(
            function="occlift.cli.labels:label",
            summary="Make occupancy labels from what teachers see in the images. Run it again, and it goes on.",
            example=(
                "occlift label frames:rig --out runs/labels --semantics files:maps/classes --depth "
                "files:maps/depth --frames 3"
            ),
        ),
        "audit": Command(
            function="occlift.cli.labels:audit",
            summary=(
                "Look at labels: against truth or measured depth, their ground, their neighbours; and what other "
                "settings give."
            ),
            example="occlift audit runs/labels --truth data/town/gts --root data/town",
        ),
        "convert-labels": Command(
            function="occlift.cli.labels:convert_labels",
            summary="Convert labels to other classes, another grid, or the files of another project.",
            example="occlift convert-labels runs/labels --out runs/surroundocc --to surroundocc",
        ),
    },
    "occupancy networks": {
        "train": Command(
            function="occlift.cli.training:train",
            summary="Train EasyOcc on labels.",
            example="occlift train easyocc-demo data/town --labels data/labels --out runs/easyocc",
        ),
        "predict": Command(
            function="occlift.cli.training:predict",
            summary="Write predictions in the layout of Occ3D submissions.",
            example="occlift predict runs/easyocc/last.ckpt data/town --split val --out runs/predictions",
        ),
        "export": Command(
            function="occlift.cli.training:export",
            summary="Write a network as ONNX: images and calibration in, logits out; checked against torch.",
            example="occlift export runs/easyocc/last.ckpt --onnx runs/easyocc.onnx",
        ),
    },
    "rendering networks": {
        "train-rendering": Command(
            function="occlift.cli.rendering:train_rendering",
            summary="Train the rendering baseline on images and class maps, with or without the pseudo-loss.",
            example="occlift train-rendering rendering-demo data/town --labels data/labels --out runs/rendering",
        ),
        "evaluate-rendering": Command(
            function="occlift.cli.rendering:evaluate_rendering",
            summary="Score what is rendered: depth against lidar, classes against class maps, each beside guesses.",
            example="occlift evaluate-rendering runs/rendering/last.ckpt data/town",
        ),
    },
    "bird's-eye-view networks": {
        "pretrain": Command(
            function="occlift.cli.bev:pretrain",
            summary="Pretrain a bird's-eye-view network by occupancy and features (OccFeat), with lidar or without.",
            example="occlift pretrain occfeat-demo data/town --out runs/pretrained",
        ),
        "finetune": Command(
            function="occlift.cli.bev:finetune",
            summary="Train a bird's-eye-view network on all labels or a few, from pretrained weights or not.",
            example=(
                "occlift finetune bev-demo data/town --from runs/pretrained/last.ckpt --label-share 10% --out runs/bev"
            ),
        ),
        "evaluate-bev": Command(
            function="occlift.cli.evaluation:evaluate_bev",
            summary="Score a bird's-eye-view network, also on corrupted images.",
            example="occlift evaluate-bev runs/bev/last.ckpt data/town --corrupt fog:3",
        ),
        "show-targets": Command(
            function="occlift.cli.pictures:show_targets",
            summary="Draw what a pretraining would be asked to predict of one key frame, on the images and from above.",
            example="occlift show-targets data/town TOKEN --out runs/targets",
        ),
        "show-bev": Command(
            function="occlift.cli.pictures:show_bev",
            summary=(
                "Draw what a fine-tuned network predicts for one key frame: probabilities, hits, misses and "
                "false alarms."
            ),
            example="occlift show-bev runs/bev/last.ckpt data/town TOKEN --out runs/show",
        ),
    },
    "scores": {
        "evaluate": Command(
            function="occlift.cli.evaluation:evaluate",
            summary="Score predictions: IoU, every mIoU by name, RayIoU.",
            example="occlift evaluate --predictions runs/predictions --truth data/town/gts --rays --root data/town",
        ),
        "compare": Command(
            function="occlift.cli.evaluation:compare",
            summary="Compare runs: every score beside the others', the best marked.",
            example="occlift compare runs/a/scores.json runs/b/scores.json --per-class camera",
        ),
        "merge": Command(
            function="occlift.cli.evaluation:merge",
            summary="Add up evaluations of parts of a split; equal to scoring it whole, to the last bit.",
            example="occlift merge runs/part1.json runs/part2.json --json runs/scores.json",
        ),
    },
}
"""Commands by what they are about."""

COMMANDS: Final[dict[str, Command]] = {name: one for group in GROUPS.values() for name, one in group.items()}
"""Commands by name."""
