"""Checkpoints for tests, written independently of the package, and what their average must be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from reference import BFLOAT16, round_to

Array = np.ndarray[Any, Any]

SAFETENSORS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype(np.complex64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in SAFETENSORS.items()}


def write_safetensors(
    path: Path, tensors: dict[str, Array], metadata: dict[str, str] | None = None
) -> Path:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    at, data = 0, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + len(raw)],
        }
        at, data = at + len(raw), data + raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    found = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        flat = np.frombuffer(raw[begin:end], SAFETENSORS[entry["dtype"]])
        found[name] = flat.reshape(entry["shape"])
    return found, metadata


def weighted_sum(arrays: list[Array], weights: list[float], dtype: Any = None) -> Array:
    """The contract: products and sums in float64 in order, rounded once."""
    wide = np.complex128 if arrays[0].dtype.kind == "c" else np.float64
    total = weights[0] * arrays[0].astype(wide)
    for weight, array in zip(weights[1:], arrays[1:], strict=True):
        total = total + weight * array.astype(wide)
    target = np.dtype(dtype or arrays[0].dtype)
    if target.itemsize == 1:
        return nearest_float8(total, target)
    return round_to(target, total) if wide is np.float64 else total.astype(target)


def nearest_float8(numbers: Array, dtype: np.dtype[Any]) -> Array:
    """Looks for the nearest of all 256 codes; of two that are as near, takes the even one."""
    codes = np.arange(256, dtype=np.uint8)
    values = codes.view(dtype).astype(np.float64)
    finite = np.isfinite(values)
    codes, values = codes[finite], values[finite]
    found = np.empty(numbers.size, np.uint8)
    for index, number in enumerate(numbers.reshape(-1)):
        distance = np.abs(values - number)
        nearest = codes[distance == distance.min()]
        signed = [code for code in nearest if (code >= 128) == (math.copysign(1, number) < 0)]
        found[index] = min(signed, key=lambda code: code % 2)
    return found.view(dtype).reshape(numbers.shape)


def same_bytes(actual: Array, expected: Array) -> bool:
    return (
        actual.dtype == expected.dtype
        and actual.shape == expected.shape
        and actual.tobytes() == expected.tobytes()
    )


def random_model(seed: int, dtype: Any = np.float32) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {
        "layer.weight": generator.standard_normal((17, 5)).astype(dtype),
        "layer.bias": generator.standard_normal(5).astype(dtype),
        "steps": np.array([seed, 7], np.int64),
    }


def leftovers(folder: Path) -> list[str]:
    """Files that a merge has left beside its output."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]
