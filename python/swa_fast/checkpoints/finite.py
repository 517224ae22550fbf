"""Whether numbers in the bytes of a chunk are finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dtypes import DType, float8_values
from .tensors import Bytes

__all__ = ["has_nonfinite"]

# The bits of the exponent: all of them are set in NaN and in infinities.
_EXPONENTS: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}

_BLOCK = 1 << 17
"""Numbers that are looked at together: they and their masks stay in the second-level cache."""


def has_nonfinite(data: Bytes, dtype: DType) -> bool:
    """Whether there is a NaN or an infinity.

    Every product and sum with one is one, also with the coefficient 0: so the output of finite
    numbers tells that all inputs were finite.
    """
    if dtype.kind == "float8":
        return not np.isfinite(float8_values(dtype)[data]).all()
    assert dtype.parts is not None
    unsigned, exponent = _EXPONENTS[dtype.parts]
    mask: Any = unsigned(exponent)
    numbers: Any = data.view(unsigned)
    masked = np.empty(min(_BLOCK, numbers.size), unsigned)
    for begin in range(0, numbers.size, _BLOCK):
        block = numbers[begin : begin + _BLOCK]
        found = np.bitwise_and(block, mask, out=masked[: block.size])
        if found.max() == mask:
            return True
    return False
