"""A snapshot by the native kernels, where the averages are memory that native code may write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _core, lerp_
from .rules import ExponentialMean, Mean, Rule


def take(rule: Rule, averages: Sequence[Any], values: Sequence[Any], coefficient: Any) -> None:
    """Takes a snapshot in place, rounded as the rule's expression.

    Args:
        rule: how to mix.
        averages: float32 or float64 arrays or tensors.
        values: floating-point arrays, buffers or tensors of the same shapes.
        coefficient: what `rule.coefficient` returned for Python numbers.

    Raises:
        BufferError, TypeError, ValueError: native code does not serve the rule or the tensors
            (those of another device, say, or with gaps); nothing was written.
    """
    if isinstance(rule, Mean):
        _core.tfa_mean_(averages, values, coefficient)
    elif not isinstance(rule, ExponentialMean):
        raise TypeError(f"{type(rule).__name__} has no kernel")
    elif coefficient == 0:
        _core.tfa_mean_(averages, values, 0)
    else:
        # The difference of two float32 numbers, 1 and a decay, is exact in float64: rounded to
        # float32 it is what the expression has.
        lerp_(averages, values, 1.0 - float(coefficient))
