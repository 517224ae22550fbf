"""A pass over averages of which native code serves only some, sorted once and run many times."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch

from swa_fast import _core

from . import sorting
from .by_torch import copy_pairs, lerp_pairs
from .overlap import Side, require_disjoint
from .sorting import AVERAGED, COPIED_TOO, Sorted, sort

Weight = int | float | None


def prepare_pass(
    values: Sequence[Any],
    targets: Sequence[Any],
    averages: Sequence[Sequence[Any]],
    copied: Sequence[int] | None,
    any_device: bool,
) -> _core.Prepared | MixedPass:
    """Prepares a pass over all averages: a native one, if native code serves all of it.

    Args:
        values: plain tensors, no shards.
        targets: as of ``_core.Prepared``.
        averages: for each average of ``targets``, its tensors.
        copied: indices of the values that are copied and not averaged.
        any_device: whether a value may lie on another device than its averages.

    Raises:
        BufferError, TypeError, ValueError: the values do not match the averages.
    """
    devices = {tensor.device for tensors in (values, *averages) for tensor in tensors}
    served = all(sorting.is_served(device) for device in devices)
    refusal: Exception = ValueError(
        "values must be as many as the averages, of their shapes and on their device. Received: "
        f"{len(values)} values for {len(averages[0])} averages"
    )
    if served:
        try:
            return _core.Prepared(values, targets)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            if getattr(error, "refusal", ("", 0))[0] == "memory":
                # A block was given other memory; the averages hold the old one, each by itself.
                alone = [(*target[:5], None, *target[6:]) for target in targets]
                return prepare_pass(values, alone, averages, copied, any_device)
            refusal = error  # stands, if torch would not mend it either
    mixed = MixedPass(averages, values, copied, any_device)
    if not mixed.is_needed:
        raise refusal
    return mixed


def is_prepared(one: _core.Prepared | MixedPass) -> TypeGuard[_core.Prepared]:
    """Tells whether native code serves all of a pass."""
    return isinstance(one, _core.Prepared)


class MixedPass:
    """Takes the snapshots of a list of values into K lists of averages, part of them by torch.

    By torch go tensors in a layout, of a type or on a device that native code has no kernel for;
    all others are prepared as one native pass. At each run the tensors that torch handles are
    compared with what they were when they were sorted.

    Args:
        averages: for each average, its tensors; plain ones, no shards.
        values: plain tensors of the same shapes.
        copied: indices of the values that are copied and not averaged.
        any_device: whether a value may lie on another device than its averages.

    Attributes:
        is_needed: False if there is nothing here that native code does not serve, so that what it
            refused stands refused.

    Raises:
        TypeError, ValueError: the pairs do not match, or memory overlaps.
    """

    def __init__(
        self,
        averages: Sequence[Sequence[Any]],
        values: Sequence[Any],
        copied: Sequence[int] | None,
        any_device: bool,
    ) -> None:
        """Sorts the pairs."""
        self._count = len(values)
        self._averages = averages
        self._prepared: _core.Prepared | None = None
        self._native: list[int] = []
        self._by_torch: list[int] = []
        self._apart = apart = frozenset(copied or ())
        sides: list[Side] = []
        every = set(range(len(values)))
        by_torch: set[int] = set()
        dropped: set[int] = set()  # listed twice
        self.is_needed = False
        for each in averages:
            found = self._sorted(each, values, apart, any_device, sides)
            if found is not None:
                self.is_needed = True
                by_torch.update(found[1])
                dropped |= every.difference(*found)
        if not self.is_needed:
            return
        require_disjoint(sides)
        self._by_torch = sorted(by_torch - dropped)
        self._native = sorted(every - by_torch - dropped)
        self._copied = {index for index in self._by_torch if index in apart}
        self._looks = self._look(values)
        if self._native:
            native_copied = [place for place, index in enumerate(self._native) if index in apart]
            targets: list[Any] = []
            for number, each in enumerate(averages):
                tensors = [each[index] for index in self._native]
                copies = native_copied or None
                targets.append(("averages", "average", number, -1, tensors, None, None, copies))
            self._prepared = _core.Prepared([values[index] for index in self._native], targets)

    @staticmethod
    def _sorted(
        averages: Sequence[Any],
        values: Sequence[Any],
        apart: frozenset[int],
        any_device: bool,
        sides: list[Side],
    ) -> tuple[list[int], list[int]] | None:
        """Returns the indices of the pairs for native code and for torch; None for all native."""
        if len(averages) != len(values):
            return None
        averaged = [index for index in range(len(values)) if index not in apart]
        found: tuple[list[int], list[int]] = [], []
        mended = False
        for places, names in ((averaged, AVERAGED), (sorted(apart), COPIED_TOO)):
            xs, ys = [averages[place] for place in places], [values[place] for place in places]
            result = sort(xs, ys, any_device, names, sides)
            mended = mended or result is not None
            native, by_torch = result or Sorted.all_native(xs, ys)
            found[0].extend(places[pair.place] for pair in native)
            found[1].extend(places[pair.place] for pair in by_torch)
        return found if mended else None

    def is_of(self, averages: Sequence[Any], copied: Sequence[int]) -> bool:
        """Tells whether this is the pass over a single average, of these tensors and copies."""
        (own,) = self._averages
        return (
            len(own) == len(averages)
            and all(map(operator.is_, own, averages))
            and self._apart == frozenset(copied)
        )

    def run(self, weights: Sequence[Weight], values: Sequence[Any], own_threads: int = 0) -> bool:
        """Takes the snapshots.

        Args:
            weights: for each average None, the count of a mean, or a float.
            values: as many plain tensors as were sorted.
            own_threads: as of ``_core.Prepared``.

        Returns:
            False if they are no longer what they were: nothing was written, and they are to be
            sorted anew.
        """
        if len(values) != self._count or self._looks != self._look(values):
            return False
        if self._prepared is not None:  # first, because it checks all its pairs before it writes
            native = [values[index] for index in self._native]
            if not self._prepared.run(weights, native, own_threads):
                return False
        for averages, weight in zip(self._averages, weights, strict=True):
            if weight is None:
                continue
            share = 1.0 / (weight + 1) if isinstance(weight, int) else weight
            copies: list[Any] = []
            others: list[Any] = []
            for index in self._by_torch:
                pair = averages[index].detach(), values[index].detach()
                (copies if index in self._copied else others).append(pair)
            copy_pairs(copies)
            lerp_pairs(others, share)
        return True

    def _look(self, values: Sequence[Any]) -> list[Any]:
        """Returns what must not change between two runs of the tensors that torch handles."""
        return [
            _form(each[index]) for each in (values, *self._averages) for index in self._by_torch
        ]


def _form(tensor: Any) -> Any:
    form = (type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.layout)
    if tensor.layout != torch.strided:
        return form
    return *form, tensor.stride(), tensor.data_ptr(), tensor.is_conj(), tensor.is_neg()
