"""Raw memory as a tensor of any float, bfloat16 among them, for ``swa_fast.combine_``.

NumPy has no bfloat16, and neither torch nor ml_dtypes need be installed to average files of it. So
a chunk of memory is exported by DLPack itself: two C structures and a capsule around them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Numbers"]

_CPU = (1, 0)
_FLOAT, _BFLOAT = 2, 4
_TYPES = {"F64": (_FLOAT, 64), "F32": (_FLOAT, 32), "F16": (_FLOAT, 16), "BF16": (_BFLOAT, 16)}
_READ_ONLY = 1


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint32), ("minor", ctypes.c_uint32))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (
        ("version", _Version),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class Numbers:
    """A one-dimensional tensor over memory that something else owns.

    The consumer must keep this object as long as it uses the memory, as ``combine_`` does: the
    capsule has no deleter.

    Args:
        memory: contiguous bytes, aligned to the numbers' size.
        name: the float that they are: "F64", "F32", "F16" or "BF16".
    """

    def __init__(self, memory: NDArray[np.uint8], name: str) -> None:
        """See the class."""
        code, bits = _TYPES[name]
        self._memory = memory
        # The stride is given too: old readers of DLPack look at it.
        self._shape = (ctypes.c_int64 * 1)(memory.nbytes * 8 // bits)
        self._strides = (ctypes.c_int64 * 1)(1)
        tensor = _Tensor(memory.ctypes.data, *_CPU, 1, code, bits, 1, self._shape, self._strides, 0)
        flags = 0 if memory.flags.writeable else _READ_ONLY
        self._managed = _Managed(_Version(1, 0), None, None, flags, tensor)

    def __dlpack__(self, **_: Any) -> Any:
        """Return a capsule that borrows the memory."""
        return _new_capsule(ctypes.addressof(self._managed), b"dltensor_versioned", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the number of the CPU."""
        return _CPU
