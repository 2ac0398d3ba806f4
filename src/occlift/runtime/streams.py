"""Standard output and standard error that no reader and no locale can stop."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

_AS_IT_GOES: Final = "occlift.as_it_goes"


def _as_it_goes(error: UnicodeError) -> tuple[str | bytes, int]:
    """The bytes of names of files that are in no known encoding, as they are; escapes for all other letters."""
    assert isinstance(error, UnicodeEncodeError), error
    letters = error.object[error.start : error.end]
    return b"".join(
        x.encode("utf-8", "surrogateescape") if "\udc80" <= x <= "\udcff" else ascii(x)[1:-1].encode() for x in letters
    ), error.end


codecs.register_error(_AS_IT_GOES, _as_it_goes)


class Streams:
    """What became of the streams.

    Attributes:
        broken: whether a reader of standard output went away before everything was written.
    """

    broken: bool = False


@contextmanager
def patient_streams() -> Iterator[Streams]:
    """Inside, what is printed stops no work.

    A pipe whose reader is gone swallows the rest: `occlift evaluate --json FILE | head` writes its file. Letters that
    the encoding of a stream lacks are printed as escapes: names of folders need not be in the language of a cluster.
    Streams that are not the process's own, such as a notebook's, are left as they are.
    """
    streams = Streams()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _patient(sys.stdout, streams), _patient(sys.stderr, Streams())
    ours = sys.stdout, sys.stderr
    try:
        yield streams
    finally:
        for stream in ours:
            # Closed from outside (`>&-`), there is none.
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


class _Descriptor(io.FileIO):
    def __init__(self, number: int, streams: Streams) -> None:
        super().__init__(number, "w", closefd=False)
        self._streams = streams

    def write(self, data: Any, /) -> int:
        if not self._streams.broken:
            try:
                return super().write(data)
            except BrokenPipeError:
                self._streams.broken = True
        return memoryview(data).nbytes


def _patient(stream: Any, streams: Streams) -> Any:
    buffer = getattr(stream, "buffer", None)
    # Without a buffer where PYTHONUNBUFFERED is set.
    if not isinstance(getattr(buffer, "raw", buffer), io.FileIO):
        return stream
    with suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(stream.fileno(), streams)),
        encoding=stream.encoding,
        errors=_AS_IT_GOES,
        newline="\n" if os.name == "posix" else None,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
