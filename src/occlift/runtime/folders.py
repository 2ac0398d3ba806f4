"""Whose a folder is: one of ours, free to become one, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from occlift.errors import ConfigError, DataError
from occlift.runtime.differences import differences

_MOST_NAMED: Final = 3


def has_home() -> bool:
    """Whether the user has a home: a number without a name, as containers and clusters run programs, has none."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def expanded(path: Path) -> Path:
    """A path that begins with `~`, below the user's home where there is one."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_claimed(folder: Path, mark: str, *, contents: str) -> bool:
    """Whether a folder is one of ours; if not, it is empty or missing, and may become one.

    Args:
        mark: name of the file that every such folder has.
        contents: what such a folder holds, for the error: "labels".

    Raises:
        ConfigError: it holds something else.
    """
    if (folder / mark).exists():
        return True
    # What is hidden may be what a run left that was killed before its first word.
    others = sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []
    if others:
        named = ", ".join([*others[:_MOST_NAMED], *(["..."] if len(others) > _MOST_NAMED else [])])
        raise ConfigError(
            f"{folder}: holds something else ({named}) and no {contents} (no {mark}); choose another folder"
        )
    return False


def check_same(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any], *, contents: str) -> None:
    """Refuses a folder of ours that was made with other settings.

    Args:
        there: what the folder records, plain values.
        now: what is asked for.

    Raises:
        ConfigError: they differ; says in what.
    """
    if unlike := differences(there, now):
        raise ConfigError(
            f"{folder}: holds {contents} of another configuration ({unlike}); choose another folder, call with the "
            "settings that are there, or remove this one"
        )


def read_record(path: Path) -> dict[str, Any]:
    """The object in a file of JSON that says what its folder is.

    Raises:
        DataError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("expected an object")
    except ValueError as error:
        raise DataError(f"{path}: not readable ({error}); remove the folder or choose another") from error
    return found
