"""Parts of a Markdown file that a program writes, between markers that a person sets."""

from __future__ import annotations

from pathlib import Path

from occlift.errors import DataError
from occlift.runtime.files import replacing


def write_between_markers(path: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- name: begin -->` and `<!-- name: end -->`, in one step.

    A file without these markers gets them, with the text between them, at its end; a file that is not there is made.

    Raises:
        DataError: one marker is missing, stands twice, or the end stands before the beginning.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    document = path.read_text(encoding="utf-8") if path.exists() else ""
    block = f"{begin}\n{text.strip()}\n{end}"
    counts = document.count(begin), document.count(end)
    if counts == (0, 0):
        document = f"{document.rstrip()}\n\n{block}\n".lstrip()
    elif counts == (1, 1) and document.index(begin) < document.index(end):
        before, _, rest = document.partition(begin)
        document = before + block + rest.partition(end)[2]
    else:
        raise DataError(
            f"{path}: expected {begin!r} once and {end!r} once after it, found {counts[0]} and {counts[1]}; mend the "
            "markers, or remove them to have the part appended"
        )
    with replacing(path) as file:
        file.write(document.encode())
