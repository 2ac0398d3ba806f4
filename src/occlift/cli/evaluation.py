"""Commands that score predictions and networks, and add up and compare scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from tyro.conf import Positional, arg

from occlift.cli.spaces import Space, space_of
from occlift.runtime.files import write_text

if TYPE_CHECKING:
    from occlift.training.corrupt import Corruption

Masks = tuple[Literal["camera", "near_surface", "lidar", "none"], ...]
EVERY_MASK: Final[Masks] = ("camera", "near_surface", "lidar", "none")


def evaluate(
    predictions: Annotated[Path, arg(help="folder of predictions, <token>.npz with the key semantics, anybody's")],
    truth: Annotated[Path, arg(help="folder of the truth, <scene>/<token>/labels.npz")],
    mask: Annotated[Masks, arg(help="masks of evaluated voxels", help_behavior_hint="(default: all)")] = EVERY_MASK,
    space: Space = None,
    rays: Annotated[bool, arg(help="RayIoU, too; needs --root for the lidar poses")] = False,
    root: Annotated[
        str | None, arg(help="data set, for --split and --rays", metavar="ROOT", help_behavior_hint="(default: none)")
    ] = None,
    split: Annotated[
        str | None,
        arg(
            help="split of ROOT to score, exactly",
            help_behavior_hint="(default: every scene that is predicted, whole)",
        ),
    ] = None,
    json: Annotated[
        Path | None, arg(help="file for histograms and every named score", help_behavior_hint="(default: none)")
    ] = None,
    allow_missing: Annotated[
        bool, arg(help="leave out key frames that are missing on one side, instead of refusing")
    ] = False,
    part: Annotated[str, arg(help="i/n: score the i-th of n parts, for `occlift merge`", metavar="I/N")] = "1/1",
    device: Annotated[str, arg(help="torch device on which rays are cast; the answer is the same everywhere")] = "cpu",
    ray_walk: Annotated[
        Literal["float64", "float32"],
        arg(help="walk of the rays; float32 repeats the public code of RayIoU rounding for rounding, on the CPU"),
    ] = "float64",
) -> None:
    """Score predictions: IoU, every mIoU by name, RayIoU."""
    from occlift.cli.tables import print_evaluation
    from occlift.errors import ConfigError
    from occlift.evaluation.occupancy import evaluate as run_evaluation
    from occlift.scenes.dataset import open_dataset, split_tokens

    if root is None and (split or rays):
        raise ConfigError(f"{'--split' if split else '--rays'} needs --root: of which data set?")
    number, slash, parts = part.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal()):
        raise ConfigError(f"--part {part}: expected I/N, such as 1/4")
    data = open_dataset(root) if root else None
    evaluation = run_evaluation(
        predictions, truth, tokens=split_tokens(data, split) if data and split else None, masks=mask,
        rays=data if rays else None, device=device, ray_walk=ray_walk, allow_missing=allow_missing,
        part=(int(number), int(parts)), space=space_of(space, truth, predictions),
    )  # fmt: skip
    if json:
        write_text(json, evaluation.to_json())
    print_evaluation(evaluation)


def evaluate_bev(
    checkpoint: Annotated[
        Positional[Path], arg(help="checkpoint of `occlift finetune`, or the folder of its run", metavar="CHECKPOINT")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    split: Annotated[str, arg(help="split of ROOT")] = "val",
    corrupt: Annotated[
        tuple[str, ...],
        arg(
            help="corruptions of the images, scored besides: NAME, NAME:STRENGTH (1 to 5) or all",
            metavar="NAME ...",
            help_behavior_hint="(default: none)",
        ),
    ] = (),
    json: Annotated[Path | None, arg(help="file for every number", help_behavior_hint="(default: none)")] = None,
    device: Annotated[
        str | None, arg(help="torch device", help_behavior_hint="(default: an accelerator if there is one)")
    ] = None,
) -> None:
    """Score a bird's-eye-view network, also on corrupted images."""
    from json import dumps

    from occlift.cli.tables import print_bev
    from occlift.evaluation.bev import evaluate_bev as run_evaluation
    from occlift.scenes.dataset import open_dataset

    corruptions = (None, *(one for text in corrupt for one in _corruptions(text)))
    evaluations = run_evaluation(open_dataset(root), checkpoint, split=split, corruptions=corruptions, device=device)
    if json:
        write_text(json, dumps([evaluation.to_dict() for evaluation in evaluations], indent=1))
    print_bev(evaluations)


