"""Packages that not everyone needs: what is said where one is missing, and which extra of occlift brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

from occlift.errors import ConfigError

Extra = Literal["argoverse2", "demo", "export", "ray", "teachers", "tensorboard", "train", "video", "view"]


def missing_extra(extra: Extra, purpose: str, *packages: str) -> str | None:
    """What to install before `purpose` can begin; None if all of the packages are there. Loads nothing.

    Args:
        extra: of occlift, that brings them.
        purpose: subject of the sentence, such as "the demo".
        packages: as they are imported.
    """
    missing = [package for package in packages if find_spec(package) is None]
    return f"{purpose} needs {', '.join(missing)}: pip install 'occlift[{extra}]'" if missing else None


@contextmanager
def needs_extra(extra: Extra, purpose: str) -> Iterator[None]:
    """Around imports: what cannot be imported is said as `missing_extra` says it, with the reason.

    Raises:
        ConfigError: an import failed.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "a package").partition(".")[0]
        raise ConfigError(
            f"{purpose} needs {package}, which cannot be imported ({error}): pip install 'occlift[{extra}]'"
        ) from error
