"""Words of what is printed."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """A number of things, in the singular if it is one.

    >>> counted(1, "key frame"), counted(2, "key frame")
    ('1 key frame', '2 key frames')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
