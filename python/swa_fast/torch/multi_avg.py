"""Averaging functions for ``multi_avg_fn``, here and in torch's own ``AveragedModel``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from . import pairs
from .arena import HALF_DTYPES


class _WarnsOfHalf:
    """Warns once where averages are kept in half precision, in which they stall."""

    _looked = False

    def _look(self, averages: Sequence[Any]) -> None:
        """Looks at the averages of the first call."""
        self._looked = True
        half = next((average.dtype for average in averages if average.dtype in HALF_DTYPES), None)
        if half is not None:
            warnings.warn(
                f"averages in {half} stall: once the weight of a new value is below the rounding "
                "step, it changes nothing. Use swa_fast.torch.AveragedModel or WeightAverager, "
                "which keep them in float32, or average a float32 copy of the model",
                stacklevel=3,
            )


def check_decay(decay: Any) -> float:
    """Returns ``decay`` as a float in [0, 1]; raises TypeError or ValueError that says so."""
    if isinstance(decay, bool) or not hasattr(decay, "__float__"):
        raise TypeError(f"decay must be a number. Received: {decay!r}")
    number = float(decay)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"decay must be between 0 and 1. Received: {number}")
    return number


class SwaMultiAvg(_WarnsOfHalf):
    """The running mean over a list; what ``get_swa_multi_avg_fn`` returns. Can be pickled."""

    def __call__(self, averages: Sequence[Any], values: Sequence[Any], num_averaged: Any) -> None:
        """Takes ``values`` into ``averages``, the mean of ``num_averaged`` values, in place.

        Args:
            averages: tensors; floating ones are averaged, integers are overwritten.
            values: tensors of the same shapes.
            num_averaged: an int, or torch's count tensor (read here, if it is on a device: a sync).
        """
        if not self._looked:
            self._look(averages)
        pairs.running_mean_(averages, values, int(num_averaged))


class EmaMultiAvg(_WarnsOfHalf):
    """The exponential moving average; what ``get_ema_multi_avg_fn`` returns. Can be pickled."""

    def __init__(self, decay: float) -> None:
        """Checks ``decay``, the share of the old average in the new one."""
        self.decay = check_decay(decay)

    def __call__(self, averages: Sequence[Any], values: Sequence[Any], num_averaged: Any) -> None:
        """Computes ``decay * averages + (1 - decay) * values`` in place; integers are overwritten.

        The first value is copied by the caller, as ``AveragedModel`` does.
        """
        if not self._looked:
            self._look(averages)
        pairs.lerp_(averages, values, 1.0 - self.decay)


def get_swa_multi_avg_fn() -> SwaMultiAvg:
    """Returns the fused equally weighted average, for ``AveragedModel(multi_avg_fn=...)``.

    Works in ``torch.optim.swa_utils.AveragedModel`` and in Lightning's ``WeightAveraging`` too.
    Those keep the averages in the model's own precision: of a bfloat16 or float16 model they stall,
    and the function warns once. ``AveragedModel`` and ``WeightAverager`` of this package keep them
    in float32.

    Example:
        >>> import torch
        >>> from swa_fast.torch import get_swa_multi_avg_fn
        >>> averages = [torch.tensor([2.0])]
        >>> get_swa_multi_avg_fn()(averages, [torch.tensor([5.0])], 2)
        >>> averages[0]
        tensor([3.])
    """
    return SwaMultiAvg()


def get_ema_multi_avg_fn(decay: float = 0.999) -> EmaMultiAvg:
    """Returns the fused exponential moving average, for ``AveragedModel(multi_avg_fn=...)``.

    Args:
        decay: share of the old average in the new one, between 0 and 1.

    Raises:
        ValueError: ``decay`` is outside [0, 1].

    Example:
        >>> import torch
        >>> from swa_fast.torch import get_ema_multi_avg_fn
        >>> averages = [torch.tensor([2.0])]
        >>> get_ema_multi_avg_fn(0.5)(averages, [torch.tensor([4.0])], 7)
        >>> averages[0]
        tensor([3.])
    """
    return EmaMultiAvg(decay)
