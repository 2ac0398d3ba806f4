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
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

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

    def said(self) -> bool:
        """True for whoever asks first: that one tells the user."""
        return self._said.acquire(blocking=False)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self.sentence:
            self.status = 128 + number
            self.sentence = _sentences[0]() if _sentences else _AGAIN
            raise KeyboardInterrupt(self.sentence)

    def _watch(self, wakened: socket.socket) -> None:
        while True:
            try:
                numbers = wakened.recv(64)
            except OSError:
                return
            if not numbers:
                return
            if {signal.SIGINT, signal.SIGTERM}.intersection(numbers):
                break
        if not self._ends.wait(PATIENCE_S):
            # The main thread may hold the locks of the streams, or not even have come to `_interrupt`.
            if self.said():
                self.sentence = self.sentence or (_sentences[0]() if _sentences else _AGAIN)
                cursor = "\x1b[?25h" if os.isatty(2) else ""
                with suppress(OSError):
                    os.write(2, f"{cursor}occlift: {self.sentence}\n".encode("utf-8", "backslashreplace"))
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(self.status)


@contextmanager
def stopping_soon() -> Iterator[Stop]:
    """For a program's main thread: inside, Ctrl-C and SIGTERM end the process in `PATIENCE_S` seconds, or earlier.

    A signal that is ignored outside, as SIGINT is below `nohup`, stays ignored. An exception that leaves the block
    after a signal does not end the patience: what an interpreter waits for at its end counts, too.
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
    except BaseException:
        if not stop.sentence:
            stop._ends.set()
        raise
    else:
        stop._ends.set()
    finally:
        _stops.remove(stop)
        if stop._ends.is_set():
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
