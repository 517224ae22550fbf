"""Checks that need a Keras, each run by `runner.py` in a process of its own backend.

A check is a function of one argument, the `Environment`, that raises if its promise is broken.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

ALL = ("tensorflow", "torch", "jax", "tf_keras")
TENSORFLOW = ("tensorflow", "tf_keras")
_MODULES = (
    "batch_norm",
    "beyond",
    "by_batch",
    "early_end",
    "examples",
    "guards",
    "inputs",
    "meaning",
    "places",
    "reading",
    "resume",
    "said",
    "states",
    "statistics_epoch",
    "swapped",
    "update_bn",
)
CHECKS: dict[str, tuple[tuple[str, ...], Callable[[Any], None]]] = {}


def check(*targets: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Registers a check for these targets, for all of them if none is named."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        module = function.__module__.rsplit(".", 1)[-1]
        name = f"{module}.{function.__name__}"
        assert name not in CHECKS
        CHECKS[name] = (targets or ALL, function)
        return function

    return register


def load() -> None:
    """Imports every module of checks."""
    for name in _MODULES:
        importlib.import_module(f"{__name__}.{name}")
