"""What is averaged: a module's parameters and buffers, read afresh each time, or a fixed list."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from swa_fast._core import identities_of

from .mismatch import why_unreadable
from .module_tree import (
    Named,
    named_tensors,
    parameters_and_buffers,
    unwrapped,
    without_wrappers,
)
from .sharding import local


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
        # A module's parameters are read afresh: they may be replaced, and are not kept alive here.
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

    def is_of(self, params_or_module: Any) -> bool:
        """Tells whether it is the module itself, with wrappers or without."""
        return (
            self.module is not None
            and isinstance(params_or_module, nn.Module)
            and unwrapped(params_or_module) is self.module
        )

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

    def by_alias(self, tensors: Sequence[Any]) -> dict[str, Any]:
        """Returns one tensor for each average by all the names that the averaged one has."""
        return {alias: tensors[index] for alias, index in self._indices.items()}

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

    def shared(self) -> dict[int, Any]:
        """Returns what a copy over the same parameters has in common with this one, by its id."""
        kept = self._tensors if self.module is None else [self.module]
        return {id(one): one for one in kept}

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
