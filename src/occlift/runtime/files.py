"""Files that are there whole or not at all, whatever moment the process, or the machine, dies at."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path`, in one step, when the block ends without an error.

    Makes the folder if needed. The bytes are on the disk before the name is: after a power cut too, a file that has
    its name is whole. A process that is killed inside the block leaves a file `.<name>.*.tmp` behind; see `sweep`.

    Raises:
        OSError: the file cannot be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`: its files are private to the user, whatever the umask says.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes from a folder what killed processes left behind; nobody may be writing there."""
    if folder.is_dir():
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
