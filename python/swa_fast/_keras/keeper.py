"""The averages of a wrapping optimizer: what they are, when they are taken, how they are used."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .optimizer_arguments import ARGUMENTS, check_values, check_variables
from .rules import EveryStep, Rule
from .runtime import Averager, Averages, Pair

_LOG = logging.getLogger("swa_fast")


class SnapshotKeeper:
    """Keeps one average of each variable that an optimizer trains.

    The optimizer makes the variables, hands them over with `begin` and `add`, and calls
    `after_step` around its steps.

    Attributes:
        averages: how they are updated in this Keras.
        rule: when a snapshot is taken, and how it is mixed in; None if the optimizer has an
            `average_op` of its own.
        skips: whether a snapshot with a value that is not finite is left out.
        owner: the optimizer's name, for messages.
        pairs: each averaged model variable and its average, in the order of the build.
        slots: slot name -> key of the model variable -> slot variable.
        added: variables from `add_slot` and `add_weight`, in the order of their making.
        taken: integer scalar variable, number of snapshots in the averages; None until built.
        skipped: integer scalar variable, number of snapshots left out; None without `skips`.
        step: steps before the one whose averages are just updated; None at other times.
    """

    def __init__(
        self,
        averages: Averages,
        rule: Rule | None,
        skips: bool,
        owner: str,
        key: Callable[[Any], Any],
    ) -> None:
        """Begins without averages.

        Args:
            averages: see the class.
            rule: see the class.
            skips: see the class.
            owner: see the class.
            key: returns what stands for a model variable in a dict.
        """
        self.averages = averages
        self.rule = rule
        self.skips = skips
        self.owner = owner
        self.pairs: list[Pair] = []
        self.slots: dict[str, dict[Any, Any]] = {"average": {}}
        self.added: list[Any] = []
        self.taken: Any = None
        self.skipped: Any = None
        self.step: Any = None
        self._key = key
        self._seen: set[Any] = set()
        self._averager: Averager | None = None
        self._averager_op: Any = None
        self._rounded: dict[Any, tuple[Any, Any]] = {}
        self._swapped: list[Pair] | None = None
        self._was_handed_out = False

    @property
    def initial(self) -> bool:
        """Whether the averages begin as the variables."""
        return self.rule is not None and self.rule.initial

    def begin(self, taken: Any, skipped: Any) -> None:
        """Takes the counters, whose values must be `int(initial)` and 0."""
        self.taken, self.skipped = taken, skipped

    def add(self, variable: Any, average: Any) -> None:
        """Takes a model variable, and its average or None if it is not to have one."""
        key = self._key(variable)
        self._seen.add(key)
        if average is not None:
            self.slots["average"][key] = average
            self.pairs.append((variable, average))
            self._averager = None

    def knows(self, variable: Any) -> bool:
        """Returns whether a model variable was added, averaged or not."""
        return self._key(variable) in self._seen

    def own_variables(self) -> list[Any]:
        """Returns the counters, averages and added variables, in the order of saving."""
        counters = [each for each in (self.taken, self.skipped) if each is not None]
        return [*counters, *(average for _, average in self.pairs), *self.added]

    def after_step(
        self, before: Any, after: Any, average_op: Callable[[Any, Any], Any] | None
    ) -> Any:
        """Takes a snapshot if one is due.

        Args:
            before: steps completed before the one just made.
            after: the same, read after it: equal to `before` if the step was not made.
            average_op: called with each variable and average instead of the rule's expression; None
                for that.

        Returns:
            An operation in a graph of TensorFlow 1, else None.
        """
        if self._averager is None or self._averager_op != average_op:
            called = None
            if average_op is not None:

                def called(variable: Any, average: Any, step: Any) -> Any:
                    self.step = step
                    try:
                        return average_op(variable, average)
                    finally:
                        self.step = None

            rule = self.rule if self.rule is not None else EveryStep()
            self._averager = self.averages.averager(
                self.pairs, self.taken, self.skipped, rule, called
            )
            self._averager_op = average_op
        return self._averager.after_step(before, after)

    def average_op(self, variable: Any, average: Any, steps: Any) -> Any:
        """Takes a snapshot of one variable if the steps before say that one is due."""
        rule, ops, read = self.rule, self.averages.ops, self.averages.read
        assert rule is not None
        step = read(steps)
        # By hand, outside of a step, the schedule alone says how many snapshots there are.
        known = self.step is not None and self.taken is not None
        taken = read(self.taken) if known else step + 1
        now = read(average)
        mixed = self.averages.mixed(rule, now, read(variable), rule.coefficient(ops, step, taken))
        due = rule.due(step)
        return average.assign(mixed if due is True else ops.where(due, mixed, now))

    def assign(self, var_list: Any, member: str) -> Any:
        """Gives variables the values of their averages; see `assign_average_vars`."""
        pairs = self._pairs_of(var_list, member)
        self._was_handed_out = True
        if self._is_empty(member):
            return None
        return self.averages.assign_averages(pairs, self.taken, self._nothing_yet(member))

    def swap(self, var_list: Any, member: str) -> None:
        """Exchanges the values of variables and their averages; see `swap_weights`."""
        self.require_built(member)
        chosen = self.pairs if self._swapped is None else self._swapped
        pairs = chosen if var_list is None else self._pairs_of(var_list, member)
        self._was_handed_out = True
        if self._is_empty(member):
            return
        to_numpy = self.averages.to_numpy
        for pair in pairs:
            variable, average = pair
            key = self._key(variable)
            before = to_numpy(average)
            rounds = before.dtype != to_numpy(variable).dtype
            known, assigned = self._rounded.pop(key, (None, None))
            if known is not None and not np.array_equal(to_numpy(variable), assigned):
                known = None  # somebody has written to the variable since
            self.averages.exchange(pair, known)
            if rounds and known is None:
                self._rounded[key] = (before, to_numpy(variable))

    def choose_swapped(self, var_list: Any, member: str) -> None:
        """Lets `swap` exchange the averages of these variables where it is told no others."""
        self._swapped = self._pairs_of(var_list, member)

    @contextlib.contextmanager
    def applied(self, var_list: Any, member: str) -> Iterator[None]:
        """Gives variables the values of their averages for a while; see `applied`."""
        pairs = self._pairs_of(var_list, member)
        self._was_handed_out = True
        if self._is_empty(member):
            yield
            return
        kept = [self.averages.keep(variable) for variable, _ in pairs]
        try:
            self.averages.assign_averages(pairs, self.taken, self._nothing_yet(member))
            yield
        finally:
            for (variable, _), value in zip(pairs, kept, strict=True):
                self.averages.restore(variable, value)

    def say_what_the_model_holds(self) -> None:
        """Logs, once, that a training took snapshots that nobody has used yet."""
        taken = None if self.taken is None else self.averages.number(self.taken)
        if not self._was_handed_out and taken is not None and taken > int(self.initial):
            self._was_handed_out = True
            _LOG.info(
                "%s has averages of %d snapshots, and the model its last weights: "
                "assign_average_vars(model) puts the averages into the model",
                self.owner,
                taken,
            )

    def set_values(self, variables: Sequence[Any], values: Sequence[Any], title: str) -> None:
        """Gives state variables new values.

        Raises:
            ValueError: there are not as many, or a shape does not fit; nothing was assigned.
        """
        check_values(variables, values, title, self.owner)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def save(self, variables: Sequence[Any], store: Any) -> None:
        """Writes variables into a store of Keras, numbered."""
        for index, variable in enumerate(variables):
            store[str(index)] = self.averages.to_numpy(variable)

    def load(self, variables: Sequence[Any], store: Any) -> None:
        """Reads what `save` wrote; skips a store of another size, with a warning.

        Raises:
            ValueError: a shape does not fit; nothing was assigned.
        """
        if len(store.keys()) != len(variables):
            not_built = " because it is not built yet" if self.taken is None else ""
            warnings.warn(
                f"Skipping the averages of {self.owner}: it has {len(variables)} variables of its "
                f"own{not_built}, the saved optimizer has {len(store.keys())}",
                stacklevel=3,
            )
            return
        values = [store[str(index)] for index in range(len(variables))]
        self.set_values(variables, values, "the saved averages")

    def require_built(self, member: str) -> None:
        """Raises ValueError, naming the method that the user called, unless there are averages."""
        if self.taken is None:
            raise ValueError(
                f"{member} needs an optimizer that was built: call {self.owner}."
                "build(variables), or take a step, first"
            )

    def count(self) -> int:
        """Returns the snapshots in the averages; 0 if it cannot be known here."""
        return 0 if self.taken is None else self.averages.number(self.taken) or 0

    def count_skipped(self) -> int:
        """Returns the snapshots left out because a value was not finite."""
        return 0 if self.skipped is None else self.averages.number(self.skipped) or 0

    def _pairs_of(self, var_list: Any, member: str) -> list[Pair]:
        """Returns the variables of a list or a model that have averages, with these.

        Raises:
            TypeError: `var_list` holds something that is not a variable.
            ValueError: the optimizer was not built, or not with a trainable variable.
        """
        self.require_built(member)
        averages = self.slots["average"]
        pairs = []
        for index, variable in enumerate(check_variables(var_list, member)):
            average = averages.get(self._key(variable))
            if average is not None:
                pairs.append((variable, average))
            elif variable.trainable and not self.knows(variable):
                argument = ARGUMENTS.get(member, "var_list")
                raise ValueError(
                    f"{member}: {self.owner} was not built with {argument}[{index}], "
                    f"{variable.name!r}, and has no average for it"
                )
        return pairs

    def _is_empty(self, member: str) -> bool:
        """Returns, with a warning, whether it is known that no snapshot was taken."""
        if self.averages.number(self.taken) != 0:
            return False
        warnings.warn(self._nothing_yet(member), stacklevel=4)
        return True

    def _nothing_yet(self, member: str) -> str:
        return f"{self.owner} has taken no snapshot yet: {member} leaves the variables as they are"
