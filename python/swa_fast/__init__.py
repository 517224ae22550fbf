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

TYPE_CHECKING = False
"""True to those who check types, as ``typing.TYPE_CHECKING``, which takes longer to import."""

if TYPE_CHECKING:
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

if not TYPE_CHECKING:
    # Imported when they are first asked for: `dataclasses`, on which they stand, takes several
    # times as long to import as all the rest. Each name and the module that has it, or is it.
    _LATER = {
        "Average": "average",
        "Averager": "averager",
        "decays": "decays",
        "plots": "plots",
    }

    def __getattr__(name):
        """Imports what is not needed by the calls."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(f"{__name__}.{_LATER[name]}")
        value = globals()[name] = getattr(module, name, module)
        return value

    def __dir__():
        """Returns the names there are, imported or not."""
        return sorted({*globals(), *__all__})
