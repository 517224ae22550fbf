"""The counters of several averages: which of them are due at an update, and with what weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ._checks import check_integer
from .average import Average


class Counters:
    """The counters of averages that share their updates: their whole state beside the tensors.

    An averager asks for the weights of the next update, does the work, and then advances; if the
    work fails, it does not, and nothing has changed.

    Args:
        averages: their descriptions, one at least.

    Attributes:
        averages: the same.
        step: updates so far.

    Example:
        >>> from swa_fast import Average
        >>> from swa_fast._counters import Counters
        >>> counters = Counters([Average(decay=0.75), Average(period=2)])
        >>> for _ in range(3):
        ...     weights = counters.weights()
        ...     print(weights)
        ...     counters.advance(weights)
        [0, 0]
        [0.25, None]
        [0.25, 1]
        >>> counters.step, counters.counts, counters.last
        (3, [3, 2], [3, 3])
    """

    __slots__ = ("_each", "_only", "_soonest", "averages", "step")

    def __init__(self, averages: Sequence[Average]) -> None:
        """Begins before the first update."""
        self.averages = tuple(averages)
        self.step = 0
        self._each: list[_One] = []
        self._only: _One | None = None  # of a single average: every update saves two loops
        self._soonest: float = 0
        self.load(0, [average.count(0) for average in self.averages])

    @property
    def counts(self) -> list[int]:
        """Number of snapshots in each average."""
        return [each.count for each in self._each]

    @property
    def last(self) -> list[int]:
        """Number of the update that took the last snapshot of each average; 0 if none did.

        It is ``average.last_due(step)`` unless a snapshot was left out.
        """
        return [each.last for each in self._each]

    def weights(self) -> list[int | float | None] | None:
        """Returns what the next update is to do with each average.

        Returns:
            None if no snapshot is due. Else, for each average, None or the weight of its snapshot
            as ``Average.weight`` returns it: an int is the count of a mean, a float a weight.

        Raises:
            TypeError, ValueError: a schedule returned no decay; see ``Average.weight``.
        """
        update = self.step + 1
        if update < self._soonest:
            return None
        if self._only is not None:
            return [self._only.weight(update)]
        return [None if update < each.due else each.weight(update) for each in self._each]

    def advance(self, weights: Sequence[int | float | None] | None) -> None:
        """Counts one update.

        Args:
            weights: as ``weights()`` returned them, with None in the place of a snapshot that was
                left out because a value was not finite.
        """
        self.step = update = self.step + 1
        if update < self._soonest:
            return
        assert weights is not None
        only = self._only
        if only is not None:
            if weights[0] is not None:
                only.count += 1
                only.before = only.last
                only.last = update
            self._soonest = only.due = update + only.period
            return
        soonest = math.inf
        for each, weight in zip(self._each, weights):  # noqa: B905, strict costs as much as a turn
            if weight is not None:
                each.count += 1
                each.before = each.last
                each.last = update
            if update == each.due:
                each.due = update + each.period
            if each.due < soonest:
                soonest = each.due
        self._soonest = soonest

    def take_back(self, index: int) -> None:
        """Uncounts the last snapshot of one average, which failed after it was counted."""
        each = self._each[index]
        each.count -= 1
        each.last = each.before

    def recount(self, counts: Sequence[int]) -> None:
        """Takes over how many snapshots there really are in each average.

        Which updates took them is not known then; means and constant decays do not need it.
        """
        for each, count in zip(self._each, counts, strict=True):
            each.count = count

    def load(
        self, step: int, counts: Sequence[int], last: Sequence[int | None] | None = None
    ) -> None:
        """Goes on from saved counters.

        Args:
            step: updates so far.
            counts: snapshots in each average.
            last: as the attribute; None, for all or for one, if no snapshot was left out.

        Raises:
            TypeError: a counter is not an int.
            ValueError: a counter is negative or contradicts another, or there are not as many as
                averages. Nothing was changed.
        """
        last = [None] * len(self.averages) if last is None else last
        for name, numbers in (("counts", counts), ("last", last)):
            if len(numbers) != len(self.averages):
                raise ValueError(
                    f"{name} must have one entry for each of {len(self.averages)} averages. "
                    f"Received: {len(numbers)}"
                )
        step = check_integer("step", step, 0)
        loaded = [_One(*one, step) for one in zip(self.averages, counts, last, strict=True)]
        self.step, self._each = step, loaded
        self._only = loaded[0] if len(loaded) == 1 else None
        self._soonest = min([each.due for each in loaded])


class _One:
    """The counters of one average, and what every update needs of its description.

    Attributes:
        count: snapshots in it.
        last: number of the update that took the last one.
        before: `last` as it was before that.
        due: number of the next update that takes one.
        mean: whether it is a mean.
        constant: the weight of an exponential average whose decay does not change, else None.
    """

    __slots__ = ("average", "before", "constant", "count", "due", "last", "mean", "period")

    def __init__(self, average: Average, count: int, last: int | None, step: int) -> None:
        self.average = average
        self.mean = average.decay is None
        self.constant = 1.0 - average.decay if isinstance(average.decay, float) else None
        self.period = average.period
        self.due = average.next_due(step + 1)
        self.count = check_integer("count", count, 0)
        self.last = average.last_due(step) if last is None else check_integer("last", last, 0)
        self.before = self.last
        if self.count > step + average.initial or self.last > step:
            raise ValueError(
                "count and last must be at most step, the updates so far. "
                f"Received: count={self.count}, last={self.last}, step={step}"
            )

    def weight(self, update: int) -> int | float:
        """Returns the weight of a snapshot, as ``Average.weight`` has it."""
        count = self.count
        if count == 0 or self.mean:  # here without the call, as the next
            return count
        if self.constant is not None:
            return self.constant
        return self.average.weight(count, update, update - self.last)
