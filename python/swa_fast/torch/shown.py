"""A module whose parameters are averages: made only when someone asks for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from . import pairs
from .averager import WeightAverager
from .module_tree import Named, named_tensors


class ShownModel:
    """A module whose parameters and buffers are the averages of another's.

    Where the dtype that is shown is the average's own, they lie in its memory. Where the average
    is wider (float32 for a half-precision model), they have their own, which is rounded from the
    averages each time the module is asked for.

    Args:
        averager: of ``model``.
        model: what is averaged.
        dtype: of the floating-point tensors shown; None for the model's own.
        into: the module to show the averages in, which then start as its tensors are; by default
            a copy of ``model``.
        name: which of several averages.

    Raises:
        ValueError: ``into`` has no tensor of some average's name.
    """

    def __init__(
        self,
        averager: WeightAverager,
        model: Any,
        dtype: Any = None,
        into: Any = None,
        name: str | None = None,
    ) -> None:
        """Copies what is not averaged of the module, if it is to be a copy."""
        self._averager = averager
        self._name = name
        self._dtype = dtype
        values = _by_name(model)
        memo: dict[int, Any] = {}
        if into is None:
            for key, average in zip(averager.names, averager.averages(name), strict=True):
                value = values[key].tensor
                data = self._shown(value, average)
                if isinstance(value, torch.nn.Parameter):
                    data = torch.nn.Parameter(data, requires_grad=value.requires_grad)
                memo[id(value)] = data
            # Those that are in the memo are not copied.
            self.module = copy.deepcopy(model, memo)
        else:
            self.module = into
            self.take_back()
        self.link()

    def link(self) -> None:
        """Makes the module's tensors those of the averages, as after a move of either."""
        self._rounded: list[tuple[Any, int]] = []
        self._first: tuple[Any, int] | None = None
        for index, (tensor, average) in enumerate(self._pairs()):
            if tensor.dtype != average.dtype:
                self._rounded.append((tensor, index))
            elif tensor.data_ptr() != average.data_ptr():
                tensor.data = average.detach()
            if self._first is None:
                self._first = tensor, tensor.data_ptr()

    def _pairs(self) -> list[tuple[Any, Any]]:
        """Returns each tensor of the module that is averaged, with its average."""
        names, shown = self._averager.names, _by_name(self.module)
        missing = [name for name in names if name not in shown]
        if missing:
            raise ValueError(
                f"the averaged module must have the model's names. Missing: {missing[:5]}"
            )
        averages = self._averager.averages(self._name)
        return [
            (shown[name].tensor, average) for name, average in zip(names, averages, strict=True)
        ]

    def follow(self) -> None:
        """Moves the averages after the module, if someone moved or converted that.

        It is seen by its first tensor, because the look is at each update.
        """
        if self._first is None or self._first[0].data_ptr() == self._first[1]:
            return
        self.take_back()
        self._averager.to(self._first[0].device)
        self.link()

    def _shown(self, value: Any, average: Any) -> Any:
        dtype = value.dtype
        if self._dtype is not None and value.is_floating_point():
            dtype = self._dtype
        return average.detach() if average.dtype == dtype else average.to(dtype)

    def refresh(self) -> Any:
        """Rounds what must be rounded, and returns the module."""
        if self._rounded:
            averages = self._averager.averages(self._name)
            pairs.copy_(
                [tensor.detach() for tensor, _ in self._rounded],
                [averages[index] for _, index in self._rounded],
                any_device=True,
            )
        return self.module

    def take_back(self) -> None:
        """Takes what someone else wrote into the module as the averages."""
        with torch.no_grad():
            for tensor, average in self._pairs():
                if tensor.dtype != average.dtype or tensor.data_ptr() != average.data_ptr():
                    average.copy_(tensor)


def refuse_mismatch(own: Mapping[str, Any], state: Mapping[str, Any], strict: bool) -> None:
    """Raises before anything is loaded what ``load_state_dict`` would raise after some of it was.

    Args:
        own: the state dict of what it is to be loaded into.
        state: the one to load.
        strict: whether the names must be the same.

    Raises:
        RuntimeError: a name is missing or unknown, or a shape is another.
    """
    missing = [name for name in own if name not in state] if strict else []
    unknown = [name for name in state if name not in own] if strict else []
    if missing or unknown:
        raise RuntimeError(
            f"the state does not match the model: missing {missing[:5]}, unknown {unknown[:5]}"
        )
    for name, value in state.items():
        if name in own and hasattr(value, "shape") and value.shape != own[name].shape:
            raise RuntimeError(
                f"the state does not match the model: {name!r} has shape {tuple(value.shape)}, "
                f"the model's has shape {tuple(own[name].shape)}"
            )


def _by_name(module: Any) -> dict[str, Named]:
    return {alias: one for one in named_tensors(module, True) for alias in one.aliases}


def not_in_state_dict(module: Any) -> list[str]:
    """Returns the names of the buffers that ``module.state_dict()`` leaves out."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        for name in sorted(part._non_persistent_buffers_set)
    ]
