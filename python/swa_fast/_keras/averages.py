"""`HeldAverages`: the averages of a model's weights while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..average import Average
from ..averager import Averager
from .runtime import Array, all_finite

# What is wrong with the number and with a shape of the weights: where the averages were taken in
# this fit, and where they come from a state.
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

Labels = Callable[[], Sequence[str]]


class HeldAverages:
    """Averages of a model's weights in memory that nobody else ever holds: only copies leave.

    An `Averager` of NumPy arrays updates them from values of any framework. It is made at the
    first snapshot.

    Args:
        averages: by name, when each takes a snapshot and with what weight.
        skips: whether a snapshot with a value that is not finite is left out.

    Attributes:
        skipped: number of snapshots that were left out, by the name of the average.

    Example:
        >>> from swa_fast import Average
        >>> from swa_fast._keras.averages import HeldAverages
        >>> held = HeldAverages({"mean": Average()})
        >>> for value in (1.0, 2.0, 6.0):
        ...     _ = held.take([np.full(2, value, np.float32)], lambda: ["w"])
        >>> held.counts, held.copies("mean")
        ({'mean': 3}, [array([3., 3.], dtype=float32)])
    """

    def __init__(self, averages: Mapping[str, Average], skips: bool = False) -> None:
        """Begins before the first update."""
        self._described = dict(averages)
        self._skips = skips
        self.skipped = dict.fromkeys(self._described, 0)
        self._averager: Averager | None = None
        self._step = 0  # as long as there is no averager
        self._loaded: tuple[dict[str, list[Array]], dict[str, int]] | None = None
        self._from_state = False

    @property
    def counts(self) -> dict[str, int]:
        """Snapshots in each average, by its name."""
        if self._averager is not None:
            return self._averager.counts
        return dict.fromkeys(self._described, 0) if self._loaded is None else dict(self._loaded[1])

    @property
    def step(self) -> int:
        """Number of updates so far."""
        return self._step if self._averager is None else self._averager.step

    def due(self) -> bool:
        """Tells whether the next update takes a snapshot."""
        update = self.step + 1
        return any(average.due(update) for average in self._described.values())

    def begin(self, values: Sequence[Any]) -> None:
        """Takes the values before the first update, for averages with `initial`."""
        if self.step == 0 and self._averager is None:
            self._make(values)

    def pass_by(self) -> None:
        """Counts an update that takes no snapshot."""
        if self._averager is None:
            self._step += 1
        else:
            self._averager.update(())

    def take(
        self,
        values: Sequence[Any],
        labels: Labels,
        finite: Callable[[Sequence[Any]], bool] = all_finite,
    ) -> bool:
        """Counts an update that takes a snapshot, and takes it.

        Args:
            values: buffers, or tensors that speak DLPack on the CPU; only read, and not kept.
            labels: gives their names, for errors.
            finite: tells whether no value is NaN or infinite.

        Returns:
            False if the snapshot was left out.

        Raises:
            ValueError: the number or the shapes of the values changed; nothing was written.
        """
        if self._skips and not finite(values):
            self._leave_out()
            return False
        if self._averager is None:
            if self._loaded is not None:
                self.check([tuple(value.shape) for value in values], labels)
            self._make(values)
        assert self._averager is not None
        try:
            self._averager.update(values)
        except (ValueError, BufferError):
            self.check([tuple(value.shape) for value in values], labels)
            raise
        return True

    def check(self, shapes: Sequence[tuple[int, ...]], labels: Labels) -> None:
        """Raises ValueError if the weights are not those of the first snapshot."""
        if not any(self.counts.values()):
            return
        number, shape = _OF_A_STATE if self._from_state else _OF_A_SNAPSHOT
        ours = [tuple(array.shape) for array in self._tensors(next(iter(self._described)))]
        if len(shapes) != len(ours):
            raise ValueError(number.format(had=len(ours), has=len(shapes)))
        for index, (had, has) in enumerate(zip(ours, map(tuple, shapes), strict=True)):
            if had != has:
                label = repr(labels()[index])
                raise ValueError(shape.format(index=index, label=label, had=had, has=has))
        self._from_state = False

    def copies(self, name: str) -> list[Array]:
        """Returns new arrays with an average: frameworks keep and share what they are given.

        bfloat16, which NumPy does not have, is widened to float32. Empty before the first snapshot.
        """
        if self.counts[name] == 0:
            return []
        return [np.array(_array(tensor)) for tensor in self._tensors(name)]

    def finite(self) -> bool:
        """Tells whether no average holds NaN or infinity."""
        taken = [name for name, count in self.counts.items() if count]
        return all(all_finite([_array(tensor) for tensor in self._tensors(n)]) for n in taken)

    def restore(
        self, averages: Mapping[str, Sequence[Array]], counts: Mapping[str, int], step: int
    ) -> None:
        """Goes on from copies of `averages`."""
        loaded = {
            name: [np.array(array, order="C") for array in arrays]
            for name, arrays in averages.items()
        }
        self._averager, self._step = None, step
        self._loaded = (loaded, dict(counts)) if any(counts.values()) else None
        self._from_state = self._loaded is not None

    def _tensors(self, name: str) -> Sequence[Any]:
        if self._averager is not None:
            return self._averager[name]
        assert self._loaded is not None
        return self._loaded[0][name] or max(self._loaded[0].values(), key=len)

    def _leave_out(self) -> None:
        for name, average in self._described.items():
            self.skipped[name] += bool(average.due(self.step + 1))
        if self._averager is None:
            self._step += 1
        else:
            self._averager.leave_out()

    def _make(self, values: Sequence[Any]) -> None:
        averager = Averager([_array(value) for value in values], self._described)
        if self._step or self._loaded is not None:
            state = averager.state_dict()
            state["step"] = self._step
            if self._loaded is not None:
                averages, state["counts"] = self._loaded
                for name, tensors in state["averages"].items():
                    if averages[name]:
                        pairs = zip(tensors, averages[name], strict=True)
                        state["averages"][name] = [array.astype(t.dtype) for t, array in pairs]
            averager.load_state_dict(state)
        self._averager, self._loaded = averager, None


def _array(tensor: Any) -> Array:
    """Returns a buffer or CPU tensor as a NumPy array, which may share its memory."""
    if str(getattr(tensor, "dtype", "")).endswith("bfloat16"):
        tensor = tensor.float() if hasattr(tensor, "float") else tensor.astype(np.float32)
    return np.asarray(tensor)
