"""float32 averages behind the half-precision tensors of a module."""

from __future__ import annotations

from typing import Any

import torch

from ._overlap import require_all_writable

HALF_DTYPES = frozenset((torch.float16, torch.bfloat16))


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
        self._averages: list[Any] = []
        self._marks: list[Any] = []

    def of(self, shown: list[Any]) -> list[Any]:
        """Returns the float32 average of each tensor in ``shown``, in that order.

        Raises:
            RuntimeError, ValueError: a tensor could not be written when its average is rounded.
        """
        marks = self._marks
        if len(marks) != len(shown) or len(self._averages) != len(shown):
            marks = [None] * len(shown)
            self._averages = [None] * len(shown)
        renewed = [
            index
            for index, tensor in enumerate(shown)
            if marks[index] != _mark(tensor) or not _fits(self._averages[index], tensor)
        ]
        if renewed:
            require_all_writable(shown, "the averaged model's half-precision tensor")
        for index in renewed:
            self._averages[index] = shown[index].detach().float()
        return self._averages

    def mark(self, shown: list[Any]) -> None:
        """Remembers that ``shown`` now holds the rounded averages."""
        self._marks = [_mark(tensor) for tensor in shown]

    def copy_for(self, shown: list[Any]) -> list[Any]:
        """Returns what to pickle: each average that is still that of its tensor, else None."""
        if not len(self._marks) == len(self._averages) == len(shown):
            return []
        return [
            average if mark == _mark(tensor) else None
            for average, mark, tensor in zip(self._averages, self._marks, shown, strict=True)
        ]

    @classmethod
    def restored(cls, averages: list[Any], shown: list[Any]) -> Float32Averages:
        """Returns the object from what ``copy_for`` gave, for the tensors of the copied module.

        They are remembered as they are now, so that what is loaded into them next is noticed.
        """
        result = cls()
        result._averages = averages
        result.mark(shown)
        return result


def _mark(tensor: Any) -> Any:
    # Inference tensors keep no version: never equal to an earlier mark.
    version = object() if tensor.is_inference() else tensor._version
    return id(tensor), version, tensor.data_ptr()


def _fits(average: Any, tensor: Any) -> bool:
    return bool(
        average is not None and average.shape == tensor.shape and average.device == tensor.device
    )
