"""Compiled functions: numba's `njit` as a decorator that keeps a function's type."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar, overload

import numba

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
    """Compiles a function at its first call and keeps the result on disk.

    numba's cache of a function looks at the function's own file only, not at the files of what it calls.

    Args:
        parallel: whether `numba.prange` loops run on all threads.
        inline: "always" copies the function into its callers.
    """

    def compile_lazily(function: Callable[_P, _R]) -> Callable[_P, _R]:
        # Without what other decorators added, such as the checks of shapes in tests: numba compiles plain functions.
        return numba.njit(cache=True, parallel=parallel, inline=inline)(inspect.unwrap(function))

    return compile_lazily if function is None else compile_lazily(function)
