"""torch's own operations on pairs of tensors that native code does not serve."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

Pairs = Iterable[tuple[Any, Any]]

FLOATING = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))
COMPLEX = frozenset((torch.complex64, torch.complex128))


def is_averaged(tensor: Any) -> bool:
    """Tells whether tensors of this kind are averaged; integers and bools are copied."""
    return bool(tensor.is_floating_point() or tensor.is_complex())


def copy_pairs(pairs: Pairs) -> None:
    """Copies the second of each pair into the first."""
    with torch.no_grad():
        for x, y in pairs:
            _copy(x, y)


def _copy(x: Any, y: Any) -> None:
    if x.is_neg() or y.is_neg():
        # torch 2.13 loses the sign of a lazily negated tensor where it also converts.
        y = y.resolve_neg().to(x.dtype)
    x.copy_(y)


def swap_pairs(pairs: Pairs) -> None:
    """Exchanges the two of each pair."""
    with torch.no_grad():
        for x, y in pairs:
            kept = x.clone()
            x.copy_(y)
            y.copy_(kept)


def lerp_pairs(pairs: Pairs, weight: float) -> None:
    """Moves the first of each pair by ``weight`` of the way to the second.

    Two formats meet in float32, or in float64 if one of them is that.
    """
    if weight == 1.0:
        copy_pairs(pairs)
    elif weight != 0.0:
        with torch.no_grad():
            _lerp(pairs, weight)


def _lerp(pairs: Pairs, weight: float) -> None:
    groups: dict[Any, list[tuple[Any, Any]]] = {}
    for x, y in pairs:
        y = y.to(x.device)
        wide = _computed_in(x.dtype, y.dtype)
        lazy = x.is_neg() or x.is_conj()  # which no _foreach_ call writes
        if x.dtype == y.dtype and x.dtype in FLOATING | COMPLEX and not lazy:
            groups.setdefault((x.device, x.dtype), []).append((x, y))
        elif x.dtype == wide and not lazy:
            x.lerp_(y.to(wide), weight)
        else:
            _copy(x, torch.lerp(x.to(wide), y.to(wide), weight))
    for group in groups.values():
        torch._foreach_lerp_([x for x, _ in group], [y for _, y in group], weight)


def _computed_in(one: Any, other: Any) -> Any:
    if one.is_complex:
        return torch.complex128 if torch.complex128 in (one, other) else torch.complex64
    return torch.float64 if torch.float64 in (one, other) else torch.float32
