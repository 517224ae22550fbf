"""Averaging functions for ``multi_avg_fn``, here and in torch's own ``AveragedModel``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import pairs


def check_decay(decay: Any) -> float:
    """Returns ``decay`` as a float in [0, 1]; raises TypeError or ValueError that says so."""
    if isinstance(decay, bool) or not hasattr(decay, "__float__"):
        raise TypeError(f"decay must be a number. Received: {decay!r}")
    number = float(decay)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"decay must be between 0 and 1. Received: {number}")
    return number


class SwaMultiAvg:
    """The running mean over a list; what ``get_swa_multi_avg_fn`` returns. Can be pickled."""

    def __call__(self, averages: Sequence[Any], values: Sequence[Any], num_averaged: Any) -> None:
        """Takes ``values`` into ``averages``, the mean of ``num_averaged`` values, in place.

        Args:
            averages: tensors; floating ones are averaged, integers are overwritten.
            values: tensors of the same shapes.
            num_averaged: an int, or torch's count tensor (read here, if it is on a device: a sync).
        """
        pairs.running_mean_(averages, values, int(num_averaged))


class EmaMultiAvg:
    """The exponential moving average; what ``get_ema_multi_avg_fn`` returns. Can be pickled."""

    def __init__(self, decay: float) -> None:
        """Checks ``decay``, the share of the old average in the new one."""
        self.decay = check_decay(decay)

    def __call__(self, averages: Sequence[Any], values: Sequence[Any], num_averaged: Any) -> None:
        """Computes ``decay * averages + (1 - decay) * values`` in place; integers are overwritten.

        The first value is copied by the caller, as ``AveragedModel`` does.
        """
        pairs.lerp_(averages, values, 1.0 - self.decay)


def get_swa_multi_avg_fn() -> SwaMultiAvg:
    """Returns the fused equally weighted average, for ``AveragedModel(multi_avg_fn=...)``.

    Works in ``torch.optim.swa_utils.AveragedModel`` and in Lightning's ``WeightAveraging`` too.

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
