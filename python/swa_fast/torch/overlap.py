"""Whether one write of a call could change what another part of the call reads or writes.

Native code refuses such calls for its own tensors, which fill solid blocks. Here are the tensors
that torch writes: interleaved views of one storage (two sets of columns) have overlapping address
ranges and share no element, so where ranges overlap the elements are compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

# Where data_ptr() is an address; elsewhere it may be the handle of a buffer.
_ADDRESSED = frozenset(("cpu", "cuda"))

# Candidate solutions that are tried before two views count as overlapping.
_MAX_WORK = 100_000


class Side(NamedTuple):
    """One tensor of a call: what a user calls it, and what is done to it."""

    tensor: Any
    label: str
    written: bool
    by_torch: bool
    pair: Any


def require_disjoint(sides: Iterable[Side]) -> None:
    """Checks the tensors that torch writes, or that are written beside tensors torch reads.

    Raises:
        ValueError: a written tensor shares memory with another one. The two sides of a pair may be
            one and the same.
    """
    groups: dict[Any, list[tuple[int, int, Side]]] = {}
    for side in sides:
        place = _place(side.tensor)
        if place is not None:
            groups.setdefault(place[0], []).append((place[1], place[2], side))
    for group in groups.values():
        group.sort(key=lambda item: item[0])
        open_: list[tuple[int, int, Side]] = []
        for item in group:
            open_ = [other for other in open_ if other[1] > item[0]]
            for other in open_:
                if _conflict(other, item):
                    raise ValueError(
                        f"{other[2].label} and {item[2].label} overlap in memory: every tensor "
                        "that is written must be disjoint from the others of the call"
                    )
            open_.append(item)


def require_writable(tensor: Any, label: str) -> None:
    """Checks what torch would find while it writes, when other tensors are written already.

    Raises:
        ValueError: elements of the tensor share memory, as far as its strides tell.
        RuntimeError: it is an inference tensor, outside inference mode.
    """
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            raise ValueError(
                f"{label} is expanded or overlaps itself: a tensor that is written must have "
                f"memory for each element. Received: shape {tuple(tensor.shape)}, strides "
                f"{tuple(tensor.stride())}"
            )
        reach += stride * max(size - 1, 0)
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"{label} must be written inside torch.inference_mode(). Received: a tensor made in "
            "inference mode, outside of it"
        )


def require_all_writable(tensors: Iterable[Any], what: str) -> None:
    """Checks tensors that are to be written later, when it would be too late to refuse.

    Raises:
        RuntimeError, ValueError: see ``require_writable``; or two of them share memory.
    """
    sides = [
        Side(tensor.detach(), f"{what} {index}", True, True, index)
        for index, tensor in enumerate(tensors)
    ]
    for side in sides:
        require_writable(side.tensor, side.label)
    require_disjoint(sides)


def _place(tensor: Any) -> tuple[Any, int, int] | None:
    """Returns (space, first byte, one past the last byte) in it; None for no memory."""
    if tensor.numel() == 0:
        return None
    base = tensor.untyped_storage().data_ptr()
    if base == 0:
        return None
    space: Any = tensor.device
    begin = tensor.storage_offset() * tensor.element_size()
    if tensor.device.type in _ADDRESSED:
        begin += base
    else:
        space = (space, base)
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return space, begin, begin + (last + 1) * tensor.element_size()


def _conflict(one: tuple[int, int, Side], other: tuple[int, int, Side]) -> bool:
    a, b = one[2], other[2]
    if not (a.written or b.written) or not (a.by_torch or b.by_torch):
        return False
    same = one[0] == other[0] and a.tensor.dtype == b.tensor.dtype
    if a.pair == b.pair and same and a.tensor.stride() == b.tensor.stride():
        return False
    try:
        return bool(
            np.shares_memory(
                _Addresses(a.tensor, one[0]).array(),
                _Addresses(b.tensor, other[0]).array(),
                max_work=_MAX_WORK,  # type: ignore[arg-type]  # any int, says NumPy's manual
            )
        )
    except RuntimeError:  # too hard to tell
        return True


class _Addresses:
    """A tensor's addresses for NumPy, which compares them and reads nothing."""

    def __init__(self, tensor: Any, begin: int) -> None:
        size = tensor.element_size()
        self.__array_interface__ = {
            "version": 3,
            "typestr": f"|V{size}",
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * size for stride in tensor.stride()),
            "data": (begin, False),
        }

    def array(self) -> Any:
        return np.asarray(self)
