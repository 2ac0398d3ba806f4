"""Compiled functions: numba's `njit` as a decorator that keeps a function's type."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import pickle
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, ParamSpec, TypeVar, overload

import numba

from occlift.runtime.folders import has_home
from occlift.runtime.threads import was_forked

_P = ParamSpec("_P")
_R = TypeVar("_R")

_log = logging.getLogger(__name__)


@overload
def njit(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...


@overload
def njit(
    *, parallel: bool = False, inline: Literal["never", "always"] = "never"
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...


def njit(
    function: Callable[_P, _R] | None = None, /, *, parallel: bool = False, inline: Literal["never", "always"] = "never"
) -> Callable[_P, _R] | Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Compiles a function at its first call and keeps the result on disk, where some place for it can be written.

    A parallel function runs on one thread where the process was forked, such as a loader's worker: the threads of
    kernels do not survive a fork, and starting them again aborts the process or hangs. So it must not be called by
    another compiled function, and answers the same with any number of threads.

    numba's cache of a function looks at the function's own file only, not at the files of what it calls.

    Args:
        parallel: whether `numba.prange` loops run on all threads.
        inline: "always" copies the function into its callers.
    """

    def compile_lazily(function: Callable[_P, _R]) -> Callable[_P, _R]:
        # Without what other decorators added, such as the checks of shapes in tests: numba compiles plain functions.
        plain = inspect.unwrap(function)
        if not parallel:
            return _compiler(inline=inline)(plain)
        threaded = _compiler(parallel=True)(plain)
        alone = types.FunctionType(plain.__code__, plain.__globals__, plain.__name__, plain.__defaults__)
        # The cache goes by the name.
        alone.__qualname__ = f"{plain.__qualname__}_alone"
        alone.__module__ = plain.__module__
        serial = _compiler()(alone)

        @functools.wraps(plain)
        def run(*arguments: _P.args, **named: _P.kwargs) -> _R:
            return (serial if was_forked() else threaded)(*arguments, **named)

        return run

    return compile_lazily if function is None else compile_lazily(function)


def _compiler(**options: Any) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """numba's decorator, with a cache that stops nobody: where it cannot be kept, there is none."""

    def compile_lazily(function: Callable[_P, _R]) -> Callable[_P, _R]:
        try:
            with _no_folder_called_tilde():
                compiled = numba.njit(cache=True, **options)(function)
        except RuntimeError:
            # Neither the package's folder nor the user's cache can be written.
            return numba.njit(**options)(function)
        cache = getattr(compiled, "_cache", None)
        if cache is not None:
            cache.save_overload = _if_possible(cache.save_overload)
            cache.load_overload = _if_possible(cache.load_overload)
        return compiled

    return compile_lazily


def _if_possible(touch_cache: Callable[..., Any]) -> Callable[..., Any]:
    """Without errors of a disk that is full, or of a file that a power cut left damaged: it is compiled anew."""

    def touch(*arguments: Any) -> Any:
        try:
            return touch_cache(*arguments)
        except (OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
            _log.debug("kernel not cached: %s", error)
            return None

    return touch


@contextmanager
def _no_folder_called_tilde() -> Iterator[None]:
    """Without a home, numba would keep its cache in a folder of that name, wherever the program was started."""
    if "XDG_CACHE_HOME" in os.environ or has_home():
        yield
        return
    os.environ["XDG_CACHE_HOME"] = f"{os.devnull}/none"
    try:
        yield
    finally:
        del os.environ["XDG_CACHE_HOME"]
