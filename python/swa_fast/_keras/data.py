"""Batches of model inputs from whatever a user trains on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from swa_fast._checks import check_integer


def input_batches(
    data: Any, batch_size: int = 32, steps: int | None = None, name: str = "data"
) -> Iterator[Any]:
    """Iterates once over the inputs in `data`, without the targets.

    Args:
        data: an array (or a list or dict of arrays, for several inputs) with samples first, where a
            table with `to_numpy` (a pandas DataFrame or Series) is an array, too; a tuple
            `(x,)`, `(x, y)` or `(x, y, sample_weight)` of these; or anything that gives batches:
            a `tf.data.Dataset`, a PyDataset or Sequence, a torch DataLoader, a generator. A batch
            that is a tuple is `(x, ...)` in the same way.
        batch_size: samples in a batch, for arrays; the last batch may be smaller.
        steps: batches to take at most; None for all of them.
        name: of the argument that the user gave, for errors.

    Raises:
        TypeError: `data` is None or cannot be iterated.
        ValueError: arrays differ in their number of samples, or `data` is a dataset that says that
            it is endless, without `steps`.
    """
    check_integer("batch_size", batch_size, 1)
    if steps is not None:
        check_integer("steps", steps, 1)
    if isinstance(data, tuple):
        if not data:
            raise ValueError(f"{name} must not be empty. Received: an empty tuple")
        data = data[0]
    data = _without_tables(data)
    if data is None or isinstance(data, str):
        raise TypeError(f"{name} must be arrays or an iterable of batches. Received: {data!r}")
    if _is_array(data) or isinstance(data, list | dict):
        batches = _array_batches(data, batch_size, name)
    else:
        # A DataLoader makes lists of the tuples it was given; elsewhere a list is several inputs.
        pairs = (tuple, list) if type(data).__module__.startswith("torch.") else (tuple,)
        batches = (
            _without_tables(batch[0] if isinstance(batch, pairs) else batch)
            for batch in _batches(data, steps, name)
        )
    return itertools.islice(batches, steps)


def serves_once(data: Any) -> bool:
    """Tells whether `data` is a generator or another iterator, which cannot start anew."""
    return isinstance(data[0] if isinstance(data, tuple) and data else data, Iterator)


def _batches(data: Any, steps: int | None, name: str) -> Iterator[Any]:
    if hasattr(data, "cardinality"):  # tf.data, whose len() refuses an endless dataset
        if steps is None and int(data.cardinality()) == -1:
            raise ValueError(f"{name} is an endless tf.data.Dataset: steps must be given")
        return iter(data)
    if hasattr(data, "__getitem__") and hasattr(data, "num_batches"):  # PyDataset
        if data.num_batches is None and steps is None:
            raise ValueError(f"{name} is an endless PyDataset: steps must be given")
        count = steps if data.num_batches is None else data.num_batches
        return (data[index] for index in range(int(count or 0)))
    if hasattr(data, "__getitem__") and hasattr(data, "on_epoch_end"):  # Sequence of Keras 2
        return (data[index] for index in range(len(data)))
    if not hasattr(data, "__iter__"):
        raise TypeError(
            f"{name} must be arrays or an iterable of batches. Received: {type(data).__name__}"
        )
    return iter(data)


def _array_batches(data: Any, batch_size: int, name: str) -> Iterator[Any]:
    arrays = _leaves(data, name)
    counts = {int(array.shape[0]) for array in arrays}
    if len(counts) > 1:
        raise ValueError(
            f"all arrays in {name} must have the same number of samples. Received: {sorted(counts)}"
        )
    samples = counts.pop() if counts else 0
    return (
        _sliced(data, slice(first, first + batch_size)) for first in range(0, samples, batch_size)
    )


def _leaves(data: Any, name: str) -> list[Any]:
    if isinstance(data, dict):
        return [leaf for value in data.values() for leaf in _leaves(value, name)]
    if isinstance(data, list):
        return [leaf for value in data for leaf in _leaves(value, name)]
    if not _is_array(data):
        raise TypeError(f"{name} must hold arrays. Received: {type(data).__name__}")
    if getattr(data.dtype, "kind", "") == "O":
        raise TypeError(
            f"{name} must hold numbers. Received: an array, or a table, of Python objects"
        )
    return [data]


def _without_tables(data: Any) -> Any:
    """Returns NumPy arrays in the place of tables, as of pandas."""
    if isinstance(data, dict):
        return {key: _without_tables(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_without_tables(value) for value in data]
    return data.to_numpy() if hasattr(data, "to_numpy") else data


def _sliced(data: Any, rows: slice) -> Any:
    if isinstance(data, dict):
        return {key: _sliced(value, rows) for key, value in data.items()}
    if isinstance(data, list):
        return [_sliced(value, rows) for value in data]
    return data[rows]


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0
