"""Keyword arguments of a wrapping optimizer that are settings of the one inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
"""Settings of which an optimizer has at most one."""

_ALLOWED = (*CLIPPING, "learning_rate", "lr", "decay")


def check_settings(inner: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings to make on the inner optimizer; nothing is set here.

    Args:
        inner: the optimizer that makes the steps.
        kwargs: keyword arguments that a user gave to the wrapper; None stands for not given.

    Returns:
        The given ones, `lr` under the name `learning_rate`.

    Raises:
        TypeError: an argument is unknown or not a number.
        ValueError: one is negative, or clips in a second way.
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
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{key} must be a number. Received: {value!r}")
        elif value < 0:
            raise ValueError(f"{key} must be >= 0. Received: {value!r}")
        if value is not None:
            settings[key] = value
    if "lr" in settings:
        settings.setdefault("learning_rate", settings.pop("lr"))
    clipping = [key for key in CLIPPING if key in settings]
    already = [key for key in CLIPPING if getattr(inner, key, None) is not None]
    if clipping and len({*clipping, *already}) > 1:
        raise ValueError(
            "only one of clipnorm, clipvalue and global_clipnorm can be set. Received: "
            f"{', '.join(clipping)}; the inner optimizer has {', '.join(already) or 'none'}"
        )
    return settings


def nothing_yet(title: str) -> str:
    """Returns what `assign_average_vars` says before the first snapshot."""
    return (
        f"{title} has taken no snapshot yet: assign_average_vars leaves the variables as they are"
    )
