"""A module's tensors: its parameters and buffers, their names and aliases, without wrappers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

_LISTING_METHODS = (
    "parameters",
    "named_parameters",
    "buffers",
    "named_buffers",
    "modules",
    "named_modules",
    "_named_members",
)

# What wrappers that keep the parameters put into their names: torch.compile, activation
# checkpointing, FSDP.
_WRAPPER_PREFIXES = (
    "_orig_mod.",
    "_checkpoint_wrapped_module.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
)

# Classes that keep the model that they wrap as ``module``: those of torch, and of apex and
# DeepSpeed under the same names.
_KEEP_MODULE = frozenset(
    ("DistributedDataParallel", "DataParallel", "DeepSpeedEngine", "FullyShardedDataParallel")
)


def without_wrappers(name: str) -> str:
    """Returns the name of a tensor without what wrappers put into it."""
    for prefix in _WRAPPER_PREFIXES:
        name = name.replace(prefix, "")
    return name


def _inner(module: Any) -> tuple[str, Any]:
    """Returns what a wrapper keeps the module as that it wraps, and that; ("", None) for others."""
    children = module._modules
    for prefix in _WRAPPER_PREFIXES:
        inner = children.get(prefix[:-1])
        if inner is not None:
            return prefix[:-1], inner
    inner = children.get("module")
    if inner is not None and any(kind.__name__ in _KEEP_MODULE for kind in type(module).__mro__):
        return "module", inner
    return "", None


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
            if not lists_plainly(kind):
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
def lists_plainly(kind: Any) -> bool:
    """Tells whether modules of this type list their tensors as ``torch.nn.Module`` does."""
    if issubclass(kind, torch.jit.ScriptModule):
        return False
    return all(getattr(kind, name, None) is getattr(nn.Module, name) for name in _LISTING_METHODS)


def unwrapped(module: Any) -> Any:
    """Returns the module inside the wrappers around it: torch's own, Fabric's, and their like.

    The tensors are the same; their names are then the same with and without the wrapper, so that a
    checkpoint of one can be loaded into the other.
    """
    while True:
        _, inner = _inner(module)
        if not isinstance(inner, nn.Module):
            return module
        module = inner


class Named:
    """A tensor of a module, with all its names; the first is torch's own."""

    __slots__ = ("aliases", "is_buffer", "tensor")

    def __init__(self, tensor: Any, name: str, is_buffer: bool) -> None:
        """Begins with one name."""
        self.tensor, self.aliases, self.is_buffer = tensor, [name], is_buffer

    @property
    def name(self) -> str:
        """The name under which torch lists the tensor first."""
        return self.aliases[0]

    @property
    def label(self) -> str:
        """What the tensor is called in an error."""
        return f"{'buffer' if self.is_buffer else 'parameter'} {self.name!r}"


def named_tensors(module: Any, use_buffers: bool) -> list[Named]:
    """Returns the parameters of a module, and its buffers behind them, each with all its names."""
    found: dict[int, Named] = {}
    wrapped = [
        (f"{name}.{kept}." if name else f"{kept}.", f"{name}." if name else "")
        for name, inside in module.named_modules()
        for kept in (_inner(inside)[0],)
        if kept == "module"
    ]
    wrapped.reverse()  # the innermost first, whose names the outer ones do not change
    for is_buffer in (False, True) if use_buffers else (False,):
        listing = module.named_buffers if is_buffer else module.named_parameters
        for name, tensor in _with_aliases(listing):
            for prefix, shorter in wrapped:
                if name.startswith(prefix):
                    name = shorter + name[len(prefix) :]
            name = without_wrappers(name)
            known = found.get(id(tensor))
            if known is None:
                found[id(tensor)] = Named(tensor, name, is_buffer)
            elif name not in known.aliases:
                known.aliases.append(name)
    return list(found.values())


def _with_aliases(listing: Callable[..., Any]) -> Iterable[tuple[str, Any]]:
    try:
        return list(listing(remove_duplicate=False))
    except TypeError:  # a method of the module's own
        return list(listing())
