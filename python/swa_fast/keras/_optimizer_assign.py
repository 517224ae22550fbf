"""Averages into the model, on every backend and in every context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from ._optimizer_backends import native
from ._optimizer_steps import is_concrete, read


def taken_now(snapshots: Any) -> int | None:
    """Returns the snapshot count where Python can look, None in a graph or a trace."""
    if keras.backend.backend() == "tensorflow":
        from ..tensorflow._assign import taken_now as taken_in_tensorflow

        return taken_in_tensorflow(native(snapshots))
    taken = read(snapshots)
    return int(taken) if is_concrete(taken) else None


def assign_averages(pairs: Sequence[tuple[Any, Any]], snapshots: Any, nothing_yet: str) -> Any:
    """Assigns to each variable its average if there is a snapshot.

    Args:
        pairs: each model variable and its average.
        snapshots: integer variable, the number of snapshots in the averages.
        nothing_yet: what to print in a TensorFlow graph that runs before the first snapshot.

    Returns:
        None in eager code, an operation in a TensorFlow graph.
    """
    if keras.backend.backend() == "tensorflow":
        from ..tensorflow._assign import assign_averages as assign_in_tensorflow

        native_pairs = [(native(variable), native(average)) for variable, average in pairs]
        return assign_in_tensorflow(native_pairs, native(snapshots), nothing_yet)
    taken = read(snapshots)
    for variable, average in pairs:
        # A copy: jax's trainer gives away the buffers of all variables, and each only once.
        value = keras.ops.copy(keras.ops.cast(read(average), variable.dtype))
        if not is_concrete(taken):
            value = keras.ops.where(taken > 0, value, read(variable))
        variable.assign(value)
    return None
