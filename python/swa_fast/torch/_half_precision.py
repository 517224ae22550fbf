"""float32 averages behind the half-precision tensors of a module."""

from __future__ import annotations

from typing import Any

import torch

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
        self._marks: list[Any] | None = []

    def of(self, shown: list[Any]) -> list[Any]:
        """Returns the float32 average of each tensor in ``shown``, in that order."""
        marks = self._marks
        if marks is None and _fit(self._averages, shown):
            marks = [_mark(tensor) for tensor in shown]  # just unpickled or copied together
        if marks is None or len(marks) != len(shown):
            marks = [None] * len(shown)
            self._averages = [None] * len(shown)
        for index, tensor in enumerate(shown):
            if marks[index] != _mark(tensor) or not _fit([self._averages[index]], [tensor]):
                self._averages[index] = tensor.detach().float()
        return self._averages

    def mark(self, shown: list[Any]) -> None:
        """Remembers that ``shown`` now holds the rounded averages."""
        self._marks = [_mark(tensor) for tensor in shown]

    def copy_for(self, shown: list[Any]) -> list[Any]:
        """Returns what to pickle: the averages that are still those of ``shown``."""
        if self._marks is not None and self._marks != [_mark(tensor) for tensor in shown]:
            return []
        return self._averages

    @classmethod
    def restored(cls, averages: list[Any]) -> Float32Averages:
        """Returns the object from what ``copy_for`` gave, to be used with the copied module."""
        result = cls()
        result._averages = averages
        result._marks = None
        return result


def _mark(tensor: Any) -> Any:
    # Inference tensors keep no version: never equal to an earlier mark.
    version = object() if tensor.is_inference() else tensor._version
    return id(tensor), version, tensor.data_ptr()


def _fit(averages: list[Any], shown: list[Any]) -> bool:
    return len(averages) == len(shown) and all(
        average is not None and average.shape == tensor.shape and average.device == tensor.device
        for average, tensor in zip(averages, shown, strict=True)
    )
