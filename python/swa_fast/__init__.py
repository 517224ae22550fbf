"""Fused, exact weight averaging on lists of tensors.

The functions here take lists of anything that speaks DLPack or the buffer protocol (NumPy arrays,
torch tensors and parameters, TensorFlow eager tensors, ...), write in place, and return None. The
whole call is checked before the first write: on any error nothing was written.

Example:
    >>> import numpy as np
    >>> import swa_fast
    >>> averages = [np.zeros(3, np.float32)]
    >>> for count, step in enumerate((1.0, 2.0, 3.0)):
    ...     swa_fast.running_mean_(averages, [np.full(3, step, np.float32)], count)
    >>> averages[0]
    array([2., 2., 2.], dtype=float32)
"""

from swa_fast import _cpu_floor as _cpu_floor  # first: refuses a CPU that cannot run the rest
from swa_fast._core import (
    __version__,
    build_info,
    combine_,
    copy_,
    get_num_threads,
    lerp_,
    running_mean_,
    set_num_threads,
    swap_,
)

__all__ = [
    "__version__",
    "build_info",
    "combine_",
    "copy_",
    "get_num_threads",
    "lerp_",
    "running_mean_",
    "set_num_threads",
    "swap_",
]
