"""Weight averaging in PyTorch: ``torch.optim.swa_utils`` with the fused update, and more.

- ``AveragedModel``, ``get_swa_multi_avg_fn``, ``get_ema_multi_avg_fn``, ``update_bn`` and
  ``SWALR`` take the place of those in ``torch.optim.swa_utils``.
- ``WeightAverager`` averages a list of parameters without copying the model.
- ``SWA`` wraps an optimizer and takes the snapshots itself.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        'swa_fast.torch needs PyTorch, which is not installed: pip install "swa-fast[torch]"'
    ) from error

from torch.optim.swa_utils import SWALR, get_ema_avg_fn, get_swa_avg_fn

from .averaged_model import AveragedModel
from .averager import WeightAverager
from .batch_norm import update_bn
from .multi_avg import get_ema_multi_avg_fn, get_swa_multi_avg_fn
from .optimizer import SWA

__all__ = [
    "SWA",
    "SWALR",
    "AveragedModel",
    "WeightAverager",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]
