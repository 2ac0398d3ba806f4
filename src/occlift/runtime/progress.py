"""Progress of long stages: the library reports it, the command line decides whether to draw it.

Library code wraps its loops in `track`. Nothing is shown unless a caller opened `shown_progress` (the command
line does), so that importing programs keep their terminal to themselves.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")

_display: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("_display", default=None)


@contextmanager
def shown_progress() -> Iterator[None]:
    """Draws a bar with the time left for every `track` inside; on a pipe, one line per finished stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        token = _display.set(progress)
        try:
            yield
        finally:
            _display.reset(token)


def is_shown() -> bool:
    """Whether a caller opened `shown_progress`: for work that goes on in another process."""
    return _display.get() is not None


def note(text: str) -> None:
    """Says something at once, beside the bars, where a display is open."""
    progress = _display.get()
    if progress is not None:
        progress.console.print(text, highlight=False)


def track(items: Iterable[Item], description: str, *, total: int | None = None) -> Iterator[Item]:
    """Yields `items`, and shows how far it is and how long it will take where a display is open."""
    progress = _display.get()
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if progress is None:
        yield from items
        return
    started = time.monotonic()
    count = 0
    task = progress.add_task(description, total=total)
    try:
        for item in items:
            yield item
            count += 1
            progress.update(task, advance=1)
    finally:
        if not progress.console.is_terminal:
            progress.console.print(f"{description}: {count} in {time.monotonic() - started:.1f} s", highlight=False)
