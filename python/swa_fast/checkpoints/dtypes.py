"""Storage types of tensors in files, by the names of the safetensors format.

float64, float32, float16, bfloat16 and complex numbers are averaged as they are, the two float8
formats of training (e4m3fn, e5m2) through exact float32. Integers and bools are copied. Everything
else (scales without a sign, numbers of 4 and 6 bits) can be copied, not averaged.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DTYPES", "DType", "float8_values", "round_to_float8"]

Kind = str


@dataclass(frozen=True)
class DType:
    """A storage type.

    Attributes:
        name: as safetensors spells it: "BF16".
        bits: size of one element; 64 for a complex number of two float32.
        kind: "float", "float8", "complex", "integer", "bool" or "opaque".
        label: as people and frameworks spell it: "bfloat16".
        parts: what ``combine_`` is told of it, the name of the float that one element (or each half
            of a complex number) is; None if it cannot be given to ``combine_``.
        numpy: a NumPy dtype of the same bytes; unsigned integers where NumPy has no such number.
    """

    name: str
    bits: int
    kind: Kind
    label: str
    parts: str | None = None
    numpy: str = ""

    @property
    def itemsize(self) -> int:
        """Bytes of one element.

        Raises:
            ValueError: an element is smaller than a byte.
        """
        if self.bits % 8:
            raise ValueError(f"an element of {self.label} is not a whole number of bytes")
        return self.bits // 8

    @property
    def is_averaged(self) -> bool:
        """Whether tensors of this type are averaged, not copied."""
        return self.kind in ("float", "float8", "complex")

    def nbytes(self, count: int) -> int:
        """Bytes of ``count`` elements."""
        return (count * self.bits + 7) // 8


DTYPES = {
    dtype.name: dtype
    for dtype in (
        DType("F64", 64, "float", "float64", "F64", "<f8"),
        DType("F32", 32, "float", "float32", "F32", "<f4"),
        DType("F16", 16, "float", "float16", "F16", "<f2"),
        DType("BF16", 16, "float", "bfloat16", "BF16", "<u2"),
        DType("F8_E4M3", 8, "float8", "float8_e4m3fn", None, "u1"),
        DType("F8_E5M2", 8, "float8", "float8_e5m2", None, "u1"),
        DType("C128", 128, "complex", "complex128", "F64", "<c16"),
        DType("C64", 64, "complex", "complex64", "F32", "<c8"),
        DType("I64", 64, "integer", "int64", None, "<i8"),
        DType("I32", 32, "integer", "int32", None, "<i4"),
        DType("I16", 16, "integer", "int16", None, "<i2"),
        DType("I8", 8, "integer", "int8", None, "i1"),
        DType("U64", 64, "integer", "uint64", None, "<u8"),
        DType("U32", 32, "integer", "uint32", None, "<u4"),
        DType("U16", 16, "integer", "uint16", None, "<u2"),
        DType("U8", 8, "integer", "uint8", None, "u1"),
        DType("BOOL", 8, "bool", "bool", None, "?"),
        DType("F8_E8M0", 8, "opaque", "float8_e8m0fnu", None, "u1"),
        DType("F8_E4M3FNUZ", 8, "opaque", "float8_e4m3fnuz", None, "u1"),
        DType("F8_E5M2FNUZ", 8, "opaque", "float8_e5m2fnuz", None, "u1"),
        DType("F6_E2M3", 6, "opaque", "float6_e2m3fn", None, "u1"),
        DType("F6_E3M2", 6, "opaque", "float6_e3m2fn", None, "u1"),
        DType("F4", 4, "opaque", "float4_e2m1fn", None, "u1"),
    )
}
"""All types that a checkpoint may hold, by name."""

BY_LABEL = {dtype.label: dtype for dtype in DTYPES.values()}
"""The same by the names that NumPy and torch use."""

_MANTISSA_AND_BIAS = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15)}

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("swa_fast.checkpoints reads files of little-endian numbers as they are")


def float8_values(dtype: DType) -> NDArray[np.float32]:
    """Return the numbers that the 256 codes of a float8 format stand for, exactly.

    The formats are those of Micikevicius et al. 2022 (arXiv 2209.05433): E5M2 has infinities, E4M3
    has none and a single NaN of either sign.

    Args:
        dtype: ``F8_E4M3`` or ``F8_E5M2``.

    Returns:
        A table of 256 float32 numbers.

    Example:
        >>> from swa_fast.checkpoints.dtypes import DTYPES, float8_values
        >>> float(float8_values(DTYPES["F8_E4M3"])[0x7E])
        448.0
    """
    mantissa_bits, bias = _MANTISSA_AND_BIAS[dtype.name]
    codes = np.arange(128)
    exponent, mantissa = codes >> mantissa_bits, codes & ((1 << mantissa_bits) - 1)
    is_normal = exponent > 0
    significand = mantissa / (1 << mantissa_bits) + is_normal
    values = np.ldexp(significand, np.where(is_normal, exponent, 1) - bias)
    if dtype.name == "F8_E5M2":
        values[exponent == 31] = np.nan
        values[0x7C] = np.inf
    else:
        values[0x7F] = np.nan
    return np.concatenate([values, -values]).astype(np.float32)


def round_to_float8(numbers: NDArray[np.float64], dtype: DType) -> NDArray[np.uint8]:
    """Round float64 numbers once, to nearest even, to the codes of a float8 format.

    What is beyond the largest number becomes an infinity (E5M2) or NaN (E4M3).

    Args:
        numbers: any shape.
        dtype: ``F8_E4M3`` or ``F8_E5M2``.

    Returns:
        The codes, in the same shape.
    """
    infinity = 0x7C if dtype.name == "F8_E5M2" else 0x7F
    values = float8_values(dtype)[:infinity].astype(np.float64)
    step = values[-1] - values[-2]
    # midpoints[i] lies between codes i and i + 1; beyond the last one a number overflows.
    midpoints = np.append((values[1:] + values[:-1]) / 2, values[-1] + step / 2)
    magnitude = np.abs(numbers)
    codes = np.searchsorted(midpoints, magnitude)  # a tie goes to the lower code
    inside = np.minimum(codes, len(midpoints) - 1)
    codes = codes + ((magnitude == midpoints[inside]) & (codes % 2 == 1))
    codes = np.where(np.isnan(numbers), 0x7F, codes)
    return (codes | np.where(np.signbit(numbers), 0x80, 0)).astype(np.uint8)
