"""`Runtime`: models, layers, variables and optimizers of one Keras on one backend."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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
