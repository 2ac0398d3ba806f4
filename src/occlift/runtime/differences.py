"""What differs between two configurations, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_MOST_NAMED: Final = 8


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`key: value there, value now` of every setting that is not the same, nested ones as `outer.inner`; empty if none.

    Args:
        there: what was recorded, plain values.
        now: what is asked for; compared as equal if JSON would write the same, so tuples as lists, or if both are paths
            of one file or folder.
    """
    before, after = _flat(there), _flat(now)
    named = [
        f"{key}: {before.get(key, 'not set')} there, {after.get(key, 'not set')} now"
        for key in sorted({*before, *after})
        if not _is_one(_plain(before.get(key)), _plain(after.get(key))) or (key in before) != (key in after)
    ]
    if len(named) > _MOST_NAMED:
        named[_MOST_NAMED:] = [f"and {len(named) - _MOST_NAMED} more"]
    return "; ".join(named)


def _is_one(one: Any, other: Any) -> bool:
    if one == other:
        return True
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    # What stands before a colon is a teacher or a format: `files:maps`, `frames:rig`.
    kinds, paths = zip(*((text.rpartition(":")[0], text.rpartition(":")[2]) for text in (one, other)), strict=True)
    try:
        return kinds[0] == kinds[1] and Path(paths[0]).samefile(paths[1])
    except (OSError, ValueError):
        return False


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
