"""Weight averaging for Keras 3.

Attributes:
    optimizers: ``SWA``, the API of ``tfa.optimizers.SWA``.
    callbacks: ``SWA``, the API of ``keras-swa``; ``EMA`` and ``Averages``, by batch.
    update_bn: recomputes the moving statistics of BatchNormalization layers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime import update_bn

__all__ = ["callbacks", "optimizers", "update_bn"]


def __getattr__(name: str) -> Any:
    # Each part imports its framework only when it is asked for.
    if name in ("callbacks", "optimizers"):
        return importlib.import_module(f"{__name__}.{name}")
    if name == "update_bn":
        return importlib.import_module(f"{__name__}.runtime").update_bn
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
