"""Watching a running `fit` from inside one of its callbacks.

Keras tells callbacks nothing when `fit` ends with an exception. So the objects that live only as
long as one `fit` (its callback list, its epoch iterator) are found on the call stack, and their
methods wrapped on the instance, as are the model's that `fit` calls.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any


def find_callback_list(container: type) -> Any:
    """Returns the nearest caller's `self` that is a `container`, None if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, container):
            return owner
        frame = frame.f_back  # type: ignore[assignment]
    return None


def fit_locals(model: Any) -> dict[str, Any]:
    """Returns the local names of the `fit` of `model` that is running, empty if none is found."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
            return dict(frame.f_locals)
        frame = frame.f_back  # type: ignore[assignment]
    return {}


class Guard:
    """Calls `interrupted` when an exception leaves one of the methods it watches.

    Args:
        interrupted: called once for each exception, before it goes on; it must not raise.
        alive: an object of the `fit` that is watched; when it is gone, wrappers that an aborted
            `fit` left behind do nothing.
    """

    def __init__(self, interrupted: Callable[[], None], alive: Any) -> None:
        self._interrupted = interrupted
        self._alive = weakref.ref(alive)
        self._replaced: list[tuple[weakref.ref[Any], str, Any]] = []
        self._classes: list[tuple[weakref.ref[Any], type]] = []

    def watch(self, owner: Any, name: str) -> None:
        """Watches the method `name` of `owner`."""
        call = _method(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self._reporting():
                return call(*args, **kwargs)

        self.replace(owner, name, watched)

    def watch_context(self, owner: Any, name: str) -> None:
        """Watches what runs inside the context manager that the method `name` returns."""
        call = _method(owner, name)

        @contextlib.contextmanager
        def watched(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with call(*args, **kwargs) as value, self._reporting():
                yield value

        self.replace(owner, name, watched)

    def watch_iteration(self, owner: Any) -> None:
        """Watches every step of a `for` loop over `owner`, which is its own iterator."""
        # Python looks `__next__` up in the class, so one object alone needs a class of its own.
        kind, reporting = type(owner), self._reporting

        def step(iterator: Any) -> Any:
            with reporting():
                return kind.__next__(iterator)

        owner.__class__ = type(kind.__name__, (kind,), {"__next__": step})
        self._classes.append((weakref.ref(owner), kind))

    def replace(self, owner: Any, name: str, function: Any) -> None:
        """Puts `function` in the place of a method of this one object, until `remove`."""
        self._replaced.append((weakref.ref(owner), name, vars(owner).get(name)))
        vars(owner)[name] = function

    def remove(self) -> None:
        """Gives every object its own methods back."""
        for reference, name, previous in reversed(self._replaced):
            owner = reference()
            if owner is not None and previous is not None:
                vars(owner)[name] = previous
            elif owner is not None:
                vars(owner).pop(name, None)
        self._replaced.clear()
        for reference, kind in self._classes:
            owner = reference()
            if owner is not None:
                owner.__class__ = kind
        self._classes.clear()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except (StopIteration, GeneratorExit):
            raise
        except BaseException as error:  # KeyboardInterrupt and SystemExit, too
            if type(error).__name__ != "OutOfRangeError" and self._alive() is not None:
                self._interrupted()
            raise


def _method(owner: Any, name: str) -> Callable[..., Any]:
    """Returns the method without a reference to `owner`, which must die with its `fit`."""
    own = vars(owner).get(name)
    if own is not None:
        return own  # type: ignore[no-any-return]
    function, reference = getattr(type(owner), name), weakref.ref(owner)
    return lambda *args, **kwargs: function(reference(), *args, **kwargs)
