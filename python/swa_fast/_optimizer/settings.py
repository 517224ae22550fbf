"""Arguments of a wrapping optimizer, and those of them that are settings of the one inside."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from .framework import Framework

CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
"""Settings of which an optimizer has at most one."""

_ALLOWED = (*CLIPPING, "learning_rate", "lr", "decay")


def check_arguments(
    framework: Framework, optimizer: Any, sequential_update: Any, name: Any
) -> None:
    """Raises TypeError unless these can be a wrapper's arguments."""
    if not isinstance(optimizer, framework.kinds):
        raise TypeError(
            f"optimizer must be {framework.wanted} or the name of one. "
            f"Received: {optimizer!r} of type {type(optimizer).__name__}"
        )
    if not isinstance(sequential_update, bool):
        raise TypeError(f"sequential_update must be a bool. Received: {sequential_update!r}")
    if not isinstance(name, str):
        raise TypeError(f"name must be a str. Received: {name!r}")


def check_settings(inner: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings to make on the inner optimizer; nothing is set here.

    Args:
        inner: the optimizer that makes the steps.
        kwargs: keyword arguments that a user gave to the wrapper; None stands for not given.

    Returns:
        The given ones, `lr` under the name `learning_rate`.

    Raises:
        TypeError: an argument is unknown or not a number.
        ValueError: one is negative, or contradicts another one or what the inner optimizer has.
    """
    settings = {}
    for key, value in kwargs.items():
        if key not in _ALLOWED:
            raise TypeError(
                f"unknown keyword argument {key!r}: the wrapper takes {', '.join(_ALLOWED)}; "
                "set anything else on the inner optimizer"
            )
        if value is None or (key in ("learning_rate", "lr") and callable(value)):
            pass
        elif isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{key} must be a number. Received: {value!r}")
        elif value < 0:
            raise ValueError(f"{key} must be >= 0. Received: {value!r}")
        if value is not None:
            settings[key] = value if callable(value) else float(value)
    if "lr" in settings:
        if "learning_rate" in settings:
            raise ValueError(
                "lr is another name of learning_rate: give one of them. Received: "
                f"lr={settings['lr']}, learning_rate={settings['learning_rate']}"
            )
        settings["learning_rate"] = settings.pop("lr")
    clipping = [key for key in CLIPPING if key in settings]
    already = [key for key in CLIPPING if getattr(inner, key, None) is not None]
    if clipping and len({*clipping, *already}) > 1:
        raise ValueError(
            "only one of clipnorm, clipvalue and global_clipnorm can be set. Received: "
            f"{', '.join(clipping)}; the inner optimizer has {', '.join(already) or 'none'}"
        )
    rate = settings["learning_rate"] if "learning_rate" in settings else _rate_of(inner)
    if settings.get("decay") and callable(rate):
        raise ValueError(
            f"decay is for a learning rate that is a number. Received: decay={settings['decay']}, "
            f"and the learning rate is a {type(rate).__name__}"
        )
    return settings


def _rate_of(inner: Any) -> Any:
    """Returns the learning rate as it was given: a callable where `learning_rate` calls it."""
    given = getattr(inner, "_hyper", {}).get("learning_rate")  # a legacy optimizer of legacy Keras
    return getattr(inner, "_learning_rate", None) if given is None else given


def apply_settings(framework: Framework, optimizer: Any, settings: Mapping[str, Any]) -> None:
    """Makes the settings that `check_settings` returned on the optimizer that makes the steps."""
    inner = framework.innermost(optimizer)
    for key in CLIPPING:
        if key in settings:
            setattr(inner, key, settings[key])
    if "learning_rate" in settings:
        inner.learning_rate = settings["learning_rate"]
    if settings.get("decay"):
        inner.learning_rate = framework.keras.optimizers.schedules.InverseTimeDecay(
            float(framework.read(inner.learning_rate)),
            decay_steps=1,
            decay_rate=settings["decay"],
        )
