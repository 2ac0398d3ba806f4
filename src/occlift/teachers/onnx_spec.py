"""What a network in an ONNX file wants and says, written down in a small TOML file.

source = "where the facts come from"          # may be missing

[input]
name = "image"                                # may be missing where only one input is an image
height = 504                                  # pixels; an export of fixed size overrides both
width = 504
fit = "stretch"                               # "pad": whole image in the middle, proportions kept, colour around it;
                                              # "stretch": resized to fill the input; "within": proportions kept, no
                                              # padding, as large as height and width allow, for exports of any size
multiple = 14                                 # with "within": both sides are rounded to multiples; by default 1
fill = [124.0, 116.0, 104.0]                  # with "pad": RGB around the image, 0..255; by default the mean
mean = [123.675, 116.28, 103.53]              # the network reads (RGB - mean) / std of RGB 0..255, one number per
std = [58.395, 57.12, 57.375]                 # channel; by default 0 and 1
antialias = true                              # smooth before an image is made smaller; by default not
views = true                                  # input [1, cameras, 3, height, width]: all cameras of a key frame at once
intrinsics = "K"                              # input [images, 3, 3] for the intrinsics, in pixels of the input
rays = "rays"                                 # input [images, 3, height, width] for directions of pixels, length 1

[constants]                                   # other inputs, always the same
num_tokens = 2500

[depth]                                       # for `onnx-depth`
output = "depth"                              # name of the output, or a list of which the first that exists is taken
quantity = "depth"                            # "depth" along the optical axis, "inverse depth" or "points" (x, y, z)
unit_m = 1.0                                  # metres per unit of the output; by default 1
focal_px = 300.0                              # metres = output x (focal length in pixels of the input) / focal_px; by
                                              # default the output is right for every camera
shift = true                                  # "points" lack a shift along the axis: it is found from the focal length
scale = "metric_scale"                        # output with a factor per image; by default none
confidence = "confidence"                     # output 0..1, where the export has it; by default none

[unknown]                                     # may be missing: where the depth means nothing, such as in the sky
output = "sky"
above = 0.3                                   # or below = 0.5

[classes]                                     # for `onnx-classes`
output = "logits"
holds = "logits"                              # or "probabilities", both [images, classes, rows, columns], or "ids"
names = ["road", "sidewalk", "sky"]           # in the order of the ids
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from occlift.errors import ConfigError
from occlift.label_space.space_file import Table
from occlift.runtime.folders import expanded

Fit = Literal["pad", "stretch", "within"]
Quantity = Literal["depth", "inverse depth", "points"]
Held = Literal["logits", "probabilities", "ids"]
Color = tuple[float, float, float]

_PRESETS: Final = Path(__file__).with_name("onnx_specs")
_NUMBERS: Final = "three numbers, one per channel (red, green, blue)"


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a network reads; fields as in `[input]` of the file, and `[constants]`."""

    name: str | None
    height: int
    width: int
    fit: Fit
    multiple: int
    fill: Color
    mean: Color
    std: Color
    antialias: bool
    views: bool
    intrinsics: str | None
    rays: str | None
    constants: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class UnknownSpec:
    """Where a depth means nothing: an output is above or below a number."""

    output: str
    above: float | None
    below: float | None


@dataclass(frozen=True, kw_only=True)
class DepthSpec:
    """What a network of depth says; fields as in `[depth]` of the file, and `[unknown]`."""

    input: InputSpec
    output: tuple[str, ...]
    quantity: Quantity
    unit_m: float
    focal_px: float | None
    shift: bool
    scale: str | None
    confidence: tuple[str, ...]
    unknown: UnknownSpec | None


@dataclass(frozen=True, kw_only=True)
class ClassesSpec:
    """What a network of classes says; fields as in `[classes]` of the file."""

    input: InputSpec
    output: tuple[str, ...]
    holds: Held
    names: tuple[str, ...]


