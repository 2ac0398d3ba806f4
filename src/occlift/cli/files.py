"""Files that commands write themselves."""

from __future__ import annotations

from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, making its folder if needed."""
    from occlift.runtime.files import replacing

    with replacing(path) as file:
        file.write(text.encode())
