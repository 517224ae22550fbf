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

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

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

if _TYPE_CHECKING:
    from swa_fast import decays, plots
    from swa_fast.average import Average
    from swa_fast.averager import Averager

__all__ = [
    "Average",
    "Averager",
    "__version__",
    "build_info",
    "combine_",
    "copy_",
    "decays",
    "get_num_threads",
    "lerp_",
    "plots",
    "running_mean_",
    "set_num_threads",
    "swap_",
]

# Imported when they are first asked for: the modules that make dataclasses take longer to import
# than all the rest.
_LATER = {"Average": "swa_fast.average", "Averager": "swa_fast.averager", "decays": "", "plots": ""}


def __getattr__(name: str) -> _Any:
    """Imports what is not needed by the calls."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _importlib.import_module(_LATER[name] or f"{__name__}.{name}")
    value = getattr(module, name) if _LATER[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the names there are, imported or not."""
    return sorted({*globals(), *__all__})
