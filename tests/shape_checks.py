"""Checks of shapes and types of arrays at run time: what jaxtyping's import hook applies to every function in tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the arguments and the result that are annotated with shapes; the others are mypy's."""
    hints = {name: hint for name, hint in function.__annotations__.items() if _holds_array(hint)}
    function.__annotations__ = hints
    return beartype(function) if hints else function


def _holds_array(hint: Any) -> bool:
    is_array = inspect.isclass(hint) and issubclass(hint, AbstractArray)
    return is_array or any(map(_holds_array, get_args(hint)))
