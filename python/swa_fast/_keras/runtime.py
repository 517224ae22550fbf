"""What is asked of one Keras on one backend.

`Runtime`: models, layers, variables, learning rates, for the callbacks. `Averages`: averages that
are variables themselves, for the optimizers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .rules import Rule

Array = npt.NDArray[Any]


class Runtime:
    """One Keras on one backend: finds variables, reads, holds and assigns them.

    Base of `swa_fast.keras.runtime` and `swa_fast.tf_keras.runtime`, whose `current()` return the
    one for this process. It keeps nothing between calls but caches.

    Attributes:
        keras: the package.
        name: of the backend: "tensorflow", "torch" or "jax".
        batch_norm: the class of every batch-normalization layer.
        optimizers: every class of optimizer that a train step may apply.
    """

    keras: Any
    name: str
    batch_norm: type
    optimizers: tuple[type, ...]

    def __init__(self) -> None:
        self._all_weights: list[Any] = []
        self._weights: list[Any] = []

    # Models ----------------------------------------------------------------------------------

    def sync(self, model: Any) -> None:
        """Makes the variables hold the values of this moment, and `fit` go on from them.

        JAX's train function has them in a state of its own during an epoch.
        """

    def layers(self, model: Any) -> list[Any]:
        """Returns `model` and all layers below it, once each, those in custom layers included."""
        return list({id(layer): layer for layer in model._flatten_layers()}.values())

    def batch_norm_layers(self, model: Any) -> list[Any]:
        """Returns every batch-normalization layer inside `model`, once, however deep."""
        return [layer for layer in self.layers(model) if isinstance(layer, self.batch_norm)]

    def built(self, model: Any) -> bool:
        """Tells whether all layers have their weights."""
        return all(getattr(layer, "built", True) for layer in self.layers(model))

    def weights(self, model: Any) -> list[Any]:
        """Returns the floating-point weights of `model`, which are averaged."""
        self.sync(model)
        # Each step may ask, and a variable's type takes longer to find out than its identity.
        found = model.weights
        known = self._all_weights
        if len(found) != len(known) or not all(map(operator.is_, found, known)):
            self._all_weights = list(found)
            self._weights = [variable for variable in found if "float" in self.dtype(variable)]
        return list(self._weights)

    def state_variables(self, model: Any) -> list[Any]:
        """Returns every variable that a forward pass may change: seeds and counters, too."""
        self.sync(model)
        return [variable for variable in model.variables if self.dtype(variable) != ""]

    def forward(self, model: Any, inputs: Any, *, training: bool) -> None:
        """Runs `model(inputs)` eagerly and drops the outputs; makes weights that are missing."""
        model(inputs, training=training)

    def stand_in(
        self,
        recorded: Callable[[Callable[..., Any]], Callable[..., Any]],
        original: Callable[..., Any],
    ) -> Callable[..., Any]:
        """Returns what takes the place of a layer's `call`.

        Args:
            recorded: makes of what runs the layer a function that records as well.
            original: the layer's `call`.
        """
        return recorded(original)

    # Variables -------------------------------------------------------------------------------

    def label(self, variable: Any) -> str:
        """Returns the name a user knows `variable` by."""
        raise NotImplementedError

    def dtype(self, variable: Any) -> str:
        """Returns the storage type as "float32"; "" if it has none, as a lookup table."""
        raise NotImplementedError

    def views(self, variables: Sequence[Any]) -> list[Any]:
        """Returns the values for one native call: use them at once and drop them.

        Without a copy where the backend keeps them in host memory.
        """
        raise NotImplementedError

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Returns the exact values, which later writes to the variables do not touch."""
        raise NotImplementedError

    def assign(self, variables: Sequence[Any], values: Sequence[Any]) -> None:
        """Writes values, cast to the variables' types; a framework may keep the values' memory."""
        raise NotImplementedError

    def measured(self, variable: Any) -> Array:
        """Returns the value in float64, the mean over the replicas of a strategy."""
        raise NotImplementedError

    def finite(self, values: Sequence[Any]) -> bool:
        """Tells whether no element of what `views` returned is NaN or infinite."""
        return all_finite(values)

    # Learning rates --------------------------------------------------------------------------

    def innermost(self, optimizer: Any) -> Any:
        """Returns the optimizer inside of wrappers such as LossScaleOptimizer."""
        while hasattr(optimizer, "inner_optimizer"):
            optimizer = optimizer.inner_optimizer
        return optimizer

    def rate(self, optimizer: Any) -> float:
        """Returns the optimizer's present learning rate, of a schedule at its present step."""
        raise NotImplementedError

    def set_rate(self, optimizer: Any, rate: float) -> None:
        """Sets the optimizer's learning rate."""
        optimizer.learning_rate = rate

    def rate_is_driven(self, optimizer: Any) -> bool:
        """Tells whether the rate follows an object (a schedule) that a number cannot replace."""
        raise NotImplementedError


