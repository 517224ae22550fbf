"""What is averaged: a module's parameters and buffers, read afresh each time, or a fixed list."""

from __future__ import annotations

import contextlib
import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from swa_fast._core import identities_of

from .sharding import local

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


class Source:
    """The tensors that are averaged, one for each average.

    A module's tensors are read afresh each time. Which is which: a tensor that is still there keeps
    its average, whatever its name is now; a new one takes the average of its name; else it is
    refused by name. The tensors of a list stay what they are, in its order.

    Args:
        params_or_module: a module, or an iterable of tensors or of ``(name, tensor)`` pairs.
        use_buffers: whether a module's buffers are listed after its parameters.
        what: names the argument in errors.
        chosen: tells by name and tensor whether a tensor is averaged; None for all.

    Attributes:
        module: the module, without its wrappers, or None.
        names: one for each average.

    Raises:
        TypeError: the argument is neither.
        ValueError: there is nothing in it, or a tensor has no values yet.
    """

    def __init__(
        self,
        params_or_module: Any,
        use_buffers: bool,
        what: str,
        chosen: Callable[[str, Any], bool] | None = None,
    ) -> None:
        """Names the tensors and checks that each has values."""
        self.module: Any = None
        self.use_buffers = use_buffers
        if isinstance(params_or_module, nn.Module):
            self.module = unwrapped(params_or_module)
            named = named_tensors(self.module, use_buffers)
        else:
            named = _named_of_list(params_or_module, what)
            if use_buffers:
                raise ValueError(
                    f"use_buffers=True needs a module. Received: {what} is a list of tensors; put "
                    "the buffers into the list"
                )
        if not named:
            raise ValueError(f"{what} must hold at least one tensor. Received: none")
        self._left_out: set[str] = set()
        if chosen is not None:
            kept = [one for one in named if chosen(one.name, one.tensor)]
            self._left_out = {one.name for one in named} - {one.name for one in kept}
            if not kept:
                raise ValueError(
                    "include, exclude and requires_grad_only leave no tensor to average. Received: "
                    f"{len(named)} tensors, the first {[one.name for one in named[:5]]}"
                )
            named = kept
        for one in named:
            _require_values(one)
        # A module's are read afresh: they may be replaced, and are not kept alive from here.
        self._tensors = [] if self.module is not None else [one.tensor for one in named]
        self._take(named)

    def _take(self, named: Sequence[Named]) -> None:
        """Remembers which tensors there are, in the order of the averages."""
        self.names = [one.name for one in named]
        self.labels = [one.label for one in named]
        self._indices = {alias: index for index, one in enumerate(named) for alias in one.aliases}
        # Kept in the place of the tensors, which must be freed when the model drops them; no weak
        # references, with which torch.utils.swap_tensors would refuse the tensors.
        self._identities = identities_of([one.tensor for one in named])

    @property
    def listed(self) -> list[Any] | None:
        """The tensors of a list; None for a module."""
        return self._tensors if self.module is None else None

    def tensors(self) -> list[Any]:
        """Returns the tensors as they are now, in the order of ``names``.

        Raises:
            ValueError: a tensor of the module has no average, or an average no tensor.
        """
        if self.module is None:
            return self._tensors
        parameters, buffers = parameters_and_buffers(self.module)
        tensors = parameters + buffers if self.use_buffers else parameters
        identities = identities_of(tensors)
        if len(identities) == len(self._identities) and all(
            map(operator.is_, identities, self._identities)
        ):
            return tensors
        aligned = self._aligned(named_tensors(self.module, self.use_buffers))
        self._take(aligned)
        return [one.tensor for one in aligned]

    def current_names(self) -> list[str]:
        """Returns the names that the tensors have now; those they had, if they no longer match."""
        if self.module is not None:
            with contextlib.suppress(ValueError):
                self._take(self._aligned(named_tensors(self.module, self.use_buffers)))
        return list(self.names)

    def tensors_of(self, params_or_module: Any, what: str) -> list[Any]:
        """Returns the tensors of another module, by name, or of a list, in its order.

        Raises:
            TypeError, ValueError: as the class.
        """
        use_buffers = self.use_buffers and isinstance(params_or_module, nn.Module)
        other = Source(params_or_module, use_buffers, what)
        if other.module is None or self.module is None:
            tensors = other.tensors()
            if len(tensors) != len(self.names):
                raise ValueError(
                    f"{what} must have a tensor for each of {len(self.names)} averages. Received: "
                    f"{len(tensors)}"
                )
            return tensors
        return [one.tensor for one in self._aligned(named_tensors(other.module, self.use_buffers))]

    def _aligned(self, named: Sequence[Named]) -> list[Named]:
        """Returns the tensor of each average, or raises ValueError that names what does not fit."""
        by_identity = {id(identity): index for index, identity in enumerate(self._identities)}
        placed: dict[int, Named] = {}
        others = []
        identities = identities_of([one.tensor for one in named])
        for one, identity in zip(named, identities, strict=True):
            index = by_identity.get(id(identity))
            if index is None:
                others.append(one)
            else:
                placed[index] = one
        unknown = []
        for one in others:
            index = next((self._indices[a] for a in one.aliases if a in self._indices), None)
            if index is not None and index not in placed:
                placed[index] = one
            elif one.name not in self._left_out:
                unknown.append(one)
        missing = [label for index, label in enumerate(self.labels) if index not in placed]
        if missing or unknown:
            there = len(placed) + len(unknown)
            what = [f"{label} is missing" for label in missing[:3]]
            what += [f"{one.label} has no average" for one in unknown[:3]]
            raise ValueError(
                "the parameters do not match the averages: there are "
                f"{there} tensors for {len(self.labels)} averages ({', '.join(what)})"
            )
        return [placed[index] for index in range(len(self.labels))]

    def replace(self, tensors: list[Any]) -> None:
        """Takes other tensors, one for each name; whether they fit is seen when they are used."""
        self._tensors = tensors


