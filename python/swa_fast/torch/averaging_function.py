"""Averaging functions of torch's ``AveragedModel``, run over a ``WeightAverager``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from swa_fast.average import Average

from .averager import WeightAverager
from .given_decay import GivenDecay
from .module_tree import named_tensors, unwrapped
from .multi_avg import EmaMultiAvg, SwaMultiAvg
from .sharding import local_all

# Functions that torch.optim.swa_utils makes, by qualified name, and the name of the decay in them.
_OF_TORCH = {
    "get_ema_multi_avg_fn.<locals>.ema_update": "decay",
    "get_swa_multi_avg_fn.<locals>.swa_update": None,
    "get_ema_avg_fn.<locals>.ema_update": "decay",
    "get_swa_avg_fn.<locals>.swa_update": None,
}


def known_average(function: Any) -> Average | None:
    """Returns the average that a function computes, if it is one of torch's or of this package's.

    Args:
        function: an ``avg_fn`` or ``multi_avg_fn`` of ``AveragedModel``; None is the mean.
    """
    if function is None or isinstance(function, SwaMultiAvg):
        return Average()
    if isinstance(function, Average):
        return function
    if isinstance(function, EmaMultiAvg):
        return Average(decay=function.decay)
    name = getattr(function, "__qualname__", "")
    if name not in _OF_TORCH or getattr(function, "__module__", "") != "torch.optim.swa_utils":
        return None
    variable = _OF_TORCH[name]
    if variable is None:
        return Average()
    decay = inspect.getclosurevars(inspect.unwrap(function)).nonlocals.get(variable)
    return None if decay is None else Average(decay=decay)


class FunctionAverage:
    """An average that a user's function computes in the tensors of a ``WeightAverager``.

    The first snapshot copies, as in ``AveragedModel``. Integer tensors are copied at each.

    Args:
        function: of (average, value, count), which returns the new average; or, if ``several``, of
            (averages, values, count), which writes into the averages.
        several: whether it takes lists.
    """

    def __init__(self, function: Callable[..., Any], several: bool) -> None:
        """Keeps the function."""
        self._function, self._several = function, several
        self._given = GivenDecay()
        self.average = Average(decay=self._given)

    def update(self, averager: WeightAverager, module: Any, name: str, use_buffers: bool) -> None:
        """Takes a snapshot of ``module`` into an average of its averager.

        Args:
            averager: of this module, its buffers included.
            module: whose parameters and buffers are taken.
            name: of the average.
            use_buffers: whether the function sees floating-point buffers; else they are copied.
        """
        count = averager.counts[name]
        self._given.decay = 0.0
        if count:
            named = {
                alias: one
                for one in named_tensors(unwrapped(module), True)
                for alias in one.aliases
            }
            values = [named[each] for each in averager.names]
            tensors = local_all([one.tensor.detach() for one in values])
            averages = local_all(averager.averages(name))
            seen: list[tuple[Any, Any]] = []
            copied: list[tuple[Any, Any]] = []
            for one, average, value in zip(values, averages, tensors, strict=True):
                numbers = average.is_floating_point() or average.is_complex()
                averaged = numbers and (use_buffers or not one.is_buffer)
                (seen if averaged else copied).append((average, value.to(average.device)))
            with torch.no_grad():
                self._call(seen, torch.tensor(count, device=averages[0].device))
                for average, value in copied:
                    average.copy_(value)
            self._given.decay = 1.0  # counts, and leaves the averages as they are
        averager.update()

    def _call(self, pairs: list[tuple[Any, Any]], count: Any) -> None:
        if self._several:
            self._function(*map(list, zip(*pairs, strict=True)), count)
            return
        for average, value in pairs:
            average.copy_(self._function(average, value, count))
