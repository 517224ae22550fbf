"""What a wrapping optimizer holds beside the inner optimizer's state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Store:
    """The wrapper's own variables, by what they are for.

    A class of its own because Keras and TensorFlow follow lists and dicts that are attributes of an
    optimizer, and these are not for them: the variables themselves are tracked where they are made.

    Attributes:
        snapshots: integer scalar variable, number of snapshots in the averages; None until built.
        pairs: each averaged model variable and its average, in the order of the build.
        seen: keys of the model variables that the optimizer was built with, averaged or not.
        slots: slot name -> key of the model variable -> slot variable.
        added: variables from `add_slot` and `add_weight`, in the order of their making.
        averager: takes the snapshots of `pairs`; None until it is first needed.
    """

    snapshots: Any = None
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    seen: set[Any] = field(default_factory=set)
    slots: dict[str, dict[Any, Any]] = field(default_factory=lambda: {"average": {}})
    added: list[Any] = field(default_factory=list)
    averager: Any = None

    def add_pair(self, key: Any, variable: Any, average: Any) -> None:
        """Adds the average of a model variable whose key is `key`."""
        self.slots["average"][key] = average
        self.pairs.append((variable, average))
        self.averager = None

    def variables(self) -> list[Any]:
        """Returns all of them, in the order in which they are saved."""
        if self.snapshots is None:
            return list(self.added)
        return [self.snapshots, *(average for _, average in self.pairs), *self.added]
