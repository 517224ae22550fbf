"""Showing the averages in the parameters themselves, and going back, bit for bit."""

from __future__ import annotations

from typing import Any

import torch

from . import pairs


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

    def where(self, averages: list[Any], values: list[Any]) -> list[Any]:
        """Returns the tensors that hold the averages now, swapped or not."""
        if not self.active:
            return averages
        return [
            value.detach() if _exchanges(average, value) else average
            for average, value in zip(averages, values, strict=True)
        ]


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
