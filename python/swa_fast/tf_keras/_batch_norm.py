"""`update_bn` for legacy Keras."""

from __future__ import annotations

from typing import Any

from .._keras import statistics as _shared
from .runtime import current


def update_bn(
    model: Any,
    data: Any,
    *,
    batch_size: int = 32,
    steps: int | None = None,
    include_frozen: bool = True,
) -> None:
    """Recomputes the moving statistics of batch normalization in one pass over `data`.

    As `swa_fast.keras.update_bn`, for models of `tf_keras`.

    Args:
        model: a tf_keras model.
        data: arrays, `(x, y)`, a `tf.data.Dataset`, a `Sequence` or a generator of batches.
        batch_size: samples in a batch when `data` is arrays.
        steps: batches to take at most; needed where `data` never ends.
        include_frozen: also recompute layers with `trainable = False`.

    Raises:
        TypeError: `data` is neither arrays nor iterable, or `model` is no model (the arguments in
            the wrong order).
        ValueError: `data` has no batch, or is a dataset that says that it never ends and `steps`
            is not given. An endless generator does not say so: without `steps` it is read forever.

    Example:
        >>> import tf_keras, numpy as np
        >>> model = tf_keras.Sequential([tf_keras.layers.BatchNormalization(input_shape=(2,))])
        >>> update_bn(model, np.array([[1.0, 2.0], [3.0, 6.0]], np.float32))
        >>> model.layers[0].moving_mean.numpy()
        array([2., 4.], dtype=float32)
    """
    _shared.update_bn(current(), model, data, batch_size, steps, include_frozen)
