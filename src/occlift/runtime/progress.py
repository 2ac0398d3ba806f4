"""Progress of long stages: the library reports it, the command line decides whether to draw it.

Library code wraps its loops in `track`. Nothing is shown unless a caller opened `shown_progress` (the command
line does), so that importing programs keep their terminal to themselves.
"""

from __future__ import annotations

import contextvars
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from occlift.runtime.words import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Item = TypeVar("Item")

_LOG_EVERY_S: Final = 60.0
"""Where there is no terminal: time between two lines about a stage."""

_SHORT_S: Final = 1.0
"""Stages that are over sooner leave no line."""

_display: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("_display", default=None)


@contextmanager
def shown_progress() -> Iterator[None]:
    """Draws a bar with the time left for every `track` inside, and leaves a line when it is over; where standard error
    is no terminal, lines alone, one a minute."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    # Results go to the standard output and nowhere else, whoever reads it.
    with Progress(
        *columns, console=console, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty()
    ) as progress:
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
        _say(progress, text)


def remark(text: str) -> None:
    """Sets a few words beside the bar of the stage that began last, such as a loss."""
    progress = _display.get()
    if progress is not None and progress.tasks:
        progress.update(progress.task_ids[-1], remark=text)


def track(items: Iterable[Item], description: str, *, total: int | None = None) -> Iterator[Item]:
    """Yields `items`, and shows how far it is and how long it will take where a display is open."""
    progress = _display.get()
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if progress is None:
        yield from items
        return
    # What is part of another stage is no news afterwards.
    is_outermost = not progress.tasks
    started = said = time.monotonic()
    count = 0
    task = progress.add_task(description, total=total, remark="")
    try:
        for item in items:
            yield item
            count += 1
            progress.update(task, advance=1)
            if is_outermost and not progress.console.is_terminal and time.monotonic() > said + _LOG_EVERY_S:
                said = time.monotonic()
                _say(progress, _how_far(description, count, total, said - started, _remark_of(progress, task)))
    finally:
        words = _remark_of(progress, task)
        # A bar that stays would stand below the results that are printed next.
        progress.remove_task(task)
        seconds = time.monotonic() - started
        if is_outermost and seconds >= _SHORT_S:
            of = "" if total in (count, None) else f" of {total}"
            _say(progress, f"{description}: {count}{of} in {seconds:.1f} s{words and f', {words}'}")


def _how_far(description: str, count: int, total: int | None, seconds: float, words: str) -> str:
    left = f" of {total}, {duration(seconds / count * (total - count))} left" if total else ""
    return f"{description}: {count}{left}{words and f', {words}'}"


def _remark_of(progress: Progress, task: TaskID) -> str:
    return str(progress.tasks[progress.task_ids.index(task)].fields["remark"])


def _say(progress: Progress, text: str) -> None:
    # Lines of a log are searched: they are not broken.
    progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
