"""Weight averaging for TensorFlow: the optimizers of whichever Keras ``tf.keras`` is.

``swa_fast.tensorflow.SWA`` is ``swa_fast.keras.optimizers.SWA`` where ``tf.keras`` is Keras 3, and
``swa_fast.tf_keras.optimizers.SWA`` where it is the legacy Keras 2 (``TF_USE_LEGACY_KERAS=1``);
``MovingAverage`` and ``AveragedOptimizerWrapper`` likewise.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["SWA", "AveragedOptimizerWrapper", "MovingAverage"]


def _optimizers() -> Any:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            'swa_fast.tensorflow needs TensorFlow: pip install "swa-fast[tensorflow]"'
        ) from error
    package = tf.keras.optimizers.Optimizer.__module__.split(".")[0]  # "keras" or "tf_keras"
    return importlib.import_module(f"swa_fast.{package}.optimizers")


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(_optimizers(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