def chooser(
    include: str | None, exclude: str | None, requires_grad_only: bool
) -> Callable[[str, Any], bool] | None:
    """Returns the function that tells which tensors are averaged, or None for all.

    Args:
        include: regular expression, searched in names; None includes all.
        exclude: regular expression, searched in names.
        requires_grad_only: whether tensors that need no gradient are left out.

    Raises:
        TypeError, ValueError: an argument is no regular expression.
    """
    patterns = {"include": include, "exclude": exclude}
    compiled: dict[str, Any] = {}
    for name, pattern in patterns.items():
        if pattern is not None and not isinstance(pattern, (str, re.Pattern)):
            raise TypeError(f"{name} must be a regular expression. Received: {pattern!r}")
        try:
            compiled[name] = None if pattern is None else re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{name} must be a regular expression. Received: {pattern!r}: {error}"
            ) from error
    included, excluded = compiled["include"], compiled["exclude"]
    if included is None and excluded is None and not requires_grad_only:
        return None

    def is_averaged(name: str, tensor: Any) -> bool:
        return (
            (included is None or included.search(name) is not None)
            and (excluded is None or excluded.search(name) is None)
            and (not requires_grad_only or tensor.requires_grad)
        )

    return is_averaged


def _named_of_list(params: Any, what: str) -> list[Named]:
    if isinstance(params, torch.Tensor):
        raise TypeError(f"{what} must be a module or a list of tensors. Received: a single tensor")
    if isinstance(params, Mapping):
        params = params.items()
    if not isinstance(params, Iterable):
        kind = type(params).__name__
        raise TypeError(f"{what} must be a module or a list of tensors. Received: {kind}")
    named: dict[int, Named] = {}
    names: dict[str, int] = {}
    for index, item in enumerate(params):
        name, tensor = item if isinstance(item, tuple) and len(item) == 2 else (str(index), item)
        if isinstance(name, str):
            name = without_wrappers(name)
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
        if id(tensor) in named:
            continue
        if str(name) in names:
            raise ValueError(f"{what} names two different tensors {str(name)!r}")
        names[str(name)] = index
        named[id(tensor)] = Named(tensor, str(name), False)
    return list(named.values())


def _require_values(one: Named) -> None:
    if isinstance(one.tensor, nn.parameter.UninitializedTensorMixin):
        raise ValueError(
            f"{one.label} is not initialized yet: run the lazy module forward once first"
        )
    why = why_unreadable(local(one.tensor))
    if why is not None:
        raise ValueError(f"{one.label} {why}")


def why_unreadable(tensor: Any) -> str | None:
    """Returns how a tensor that has no memory of its own came to it, or None if it has some."""
    if tensor.layout != torch.strided:
        return f"has layout {tensor.layout}; only strided tensors can be averaged"
    if tensor.device.type == "meta":
        return "is on the meta device and has no values to average"
    return None


def describe_mismatch(
    labels: Sequence[str],
    averages: Sequence[Any],
    values: Sequence[Any],
    *,
    any_device: bool = False,
    same_dtype: bool = False,
) -> str | None:
    """Returns a sentence that names the first tensor that does not fit its average, or None.

    Args:
        labels: one for each average, "parameter '0.weight'".
        averages: what the averager holds.
        values: what was given to it.
        any_device: whether the two may lie on different devices.
        same_dtype: whether the two must have the same dtype.
    """
    for label, average, value in zip(labels, averages, values, strict=False):
        why = why_unreadable(local(value))
        if why is not None:
            return f"{label} {why}"
        for what, has, expected in (
            ("type", _sharding(value), _sharding(average)),
            ("shape", tuple(value.shape), tuple(average.shape)),
            ("local shape", local_shape(value), local_shape(average)),
            ("device", value.device, average.device),
            ("dtype", value.dtype, average.dtype),
        ):
            skipped = (what == "device" and any_device) or (what == "dtype" and not same_dtype)
            if has != expected and not skipped:
                return f"{label} has {what} {has}, its average has {what} {expected}"
    if len(values) > len(labels):
        last = f" ({labels[-1].split(' ', 1)[1]} is last)" if labels else ""
        return f"there are {len(values)} tensors for {len(labels)} averages{last}"
    if len(values) < len(labels):
        missing = labels[len(values)].split(" ", 1)[1]
        return f"there are {len(values)} tensors for {len(labels)} averages ({missing} is missing)"
    return None


def _sharding(tensor: Any) -> str:
    placements = getattr(tensor, "placements", None)
    return "plain tensor" if placements is None else f"DTensor {tuple(placements)}"


def local_shape(tensor: Any) -> tuple[int, ...]:
    """Returns the shape of what this process holds of ``tensor``."""
    return tuple(local(tensor).shape)
