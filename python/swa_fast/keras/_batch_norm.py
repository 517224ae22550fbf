"""`update_bn` for Keras 3."""

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

    Afterwards the moving mean and variance of every BatchNormalization layer, in nested models and
    custom layers too, are exactly the mean over the batches of what the layer measured in each,
    every batch weighing the same. The batches run through `model(inputs, training=True)`, eagerly,
    whatever `compile` said. Everything else (other weights, momentum, trainable flags, seed
    generators, the statistics of layers that no batch reached) is as before. On an error, all of
    it is.

    Args:
        model: a Keras 3 model, on any backend.
        data: an array (or a list or dict of arrays, for a model with several inputs); a tuple
            `(x, y)` or `(x, y, sample_weight)` of these, of which x is used; or batches of the
            same: a `tf.data.Dataset`, a PyDataset, a torch DataLoader, a generator.
        batch_size: samples in a batch when `data` is arrays.
        steps: batches to take at most; needed where `data` never ends.
        include_frozen: also recompute layers with `trainable = False`, which otherwise keep the
            statistics they run with.

    Raises:
        TypeError: `data` is neither arrays nor iterable, or `model` is no model (the arguments in
            the wrong order).
        ValueError: `data` has no batch, or is a dataset that says that it never ends and `steps`
            is not given. An endless generator does not say so: without `steps` it is read forever.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
        >>> update_bn(model, np.array([[1.0, 2.0], [3.0, 6.0]]))
        >>> np.asarray(model.layers[0].moving_mean)
        array([2., 4.], dtype=float32)
    """
    _shared.update_bn(current(), model, data, batch_size, steps, include_frozen)
