"""The mean of snapshots as an expression of framework operations, and its place in the schedule.

For the frameworks whose buffers swa_fast must not write into (TensorFlow, jax) and for compiled
graphs, where no foreign code runs. The formula is that of ``tfa.optimizers.SWA``, so that its
numbers come out to the bit.
"""

from __future__ import annotations

from typing import Any

from .average import due, taken_before


def mean_expression(ops: Any, average: Any, value: Any, count: Any) -> Any:
    """Returns the mean of ``count`` values, held in ``average``, and one more.

    Args:
        ops: ``tensorflow`` or ``keras.ops``: whoever has cast, where, equal and maximum.
        average: floating-point tensor; its dtype is that of the arithmetic and the result.
        value: tensor of the same shape, of any floating dtype.
        count: integer scalar >= 0, an int or a tensor.

    Returns:
        ``(average * count + value) / (count + 1)``, each operation rounded on its own, or exactly
        ``value`` if ``count`` is 0, whatever the average held.
    """
    values_so_far = ops.cast(count, average.dtype)
    total = values_so_far + 1
    value = ops.cast(value, average.dtype)
    # XLA would contract `average * n + value` to one fused multiply-add, which rounds differently
    # from every other place this runs. No compiler knows that the bound is minus infinity, so it
    # has to round the product.
    minus_infinity = total * -float("inf")
    product = ops.maximum(average * values_so_far, minus_infinity)
    return ops.where(ops.equal(count, 0), value, (product + value) / total)


def due_at_step(step: Any, start: int, period: int) -> tuple[Any, Any]:
    """Tells whether a step takes a snapshot, and which.

    Args:
        step: steps completed before this one, an int or an integer tensor: what
            ``swa_fast.average`` counts from 1, counted from 0.
        start: first step that takes a snapshot, >= 0.
        period: steps from one snapshot to the next, >= 1.

    Returns:
        ``(due, count)``: whether to take a snapshot now, and how many the average has then.
        ``count`` is meaningful only if ``due`` is true.
    """
    return due(step, start - 1, period), taken_before(step, start - 1, period)
