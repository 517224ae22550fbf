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

# Between which native code converts.
_FLOATING = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))
_COMPLEX = frozenset((torch.complex64, torch.complex128))


def running_mean_(
    averages: Sequence[Any], values: Sequence[Any], count: int, *, any_device: bool = False
) -> None:
    """Takes ``values`` into the mean of ``count`` values; integers are copied.

    Args:
        averages: tensors, written in place.
        values: tensors of the same shapes.
        count: values that are already in the averages, >= 0.
        any_device: whether a value may lie on another device than its average.
    """
    _average(swa_fast.running_mean_, averages, values, count, 1.0 / (count + 1), any_device)


def lerp_(
    averages: Sequence[Any], values: Sequence[Any], weight: float, *, any_device: bool = False
) -> None:
    """Moves ``averages`` by ``weight`` of the way to ``values``; integers are copied."""
    _average(swa_fast.lerp_, averages, values, weight, weight, any_device)


def _average(
    native: Callable[..., None],
    averages: Sequence[Any],
    values: Sequence[Any],
    argument: Any,
    weight: float,
    any_device: bool,
) -> None:
    if _tries_native(averages):
        try:
            return native(averages, values, argument)
        except (BufferError, RuntimeError, TypeError, ValueError):
            fused, other = _sort(averages, values, any_device, averaging=True)
            if fused is None:
                raise
    else:
        fused, other = _sort(averages, values, any_device, averaging=True)
    integers = [pair for pair in other if not _is_averaged(pair[0])]
    if fused:
        native([a for a, _ in fused], [v for _, v in fused], argument)
    with torch.no_grad():
        _torch_copy(integers)
        _torch_lerp([pair for pair in other if _is_averaged(pair[0])], weight)


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
