"""Which callback averages which model: one at a time."""

from __future__ import annotations

import weakref
from typing import Any

_RUNNING: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""For each model the `params` dict that Keras makes anew for each `fit`, and gives to all of its
callbacks."""


def check_alone(model: Any, params: Any) -> None:
    """Raises ValueError if another callback has claimed `model` in the `fit` of these `params`."""
    if _RUNNING.get(model) is params:
        raise ValueError(
            "only one SWA callback can average a model in one fit. Received: two of them in "
            "callbacks"
        )


def claim(model: Any, params: Any) -> None:
    """Makes `check_alone` fail from now on, in this `fit`."""
    _RUNNING[model] = params
