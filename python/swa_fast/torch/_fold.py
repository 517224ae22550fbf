"""How averages begin, and how one snapshot is taken into them."""

from __future__ import annotations

from typing import Any

import torch

from . import _fused
from ._half_precision import HALF_DTYPES


def allocate(value: Any, dtype: Any, device: Any) -> Any:
    """Returns memory for the average of ``value``, of its shape and, if possible, its strides.

    Args:
        value: what is averaged.
        dtype: of the average; None for float32 or wider. Integers keep their own.
        device: where it is kept; None for that of ``value``.
    """
    if not value.is_floating_point():
        dtype = value.dtype
    elif dtype is None:
        dtype = torch.float32 if value.dtype in HALF_DTYPES else value.dtype
    return torch.empty_like(
        value.detach(),
        dtype=dtype,
        device=device,
        memory_format=torch.preserve_format,
        requires_grad=False,
    )


class Fold:
    """Takes values into averages: their mean or exponential mean; of integers, the last ones.

    Args:
        averages: as ``allocate`` gave them.
        decay: None for the mean.
    """

    def __init__(self, averages: list[Any], decay: float | None) -> None:
        """Finds out which averages are copies."""
        self._decay = decay
        self._copied = frozenset(
            index
            for index, average in enumerate(averages)
            if not (average.is_floating_point() or average.is_complex())
        )

    def __call__(
        self, averages: list[Any], count: int, any_device: bool, values: list[Any]
    ) -> None:
        """Takes ``values`` into ``averages`` of ``count`` snapshots."""
        copies = None
        if self._copied and len(values) == len(averages):
            averages, values, copies = _fused.without_copied(averages, values, self._copied)
        if self._decay is None or count == 0:
            _fused.running_mean_(averages, values, count, copies=copies, any_device=any_device)
        else:
            weight = 1.0 - self._decay
            _fused.lerp_(averages, values, weight, copies=copies, any_device=any_device)
