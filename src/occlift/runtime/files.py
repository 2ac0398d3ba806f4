"""Files that are there whole or not at all, whatever moment the process, or the machine, dies at."""

from __future__ import annotations

import errno
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from occlift.errors import OccliftError

DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of the errors that say so: no space, or a used-up quota."""


class DiskFull(OccliftError, OSError):
    """A disk, or somebody's share of it, is full. An OSError too, for whoever can do without the file.

    Attributes:
        reason: the system's words.
    """

    reason: str = ""


def disk_full(error: OSError, *places: Path | None) -> DiskFull:
    """What the user is told about a full disk.

    Args:
        places: what was being written, or the folders that are written into; by default the file of the error.
    """
    where = " or ".join(str(place) for place in places if place)
    where = where or str(error.filename2 or error.filename or "what is being written")
    reason = error.reason if isinstance(error, DiskFull) else error.strerror or str(error)
    said = DiskFull(
        f"{where}: the disk is full ({reason}); what is finished is kept. Make room, and run the same command again"
    )
    said.reason = reason
    return said


@contextmanager
def disk_full_said(*places: Path | None) -> Iterator[None]:
    """Says a full disk, or a used-up quota, as a sentence.

    Args:
        places: the folders that are written into.

    Raises:
        DiskFull: instead of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL and not isinstance(error, DiskFull):
            raise
        raise disk_full(error, *places) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path`, in one step, when the block ends without an error.

    Makes the folder if needed. The bytes are on the disk before the name is: after a power cut too, a file that has
    its name is whole. A process that is killed inside the block leaves a file `.<name>.*.tmp` behind; see `sweep`.

    Raises:
        OSError: the file cannot be written; it names `path`, which is as it was.
        DiskFull: the disk is full; an OSError too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`: its files are private to the user, whatever the umask says.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    raw = None
    try:
        raw = _Written(temporary, "xb")
        with _Buffered(raw) as file:
            yield file
            file.flush()
            os.fsync(raw.fileno())
        temporary.replace(path)
    except Exception as error:
        # Whoever writes into the file may make another error of what the system says, as torch does.
        failure = raw.failure if raw and raw.failure else error
        if not isinstance(failure, OSError):
            raise
        if failure.errno in DISK_FULL:
            raise disk_full(failure, path) from error
        if failure.errno is None or failure.filename is not None:
            raise
        raise type(failure)(failure.errno, failure.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


class _Buffered(io.BufferedWriter):
    def fileno(self) -> int:
        # numpy and Pillow would write past us, and keep to themselves what the system says.
        raise io.UnsupportedOperation("fileno")


class _Written(io.FileIO):
    """A file that remembers why it could not be written."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file as `replacing` does, in UTF-8; names of files that are no UTF-8 are escaped.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def sweep(folder: Path) -> None:
    """Removes from a folder what killed processes left behind; nobody may be writing there."""
    if folder.is_dir():
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
