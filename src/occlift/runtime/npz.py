"""Arrays in `.npz` files: written atomically and with the same bytes for the same arrays, read without pickle."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from occlift.errors import DataError
from occlift.runtime.files import replacing

# What numpy and zipfile raise on files that are no archive, are cut off, or are damaged somewhere inside.
_BROKEN: Final = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, SyntaxError)


class MissingArray(DataError):
    """An archive that lacks an array; `key` is the name of the first one."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


def read_npz(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays `keys` of an `.npz` file; other arrays in the file are not read.

    Raises:
        DataError: the file is missing or damaged.
        MissingArray: it lacks one of the arrays; a DataError too.
    """
    try:
        # Opened here: numpy leaves a damaged file open.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: expected an .npz archive, found a single array")
            missing = [key for key in keys if key not in archive]
            if missing:
                raise MissingArray(
                    f"{path}: has no array {', '.join(missing)}; it holds {', '.join(archive.files) or 'nothing'}",
                    missing[0],
                )
            return {key: archive[key] for key in keys}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise DataError(f"{path}: an array in it claims to be larger than the memory; the file is damaged") from error
    except _BROKEN as error:
        raise DataError(
            f"{path}: not a readable .npz archive ({error}); the file is damaged; delete it and make it again"
        ) from error


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]], *, level: int) -> None:
    """Writes arrays to an `.npz` file, making its folder if needed.

    Readers see the old file or the whole new one. Equal arrays in equal order give equal bytes: the archive holds
    no time stamps (numpy's own writer stores none either, but does not promise it).

    Args:
        level: of compression, 0 (none) to 9; 6 is zip's usual one, 1 is three times as fast for a quarter more bytes.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            method = zipfile.ZIP_DEFLATED if level else zipfile.ZIP_STORED
            archive.writestr(entry, content.getbuffer(), compress_type=method, compresslevel=level)
