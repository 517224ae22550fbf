"""The averages: private NumPy arrays that nobody else ever holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import swa_fast

Array = npt.NDArray[Any]

WIDE_TYPES = ("float64",)
"""Variables of these types are averaged in float64, all other floating ones in float32."""

# Error texts for a wrong number of weights and for a wrong shape: first for averages taken in this
# fit, then for averages loaded from a state.
_OF_A_SNAPSHOT = (
    "the model's weights must not change during fit: it had {had} floating-point weights at the "
    "first snapshot and has {has} now",
    "the model's weights must not change their shapes during fit: {label} had shape {had} at the "
    "first snapshot and has {has} now",
)
_OF_A_STATE = (
    "the state must be of a model with the same weights. Received: a state that has averages of "
    "{had} floating-point weights, and a model that has {has}",
    "the state must be of a model with the same weights. Received: a state whose average {index} "
    "has shape {had}, and a model whose weight {index}, {label}, has shape {has}",
)


class Averages:
    """The running mean, or exponential average, of a list of weights.

    The arrays are written by the fused kernel, so they must never share memory with anything: they
    are allocated here and only copies leave.

    Args:
        decay: None for the mean of the snapshots, else the average becomes
            `decay * average + (1 - decay) * value` at each snapshot after the first.

    Attributes:
        count: snapshots in the averages.

    Example:
        >>> averages = Averages()
        >>> for value in (1.0, 2.0, 6.0):
        ...     averages.take([np.full(2, value, np.float32)], lambda: ["w"], lambda: ["float32"])
        >>> averages.count, averages.copies()[0]
        (3, array([3., 3.], dtype=float32))
    """

    def __init__(self, decay: float | None = None) -> None:
        self.count = 0
        self._decay = decay
        self._arrays: list[Array] = []
        self._restored = False

    def check(self, shapes: Sequence[tuple[int, ...]], labels: Callable[[], Sequence[str]]) -> None:
        """Raises ValueError if the weights are not those of the first snapshot."""
        if self.count == 0:
            return
        number, shape = _OF_A_STATE if self._restored else _OF_A_SNAPSHOT
        ours = [array.shape for array in self._arrays]
        if len(shapes) != len(ours):
            raise ValueError(number.format(had=len(ours), has=len(shapes)))
        for index, (had, has) in enumerate(zip(ours, map(tuple, shapes), strict=True)):
            if had != has:
                label = repr(labels()[index])
                raise ValueError(shape.format(index=index, label=label, had=had, has=has))
        self._restored = False

    def take(
        self,
        values: Sequence[Any],
        labels: Callable[[], Sequence[str]],
        dtypes: Callable[[], Sequence[str]],
    ) -> None:
        """Adds one snapshot.

        Args:
            values: buffers, or tensors that speak DLPack on the CPU; only read, and not kept.
            labels: gives their names, for errors.
            dtypes: gives their storage types, before the first snapshot.

        Raises:
            ValueError: the number or the shapes of the values changed; nothing was written.
        """
        self.check([tuple(value.shape) for value in values], labels)
        if self.count == 0:
            self._arrays = [
                np.empty(tuple(value.shape), np.float64 if dtype in WIDE_TYPES else np.float32)
                for value, dtype in zip(values, dtypes(), strict=True)
            ]
        if self.count == 0 or self._decay is None:
            swa_fast.running_mean_(self._arrays, values, self.count)
        else:
            swa_fast.lerp_(self._arrays, values, 1.0 - self._decay)
        self.count += 1

    def copies(self) -> list[Array]:
        """Returns new arrays with the averages: frameworks keep and share what they are given."""
        return [array.copy() for array in self._arrays]

    def restore(self, arrays: Sequence[Array], count: int) -> None:
        """Takes over copies of `arrays` as the mean of `count` snapshots."""
        self._arrays = [np.array(array, order="C") for array in arrays]
        self.count = count
        self._restored = count > 0
