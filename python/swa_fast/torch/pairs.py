"""The fused calls on lists of torch tensors, and torch's own operations where they cannot run.

A call goes to native code as it is. Where native code refuses, the pairs are sorted: shards are
unwrapped, a pair listed twice is done once, and pairs on a device or in a layout that native code
does not serve go to torch. If there is nothing of that kind in the lists, the refusal stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

import swa_fast

from . import sorting
from .by_torch import copy_pairs, is_averaged, lerp_pairs, swap_pairs
from .overlap import Side, require_disjoint
from .sorting import (
    AVERAGED,
    COPIED,
    COPIED_TOO,
    SWAPPED,
    Pair,
    Sorted,
    fits_native,
    sort,
)

_Copies = tuple[Sequence[Any], Sequence[Any]]


def running_mean_(
    averages: Sequence[Any],
    values: Sequence[Any],
    count: int,
    *,
    copies: _Copies | None = None,
    any_device: bool = False,
) -> None:
    """Takes ``values`` into the mean of ``count`` values; integers are copied.

    Args:
        averages: tensors, written in place.
        values: tensors of the same shapes.
        count: values that are already in the averages, >= 0.
        copies: two lists, of which the second is copied into the first in the same call.
        any_device: whether a value may lie on another device than its average.

    Raises:
        ValueError: ``count`` is negative, the pairs do not match, or memory overlaps.
    """
    if count < 0:
        raise ValueError(f"count must be >= 0. Received: {count}")
    _average(swa_fast.running_mean_, averages, values, count, 1.0 / (count + 1), copies, any_device)


def lerp_(
    averages: Sequence[Any],
    values: Sequence[Any],
    weight: float,
    *,
    copies: _Copies | None = None,
    any_device: bool = False,
) -> None:
    """Moves ``averages`` by ``weight`` of the way to ``values``; else as ``running_mean_``."""
    _average(swa_fast.lerp_, averages, values, weight, weight, copies, any_device)


def _average(
    native: Callable[..., None],
    averages: Sequence[Any],
    values: Sequence[Any],
    argument: Any,
    weight: float,
    copies: _Copies | None,
    any_device: bool,
) -> None:
    if _tries_native(averages or (copies or [()])[0]):
        try:
            return native(averages, values, argument, copies=copies)
        except (BufferError, RuntimeError, TypeError, ValueError):
            parts = _parts(averages, values, copies, any_device)
            if parts is None:
                raise
    else:
        parts = _parts(averages, values, copies, any_device)
        if parts is None:
            return native(averages, values, argument, copies=copies)
    averaged, copied = parts
    if averaged.native or copied.native:  # first: it checks all its pairs before it writes
        native(*_lists(averaged.native), argument, copies=_lists(copied.native))
    copy_pairs(_without_places(copied.by_torch))
    lerp_pairs(_without_places(averaged.by_torch), weight)
    return None


def _parts(
    averages: Sequence[Any], values: Sequence[Any], copies: _Copies | None, any_device: bool
) -> tuple[Sorted, Sorted] | None:
    """Splits the pairs into four lists: natively or by torch, to average or to copy.

    Returns:
        The pairs to average and the pairs to copy, each split into native code's and torch's. None
        if no pair needs torch, so that the error of native code stands.
    """
    sides: list[Side] = []
    copies = copies or ([], [])
    averaged = sort(averages, values, any_device, AVERAGED, sides)
    copied = sort(*copies, any_device, COPIED_TOO, sides)
    if averaged is None and copied is None:
        return None
    require_disjoint(sides)
    # A part in which native code had nothing to refuse, or was right to, goes there whole.
    averaged = averaged or Sorted.all_native(averages, values)
    copied = copied or Sorted.all_native(*copies)
    integers = [pair for pair in averaged.by_torch if not is_averaged(pair.x)]
    others = [pair for pair in averaged.by_torch if is_averaged(pair.x)]
    for pair in integers:
        (copied.native if fits_native(pair.x, pair.y) else copied.by_torch).append(pair)
    return Sorted(averaged.native, others), copied


def _lists(pairs: Sequence[Pair]) -> _Copies:
    return [pair.x for pair in pairs], [pair.y for pair in pairs]


def _without_places(pairs: Sequence[Pair]) -> list[tuple[Any, Any]]:
    return [(pair.x, pair.y) for pair in pairs]


def copy_(dst: Sequence[Any], src: Sequence[Any], *, any_device: bool = False) -> None:
    """Copies ``src`` into ``dst``, converting between floating types."""
    _move(swa_fast.copy_, copy_pairs, dst, src, any_device, COPIED)


def swap_(a: Sequence[Any], b: Sequence[Any], *, any_device: bool = False) -> None:
    """Exchanges the contents of ``a`` and ``b``, of the same dtypes, bit for bit."""
    _move(swa_fast.swap_, swap_pairs, a, b, any_device, SWAPPED)


def _move(
    native: Callable[..., None],
    by_torch: Callable[[list[tuple[Any, Any]]], None],
    dst: Sequence[Any],
    src: Sequence[Any],
    any_device: bool,
    names: tuple[str, str],
) -> None:
    sides: list[Side] = []
    if _tries_native(dst):
        try:
            return native(dst, src)
        except (BufferError, RuntimeError, TypeError, ValueError):
            parts = sort(dst, src, any_device, names, sides)
            if parts is None:
                raise
    else:
        parts = sort(dst, src, any_device, names, sides)
        if parts is None:
            return native(dst, src)
    require_disjoint(sides)
    if parts.native:
        native(*_lists(parts.native))
    by_torch(_without_places(parts.by_torch))
    return None


def _tries_native(tensors: Sequence[Any]) -> bool:
    return not tensors or (
        isinstance(tensors[0], torch.Tensor) and sorting.is_served(tensors[0].device)
    )
