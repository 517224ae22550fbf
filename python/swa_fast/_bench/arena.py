"""The memory that the competitors share.

Every competitor that can work on NumPy's memory updates the same averages from the same values,
list and flat buffer alike, so that no one is lucky with pages, alignment or placement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .workloads import BYTES_PER_ELEMENT, Workload

Array: TypeAlias = npt.NDArray[np.float32]

_TENSOR_ALIGNMENT = 64
"""Bytes. torch and TensorFlow both start every CPU tensor on a cache line."""

_BASE_ALIGNMENT = 2 * 1024 * 1024
"""Bytes. One huge page: NumPy asks for huge pages, and a base inside one would share it."""

_VALUES_SHIFT = 2048
"""Bytes by which the values lie away from the averages modulo a 4 KiB page. A load whose low 12
address bits match an earlier store in flight has to wait for it (4K aliasing); half a page keeps
the two streams apart, so no competitor meets that by the accident of an allocation."""

_RANDOM_BLOCK = 1_048_573
"""Elements drawn per fill. Filling repeats one block, which is quicker than drawing every number;
the length is prime, so that a kernel that is off by any usual stride reads a wrong number."""


@dataclass(frozen=True)
class Arena:
    """Averages and values of one workload, as a list of tensors and as one flat buffer.

    Attributes:
        workload: whose shapes these are.
        averages: one array per tensor, views into `averages_all`.
        values: one array per tensor, views into `values_all`.
        averages_flat: the same number of elements as one array, a view into `averages_all`.
        values_flat: the same for the values.
        averages_all: the averages with the padding between tensors.
        values_all: the values with the padding between tensors.
    """

    workload: Workload
    averages: list[Array]
    values: list[Array]
    averages_flat: Array
    values_flat: Array
    averages_all: Array
    values_all: Array


def allocate(workload: Workload) -> Arena:
    """Allocate the averages and the values of `workload`, neither of them written yet."""
    padded = sum(_padded(size) for size in workload.sizes)
    averages_all = _aligned(padded, shift=0)
    values_all = _aligned(padded, shift=_VALUES_SHIFT)
    return Arena(
        workload=workload,
        averages=split(averages_all, workload),
        values=split(values_all, workload),
        averages_flat=averages_all[: workload.elements],
        values_flat=values_all[: workload.elements],
        averages_all=averages_all,
        values_all=values_all,
    )


def split(buffer: Array, workload: Workload) -> list[Array]:
    """Return the views of `buffer` that are the tensors of `workload`, each on a cache line."""
    views = []
    start = 0
    for shape, size in zip(workload.shapes, workload.sizes, strict=True):
        views.append(buffer[start : start + size].reshape(shape))
        start += _padded(size)
    return views


def fill_random(buffer: Array, rng: np.random.Generator) -> None:
    """Fill `buffer` with normally distributed numbers, a prime-length block repeated."""
    block = rng.standard_normal(min(_RANDOM_BLOCK, buffer.size), dtype=np.float32)
    for start in range(0, buffer.size, _RANDOM_BLOCK):
        target = buffer[start : start + _RANDOM_BLOCK]
        target[...] = block[: target.size]


def _padded(size: int) -> int:
    step = _TENSOR_ALIGNMENT // BYTES_PER_ELEMENT
    return -(-size // step) * step


def _aligned(elements: int, shift: int) -> Array:
    raw = np.empty(elements * BYTES_PER_ELEMENT + _BASE_ALIGNMENT + shift, dtype=np.uint8)
    start = -raw.ctypes.data % _BASE_ALIGNMENT + shift
    return raw[start : start + elements * BYTES_PER_ELEMENT].view(np.float32)
