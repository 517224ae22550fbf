"""Counting the batches of a `fit`, and which of them are averaged."""

from __future__ import annotations

from swa_fast.average import due


class StepCounter:
    """Counts training batches over all epochs, leaving out the batch-normalization epoch.

    Args:
        period: batches from one snapshot to the next; None if none is averaged by batch.
        start: the first batch of averaging; None for the first of the first averaging epoch.
        in_epoch: batches in an epoch; None if Keras does not know before the first has ended.
        in_full: whether the last execution of an epoch runs as many batches as all others.

    Attributes:
        done: batches completed.
        start: the first batch of averaging, once it is known.
        in_epoch: batches in an epoch, once it is known.
    """

    def __init__(
        self,
        period: int | None = None,
        start: int | None = None,
        in_epoch: int | None = None,
        in_full: bool = False,
    ) -> None:
        self.done = 0
        self.start = start
        self.in_epoch = in_epoch
        self._period = period
        self._in_full = in_full
        self._of_this_epoch = 0

    def begin_epoch(self) -> None:
        """Must be called when an epoch begins."""
        self._of_this_epoch = 0

    def count(self, batch: int, trains: bool, averages: bool) -> bool:
        """Counts what ran up to `batch`, and returns whether a snapshot is due now.

        Args:
            batch: the last one of an execution, in its epoch.
            trains: False in the batch-normalization epoch.
            averages: whether this epoch belongs to averaging.
        """
        # With steps_per_execution > 1 several ran; where the data ends fewer than Keras says.
        end = batch + 1
        if self.in_epoch is not None and not self._in_full:
            end = min(end, self.in_epoch)
        first, ran = self.done, end - self._of_this_epoch
        self._of_this_epoch = end
        if not trains:
            return False
        self.done += ran
        if self._period is None:
            return False
        if self.start is None and averages:
            self.start = self.done - end
        start, period = self.start, self._period
        return start is not None and any(
            due(step + 1, start, period) for step in range(first, first + ran)
        )

    def end_epoch(self) -> None:
        """Learns the number of batches in an epoch."""
        if self.in_epoch is None and self._of_this_epoch:
            self.in_epoch = self._of_this_epoch
