"""What a format's writer does, and the scratch files that some need."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..dtypes import DType
from ..tensors import Bytes, Checkpoint

__all__ = ["Job", "Scratch", "TensorOut", "Writer"]

PROVENANCE = "swa_fast.merge"
"""Under this name a file says how it was made."""


@dataclass(frozen=True)
class TensorOut:
    """Dtype and shape of a tensor to be written."""

    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """What a writer is to write.

    Attributes:
        path: the file or folder, which does not exist.
        target: what it will be called: decides names inside a folder.
        inputs: the opened checkpoints; the last one gives everything that is not a tensor.
        tensors: what is averaged or copied, by name.
        carried: names in the last input's ``carried`` that are written too.
        dtype: the dtype that all averages get, None if each keeps its own.
        provenance: how the output was made, as JSON.
    """

    path: Path
    target: Path
    inputs: list[Checkpoint]
    tensors: Mapping[str, TensorOut]
    carried: Mapping[str, TensorOut]
    dtype: DType | None
    provenance: str

    @property
    def template(self) -> Checkpoint:
        """The last input."""
        return self.inputs[-1]


class Writer(Protocol):
    """Writes one checkpoint, tensor after tensor in the order that it asks for.

    Making a writer writes nothing that could not be computed again, and checks what can be checked.

    Attributes:
        order: names of the tensors, carried ones among them, whose bytes are wanted, in this order.
            A name that is missing shares its memory with one that is there.
        size: bytes that are needed on the disk, scratch files included.
    """

    order: list[str]
    size: int

    def write(self, name: str, data: Bytes) -> None:
        """Take the next bytes of a tensor, in row-major order."""

    def finish(self, *, durable: bool) -> None:
        """Complete the output after the last byte."""

    def abandon(self) -> None:
        """Close all files after an error; what was written will be deleted."""


class Scratch:
    """A file of raw bytes beside the output, mapped to be written in any order.

    The memory belongs to the file: it can be given back at any time, and is not anonymous.

    Args:
        path: the file, which must not exist; it is deleted by ``close``.
        size: its bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        """See the class."""
        self.path = path
        self.size = size
        try:
            with path.open("x+b") as file:
                _allocate(file.fileno(), max(size, 1))
                self._map = mmap.mmap(file.fileno(), max(size, 1))
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self.bytes: Bytes = np.frombuffer(self._map, np.uint8)[:size]

    def view(
        self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int
    ) -> NDArray[Any]:
        """Return a view of opaque elements at a byte offset; strides are in bytes."""
        dtype = np.dtype(f"V{itemsize}")
        return np.ndarray(shape, dtype, self.bytes.data, offset, strides)

    def give_back(self) -> None:
        """Take the pages out of this process's memory; the file keeps them."""
        madvise = getattr(self._map, "madvise", None)
        if madvise is not None:
            madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


def _allocate(fd: int, size: int) -> None:
    """Make a file so long, on the disk too: a hole for which there is no space kills its writer."""
    try:
        os.posix_fallocate(fd, 0, size)
    except (OSError, AttributeError) as error:  # macOS, and file systems that cannot
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
            raise
        os.ftruncate(fd, size)
