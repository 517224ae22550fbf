"""Showing the averages in the parameters themselves, and going back, bit for bit."""

from __future__ import annotations

from typing import Any

import torch

from . import pairs
from .mismatch import why_unreadable
from .module_tree import parameters_and_buffers
from .sharding import is_sharded, like_shard, local


class Exchange:
    """The state of a swap between averages and parameters.

    Where average and parameter have one dtype, their contents are exchanged in one pass and no
    memory is needed. Where the average is wider (float32 for a bfloat16 parameter) the parameter
    cannot hold it: then the average stays where it is, its rounded value is shown, and the
    parameter's own value is kept aside, at the parameter's width, until the swap back.
    """

    def __init__(self) -> None:
        """Starts with the averages in their own place."""
        self.active = False
        self._kept: list[Any] = []
        self._exchanged: list[bool] = []

    def begin(self, averages: list[Any], values: list[Any], any_device: bool) -> None:
        """Puts ``averages`` into ``values``; on any error both are as before."""
        equal, wider = _split(averages, values)
        rounded = [value for _, value in wider]
        kept = [torch.empty_like(value.detach()) for value in rounded]
        if wider:
            pairs.copy_(kept, rounded)
            pairs.copy_(rounded, [average for average, _ in wider], any_device=any_device)
        try:
            _swap(equal, any_device)
        except BaseException:
            if wider:
                pairs.copy_(rounded, kept)
            raise
        self._kept = kept
        self._exchanged = [_exchanges(a, v) for a, v in zip(averages, values, strict=True)]
        self.active = True

    def end(self, averages: list[Any], values: list[Any], any_device: bool) -> None:
        """Puts everything back; on any error nothing is, and it can be tried again."""
        equal, wider = _split(averages, values)
        if len(wider) != len(self._kept):
            raise RuntimeError(
                "parameters changed their dtype while the averages were swapped in: convert them "
                "back, then swap again"
            )
        # Checked before the exchange, which must not happen alone.
        for (_, value), kept in zip(wider, self._kept, strict=True):
            if value.shape != kept.shape or value.dtype != kept.dtype:
                raise RuntimeError(
                    f"a parameter of shape {tuple(kept.shape)} and dtype {kept.dtype} became "
                    f"{tuple(value.shape)}, {value.dtype} while the averages were swapped in"
                )
        shown = [value for _, value in wider]
        if wider:
            pairs.copy_(shown, self._kept, any_device=any_device)
        try:
            _swap(equal, any_device)
        except BaseException:
            if wider:
                pairs.copy_(shown, [average for average, _ in wider], any_device=any_device)
            raise
        self._kept = []
        self.active = False

    def own_values(self, averages: list[Any]) -> list[Any]:
        """Returns the tensors that hold the parameters' own values while the averages are shown.

        Args:
            averages: the tensors of the averages, sharded as they are.
        """
        kept, own = iter(self._kept), []
        for average, exchanged in zip(averages, self._exchanged, strict=True):
            if exchanged:
                own.append(average)
            else:
                part = next(kept)
                own.append(like_shard(part, average) if is_sharded(average) else part)
        return own

    def where(self, averages: list[Any], values: list[Any]) -> list[Any]:
        """Returns the tensors that hold the averages now, swapped or not."""
        if not self.active:
            return averages
        return [
            value.detach() if _exchanges(average, value) else average
            for average, value in zip(averages, values, strict=True)
        ]


class KeptBuffers:
    """Copies of a module's buffers, made when averages are swapped in and put back before the end.

    A forward in training mode, as of ``update_bn``, writes buffers.
    """

    def __init__(self) -> None:
        """Holds none yet."""
        self._kept: list[tuple[Any, Any]] = []

    def keep(self, module: Any) -> None:
        """Copies the buffers of ``module``, as they are now. None has none."""
        buffers = [] if module is None else parameters_and_buffers(module)[1]
        self._kept = [
            (buffer, local(buffer).clone())
            for buffer in buffers
            if why_unreadable(local(buffer)) is None
        ]

    def put_back(self, module: Any) -> None:
        """Writes the copies into those buffers that ``module`` still has and that have changed."""
        if not self._kept:
            return
        there = {id(buffer) for buffer in parameters_and_buffers(module)[1]}
        with torch.no_grad():
            for buffer, kept in self._kept:
                current = local(buffer)
                same_form = current.shape == kept.shape and current.dtype == kept.dtype
                if id(buffer) in there and same_form and not _needs_no_write(current, kept):
                    current.copy_(kept)

    def forget(self) -> None:
        """Gives the memory of the copies back."""
        self._kept = []


def _needs_no_write(tensor: Any, kept: Any) -> bool:
    """Tells whether ``tensor`` cannot be written, or not everywhere, and holds the values still."""
    expanded = any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
    unwritable = expanded or tensor.is_inference()
    return unwritable and tensor.device == kept.device and bool(torch.equal(tensor, kept))


def _exchanges(average: Any, value: Any) -> bool:
    return bool(average.dtype == value.dtype)


def _split(averages: list[Any], values: list[Any]) -> tuple[list[Any], list[Any]]:
    equal: list[Any] = []
    wider: list[Any] = []
    for average, value in zip(averages, values, strict=True):
        (equal if _exchanges(average, value) else wider).append((average, value))
    return equal, wider


def _swap(equal: list[Any], any_device: bool) -> None:
    if equal:
        with torch.no_grad():
            pairs.swap_([a for a, _ in equal], [v for _, v in equal], any_device=any_device)