def merge(
    parts: Annotated[
        Positional[tuple[Path, ...]],
        arg(help="files of `occlift evaluate --json`", metavar="JSON", help_behavior_hint="(required)"),
    ],
    json: Annotated[Path, arg(help="file for the evaluation of all key frames")],
) -> None:
    """Add up evaluations of parts of a split; equal to scoring it whole, to the last bit."""
    from occlift.cli.tables import print_evaluation
    from occlift.evaluation.occupancy import merge as run_merge
    from occlift.evaluation.occupancy import read_evaluation

    evaluation = run_merge([read_evaluation(path) for path in parts])
    write_text(json, evaluation.to_json())
    print_evaluation(evaluation)


def compare(
    runs: Annotated[
        Positional[tuple[Path, ...]],
        arg(
            help="files of `occlift evaluate --json`, or of `occlift evaluate-bev --json`",
            metavar="JSON",
            help_behavior_hint="(required)",
        ),
    ],
    names: Annotated[
        tuple[str, ...],
        arg(help="names of the runs", metavar="NAME ...", help_behavior_hint="(default: those of the files)"),
    ] = (),
    mask: Annotated[Masks | None, arg(help="masks of the columns", help_behavior_hint="(default: camera none)")] = None,
    absent: Annotated[
        Literal["skipped", "zero"] | None,
        arg(help="rule for classes that neither truth nor prediction holds", help_behavior_hint="(default: skipped)"),
    ] = None,
    per_class: Annotated[
        Literal["camera", "near_surface", "lidar", "none", "rays"] | None,
        arg(help="mask, or rays, of a second table: IoU per class", help_behavior_hint="(default: none)"),
    ] = None,
    markdown: Annotated[bool, arg(help="print Markdown")] = False,
    picture: Annotated[
        Path | None,
        arg(
            help="PNG for bars per class (camera mask, unless --per-class says otherwise)",
            help_behavior_hint="(default: none)",
        ),
    ] = None,
) -> None:
    """Compare runs: every score beside the others', the best marked."""
    from occlift.cli.tables import print_comparison
    from occlift.errors import ConfigError
    from occlift.evaluation.compare import compare as run_comparison
    from occlift.evaluation.compare_bev import compare_bev, is_of_bev

    if names and len(names) != len(runs):
        raise ConfigError(
            f"--names: {len(names)} names ({', '.join(names)}) for {len(runs)} files; expected one for each. It takes "
            "all words up to the next option: name the files first, as in `occlift compare A.json B.json --names a b`"
        )
    of_bev = [path for path in runs if is_of_bev(path)]
    if of_bev and (others := [path for path in runs if path not in of_bev]):
        raise ConfigError(
            f"{of_bev[0]} is of `occlift evaluate-bev`, and {others[0]} is not: bird's-eye-view networks compare with "
            "each other only"
        )
    if of_bev:
        asked = {"--mask": mask, "--absent": absent, "--per-class": per_class, "--picture": picture}
        if unfit := [option for option, value in asked.items() if value is not None]:
            raise ConfigError(f"{', '.join(unfit)}: for files of `occlift evaluate`, and these are of evaluate-bev")
        tables = [compare_bev(runs, names).table()]
    else:
        comparison = run_comparison(runs, names)
        tables = [comparison.table(masks=mask or ("camera", "none"), absent=absent or "skipped")]
        if per_class:
            tables.append(comparison.class_table(per_class))
        if picture:
            comparison.picture(picture, per_class or "camera")
    if markdown:
        print("\n".join(table.markdown() for table in tables), end="")
    else:
        for table in tables:
            print_comparison(table)


def _corruptions(text: str) -> list[Corruption]:
    """The corruptions that a value of `--corrupt` asks for: a name without a strength means all strengths."""
    from occlift.errors import ConfigError
    from occlift.training.corrupt import CORRUPTIONS, STRENGTHS, Corruption

    wanted, colon, strength = text.partition(":")
    names = [name for name in CORRUPTIONS if wanted in (name, "all")]
    if not names:
        raise ConfigError(f"--corrupt {text}: there is no such corruption; expected all, {', '.join(CORRUPTIONS)}")
    if colon and not strength.isdecimal():
        raise ConfigError(f"--corrupt {text}: expected NAME, NAME:STRENGTH or all, such as fog:3")
    return [Corruption(name=name, strength=s) for name in names for s in ([int(strength)] if colon else STRENGTHS)]
