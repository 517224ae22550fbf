"""The callbacks that average, for Keras 3 on each of its backends."""

from __future__ import annotations

from typing import Any

from .._keras.ema import AveragesCallback, EMACallback
from .._keras.fit import RunningFit
from .._keras.optimizers import CheckpointOfAverages
from .._keras.runtime import Runtime
from .._keras.swa import AveragingCallback
from .runtime import current  # before fit: it says what to install

from .fit import running  # isort: skip
import keras  # isort: skip

__all__ = ["EMA", "SWA", "AverageModelCheckpoint", "Averages"]


class _Here(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback of this Keras."""

    def _make_runtime(self) -> Runtime:
        return current()

    def _make_fit(self, runtime: Runtime, model: Any) -> RunningFit:
        return running(runtime, model)


class SWA(AveragingCallback, _Here):
    """`keras-swa`'s callback, see below."""

    __doc__ = AveragingCallback.__doc__


class Averages(AveragesCallback, _Here):
    """Several averages at once, see below."""

    __doc__ = AveragesCallback.__doc__


class EMA(EMACallback, _Here):
    """An exponential moving average, see below."""

    __doc__ = EMACallback.__doc__


class AverageModelCheckpoint(CheckpointOfAverages, keras.callbacks.ModelCheckpoint):  # type: ignore[misc]
    """`tfa.callbacks.AverageModelCheckpoint`, see below."""

    __doc__ = CheckpointOfAverages.__doc__
