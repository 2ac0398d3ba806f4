"""Compiled functions: numba's `njit` as a decorator that keeps a function's type."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar, overload

import numba

from occlift.runtime.threads import was_forked

_P = ParamSpec("_P")
_R = TypeVar("_R")


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
    def compile_lazily(function: Callable[_P, _R]) -> Callable[_P, _R]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            # Neither the package's folder nor the user's cache can be written: compiled anew in every process.
            return numba.njit(**options)(function)

    return compile_lazily
