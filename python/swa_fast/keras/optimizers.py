"""Keras 3 optimizers that average weights: the API of TensorFlow Addons' `tfa.optimizers.SWA`."""

from __future__ import annotations

from ._optimizer_swa import SWA
from ._optimizer_wrapper import AveragedOptimizerWrapper

__all__ = ["SWA", "AveragedOptimizerWrapper"]
