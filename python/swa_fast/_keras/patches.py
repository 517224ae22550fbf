"""Methods and classes of single objects that are replaced for a while, and given back."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

_MISSING = object()


class Patches:
    """What was replaced on objects that may die before it is given back.

    Replacements go straight into an object's `__dict__`: Keras tracks what is set as an attribute.
    """

    def __init__(self) -> None:
        """Starts with nothing replaced."""
        self._attributes: list[tuple[weakref.ref[Any], str, Any]] = []
        self._classes: list[tuple[weakref.ref[Any], type]] = []

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Puts `value` in the place of the attribute `name` of this one object."""
        self._attributes.append((weakref.ref(owner), name, vars(owner).get(name, _MISSING)))
        vars(owner)[name] = value

    def replace_next(self, owner: Any, step: Callable[[Any], Any]) -> None:
        """Puts `step(iterator)` in the place of the `__next__` of this one iterator."""
        # Python looks `__next__` up in the class, so one object alone needs a class of its own.
        kind = type(owner)
        owner.__class__ = type(kind.__name__, (kind,), {"__next__": step})
        self._classes.append((weakref.ref(owner), kind))

    def undo(self) -> None:
        """Gives every object its own attributes back; harmless the second time."""
        attributes, classes = self._attributes, self._classes
        self._attributes, self._classes = [], []
        for reference, name, previous in reversed(attributes):
            owner = reference()
            if owner is not None and previous is not _MISSING:
                vars(owner)[name] = previous
            elif owner is not None:
                vars(owner).pop(name, None)
        for reference, kind in classes:
            owner = reference()
            if owner is not None:
                owner.__class__ = kind


def method(owner: Any, name: str) -> Callable[..., Any] | None:
    """Returns the method without a reference to `owner`, which must be free to die; None without.

    `train_function` is None in a model that has not trained.
    """
    if name in vars(owner):
        return vars(owner)[name]  # type: ignore[no-any-return]
    function, reference = getattr(type(owner), name, None), weakref.ref(owner)
    if function is None:
        return None
    return lambda *args, **kwargs: function(reference(), *args, **kwargs)
