"""A second torch device without hardware, written in Python, to find code that mixes devices.

Its tensors say that they are on `sim:0` and keep their values in CPU memory. Every operator runs on the CPU, but one
that meets tensors of both devices where an accelerator would refuse them raises `DeviceMismatch`. As on an accelerator:

- numbers and CPU tensors without axes may meet tensors of the device, except where tensors are joined;
- a tensor of the device may be indexed by CPU tensors, a CPU tensor by those of the CPU only;
- `copy_` and `to` move values between devices; NumPy cannot read the device.

torch cannot forget a device once it knows it (`torch.accelerator` then finds one), so tests use it in a process of its
own. What needs hardware is not simulated: streams, memory, and the values that other kernels would round otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

SUPPORTED = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
"""Whether this torch can have a device that is written in Python."""

_Module = TypeVar("_Module", bound=nn.Module)

_MOVES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from"}
_INDEXES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_JOINS = {"aten::cat", "aten::stack"}
_SEQUENCES = ("arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m")
"""Operators that torch would compose of an empty tensor and one that changes its shape in place."""


class DeviceMismatch(RuntimeError):
    """An operator was given tensors of the simulated device and of the CPU."""


class SimTensor(Tensor):
    """A tensor on `sim:0`.

    Attributes:
        values: what it holds, a tensor on the CPU.
    """

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> SimTensor:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device="sim:0",
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operator, args, kwargs or {})


@contextmanager
def simulated_device() -> Iterator[None]:
    """Code inside may name the device `sim`, and every Python function that makes tensors can make some there."""
    _register()
    with _Functions():
        yield


def moved(module: _Module) -> _Module:
    """The module itself, with its parameters and buffers on the device (`Module.to` cannot replace them by these)."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(SimTensor(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = SimTensor(buffer)
    return module


@cache
def _register() -> tuple[torch.library.Library, ...]:
    class Backend(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend("sim", backend_module=Backend())
    # For operators without a tensor of the device among their arguments: those that make one. Kept alive by the cache.
    everything, library = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(lambda operator, *args, **kwargs: _run(operator, args, kwargs), "PrivateUse1")
    for name in _SEQUENCES:
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
        library.impl(name, lambda *args, operator=operator, **kwargs: _run(operator, args, kwargs), "PrivateUse1")
    return everything, library


def _run(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operator on the values of its arguments; the result is on the device that an accelerator would choose."""
    on_device = any(isinstance(tensor, SimTensor) for tensor in _tensors((args, kwargs)))
    _refuse_mixtures(operator._schema.name, args, kwargs)
    if "device" in kwargs:
        if kwargs["device"] is not None:
            on_device = torch.device(kwargs["device"]).type == "sim"
        kwargs = {**kwargs, "device": torch.device("cpu"), "pin_memory": False}
    results = operator(*tree_map(_values, args), **tree_map(_values, kwargs))
    several = isinstance(results, tuple)
    written = _written_arguments(operator._schema, args, kwargs)
    found = []
    for result, returned in zip(results if several else (results,), operator._schema.returns, strict=False):
        alias = returned.alias_info
        if alias is not None and alias.is_write:
            found.append(written[frozenset(alias.before_set)])
        else:
            found.append(tree_map(_wrapped, result) if on_device else result)
    if not found:
        return results
    return tuple(found) if several else found[0]


def _refuse_mixtures(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if name in _MOVES:
        return
    if name in _INDEXES and isinstance(args[0], SimTensor):
        args = (args[0], *args[2:])
    tensors = _tensors((args, kwargs))
    others = [tensor for tensor in tensors if not isinstance(tensor, SimTensor) and (tensor.ndim or name in _JOINS)]
    if others and len(others) < len(tensors) and any(isinstance(tensor, SimTensor) for tensor in tensors):
        described = ", ".join(f"{tensor.device} {list(tensor.shape)}" for tensor in tensors)
        raise DeviceMismatch(f"{name}: tensors on sim:0 and on the CPU: {described}")


def _written_arguments(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[frozenset[str], Any]:
    """The arguments that an operator changes and returns, by the names that its schema has for their memory."""
    written = {}
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            for tensor in _tensors(value):
                if isinstance(tensor, SimTensor) and tensor.shape != tensor.values.shape:
                    raise NotImplementedError(f"{schema.name} changes a shape in place, which is not simulated")
            written[frozenset(argument.alias_info.before_set)] = value
    return written


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, SimTensor) else leaf


def _wrapped(leaf: Any) -> Any:
    return SimTensor(leaf) if isinstance(leaf, Tensor) and not isinstance(leaf, SimTensor) else leaf


class _Functions(TorchFunctionMode):
    """What torch does with numbers and lists of Python without asking an operator."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if args and isinstance(args[0], SimTensor):
            if name == "tolist":
                return args[0].values.tolist()
            if name == "new_tensor":
                return SimTensor(torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)))
            if name in ("__getitem__", "__setitem__"):
                index = args[1] if isinstance(args[1], tuple) else (args[1],)
                index = tuple(torch.tensor(part) if isinstance(part, list) else part for part in index)
                args = (args[0], index, *args[2:])
        if name in ("tensor", "as_tensor") and torch.device(kwargs.get("device") or "cpu").type == "sim":
            if isinstance(args[0], Tensor):
                return args[0].to(**kwargs)
            return SimTensor(function(*args, **{**kwargs, "device": "cpu"}))
        return function(*args, **kwargs)
