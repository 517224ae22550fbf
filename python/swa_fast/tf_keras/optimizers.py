"""Legacy Keras optimizers that average weights: the API of `tfa.optimizers.SWA`."""

from __future__ import annotations

from ._optimizer_swa import SWA
from ._optimizer_wrapper import AveragedOptimizerWrapper

__all__ = ["SWA", "AveragedOptimizerWrapper"]
