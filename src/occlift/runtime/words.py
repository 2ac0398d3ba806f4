"""Words of what is printed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_OWN: Final = re.compile(r"\S*/\S*|\S*\d\S{6,}|\S{6,}\d\S*")
"""Words that are a frame's own: paths, and long ones with a digit, such as tokens and names of images."""


def counted(number: int, what: str) -> str:
    """A number of things, in the singular if it is one.

    >>> counted(1, "key frame"), counted(2, "key frame")
    ('1 key frame', '2 key frames')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def alike(reasons: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Groups names by why something happened to them, the largest group first.

    Reasons are one where they differ in paths, tokens and names of images only.

    Args:
        reasons: name → a sentence.

    Returns:
        Per group the sentence of its first name, and its names.

    >>> alike({"a": "maps/a.npy: no such file", "b": "the disk is gone", "c": "maps/c.npy: no such file"})
    [('maps/a.npy: no such file', ['a', 'c']), ('the disk is gone', ['b'])]
    """
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(_OWN.sub("*", reason), []).append(name)
    return [(reasons[names[0]], names) for names in sorted(groups.values(), key=len, reverse=True)]


def once_per_kind(sentences: Sequence[str]) -> list[str]:
    """The first of all sentences that are one (`alike`), with the number of the others; the largest kind first.

    >>> once_per_kind(["maps/a.npy: no such file", "maps/c.npy: no such file"])
    ['maps/a.npy: no such file (and 1 more of this kind)']
    """
    kinds = alike({str(number): sentence for number, sentence in enumerate(sentences)})
    return [said if len(same) == 1 else f"{said} (and {len(same) - 1} more of this kind)" for said, same in kinds]


def such_as(names: Sequence[str]) -> str:
    """A few of many names.

    >>> such_as(["a", "b"]), such_as(list("abcdefgh"))
    ('a, b', 'a, b, c and 5 more')
    """
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def duration(seconds: float) -> str:
    """A duration as people say it.

    >>> duration(42), duration(150), duration(8000), duration(900_000)
    ('42 s', '2.5 min', '2.2 h', '10.4 days')
    """
    for unit, length in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
