"""A model's tensors: each parameter and buffer once, in torch's own order, with its name."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ._distributed import local

_LISTING_METHODS = (
    "parameters",
    "named_parameters",
    "buffers",
    "named_buffers",
    "modules",
    "named_modules",
    "_named_members",
)


def parameters_and_buffers(module: Any) -> tuple[list[Any], list[Any]]:
    """Returns what ``module.parameters()`` and ``module.buffers()`` yield, in one quick walk.

    A parameter, buffer or submodule that is reachable in two ways is listed once, where torch
    lists it; a parameter that is registered as a buffer too is a parameter. Nothing is remembered
    between calls, so modules and parameters may be replaced.
    """
    parameters: list[Any] = []
    buffers: list[Any] = []
    visited = set()
    plain_types = set()
    stack = [module]
    while stack:
        current = stack.pop()
        if current is None or id(current) in visited:
            continue
        visited.add(id(current))
        kind: Any = type(current)
        if kind not in plain_types:
            if not _lists_plainly(kind):
                return _apart(list(module.parameters()), list(module.buffers()))
            plain_types.add(kind)
        members = current.__dict__
        parameters.extend(members["_parameters"].values())
        buffers.extend(members["_buffers"].values())
        children = members["_modules"]
        if children:
            stack.extend(reversed(children.values()))
    return _apart(unique(parameters), unique(buffers))


def _apart(parameters: list[Any], buffers: list[Any]) -> tuple[list[Any], list[Any]]:
    if buffers:
        listed = {id(tensor) for tensor in parameters}
        buffers = [tensor for tensor in buffers if id(tensor) not in listed]
    return parameters, buffers


def unique(tensors: Iterable[Any]) -> list[Any]:
    """Returns each tensor once, by identity, in the order of its first appearance."""
    return list({id(tensor): tensor for tensor in tensors if tensor is not None}.values())


@functools.lru_cache(maxsize=4096)
def _lists_plainly(kind: Any) -> bool:
    if issubclass(kind, torch.jit.ScriptModule):
        return False
    return all(getattr(kind, name, None) is getattr(nn.Module, name) for name in _LISTING_METHODS)


def unwrapped(module: Any) -> Any:
    """Returns the module inside ``torch.compile`` and ``DistributedDataParallel``.

    The tensors are the same; their names are then the same with and without the wrapper, so that a
    checkpoint of one can be loaded into the other.
    """
    while True:
        if isinstance(module, nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod
        else:
            return module


class Source:
    """The tensors that are averaged: a module's, read afresh each time, or a fixed list.

    Args:
        params_or_module: a module, or an iterable of tensors or of ``(name, tensor)`` pairs.
        use_buffers: whether a module's buffers are listed after its parameters.
        what: names the argument in errors.

    Raises:
        TypeError: the argument is neither.
        ValueError: there is nothing in it, or a parameter has no values yet.
    """

    def __init__(self, params_or_module: Any, use_buffers: bool, what: str) -> None:
        """Names the tensors and checks that each has values."""
        self.module = None
        self.use_buffers = use_buffers
        if isinstance(params_or_module, nn.Module):
            self.module = unwrapped(params_or_module)
            named = list(self.module.named_parameters())
            if use_buffers:
                parameters = {id(tensor) for _, tensor in named}
                named += [
                    (name, tensor)
                    for name, tensor in self.module.named_buffers()
                    if id(tensor) not in parameters
                ]
            named = [(name.replace("_orig_mod.", ""), tensor) for name, tensor in named]
        else:
            named = _named_tensors(params_or_module, what)
            if use_buffers:
                raise ValueError(
                    f"use_buffers=True needs a module. Received: {what} is a list of tensors; put "
                    "the buffers into the list"
                )
        if not named:
            raise ValueError(f"{what} must hold at least one tensor. Received: none")
        for name, tensor in named:
            _require_values(name, tensor)
        self.names = [name for name, _ in named]
        # A module's are read afresh: they may be replaced, and are not kept alive from here.
        self._tensors = [] if self.module is not None else [tensor for _, tensor in named]

    def tensors(self) -> list[Any]:
        """Returns the tensors as they are now, in the order of ``names``."""
        if self.module is None:
            return self._tensors
        parameters, buffers = parameters_and_buffers(self.module)
        return parameters + buffers if self.use_buffers else parameters

    def replace(self, tensors: list[Any]) -> None:
        """Takes other tensors, one for each name; whether they fit is seen when they are used."""
        self._tensors = tensors


def _named_tensors(params: Any, what: str) -> list[tuple[str, Any]]:
    if isinstance(params, torch.Tensor):
        raise TypeError(f"{what} must be a module or a list of tensors. Received: a single tensor")
    if isinstance(params, Mapping):
        params = params.items()
    if not isinstance(params, Iterable):
        kind = type(params).__name__
        raise TypeError(f"{what} must be a module or a list of tensors. Received: {kind}")
    named: dict[int, tuple[str, Any]] = {}
    for index, item in enumerate(params):
        name, tensor = item if isinstance(item, tuple) and len(item) == 2 else (str(index), item)
        if isinstance(name, torch.Tensor):
            raise TypeError(
                f"{what}[{index}] must be a tensor or a (name, tensor) pair. Received: a pair of "
                "tensors"
            )
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            if isinstance(tensor, dict) and "params" in tensor:
                kind = "a parameter group of an optimizer; pass the tensors of group['params']"
            raise TypeError(f"{what}[{index}] must be a tensor. Received: {kind}")
        named.setdefault(id(tensor), (str(name), tensor))
    names = [name for name, _ in named.values()]
    for name in names:
        if names.count(name) > 1 and len(set(names)) < len(names):
            raise ValueError(f"{what} names two different tensors {name!r}")
    return list(named.values())


def _require_values(name: str, tensor: Any) -> None:
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        raise ValueError(
            f"parameter {name!r} is not initialized yet: run the lazy module forward once first"
        )
    why = why_unreadable(local(tensor))
    if why is not None:
        raise ValueError(f"parameter {name!r} {why}")


def why_unreadable(tensor: Any) -> str | None:
    """Returns how a tensor that has no memory of its own came to it, or None if it has some."""
    if tensor.layout != torch.strided:
        return f"has layout {tensor.layout}; only strided tensors can be averaged"
    if tensor.device.type == "meta":
        return "is on the meta device and has no values to average"
    return None


def describe_mismatch(
    names: list[str],
    averages: list[Any],
    values: list[Any],
    *,
    any_device: bool = False,
    same_dtype: bool = False,
) -> str | None:
    """Returns a sentence that names the first parameter that does not fit its average, or None.

    Args:
        names: one for each average.
        averages: what the averager holds.
        values: what was given to it.
        any_device: whether the two may lie on different devices.
        same_dtype: whether the two must have the same dtype.
    """
    for name, average, value in zip(names, averages, values, strict=False):
        why = why_unreadable(local(value))
        if why is not None:
            return f"parameter {name!r} {why}"
        for what, has, expected in (
            ("type", _sharding(value), _sharding(average)),
            ("shape", tuple(value.shape), tuple(average.shape)),
            ("local shape", local_shape(value), local_shape(average)),
            ("device", value.device, average.device),
            ("dtype", value.dtype, average.dtype),
        ):
            skipped = (what == "device" and any_device) or (what == "dtype" and not same_dtype)
            if has != expected and not skipped:
                return f"parameter {name!r} has {what} {has}, its average has {what} {expected}"
    if len(values) > len(names):
        last = f" ({names[-1]!r} is last)" if names else ""
        return f"there are {len(values)} tensors for {len(names)} averages{last}"
    if len(values) < len(names):
        missing = names[len(values)]
        return f"there are {len(values)} tensors for {len(names)} averages ({missing!r} is missing)"
    return None


def _sharding(tensor: Any) -> str:
    placements = getattr(tensor, "placements", None)
    return "plain tensor" if placements is None else f"DTensor {tuple(placements)}"


def local_shape(tensor: Any) -> tuple[int, ...]:
    """Returns the shape of what this process holds of ``tensor``."""
    return tuple(local(tensor).shape)
