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

from ._distributed import is_sharded, local

_Pairs = list[tuple[Any, Any]]
_Copies = tuple[Sequence[Any], Sequence[Any]]

# Between which native code converts.
_FLOATING = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))
_COMPLEX = frozenset((torch.complex64, torch.complex128))


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
    """
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


def without_copied(
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
        _torch_copy(copied_by_torch)
        _torch_lerp(averaged_by_torch, weight)
    return None


def _parts(
    averages: Sequence[Any], values: Sequence[Any], copies: _Copies | None, any_device: bool
) -> tuple[_Pairs, _Pairs, _Pairs, _Pairs] | None:
    """Returns pairs to (average, copy) natively and by torch; None if native code was right."""
    fused, other = _sort(averages, values, any_device, averaging=True)
    copied, copied_by_torch = _sort(*(copies or ([], [])), any_device, averaging=False)
    if fused is None and copied is None:
        return None
    # A part in which native code had nothing to refuse, or was right to, goes there whole.
    fused = list(zip(averages, values, strict=True)) if fused is None else fused
    copied = list(zip(*(copies or ([], [])), strict=True)) if copied is None else copied
    averaged_by_torch = [pair for pair in other if _is_averaged(pair[0])]
    for pair in other:
        if not _is_averaged(pair[0]):
            (copied if _fits_native(*pair) else copied_by_torch).append(pair)
    return fused, copied, averaged_by_torch, copied_by_torch


def _lists(pairs: _Pairs) -> _Copies:
    return [x for x, _ in pairs], [y for _, y in pairs]


def copy_(dst: Sequence[Any], src: Sequence[Any], *, any_device: bool = False) -> None:
    """Copies ``src`` into ``dst``, converting between floating types."""
    _move(swa_fast.copy_, _torch_copy, dst, src, any_device)


def swap_(a: Sequence[Any], b: Sequence[Any], *, any_device: bool = False) -> None:
    """Exchanges the contents of ``a`` and ``b``, of the same dtypes, bit for bit."""
    _move(swa_fast.swap_, _torch_swap, a, b, any_device)


def _move(
    native: Callable[..., None],
    by_torch: Callable[[_Pairs], None],
    dst: Sequence[Any],
    src: Sequence[Any],
    any_device: bool,
) -> None:
    if _tries_native(dst):
        try:
            return native(dst, src)
        except (BufferError, RuntimeError, TypeError, ValueError):
            fused, other = _sort(dst, src, any_device, averaging=False)
            if fused is None:
                raise
    else:
        fused, other = _sort(dst, src, any_device, averaging=False)
        if fused is None:
            return native(dst, src)
    if by_torch is _torch_swap:
        for index, (x, y) in enumerate(other):
            if x.dtype != y.dtype:
                raise TypeError(
                    f"swapped tensors must have the same dtype. Received: "
                    f"{x.dtype} and {y.dtype} at pair {index}"
                )
            _require_writable(y, index)
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
    averages: Sequence[Any], values: Sequence[Any], any_device: bool, *, averaging: bool
) -> tuple[_Pairs | None, _Pairs]:
    """Returns (pairs for native code, pairs for torch); (None, []) if native code was right.

    Raises:
        ValueError: a pair for torch has two shapes or devices, or cannot be written.
    """
    if len(averages) != len(values):
        return None, []
    fused: _Pairs = []
    other: _Pairs = []
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
        if x.numel() > 0:
            identity = (x.data_ptr(), y.data_ptr(), x.shape, x.stride(), y.stride(), x.dtype)
            if identity in seen:
                changed = True
                continue
            seen.add(identity)
        if _fits_native(x, y) and (_is_averaged(x) or not averaging):
            fused.append((x, y))
        else:
            _require_writable(x, index)
            other.append((x, y))
    if not other and not changed and all(is_served(x.device) for x, _ in fused):
        return None, []
    return fused, other


def _fits_native(x: Any, y: Any) -> bool:
    return (
        x.device == y.device
        and is_served(x.device)
        and (
            x.dtype == y.dtype or {x.dtype, y.dtype} <= _FLOATING or {x.dtype, y.dtype} <= _COMPLEX
        )
        and not _is_lazy(x)
        and not _is_lazy(y)
        and ((x.is_contiguous() and y.is_contiguous()) or _same_dense_layout(x, y))
    )


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


def _require_writable(tensor: Any, index: int) -> None:
    # torch finds this while it writes, when other tensors are written already.
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if size > 1 and stride == 0:
            raise ValueError(
                f"tensor {index} is expanded (shape {tuple(tensor.shape)}, strides "
                f"{tensor.stride()}): its elements share memory and cannot be written"
            )


def _torch_copy(pairs: _Pairs) -> None:
    for x, y in pairs:
        x.copy_(y)


def _torch_swap(pairs: _Pairs) -> None:
    for x, y in pairs:
        kept = x.clone()
        x.copy_(y)
        y.copy_(kept)


def _torch_lerp(pairs: _Pairs, weight: float) -> None:
    if weight == 1.0:
        return _torch_copy(pairs)
    if weight == 0.0:
        return None
    groups: dict[Any, _Pairs] = {}
    for x, y in pairs:
        y = y.to(x.device)
        if x.dtype == y.dtype:
            groups.setdefault((x.device, x.dtype), []).append((x, y))
        elif torch.promote_types(x.dtype, y.dtype) == x.dtype:
            x.lerp_(y.to(x.dtype), weight)
        else:
            x.copy_(torch.lerp(x.to(y.dtype), y, weight))
    for group in groups.values():
        torch._foreach_lerp_([x for x, _ in group], [y for _, y in group], weight)
    return None
