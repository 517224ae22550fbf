"""Which pairs of tensors native code serves, and which are left to torch's own operations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

import swa_fast

from .by_torch import COMPLEX, FLOATING, is_averaged
from .mismatch import why_unreadable
from .overlap import Side, require_writable
from .sharding import is_sharded, local

# What users call the two sides of a call.
AVERAGED = ("averages", "values")
COPIED_TOO = ("copies[0]", "copies[1]")
COPIED = ("dst", "src")
SWAPPED = ("a", "b")


class Pair(NamedTuple):
    """Two plain tensors, and their place in the lists of the call."""

    place: int
    x: Any
    y: Any


class Sorted(NamedTuple):
    """The pairs of a call, apart."""

    native: list[Pair]
    by_torch: list[Pair]

    @staticmethod
    def all_native(xs: Sequence[Any], ys: Sequence[Any]) -> Sorted:
        """Returns all pairs as those that native code serves."""
        places = range(len(xs))
        return Sorted([Pair(*pair) for pair in zip(places, xs, ys, strict=True)], [])


def sort(
    xs: Sequence[Any],
    ys: Sequence[Any],
    any_device: bool,
    names: tuple[str, str],
    sides: list[Side],
) -> Sorted | None:
    """Sorts the pairs of a call: shards are unwrapped, and a pair listed twice is listed once.

    Args:
        xs: what is written.
        ys: what is read; for a swap, written too.
        any_device: whether the two of a pair may lie on different devices.
        names: which call it is, by what users call the two lists.
        sides: is given each tensor, for ``require_disjoint``.

    Returns:
        None if there is nothing that native code does not serve: what it refuses is refused.

    Raises:
        TypeError, ValueError: a tensor has nothing to read, or torch cannot pair it or write it.
    """
    if len(xs) != len(ys):
        return None
    result = Sorted([], [])
    changed = False
    seen = set()
    for index, (given_x, given_y) in enumerate(zip(xs, ys, strict=True)):
        if not isinstance(given_x, torch.Tensor) or not isinstance(given_y, torch.Tensor):
            return None
        if is_sharded(given_x) != is_sharded(given_y):
            return None
        x, y = local(given_x).detach(), local(given_y).detach()
        changed = changed or is_sharded(given_x)
        if x.shape != y.shape or (x.device != y.device and not any_device):
            return None
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
        swapped = names is SWAPPED
        by_torch = not (fits_native(x, y) and (is_averaged(x) or names is not AVERAGED))
        (result.by_torch if by_torch else result.native).append(Pair(index, x, y))
        if by_torch:
            _require_pair(x, y, labels, swapped)
        sides.append(Side(x, labels[0], True, by_torch, labels[0]))
        sides.append(Side(y, labels[1], swapped, by_torch, labels[0]))
    if (
        not result.by_torch
        and not changed
        and all(is_served(x.device) for _, x, _ in result.native)
    ):
        return None
    return result


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


def fits_native(x: Any, y: Any) -> bool:
    """Tells whether native code copies or averages ``y`` into ``x``, or swaps them."""
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
    return one == other or both <= FLOATING or both <= COMPLEX


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
