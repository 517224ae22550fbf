"""How many steps an optimizer has completed, as a value that later steps do not change."""

from __future__ import annotations

from typing import Any

import keras


def read_steps(optimizer: Any) -> Any:
    """Returns the completed steps: an int in eager code, a tensor in a graph or a trace."""
    steps = read(optimizer.iterations)
    return int(steps) if is_concrete(steps) else steps


def read(value: Any) -> Any:
    """Returns what a variable holds now, as a tensor; any other value as a tensor.

    On TensorFlow, `keras.ops.convert_to_tensor` hands a variable back as it is, to be read only
    where it is used.
    """
    if isinstance(value, keras.Variable):
        value = value.value
    if hasattr(value, "read_value"):
        return value.read_value()
    return keras.ops.convert_to_tensor(value)


def is_concrete(value: Any) -> bool:
    """Tells whether Python can look at `value` now: no graph is being built or traced."""
    if isinstance(value, (bool, int)):
        return True
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.executing_eagerly()) and hasattr(value, "numpy") and not _on_replicas(tf)
    if backend == "jax":
        import jax

        return not isinstance(value, jax.core.Tracer)
    return True


def _on_replicas(tf: Any) -> bool:
    # A replica's value: the strategy decides where it may be looked at.
    return bool(tf.distribute.has_strategy())
