"""A decay that the caller computes: for the classes of others that have counters of their own."""

from __future__ import annotations


class GivenDecay:
    """A schedule that returns the decay that it was last given.

    Attributes:
        decay: of the next snapshot, from 0 to 1; 0 copies.
    """

    def __init__(self) -> None:
        """Begins with 0."""
        self.decay = 0.0

    def __call__(self, s: int, t: int, n: int) -> float:
        """Returns the decay."""
        return self.decay
