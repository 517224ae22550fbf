"""float32 averages behind the half-precision tensors of a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .arena import HALF_DTYPES, Arena, standalone
from .overlap import require_all_writable


class Float32Averages:
    """The float32 averages whose rounded values a half-precision ``AveragedModel`` shows.

    In bfloat16 a running mean stalls: after a few hundred values a step of 1/n is below the
    rounding of the average. Here the mean is kept in float32 and rounded after each update.

    A shown tensor that was written by someone else (``load_state_dict``, ``copy_``, moved to
    another device) is noticed by its version counter and address, and averaging goes on from what
    was written. A write through ``.data`` moves neither and is not seen.
    """

    def __init__(self) -> None:
        """Has no averages yet."""
        self._arena: Arena | None = None
        self._marks: list[Any] = []

    @property
    def averages(self) -> list[Any]:
        """The float32 averages."""
        return [] if self._arena is None else self._arena.tensors

    @property
    def blocks(self) -> list[Any]:
        """The memory in which they lie."""
        return [] if self._arena is None else self._arena.blocks

    def are_current(self, shown: Sequence[Any]) -> bool:
        """Tells whether nobody wrote ``shown`` since they were marked."""
        return self._marks == [_mark(tensor) for tensor in shown]

    def of(self, shown: Sequence[Any]) -> list[Any]:
        """Returns the float32 average of each tensor in ``shown``, in that order.

        Raises:
            RuntimeError, ValueError: a tensor could not be written when its average is rounded.
        """
        marks = [_mark(tensor) for tensor in shown]
        if self._marks == marks:
            return self.averages
        require_all_writable(shown, "the averaged model's half-precision tensor")
        known = self._marks if self._fits(shown) else [None] * len(shown)
        if not self._fits(shown):
            self._arena = Arena([tensor.detach() for tensor in shown], torch.float32, None)
        with torch.no_grad():
            for average, tensor, was, mark in zip(self.averages, shown, known, marks, strict=True):
                if was != mark:
                    average.copy_(tensor.detach())
        return self.averages

    def mark(self, shown: Sequence[Any]) -> None:
        """Remembers that ``shown`` now holds the rounded averages."""
        self._marks = [_mark(tensor) for tensor in shown]

    def _fits(self, shown: Sequence[Any]) -> bool:
        return len(self._marks) == len(self.averages) == len(shown) and all(
            average.shape == tensor.shape and average.device == tensor.device
            for average, tensor in zip(self.averages, shown, strict=True)
        )

    def copy_for(self, shown: Sequence[Any]) -> list[Any]:
        """Returns what to pickle: each average that is still that of its tensor, else None."""
        if not len(self._marks) == len(self.averages) == len(shown):
            return []
        return [
            standalone(average) if mark == _mark(tensor) else None
            for average, mark, tensor in zip(self.averages, self._marks, shown, strict=True)
        ]

    @classmethod
    def restored(cls, averages: Sequence[Any], shown: Sequence[Any]) -> Float32Averages:
        """Returns the object from what ``copy_for`` gave, for the tensors of the copied module.

        They are remembered as they are now, so that what is loaded into them next is noticed.
        """
        result = cls()
        if len(averages) != len(shown) or not shown:
            return result
        result._arena = Arena([tensor.detach() for tensor in shown], torch.float32, None)
        result.mark(shown)
        with torch.no_grad():
            for index, average in enumerate(averages):
                if average is None:
                    result._marks[index] = None
                else:
                    result.averages[index].copy_(average)
        return result


def half_tensors(tensors: Sequence[Any]) -> list[int]:
    """Returns the indices of the tensors of half precision."""
    return [index for index, tensor in enumerate(tensors) if tensor.dtype in HALF_DTYPES]


def _mark(tensor: Any) -> Any:
    # Inference tensors keep no version: never equal to an earlier mark.
    version = object() if tensor.is_inference() else tensor._version
    return id(tensor), version, tensor.data_ptr()