def all_finite(values: Sequence[Any]) -> bool:
    """Tells whether no element of host arrays, buffers or CPU tensors is NaN or infinite.

    The least and the largest element are NaN if any is; unlike a sum they cannot overflow.
    """
    for value in values:
        array = np.asarray(value)
        if array.size and not np.isfinite([np.min(array), np.max(array)]).all():
            return False
    return True


Pair = tuple[Any, Any]
"""A model variable and its average."""


class Averager(Protocol):
    """Takes the snapshots of one set of pairs."""

    def after_step(self, before: Any, after: Any) -> Any:
        """Takes a snapshot if one is due.

        Args:
            before: steps completed before the one just made; an int in eager code, else a tensor.
            after: the same, read after it: equal to `before` if the step was not made.

        Returns:
            An operation in a graph of TensorFlow 1, else None.
        """


class Averages(Protocol):
    """How averages are read, assigned and updated in one Keras, on its active backend.

    Attributes:
        ops: whoever has `where`, `minimum`, `maximum`, `equal` and `cast` for tensors.
    """

    ops: Any

    def read(self, value: Any) -> Any:
        """Returns what a variable holds now, as a tensor; any other value as a tensor."""

    def to_numpy(self, variable: Any) -> Any:
        """Returns what a variable holds as a NumPy array that nothing else writes to."""

    def number(self, count: Any) -> int | None:
        """Returns an integer variable's value where Python can look, else None."""

    def mixed(self, rule: Rule, average: Any, value: Any, coefficient: Any) -> Any:
        """Returns `rule.mixed` of two tensors, rounded as in every other place."""

    def averager(
        self,
        pairs: Sequence[Pair],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None,
    ) -> Averager:
        """Returns who takes the snapshots.

        Args:
            pairs: each model variable and its average.
            taken: integer variable, the snapshots in the averages.
            skipped: integer variable, the snapshots left out because a value was not finite; None
                if such values are averaged as they are.
            rule: when, and how.
            average_op: called with (variable, average, steps before) instead of the rule's
                expression; None for that.
        """

    def assign_averages(self, pairs: Sequence[Pair], taken: Any, nothing_yet: str) -> Any:
        """Copies each average into its variable. If `taken` is 0, copies nothing.

        In a graph of TensorFlow, where only the graph knows that, it prints `nothing_yet` to stderr
        where printing is possible.

        Returns:
            An operation in a graph of TensorFlow, else None.
        """

    def keep(self, variable: Any) -> Any:
        """Returns a copy of what a variable holds, for `restore`."""

    def restore(self, variable: Any, kept: Any) -> None:
        """Gives a variable back what `keep` returned."""

    def exchange(self, pair: Pair, average: Any) -> None:
        """Exchanges the values of a variable and its average.

        Args:
            pair: both.
            average: what the average gets instead of the variable's value; None for that.
        """