def spec_names() -> tuple[str, ...]:
    """Names of the files that come with the library."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))


def read_depth_spec(name: str, model: Path) -> DepthSpec:
    """What a network of depth wants and says.

    Args:
        name: of a file that comes with the library, or path of one; empty: the file beside the model that has its name.

    Raises:
        ConfigError: there is no such file, or something in it is missing, unknown or out of range.
    """
    table, file = _opened(name, model)
    read = _input(table)
    depth = table.table("depth")
    spec = DepthSpec(
        input=read,
        output=_names(depth, "output"),
        quantity=_choice(depth, "quantity", get_args(Quantity), "depth"),
        unit_m=_number(depth, "unit_m", 1.0, positive=True),
        focal_px=_number(depth, "focal_px", 0.0, positive=True) if "focal_px" in depth else None,
        shift="shift" in depth and depth.truth("shift"),
        scale=depth.text("scale", "the name of an output") if "scale" in depth else None,
        confidence=_names(depth, "confidence") if "confidence" in depth else (),
        unknown=_unknown(table),
    )
    depth.finish()
    table.finish()
    if spec.shift and (spec.quantity != "points" or spec.focal_px is not None):
        raise ConfigError(f"{file}: depth: shift is true; expected quantity 'points', and no focal_px, beside it")
    return spec


def read_classes_spec(name: str, model: Path) -> ClassesSpec:
    """What a network of classes wants and says; arguments and errors as in `read_depth_spec`."""
    table, _ = _opened(name, model)
    read = _input(table)
    classes = table.table("classes")
    spec = ClassesSpec(
        input=read,
        output=_names(classes, "output"),
        holds=_choice(classes, "holds", get_args(Held), "logits"),
        names=classes.texts("names"),
    )
    classes.finish()
    table.finish()
    return spec


def spec_settings(spec: DepthSpec | ClassesSpec) -> dict[str, object]:
    """As JSON values, for the settings of a teacher."""
    return asdict(spec)


def _opened(name: str, model: Path) -> tuple[Table, str]:
    if name in spec_names():
        path = _PRESETS / f"{name}.toml"
    elif name:
        path = expanded(Path(name))
    else:
        path = model.with_suffix(".toml")
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror or error}); expected a TOML file that says what the network in "
            f"{model.name} wants and says, or spec= one of {', '.join(spec_names())} (docs/teachers.md shows them)"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8 ({error}); expected a TOML file") from error
    table = Table.parsed(content, str(path))
    if "source" in table:
        table.text("source", "where the facts come from")
    return table, str(path)


def _input(table: Table) -> InputSpec:
    given = table.table("input")
    mean = _color(given, "mean", (0.0, 0.0, 0.0))
    spec = InputSpec(
        name=given.text("name", "the name of an input") if "name" in given else None,
        height=_pixels(given, "height"),
        width=_pixels(given, "width"),
        fit=_choice(given, "fit", get_args(Fit)),
        multiple=_pixels(given, "multiple") if "multiple" in given else 1,
        fill=_color(given, "fill", mean),
        mean=mean,
        std=_color(given, "std", (1.0, 1.0, 1.0)),
        antialias="antialias" in given and given.truth("antialias"),
        views="views" in given and given.truth("views"),
        intrinsics=given.text("intrinsics", "the name of an input") if "intrinsics" in given else None,
        rays=given.text("rays", "the name of an input") if "rays" in given else None,
        constants=_constants(table),
    )
    given.finish()
    if min(spec.std) <= 0:
        raise given.wrong("std", list(spec.std), f"{_NUMBERS} above 0")
    if spec.multiple > min(spec.height, spec.width):
        raise given.wrong("multiple", spec.multiple, "no more than height and width")
    return spec


def _constants(table: Table) -> dict[str, float]:
    if "constants" not in table:
        return {}
    constants = table.table("constants")
    return {name: _number(constants, name, 0.0) for name, _ in constants.items()}


def _unknown(table: Table) -> UnknownSpec | None:
    if "unknown" not in table:
        return None
    given = table.table("unknown")
    limits = {side: _number(given, side, 0.0) if side in given else None for side in ("above", "below")}
    spec = UnknownSpec(output=given.text("output", "the name of an output"), **limits)
    given.finish()
    if (spec.above is None) == (spec.below is None):
        raise given.wrong("output", spec.output, "either above or below beside it")
    return spec


def _names(table: Table, key: str) -> tuple[str, ...]:
    found = table.take(key, "the name of an output, or a list of names")
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise table.wrong(key, found, "the name of an output, or a list of names")
    return tuple(names)


def _choice(table: Table, key: str, choices: tuple[str, ...], default: str | None = None) -> Any:
    if default is not None and key not in table:
        return default
    found = table.take(key, f"one of {', '.join(choices)}")
    if found not in choices:
        raise table.wrong(key, found, f"one of {', '.join(choices)}")
    return found


def _number(table: Table, key: str, default: float, *, positive: bool = False) -> float:
    if key not in table:
        return default
    expected = "a number above 0" if positive else "a number"
    found = table.take(key, expected)
    if not _is_number(found) or (positive and found <= 0):
        raise table.wrong(key, found, expected)
    return found


def _pixels(table: Table, key: str) -> int:
    found = table.take(key, "pixels, a whole number above 0")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise table.wrong(key, found, "pixels, a whole number above 0")
    return found


def _color(table: Table, key: str, default: Color) -> Color:
    if key not in table:
        return default
    found = table.take(key, _NUMBERS)
    if not isinstance(found, list) or len(found) != 3 or not all(map(_is_number, found)):
        raise table.wrong(key, found, _NUMBERS)
    red, green, blue = (float(one) for one in found)
    return red, green, blue


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
