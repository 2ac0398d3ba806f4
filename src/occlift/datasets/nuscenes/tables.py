"""The nuScenes tables, read as streams of typed rows.

A nuScenes table is one JSON array of objects. `sample_data.json` of v1.0-trainval is larger than a gigabyte, so a
table is read in blocks of whole rows, and of each row only the fields that this project uses are kept.
Fields and meanings: the nuScenes schema (https://www.nuscenes.org/nuscenes#data-format).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from occlift.errors import DataError
from occlift.runtime.progress import track

BLOCK_BYTES: Final = 8 << 20

Microseconds = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Count = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Pixels = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row of any table."""

    token: str


class SensorRow(Row, frozen=True, gc=False):
    channel: str
    modality: str = ""


class CalibratedSensorRow(Row, frozen=True, gc=False):
    """`camera_intrinsic` is 3×3 for cameras and empty for other sensors; lengths in metres, (w, x, y, z).

    nuScenes has no `camera_distortion`; `occlift.datasets.nuscenes.lenses` says what others may have there.
    """

    sensor_token: str
    translation: Vector
    rotation: Quaternion
    camera_intrinsic: list[list[float]]
    camera_distortion: list[float] | dict[str, Any] | None = None


class EgoPoseRow(Row, frozen=True, gc=False):
    """Lengths in metres, quaternion (w, x, y, z): the global frame from the ego frame."""

    translation: Vector
    rotation: Quaternion


class SceneRow(Row, frozen=True, gc=False):
    name: str


class SceneLogRow(Row, frozen=True, gc=False):
    """What a row of `scene` says about its log; read only where maps are needed."""

    name: str
    log_token: str


class LogRow(Row, frozen=True, gc=False):
    """`location` is the name of a map, such as `singapore-onenorth`."""

    location: str


class SampleRow(Row, frozen=True, gc=False):
    scene_token: str
    timestamp: Microseconds


class SampleDataRow(Row, frozen=True, gc=False):
    """`height` and `width` are those of images, in pixels, and 0 for other sensors."""

    sample_token: str
    ego_pose_token: str
    calibrated_sensor_token: str
    timestamp: Microseconds
    is_key_frame: bool
    filename: str
    height: Pixels | None = 0
    width: Pixels | None = 0


class SensorChainRow(Row, frozen=True, gc=False):
    """What a row of `sample_data` says of the readings of the same sensor before and after it; empty for none."""

    is_key_frame: bool
    prev: str = ""
    next: str = ""


class NameRow(Row, frozen=True, gc=False):
    """A row of `category` or `attribute`."""

    name: str


class VisibilityRow(Row, frozen=True, gc=False):
    """`level` is a bin of the visible fraction, such as `v0-40`, or a word."""

    level: str = ""


class InstanceRow(Row, frozen=True, gc=False):
    category_token: str


class AnnotationRow(Row, frozen=True, gc=False):
    """Global frame, metres; `prev` and `next` are empty at the ends of a track."""

    sample_token: str
    instance_token: str
    translation: Vector
    size: Vector
    rotation: Quaternion
    prev: str
    next: str
    num_lidar_pts: Count
    attribute_tokens: list[str]
    visibility_token: str | None = ""


RowType = TypeVar("RowType", bound=Row)

# Up to the last "}" that is followed by a comma and a "{": greedy, so the search starts at the end of the block.
_LAST_ROW_END: Final = re.compile(rb"(.*\})\s*,\s*(?=\{)", re.DOTALL)
_BYTE: Final = re.compile(r" \(byte (\d+)\)$")
_ROW_PATH: Final = re.compile(r" - at `\$\[(\d+)\]\.?(.*)`$")


def read_table(path: Path, row_type: type[RowType]) -> list[RowType]:
    """All rows of a table that fits into memory.

    Raises:
        DataError: see `read_blocks`.
    """
    return [row for block in read_blocks(path, row_type) for row in block]


def read_blocks(path: Path, row_type: type[RowType], *, block_bytes: int = BLOCK_BYTES) -> Iterator[list[RowType]]:
    """The rows of a table in order, some megabytes at a time.

    Raises:
        DataError: the file is missing or unreadable, is no JSON array of objects or ends too early (with the byte),
            or a row lacks a field or has one of another type (with the row and the field).
    """
    try:
        size = path.stat().st_size
        blocks = _read_blocks(path, row_type, block_bytes)
        if size <= block_bytes:
            yield from blocks
        else:
            yield from track(blocks, f"reading {path.name}", total=-(-size // block_bytes))
    except FileNotFoundError:
        raise DataError(
            f"{path}: this table is missing; a nuScenes data set has 13 tables in the folder {path.parent.name}/. "
            "Unpack the metadata archive again."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_blocks(path: Path, row_type: type[RowType], block_bytes: int) -> Iterator[list[RowType]]:
    """A block is cut where "}, {" stands. That may be inside a string or a nested list; then, and only then, the part
    before it is an unfinished JSON text, which the decoder reports as truncated, and the block is made longer.
    """
    decoder = msgspec.json.Decoder(list[row_type])  # type: ignore[valid-type]
    with path.open("rb") as file:
        text = file.read(block_bytes).lstrip(b"\xef\xbb\xbf \t\r\n")
        # How many bytes of the file lie before `text`.
        start = file.tell() - len(text)
        if text[:1] != b"[":
            what = f"starts with {text[:20]!r}" if text else "is empty"
            raise DataError(f"{path}: expected a JSON array of rows, but the file {what}")
        text, start = text[1:], start + 1
        num_rows = 0
        wanted = block_bytes
        while True:
            while len(text) < wanted and (more := file.read(wanted - len(text))):
                text += more
            if len(text) < wanted:
                rows = _decode(path, decoder, b"[" + text, start, num_rows)
                assert rows is not None
                yield rows
                return
            end = _LAST_ROW_END.match(text)
            rows = _decode(path, decoder, b"[" + end[1] + b"]", start, num_rows, may_grow=True) if end else None
            if end is None or rows is None:
                wanted *= 2
                continue
            yield rows
            num_rows += len(rows)
            start += end.end()
            text = text[end.end() :]
            wanted = block_bytes


def _decode(
    path: Path,
    decoder: msgspec.json.Decoder[list[RowType]],
    text: bytes,
    start: int,
    num_rows: int,
    *,
    may_grow: bool = False,
) -> list[RowType] | None:
    """The rows in `text`, whose second byte is byte `start` of the file, after `num_rows` earlier rows.

    Returns None if `may_grow` and the text is the beginning of a JSON text, but not a whole one.
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        reason = str(error)
        if where := _ROW_PATH.search(reason):
            row, field = num_rows + int(where[1]), where[2]
            what = f"row {row}" + (f", field {field}" if field else "")
            raise DataError(f"{path}: {what}: {reason[: where.start()]}") from error
        raise DataError(f"{path}: near byte {start}: {reason}") from error
    except msgspec.DecodeError as error:
        reason = str(error)
        if at := _BYTE.search(reason):
            byte = start + int(at[1]) - 1
            raise DataError(
                f"{path}: not valid JSON near byte {byte}: {reason[: at.start()]}; the file may be damaged, "
                "unpack the metadata archive again"
            ) from error
        if may_grow:
            return None
        raise DataError(
            f"{path}: the JSON text ends too early, at byte {start + len(text) - 1}; the download or the unpacking "
            "was probably cut off, unpack the metadata archive again"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not valid UTF-8 in the {len(text)} bytes after byte {start}: {error.reason}"
        ) from error
