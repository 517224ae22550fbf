"""What the shared code of the SWA optimizers asks of a Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Framework:
    """One Keras, as the wrapping optimizers use it.

    Attributes:
        keras: the package.
        ops: whoever has `where`, `minimum` and `cast` for tensors.
        kinds: classes of the optimizers that can be wrapped.
        wanted: the same in words.
        by_name: makes an optimizer from its name.
        scaler: the class of its LossScaleOptimizers.
        read: returns what a variable holds now, as a tensor; any other value as a tensor.
        to_numpy: returns what a variable holds as a NumPy array.
        deserialize: makes an optimizer from its serialized config and custom objects.
        taken_now: returns the snapshots at hand as an int where Python can look, else None.
        assign_averages: called as (pairs, snapshots, message). Copies each average into its
            variable. If `snapshots` is 0, copies nothing and prints `message` where printing is
            possible.
        update_if: see `swa_fast.tensorflow._averager.update_if`.
        make_averager: returns an object whose `after_step(before, after)` takes a snapshot if one
            is due, from (variable, average) pairs, the snapshot count, start and period.
        mean: `swa_fast._mean.mean_expression` of an average, a value and a count.
    """

    keras: Any
    ops: Any
    kinds: tuple[Any, ...]
    wanted: str
    by_name: Callable[[str], Any]
    scaler: Any
    read: Callable[[Any], Any]
    to_numpy: Callable[[Any], Any]
    deserialize: Callable[..., Any]
    taken_now: Callable[[Any], int | None]
    assign_averages: Callable[[Any, Any, str], Any]
    update_if: Callable[..., None]
    make_averager: Callable[..., Any]
    mean: Callable[[Any, Any, Any], Any]

    def innermost(self, optimizer: Any) -> Any:
        """Returns the optimizer that makes the steps, inside any number of LossScaleOptimizers."""
        while isinstance(optimizer, self.scaler):
            optimizer = optimizer.inner_optimizer
        return optimizer
