"""What Keras 3 and legacy Keras have in common."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from .batch_norm import Recorder


class CommonBackend:
    """Base of every `Backend`; says nothing of how one Keras differs from the other."""

    _end_of_data: tuple[type[Exception], ...] = (StopIteration,)

    def __init__(self) -> None:
        self._all_weights: list[Any] = []
        self._weights: list[Any] = []

    def layers(self, model: Any) -> list[Any]:
        """Returns `model` and all layers below it, once each, those in custom layers included."""
        return list({id(layer): layer for layer in model._flatten_layers()}.values())

    def weights(self, model: Any) -> list[Any]:
        """Returns the floating-point weights."""
        # Each step may ask, and a variable's type takes longer to find out than its identity.
        found = model.weights
        known = self._all_weights
        if len(found) != len(known) or not all(map(operator.is_, found, known)):
            self._all_weights = list(found)
            self._weights = [variable for variable in found if "float" in self.dtype(variable)]
        return list(self._weights)

    def state_variables(self, model: Any) -> list[Any]:
        """Returns weights, counters and seed generators alike."""
        return list(model.variables)

    def set_rate(self, optimizer: Any, rate: float) -> None:
        """Assigns the rate's variable."""
        optimizer.learning_rate = rate

    def record_statistics(
        self, recorder: Recorder, step: Callable[..., Any], arguments: tuple[Any, ...], steps: int
    ) -> Any:
        """Runs the steps on variables that hold their values themselves."""
        result = None
        for done in range(steps):
            try:
                result = step(*arguments)
            except self._end_of_data:
                if done == 0:
                    raise
                break
            recorder.collect(self.measured)
        pairs = recorder.means()
        self.assign([variable for variable, _ in pairs], [mean for _, mean in pairs])
        return result

    def dtype(self, variable: Any) -> str:
        """Returns the storage type."""
        raise NotImplementedError

    def assign(self, variables: Sequence[Any], values: Sequence[Any]) -> None:
        """Assigns each variable."""
        raise NotImplementedError

    def measured(self, variable: Any) -> Any:
        """Returns a moving statistic in float64."""
        raise NotImplementedError


def innermost(optimizer: Any) -> Any:
    """Returns the optimizer inside of wrappers such as LossScaleOptimizer."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer
