"""The two averages of TensorFlow Addons: when each takes a snapshot, and how it mixes it in.

Written with operators and a few named operations, so that one text serves Python integers, the
tensors of every framework, graphs and XLA; and `take`, the same by the native kernels, where the
averages are memory that native code may write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .. import _core, lerp_
from .._mean import due_at_step, mean_expression


class Rule(Protocol):
    """How a wrapping optimizer averages.

    Attributes:
        initial: whether the averages begin as the variables, which are then the first snapshot.
    """

    @property
    def initial(self) -> bool:
        """See the class."""

    def due(self, step: Any) -> Any:
        """Returns whether the step after `step` completed ones takes a snapshot.

        Args:
            step: an int, or an integer tensor; the result is a bool or a tensor accordingly.
        """

    def coefficient(self, ops: Any, step: Any, taken: Any) -> Any:
        """Returns the scalar that `mixed` takes, the same for all variables.

        Args:
            ops: `tensorflow` or `keras.ops`.
            step: as for `due`.
            taken: snapshots in the averages, an int or an integer tensor.
        """

    def mixed(self, ops: Any, average: Any, value: Any, coefficient: Any) -> Any:
        """Returns the average with one more snapshot, in the average's shape and dtype."""

    def taken_after(self, ops: Any, step: Any, taken: Any) -> Any:
        """Returns the snapshots in the averages after this one, in the dtype of `taken`."""


@dataclass(frozen=True)
class Mean:
    """The mean of the snapshots, by the formula and the schedule of `tfa.optimizers.SWA`.

    Attributes:
        start: first step that takes a snapshot, counted from 0.
        period: steps from one snapshot to the next.
    """

    start: int
    period: int
    initial: bool = False

    def due(self, step: Any) -> Any:
        """See `Rule`."""
        return due_at_step(step, self.start, self.period)[0]

    def coefficient(self, ops: Any, step: Any, taken: Any) -> Any:
        """Returns the number of snapshots in the average: the schedule's, or fewer if there are."""
        _, count = due_at_step(step, self.start, self.period)
        if isinstance(count, int) and isinstance(taken, int):
            return min(count, taken)
        return ops.minimum(ops.cast(count, taken.dtype), taken)

    def mixed(self, ops: Any, average: Any, value: Any, coefficient: Any) -> Any:
        """See `Rule`."""
        return mean_expression(ops, average, value, coefficient)

    def taken_after(self, ops: Any, step: Any, taken: Any) -> Any:
        """See `Rule`."""
        return self.coefficient(ops, step, taken) + 1


@dataclass(frozen=True)
class ExponentialMean:
    """The moving average of `tfa.optimizers.MovingAverage`.

    Attributes:
        decay: share of the old average that is kept, from 0 to 1.
        start: first step that keeps anything of the old average; before it the decay is 0.
        dynamic: whether the decay of step `s` is at most (1 + s - start) / (10 + s - start).
    """

    decay: float
    start: int
    dynamic: bool
    initial: bool = True

    def due(self, step: Any) -> Any:
        """Returns True: every step that is made moves the averages."""
        return True

    def coefficient(self, ops: Any, step: Any, taken: Any) -> Any:
        """Returns the decay as a float32, the type in which TFA computes it."""
        decay = np.float32(self.decay)
        if isinstance(step, int):
            since = np.float32(step) - np.float32(self.start)
            if self.dynamic:
                decay = min(decay, (1 + since) / (10 + since))
            return decay if step >= self.start else np.float32(0)
        since = ops.cast(step, "float32") - float(self.start)
        if self.dynamic:
            # Kept from minus 10 on, where the quotient that is then not used would divide by 0.
            kept = ops.maximum(since, 0.0)
            decay = ops.minimum(decay, (kept + 1.0) / (kept + 10.0))
        return ops.where(since >= 0.0, decay, np.float32(0))

    def mixed(self, ops: Any, average: Any, value: Any, coefficient: Any) -> Any:
        """Returns `average - (average - value) * (1 - decay)`, or `value` where the decay is 0.

        The formula of `tf.keras.backend.moving_average_update`: the decay is cast to the average's
        dtype, and 1 - decay rounded in it.
        """
        decay = ops.cast(coefficient, average.dtype)
        value = ops.cast(value, average.dtype)
        weight = 1 - decay
        # As in `mean_expression`: a bound that no compiler knows makes it round the product.
        moved = ops.maximum((average - value) * weight, (weight + 1) * -float("inf"))
        return ops.where(ops.equal(decay, 0), value, average - moved)

    def taken_after(self, ops: Any, step: Any, taken: Any) -> Any:
        """See `Rule`."""
        return taken + 1


@dataclass(frozen=True)
class EveryStep:
    """Counts the steps for an `average_op` of the user's, which does the averaging itself."""

    initial: bool = False

    def due(self, step: Any) -> Any:
        """Returns True."""
        return True

    def coefficient(self, ops: Any, step: Any, taken: Any) -> Any:
        """Returns nothing: there is no expression."""

    def mixed(self, ops: Any, average: Any, value: Any, coefficient: Any) -> Any:
        """Not called."""
        raise NotImplementedError

    def taken_after(self, ops: Any, step: Any, taken: Any) -> Any:
        """See `Rule`."""
        return taken + 1


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
