"""Which optimizers a train step may apply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .backend import Backend


def optimizers_of(backend: Backend, model: Any) -> list[Any]:
    """Returns the compiled optimizer and all others that are kept for a train step, once each.

    They are looked for in the attributes of `model` and of every layer and model below it, and in
    lists, tuples, sets and dicts there, however deep. One that is reached only through a closure, a
    global name or an object that is no layer is not found.
    """
    found = [model.optimizer] if model.optimizer is not None else []
    seen: set[int] = set()
    for layer in backend.layers(model):
        for value in list(vars(layer).values()):
            found += _optimizers_in(value, backend.optimizer_type, seen)
    return list({id(optimizer): optimizer for optimizer in found}.values())


def _optimizers_in(value: Any, kinds: tuple[type, ...], seen: set[int]) -> Iterator[Any]:
    if isinstance(value, kinds):
        yield value
    elif isinstance(value, dict | list | tuple | set | frozenset) and id(value) not in seen:
        seen.add(id(value))
        for item in list(value.values() if isinstance(value, dict) else value):
            yield from _optimizers_in(item, kinds, seen)
