"""Checks of what users hand to a wrapping optimizer; nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def check_pairs(grads_and_vars: Iterable[Any]) -> list[Any]:
    """Returns (gradient, variable) pairs as a list.

    Raises:
        TypeError: a pair is malformed.
        ValueError: no variable has a gradient.
    """
    pairs = list(grads_and_vars)
    for index, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                "grads_and_vars must hold (gradient, variable) pairs. "
                f"Received at index {index}: {pair!r}"
            )
        if not hasattr(pair[1], "assign"):
            raise TypeError(
                f"grads_and_vars[{index}] must end in a variable. Received: "
                f"{type(pair[1]).__name__}"
            )
    if all(gradient is None for gradient, _ in pairs):
        raise ValueError(
            f"No gradients provided for any variable. Received {len(pairs)} pairs, for "
            f"{[variable.name for _, variable in pairs][:10]}"
        )
    return pairs


def check_variables(variables: Iterable[Any]) -> list[Any]:
    """Returns a `var_list` as a list; raises TypeError if one of it is not a variable."""
    checked = list(variables)
    for index, variable in enumerate(checked):
        if not hasattr(variable, "assign"):
            raise TypeError(
                f"var_list must hold variables. Received at index {index}: "
                f"{type(variable).__name__}"
            )
    return checked


def check_values(variables: Sequence[Any], values: Sequence[Any], title: str, owner: str) -> None:
    """Raises ValueError unless there is one value of the right shape for each variable."""
    if len(values) != len(variables):
        raise ValueError(
            f"{title} must hold {len(variables)} arrays, one for each variable of {owner}. "
            f"Received: {len(values)}"
        )
    for index, (variable, value) in enumerate(zip(variables, values, strict=True)):
        if tuple(np.shape(value)) != tuple(variable.shape):
            raise ValueError(
                f"{title}[{index}] must have shape {tuple(variable.shape)}, that of "
                f"{variable.name!r}. Received shape: {tuple(np.shape(value))}"
            )
