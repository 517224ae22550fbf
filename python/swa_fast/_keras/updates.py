"""What a keeper of averages asks of a Keras and its backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .rules import Rule

Pair = tuple[Any, Any]
"""A model variable and its average."""


class Averager(Protocol):
    """Takes the snapshots of one set of pairs."""

    def after_step(self, before: Any, after: Any) -> Any:
        """Takes a snapshot if one is due.

        Args:
            before: steps completed before the one just made; an int in eager code, else a tensor.
            after: the same, read after it: equal to `before` if the step was not made.

        Returns:
            An operation in a graph of TensorFlow 1, else None.
        """


class Averages(Protocol):
    """How averages are read, assigned and updated in one Keras, on its active backend.

    Attributes:
        ops: whoever has `where`, `minimum`, `maximum`, `equal` and `cast` for tensors.
    """

    ops: Any

    def read(self, value: Any) -> Any:
        """Returns what a variable holds now, as a tensor; any other value as a tensor."""

    def to_numpy(self, variable: Any) -> Any:
        """Returns what a variable holds as a NumPy array that nothing else writes to."""

    def number(self, count: Any) -> int | None:
        """Returns an integer variable's value where Python can look, else None."""

    def mixed(self, rule: Rule, average: Any, value: Any, coefficient: Any) -> Any:
        """Returns `rule.mixed` of two tensors, rounded as in every other place."""

    def averager(
        self,
        pairs: Sequence[Pair],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None,
    ) -> Averager:
        """Returns who takes the snapshots.

        Args:
            pairs: each model variable and its average.
            taken: integer variable, the snapshots in the averages.
            skipped: integer variable, the snapshots left out because a value was not finite; None
                if such values are averaged as they are.
            rule: when, and how.
            average_op: called with (variable, average, steps before) instead of the rule's
                expression; None for that.
        """

    def assign_averages(self, pairs: Sequence[Pair], taken: Any, nothing_yet: str) -> Any:
        """Copies each average into its variable. If `taken` is 0, copies nothing.

        In a graph of TensorFlow, where only the graph knows that, it prints `nothing_yet` to stderr
        where printing is possible.

        Returns:
            An operation in a graph of TensorFlow, else None.
        """

    def keep(self, variable: Any) -> Any:
        """Returns a copy of what a variable holds, for `restore`."""

    def restore(self, variable: Any, kept: Any) -> None:
        """Gives a variable back what `keep` returned."""

    def exchange(self, pair: Pair, average: Any) -> None:
        """Exchanges the values of a variable and its average.

        Args:
            pair: both.
            average: what the average gets instead of the variable's value; None for that.
        """
