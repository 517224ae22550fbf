"""The keras-swa API as a callback for legacy Keras (tf_keras)."""

from __future__ import annotations

from swa_fast._callback.backend import Backend
from swa_fast._callback.core import AveragingCallback

from ._callback_backend import LegacyKerasBackend  # first: it says what to install
from .average_checkpoint import AverageModelCheckpoint

import tf_keras  # isort: skip

__all__ = ["SWA", "AverageModelCheckpoint"]


class SWA(AveragingCallback, tf_keras.callbacks.Callback):  # type: ignore[misc]
    """`keras-swa`'s callback, see below."""

    __doc__ = AveragingCallback.__doc__

    _supports_tf_logs = True

    def _make_backend(self) -> Backend:
        return LegacyKerasBackend()
