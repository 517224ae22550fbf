"""The keras-swa API as a Keras 3 callback, on each of its backends."""

from __future__ import annotations

from swa_fast._callback.backend import Backend
from swa_fast._callback.core import AveragingCallback

from ._callback_current import current  # first: it says what to install
from .average_checkpoint import AverageModelCheckpoint

import keras  # isort: skip

__all__ = ["SWA", "AverageModelCheckpoint"]


class SWA(AveragingCallback, keras.callbacks.Callback):  # type: ignore[misc]
    """`keras-swa`'s callback, see below."""

    __doc__ = AveragingCallback.__doc__

    def _make_backend(self) -> Backend:
        return current()
