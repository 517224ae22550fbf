"""Tensors of a checkpoint as bytes in row-major order, whichever way a file holds them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .dtypes import DType
from .files import InputFile

__all__ = [
    "ELSEWHERE",
    "Checkpoint",
    "Source",
    "Strided",
    "Tensor",
    "Together",
    "boxes",
    "is_of_optimizer",
    "with_optimizer_apart",
]

Bytes = NDArray[np.uint8]


ELSEWHERE = "other:"
"""Before the names of a torch file's tensors that are outside the model."""


class Source(Protocol):
    """Where a tensor's bytes come from. Ranges are read in rising order."""

    def prefetch(self, begin: int, end: int) -> None:
        """Start to bring the bytes into the page cache, where that can be said of them."""

    def read_into(self, begin: int, into: Bytes) -> None:
        """Fill an array with the bytes from ``begin`` on, in row-major order."""

    def release(self, begin: int, end: int) -> None:
        """Take back what ``prefetch`` used."""


@dataclass(frozen=True)
class Together:
    """Bytes that lie together in a file."""

    file: InputFile
    offset: int

    def prefetch(self, begin: int, end: int) -> None:
        """Start to bring the bytes into the page cache."""
        self.file.prefetch(self.offset + begin, self.offset + end)

    def read_into(self, begin: int, into: Bytes) -> None:
        """Copy the bytes."""
        self.file.read_into(self.offset + begin, into)

    def release(self, begin: int, end: int) -> None:
        """Take the bytes out of the page cache if they were not there before."""
        self.file.release(self.offset + begin, self.offset + end)


@dataclass(frozen=True)
class Strided:
    """A view with strides into bytes of a file: copied into row-major order as it is read.

    Attributes:
        file: holds the bytes.
        offset: of the view's first element, in bytes.
        shape: of the view.
        strides: in bytes.
        itemsize: bytes of an element.
    """

    file: InputFile
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    def prefetch(self, begin: int, end: int) -> None:
        """Do nothing: the bytes do not lie together."""

    def read_into(self, begin: int, into: Bytes) -> None:
        """Copy the elements."""
        if into.size == 0:
            return
        span = self.itemsize + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        item = np.dtype(f"V{self.itemsize}")
        with self.file.mapped(self.offset, self.offset + span) as data:
            view: NDArray[Any] = np.ndarray(self.shape, item, data, 0, self.strides)
            first = begin // self.itemsize
            into.view(item)[:] = view.flat[first : first + into.size // self.itemsize]
            del view, data

    def release(self, begin: int, end: int) -> None:
        """Do nothing: a page may hold other elements that are still to come."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint.

    Attributes:
        name: as the checkpoint has it.
        dtype: its storage type.
        shape: may be ``()`` and may have zeros.
        file: where it is, for messages.
        source: its bytes.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: Path
    source: Source

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.dtype.nbytes(self.count)


@dataclass
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        path: the file or folder, as the user named it.
        format: "safetensors", "torch", "dcp", "keras", "h5" or "npz".
        tensors: what can be merged, by name, in the order of the file.
        carried: tensors that the output gets from the last input: what is neither part of the
            model nor of an optimizer.
        optimizer: names of tensors, or of parts, that belong to an optimizer.
        metadata: what the file says about itself, as strings.
        files: all files that it is made of.
        extra: what the writer of the same format needs of it.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    carried: dict[str, Tensor] = field(default_factory=dict)
    optimizer: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    extra: Any = None


_OPTIMIZER = re.compile(r"^(optim(izer)?(_states?|_weights)?|exp_avg|exp_avg_sq)[./]")
"""Beginnings of names, in files without structure, that can only be an optimizer's."""


def with_optimizer_apart(checkpoint: Checkpoint, keep: bool) -> Checkpoint:
    """Take the tensors whose names say that they are an optimizer's out of those to be merged.

    Args:
        checkpoint: with all tensors.
        keep: carry them over to the output.

    Returns:
        The same checkpoint.
    """
    for name in [name for name in checkpoint.tensors if is_of_optimizer(name)]:
        tensor = checkpoint.tensors.pop(name)
        if keep:
            checkpoint.carried[name] = tensor
        else:
            checkpoint.optimizer.append(name)
    return checkpoint


def is_of_optimizer(name: str) -> bool:
    """Whether a name, in a file without structure, can only be an optimizer's."""
    return _OPTIMIZER.match(name) is not None


def boxes(shape: Sequence[int], begin: int, end: int) -> Iterator[tuple[slice, ...]]:
    """Cut a range of a row-major tensor into boxes that follow one another.

    Args:
        shape: of the tensor.
        begin: number of the first element.
        end: number of the element after the last one.

    Yields:
        A slice for each axis. The boxes' elements, each box in row-major order, are the range.

    Example:
        >>> from swa_fast.checkpoints.tensors import boxes
        >>> list(boxes((2, 3), 1, 6))
        [(slice(0, 1, None), slice(1, 3, None)), (slice(1, 2, None), slice(0, 3, None))]
    """
    if begin >= end:
        return
    if not shape:
        yield ()
        return
    row = math.prod(shape[1:])
    inner = shape[1:]
    first, last = -(-begin // row), end // row  # whole rows
    if first > last:  # inside one row
        index = begin // row
        for box in boxes(inner, begin - index * row, end - index * row):
            yield (slice(index, index + 1), *box)
        return
    if begin < first * row:
        for box in boxes(inner, begin - (first - 1) * row, row):
            yield (slice(first - 1, first), *box)
    if first < last:
        yield (slice(first, last), *(slice(0, size) for size in inner))
    if last * row < end:
        for box in boxes(inner, 0, end - last * row):
            yield (slice(last, last + 1), *box)
