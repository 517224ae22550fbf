"""Averages of Keras variables on torch: in place, since torch variables own their memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _core, lerp_
from .._keras.rules import ExponentialMean, Mean, Rule


def take(rule: Rule, averages: Sequence[Any], values: Sequence[Any], coefficient: Any) -> bool:
    """Takes a snapshot in place, rounded as the rule's expression.

    Args:
        rule: how to mix.
        averages: float32 or float64 tensors.
        values: floating-point tensors of the same shapes.
        coefficient: what `rule.coefficient` returned for Python numbers.

    Returns:
        False, and nothing was written, if native code does not serve the rule or the tensors: those
        of another device, say, or a parameter that is a view with gaps.
    """
    averages = [tensor.detach() for tensor in averages]
    values = [tensor.detach() for tensor in values]
    try:
        if isinstance(rule, Mean):
            _core.tfa_mean_(averages, values, coefficient)
        elif isinstance(rule, ExponentialMean) and coefficient == 0:
            _core.tfa_mean_(averages, values, 0)
        elif isinstance(rule, ExponentialMean):
            # The difference of two float32 numbers, 1 and a decay, is exact in float64: rounded to
            # float32 it is what the expression has.
            lerp_(averages, values, 1.0 - float(coefficient))
        else:
            return False
    except (BufferError, TypeError, ValueError):
        return False
    return True
