"""The parameter shapes of real models, and memory for them that all competitors share."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from . import UserError

Array: TypeAlias = npt.NDArray[np.float32]

DEFAULT_MODELS = ("mobilenet_v3_large", "efficientnet_b0", "resnet50", "bert_base", "gpt2")
"""What runs when no model is named; llama_1b needs about 20 GB and runs only when asked for."""

_CACHE_LINE, _HUGE_PAGE, _HALF_PAGE = 64, 2**21, 2048
"""Bytes. torch and TensorFlow start every tensor on a cache line; NumPy asks for huge pages. The
values lie half a page from the averages: a load whose low 12 address bits match those of a store in
flight waits for it, and no competitor may meet that by accident."""

_BLOCK = 1_048_573
"""Random elements, then repeated. The length is prime, so that a kernel that is off by any usual
stride reads a wrong number."""


@dataclass(frozen=True)
class Workload:
    """The float32 parameters of one model: its name, where the shapes are from, and the shapes."""

    name: str
    source: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def elements(self) -> int:
        """Number of elements in the whole list."""
        return sum(self.sizes)


class Arena:
    """Averages and values of a workload, as lists of arrays in two padded buffers.

    Attributes:
        averages: one array per tensor, views into `averages_all`; nothing is written yet.
        values: the same, views into `values_all`.
    """

    def __init__(self, workload: Workload) -> None:
        """Allocate; the memory is not touched."""
        self.workload = workload
        padded = sum(map(_padded, workload.sizes))
        self.averages_all, self.values_all = _aligned(padded, 0), _aligned(padded, _HALF_PAGE)
        self.averages, self.values = self.split(self.averages_all), self.split(self.values_all)

    def split(self, buffer: Array) -> list[Array]:
        """Return the views of a padded buffer that are the tensors."""
        views, start = [], 0
        for shape, size in zip(self.workload.shapes, self.workload.sizes, strict=True):
            views.append(buffer[start : start + size].reshape(shape))
            start += _padded(size)
        return views

    def fill(self, rng: np.random.Generator) -> Arena:
        """Fill both buffers with random numbers and return itself."""
        fill_random(self.averages_all, rng)
        fill_random(self.values_all, rng)
        return self


def fill_random(buffer: Array, rng: np.random.Generator) -> None:
    """Fill a buffer with normally distributed numbers, a block of prime length repeated."""
    block = rng.standard_normal(min(_BLOCK, buffer.size), np.float32)
    for start in range(0, buffer.size, _BLOCK):
        buffer[start : start + _BLOCK] = block[: buffer.size - start]


def load() -> dict[str, Workload]:
    """Read every workload that is shipped with the package, in the order of the file."""
    text = resources.files(__package__).joinpath("workloads.json").read_text(encoding="utf-8")
    return {
        name: Workload(name, entry["source"], tuple(map(tuple, entry["shapes"])))
        for name, entry in json.loads(text).items()
    }


def require_memory(workload: Workload, peers: Collection[str]) -> None:
    """Raise a UserError if a workload would make the machine swap.

    The check needs three lists (averages, values, expected). TensorFlow keeps two of its own beside
    the arena's, and XLA writes the new averages beside the old. Expressions need temporaries of the
    largest tensor; interpreter and frameworks take about 1 GB.
    """
    lists, advice = 3, "choose a smaller --model"
    if "tensorflow" in peers:
        lists, advice = 5, f"{advice} or leave tensorflow out of --peers"
    needed = 10**9 + 4 * (lists * workload.elements + 3 * max(workload.sizes))
    available = available_bytes()
    if available is not None and needed > available:
        raise UserError(
            f"{workload.name} needs about {needed / 1e9:.1f} GB of memory and "
            f"{available / 1e9:.1f} GB are available; {advice}"
        )


def available_bytes() -> int | None:
    """Return the memory that the machine, and the container's limit, leave; None if not told."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    if not found:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # "max" means no limit, and is not a number
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{which}").read_text()) for which in ("max", "current"))
        found.append(max(0, limit - used))
    return min(found, default=None)


def _padded(size: int) -> int:
    return -(-size * 4 // _CACHE_LINE) * _CACHE_LINE // 4


def _aligned(elements: int, shift: int) -> Array:
    raw = np.empty(4 * elements + _HUGE_PAGE + shift, np.uint8)
    start = -raw.ctypes.data % _HUGE_PAGE + shift
    return raw[start : start + 4 * elements].view(np.float32)
