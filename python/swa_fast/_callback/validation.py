"""Validation of the averages at an epoch's end, inside `fit`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from .backend import Backend
from .guard import Guard
from .update_bn import update_bn

_SAVING = (
    "save",
    "save_weights",
    "export",
    # What functions that save a model call of it: those of Keras, tf.train.Checkpoint, torch.save.
    "save_own_variables",
    "get_config",
    "_trackable_children",
    "state_dict",
)


def evaluate_on_averages(callback: Any, guard: Guard, model: Any) -> None:
    """Makes `fit`'s own calls of `model.evaluate` see the averages instead of the weights.

    A call of `evaluate` by the user, or by another callback, sees the model's weights.
    """
    original = vars(model).get("evaluate") or model.evaluate

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        # The keyword by which fit says that the call is its own.
        if not kwargs.get("_use_cached_eval_dataset"):
            return original(*args, **kwargs)
        with _averages_in_place(callback):
            return original(*args, **kwargs)

    guard.replace(model, "evaluate", evaluate)


@contextlib.contextmanager
def _averages_in_place(callback: Any) -> Iterator[None]:
    """Evaluates what runs inside on the averages, if there are any yet."""
    if callback._pass is not None or callback._finished:  # in the statistics epoch they are there
        yield
        return
    callback._average_epoch()  # Keras validates before it says that the epoch has ended
    averages = callback._averages
    if averages.count == 0:
        yield
        return
    backend, model, data = callback._backend, callback.model, callback.bn_data
    with swapped(backend, model, averages.copies()):
        if data is not None:
            update_bn(backend, model, data, callback.batch_size or 32, None, False)
        yield


@contextlib.contextmanager
def swapped(backend: Backend, model: Any, averages: list[Any]) -> Iterator[None]:
    """Puts `averages` in the place of the model's floating-point weights, and exactly back.

    While they are there the model cannot be saved.
    """
    variables = backend.weights(model)
    before = backend.hold(variables)
    replaced = [(name, vars(model).get(name)) for name in _SAVING if hasattr(model, name)]
    for name, _ in replaced:
        vars(model)[name] = _refuse(name)
    try:
        backend.assign(variables, averages)
        yield
    finally:
        backend.assign(variables, before)
        for name, previous in replaced:
            if previous is None:
                del vars(model)[name]
            else:
                vars(model)[name] = previous


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            f"model.{name} must not be called while validate_with_average evaluates the averages: "
            "the model would be saved without its own weights. Save it at the end of an epoch"
        )

    return refuse
