"""Ctrl-C, and SIGTERM as schedulers send it: a command that is told to stop is gone two seconds later.

A signal becomes a `KeyboardInterrupt` in the main thread, so that whatever is open is closed. That alone does not end a
program in time: the main thread may be inside of compiled code for a minute, wait for threads or processes, or call a
library that keeps the exception to itself. So a thread that the signal wakes says how to go on and ends the process,
should it still be there after `PATIENCE_S`. Nothing is lost by that: files here are whole or not there, at whatever
moment the process dies (`occlift.runtime.files`).

Further signals are ignored. Processes that are started from here must not answer Ctrl-C themselves, although a terminal
sends it to all of them: those that are started anew are started inside of `interrupts_kept_from_children`, those that
are forked forget about signals by themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, NoReturn

PATIENCE_S: Final = 1.4
"""How long the main thread may take to end by itself."""

_AGAIN: Final = "interrupted; run the same command again"
_KEPT: Final = "interrupted; what is finished is kept: run the same command again to go on"

_sentences: list[Callable[[], str]] = []
"""How the work that is being done goes on after an interruption, the outermost work first."""

_stops: list[Stop] = []
"""The one of this process, while its main thread is inside of `stopping_soon`."""


@contextmanager
def going_on(sentence: Callable[[], str] | None = None) -> Iterator[None]:
    """Says how the work inside goes on after an interruption, unless it is part of other work that has said so.

    Args:
        sentence: the whole of it, made at the moment of the signal; None: the same command goes on where this one was.
    """
    _sentences.append(sentence or (lambda: _KEPT))
    try:
        yield
    finally:
        _sentences.pop()


class Stop:
    """Whether the program was told to stop.

    Attributes:
        sentence: what the user is told; empty as long as nothing was.
        status: of the process that ends for it, 128 and the number of the signal as usual in shells.
    """

    def __init__(self) -> None:
        self.sentence = ""
        self.status = 128 + signal.SIGINT
        self._ends = threading.Event()
        self._said = threading.Lock()

    def end(self, sentence: str = "") -> NoReturn:
        """Tells the user, unless somebody has, and ends the process and its children without looking back."""
        if self._said.acquire(blocking=False):
            cursor = "\x1b[?25h" if os.isatty(2) else ""
            # Not through sys.stderr, whose locks the main thread may hold.
            with suppress(OSError):
                os.write(2, f"{cursor}occlift: {sentence or self.sentence}\n".encode("utf-8", "backslashreplace"))
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(self.status)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self.sentence:
            self._tell(number)
            # Children die of the same signal, and what is closed in a hurry complains; both are no news.
            if hasattr(signal, "SIGCHLD"):
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sys.unraisablehook = lambda _: None
            threading.excepthook = lambda _: None
            raise KeyboardInterrupt(self.sentence)

    def _tell(self, number: int) -> None:
        self.status = 128 + number
        self.sentence = _sentences[0]() if _sentences else _AGAIN

    def _watch(self, wakened: socket.socket) -> None:
        with wakened:
            told: set[int] = set()
            while not told:
                numbers = wakened.recv(64)
                if not numbers:
                    return
                told = {int(number) for number in numbers if number in (signal.SIGINT, signal.SIGTERM)}
            if not self._ends.wait(PATIENCE_S):
                if not self.sentence:
                    # The main thread has not even come to `_interrupt`.
                    self._tell(told.pop())
                self.end()


@contextmanager
def stopping_soon() -> Iterator[Stop]:
    """For a program's main thread: inside, Ctrl-C and SIGTERM end the process in `PATIENCE_S` seconds, or earlier.

    A signal that is ignored outside, as SIGINT is below `nohup`, stays ignored. Whoever catches an exception inside
    after a signal calls `Stop.end`: what an interpreter waits for at its end takes time, too.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    ours, wakened = socket.socketpair()
    ours.setblocking(False)
    handlers: dict[int, Any] = {
        number: signal.signal(number, stop._interrupt)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    wakeup = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=stop._watch, args=(wakened,), daemon=True).start()
    _stops.append(stop)
    try:
        yield stop
    finally:
        _stops.remove(stop)
        stop._ends.set()
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        ours.close()


def _after_fork() -> None:
    """A forked process, such as a loader's worker, is ended by its parent, and must not wake the parent's thread."""
    if _stops:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def interrupts_kept_from_children() -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C; it reaches this one when the block ends."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
