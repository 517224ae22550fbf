"""The fused calls on lists of torch tensors, and torch's own operations where they cannot run.

A call goes to native code as it is. Where native code refuses, the pairs are sorted: shards are
unwrapped, a pair listed twice is done once, and pairs on a device or in a layout that native code
does not serve go to torch. If there is nothing of that kind in the lists, the refusal stands.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

import swa_fast

from .overlap import Side, require_disjoint, require_writable
from .sharding import is_sharded, local
from .source import why_unreadable

Pairs = list[tuple[Any, Any]]

# Between which native code converts.
_FLOATING = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))
_COMPLEX = frozenset((torch.complex64, torch.complex128))

_Copies = tuple[Sequence[Any], Sequence[Any]]

# What users call the two sides of a call.
_AVERAGED = ("averages", "values")
_COPIED_TOO = ("copies[0]", "copies[1]")
_COPIED = ("dst", "src")
_SWAPPED = ("a", "b")


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


def take_snapshots(
    jobs: Sequence[tuple[Sequence[Any], int | float]],
    values: Sequence[Any],
    copied: Sequence[int] | None,
    *,
    any_device: bool = False,
) -> None:
    """Takes ``values`` into several averages.

    Args:
        jobs: for each, the tensors of the average and the weight of the snapshot: an int is the
            count of a mean.
        values: tensors of the same shapes.
        copied: indices of the values that are copied and not averaged.
        any_device: whether a value may lie on another device than its average.

    Raises:
        ValueError: the pairs do not match, or memory overlaps; nothing was written.
    """
    for averages, weight in jobs:
        copies, averaged = None, values
        if copied and len(values) == len(averages):
            averages, averaged, copies = _without_copied(averages, values, frozenset(copied))
        if isinstance(weight, int):
            running_mean_(averages, averaged, weight, copies=copies, any_device=any_device)
        else:
            lerp_(averages, averaged, weight, copies=copies, any_device=any_device)


def _without_copied(
    averages: Sequence[Any], values: Sequence[Any], copied: frozenset[int]
) -> tuple[list[Any], list[Any], _Copies]:
    """Returns (averages, values, copies): the pairs at the indices ``copied`` apart from others."""
    kept = [index for index in range(len(averages)) if index not in copied]
    apart = sorted(copied)
    return (
        [averages[index] for index in kept],
        [values[index] for index in kept],
        ([averages[index] for index in apart], [values[index] for index in apart]),
    )


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
    fused, copied, averaged_by_torch, copied_by_torch = parts
    if fused or copied:  # first, because it checks all its pairs before it writes
        native(*_lists(fused), argument, copies=_lists(copied))
    with torch.no_grad():
        _copy_pairs(copied_by_torch)
        _lerp_pairs(averaged_by_torch, weight)
    return None


def _parts(
    averages: Sequence[Any], values: Sequence[Any], copies: _Copies | None, any_device: bool
) -> tuple[Pairs, Pairs, Pairs, Pairs] | None:
    """Returns pairs to (average, copy) natively and by torch; None if native code was right."""
    sides: list[Side] = []
    fused, other = _sort(averages, values, any_device, _AVERAGED, sides)
    copied, copied_by_torch = _sort(*(copies or ([], [])), any_device, _COPIED_TOO, sides)
    if fused is None and copied is None:
        return None
    require_disjoint(sides)
    # A part in which native code had nothing to refuse, or was right to, goes there whole.
    fused = list(zip(averages, values, strict=True)) if fused is None else fused
    copied = list(zip(*(copies or ([], [])), strict=True)) if copied is None else copied
    averaged_by_torch = [pair for pair in other if _is_averaged(pair[0])]
    for pair in other:
        if not _is_averaged(pair[0]):
            (copied if _fits_native(*pair) else copied_by_torch).append(pair)
    return fused, copied, averaged_by_torch, copied_by_torch


def _lists(pairs: Pairs) -> _Copies:
    return [x for x, _ in pairs], [y for _, y in pairs]


def copy_(dst: Sequence[Any], src: Sequence[Any], *, any_device: bool = False) -> None:
    """Copies ``src`` into ``dst``, converting between floating types."""
    _move(swa_fast.copy_, _copy_pairs, dst, src, any_device, _COPIED)


def swap_(a: Sequence[Any], b: Sequence[Any], *, any_device: bool = False) -> None:
    """Exchanges the contents of ``a`` and ``b``, of the same dtypes, bit for bit."""
    _move(swa_fast.swap_, _swap_pairs, a, b, any_device, _SWAPPED)


def _move(
    native: Callable[..., None],
    by_torch: Callable[[Pairs], None],
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
            fused, other = _sort(dst, src, any_device, names, sides)
            if fused is None:
                raise
    else:
        fused, other = _sort(dst, src, any_device, names, sides)
        if fused is None:
            return native(dst, src)
    require_disjoint(sides)
    if fused:
        native([x for x, _ in fused], [y for _, y in fused])
    with torch.no_grad():
        by_torch(other)
    return None


@functools.cache
def is_served(device: Any) -> bool:
    """Tells whether native code runs on ``device``: tried once, on one element."""
    if device.type == "cpu":
        return True
    probe = torch.zeros(1, device=device)
    try:
        swa_fast.running_mean_([probe], [torch.ones_like(probe)], 0)
    except (BufferError, RuntimeError, TypeError):
        return False
    return True


def _tries_native(tensors: Sequence[Any]) -> bool:
    return not tensors or (isinstance(tensors[0], torch.Tensor) and is_served(tensors[0].device))


def _sort(
    averages: Sequence[Any],
    values: Sequence[Any],
    any_device: bool,
    names: tuple[str, str],
    sides: list[Side],
) -> tuple[Pairs | None, Pairs]:
    """Returns (pairs for native code, pairs for torch); (None, []) if native code was right.

    Args:
        averages: what is written.
        values: what is read; for a swap, written too.
        any_device: whether the two of a pair may lie on different devices.
        names: which call it is, by what users call the two lists.
        sides: is given each tensor, for ``require_disjoint``.

    Raises:
        TypeError, ValueError: a tensor has nothing to read, or torch cannot pair it or write it.
    """
    if len(averages) != len(values):
        return None, []
    fused: Pairs = []
    other: Pairs = []
    changed = False
    seen = set()
    for index, (given_x, given_y) in enumerate(zip(averages, values, strict=True)):
        if not isinstance(given_x, torch.Tensor) or not isinstance(given_y, torch.Tensor):
            return None, []
        if is_sharded(given_x) != is_sharded(given_y):
            return None, []
        x, y = local(given_x).detach(), local(given_y).detach()
        changed = changed or is_sharded(given_x)
        if x.shape != y.shape or (x.device != y.device and not any_device):
            return None, []
        labels = [f"{name}[{index}]" for name in names]
        for label, tensor in zip(labels, (x, y), strict=True):
            why = why_unreadable(tensor)
            if why is not None:
                raise ValueError(f"{label} must hold values to read. Received: a tensor that {why}")
        if x.numel() > 0 and x.data_ptr() != 0:
            identity = (x.data_ptr(), y.data_ptr(), x.shape, x.stride(), y.stride(), x.dtype)
            if identity in seen:
                changed = True
                continue
            seen.add(identity)
        swapped = names is _SWAPPED
        by_torch = not (_fits_native(x, y) and (_is_averaged(x) or names is not _AVERAGED))
        (other if by_torch else fused).append((x, y))
        if by_torch:
            _require_pair(x, y, labels, swapped)
        sides.append(Side(x, labels[0], True, by_torch, labels[0]))
        sides.append(Side(y, labels[1], swapped, by_torch, labels[0]))
    if not other and not changed and all(is_served(x.device) for x, _ in fused):
        return None, []
    return fused, other


def _require_pair(x: Any, y: Any, labels: list[str], swapped: bool) -> None:
    if swapped and x.dtype != y.dtype:
        raise TypeError(
            f"swapped tensors must have the same dtype. Received: {labels[0]} of {x.dtype} and "
            f"{labels[1]} of {y.dtype}"
        )
    if x.is_complex() != y.is_complex():
        raise TypeError(
            f"complex tensors pair with complex tensors only. Received: {labels[0]} of {x.dtype} "
            f"and {labels[1]} of {y.dtype}"
        )
    require_writable(x, labels[0])
    if swapped:
        require_writable(y, labels[1])


def _fits_native(x: Any, y: Any) -> bool:
    return (
        x.device == y.device
        and is_served(x.device)
        and _converts(x.dtype, y.dtype)
        and not _is_lazy(x)
        and not _is_lazy(y)
        and ((x.is_contiguous() and y.is_contiguous()) or _same_dense_layout(x, y))
    )


def _converts(one: Any, other: Any) -> bool:
    both = {one, other}
    return one == other or both <= _FLOATING or both <= _COMPLEX


def _is_lazy(tensor: Any) -> bool:
    return bool(tensor.is_conj() or tensor.is_neg())


def _same_dense_layout(x: Any, y: Any) -> bool:
    steps = [
        (sx, sy, n) for sx, sy, n in zip(x.stride(), y.stride(), x.shape, strict=True) if n > 1
    ]
    expected = 1
    for stride, other, size in sorted(steps):
        if stride != expected or other != stride:
            return False
        expected *= size
    return True


def _is_averaged(tensor: Any) -> bool:
    return bool(tensor.is_floating_point() or tensor.is_complex())


def _copy_pairs(pairs: Pairs) -> None:
    """Copies the second of each pair into the first."""
    for x, y in pairs:
        _copy(x, y)


def _copy(x: Any, y: Any) -> None:
    if x.is_neg() or y.is_neg():
        # torch 2.13 loses the sign of a lazily negated tensor where it also converts.
        y = y.resolve_neg().to(x.dtype)
    x.copy_(y)


def _swap_pairs(pairs: Pairs) -> None:
    """Exchanges the two of each pair."""
    for x, y in pairs:
        kept = x.clone()
        x.copy_(y)
        y.copy_(kept)


def _lerp_pairs(pairs: Pairs, weight: float) -> None:
    """Moves the first of each pair by ``weight`` of the way to the second.

    Two formats meet in float32, or in float64 if one of them is that.
    """
    if weight == 1.0:
        return _copy_pairs(pairs)
    if weight == 0.0:
        return None
    groups: dict[Any, Pairs] = {}
    for x, y in pairs:
        y = y.to(x.device)
        wide = _computed_in(x.dtype, y.dtype)
        lazy = x.is_neg() or x.is_conj()  # which no _foreach_ call writes
        if x.dtype == y.dtype and x.dtype in _FLOATING | _COMPLEX and not lazy:
            groups.setdefault((x.device, x.dtype), []).append((x, y))
        elif x.dtype == wide and not lazy:
            x.lerp_(y.to(wide), weight)
        else:
            _copy(x, torch.lerp(x.to(wide), y.to(wide), weight))
    for group in groups.values():
        torch._foreach_lerp_([x for x, _ in group], [y for _, y in group], weight)
    return None


def _computed_in(one: Any, other: Any) -> Any:
    if one.is_complex:
        return torch.complex128 if torch.complex128 in (one, other) else torch.complex64
    return torch.float64 if torch.float64 in (one, other) else torch.float32
