"""Files that are read ahead of their use and given back behind it, and files that are written."""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError

__all__ = ["InputFile", "OutputFile", "Window"]

Bytes = NDArray[np.uint8]

_POPULATE_READ = 22
"""Linux 5.14's madvise that reads pages and maps them; Python has no name for it."""


class InputFile:
    """A file of which parts are read.

    It is opened for each part, as a merge may have more files than a process may have open; that
    it is still the same file is checked each time. The parts are copies: the pages of a mapped file
    are gone when another program cuts the file off, and using them then would end the process.

    Attributes:
        path: the file.
        size: its bytes when this object was made.

    Raises:
        CheckpointError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self.path = path
        try:
            status = path.stat()
        except FileNotFoundError:
            raise CheckpointError(f"{path} is not there") from None
        self.size = status.st_size
        self._identity = _identity(status)
        self._cold: set[int] = set()

    def read(self, begin: int, end: int) -> Bytes:
        """Return a copy of the bytes from ``begin`` up to ``end``; see ``read_into``."""
        self._require(begin, end)
        data = np.empty(end - begin, np.uint8)
        self.read_into(begin, data)
        return data

    def read_into(self, begin: int, into: Bytes) -> None:
        """Fill an array with the bytes from ``begin`` on.

        Raises:
            CheckpointError: the file is shorter, or is not what it was.
        """
        self._require(begin, begin + into.size)
        rest = into.data
        with self._opened() as fd, open(fd, "rb", buffering=0, closefd=False) as file:
            file.seek(begin)
            while len(rest):
                count = file.readinto(rest)
                if not count:
                    raise self._cut_off()
                rest = rest[count:]

    @contextlib.contextmanager
    def mapped(self, begin: int, end: int) -> Iterator[Bytes]:
        """Give a read-only view of the bytes from ``begin`` up to ``end``, to be used at once.

        For parts of which few bytes are needed.

        Raises:
            CheckpointError: the file is shorter or is not what it was, or the disk fails, as far as
                the system tells (Linux 5.14 and newer).
        """
        self._require(begin, end)
        start = begin - begin % mmap.ALLOCATIONGRANULARITY
        with (
            self._opened() as fd,
            mmap.mmap(fd, end - start, access=mmap.ACCESS_READ, offset=start) as pages,
        ):
            try:
                pages.madvise(_POPULATE_READ)
            except AttributeError:  # another system
                pass
            except OSError as error:
                if error.errno == errno.EFAULT:
                    raise self._cut_off() from None
            data = np.frombuffer(pages, np.uint8)[begin - start :]
            try:
                yield data
            finally:
                del data  # the map cannot be closed while it is used

    def prefetch(self, begin: int, end: int) -> None:
        """Start to read the bytes into the page cache, and note if they were not there."""
        if begin >= end:
            return
        with contextlib.suppress(OSError, AttributeError), _descriptor(self.path) as fd:
            if not _is_cached(fd, (begin, (begin + end) // 2, end - 1)):
                self._cold.add(begin)
                os.posix_fadvise(fd, begin, end - begin, os.POSIX_FADV_WILLNEED)

    def release(self, begin: int, end: int) -> None:
        """Take the bytes out of the page cache, if ``prefetch`` with the same range brought them.

        Bytes that were there before are left there: someone wants them.
        """
        if begin in self._cold:
            self._cold.discard(begin)
            with contextlib.suppress(OSError), _descriptor(self.path) as fd:
                drop_from_cache(fd, begin, end)

    def _require(self, begin: int, end: int) -> None:
        if not 0 <= begin <= end <= self.size:
            raise CheckpointError(
                f"{self.path} is truncated: it has {self.size} bytes and {end} are needed"
            )

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the file; CheckpointError if it is not the one that was there before."""
        try:
            with _descriptor(self.path) as fd:
                status = os.fstat(fd)
                if status.st_size < self.size:
                    raise self._cut_off()
                if _identity(status) != self._identity:
                    raise CheckpointError(f"{self.path} was changed while it was read")
                yield fd
        except FileNotFoundError:
            raise CheckpointError(f"{self.path} was deleted while it was read") from None

    def _cut_off(self) -> CheckpointError:
        return CheckpointError(f"{self.path} was cut off while it was read, or its disk fails")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def drop_from_cache(fd: int, begin: int, end: int) -> None:
    """Tell the system that these bytes of a file are not needed soon.

    Bytes that are still to be written to the disk are sent there, and dropped by a later call.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.posix_fadvise(fd, begin, end - begin, os.POSIX_FADV_DONTNEED)


class Window(io.RawIOBase):
    """A part of a file, as a file of its own, to be read.

    Args:
        file: holds the part.
        offset: where it begins.
        size: its bytes.
    """

    def __init__(self, file: InputFile, offset: int, size: int) -> None:
        """See the class."""
        self._file = file
        self._offset = offset
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, not before the beginning, and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer as much as there is."""
        wanted = memoryview(buffer).cast("B")
        end = min(self._at + len(wanted), self._size)
        if end <= self._at:
            return 0
        data = self._file.read(self._offset + self._at, self._offset + end)
        wanted[: len(data)] = data.data
        self._at = end
        return len(data)


class OutputFile:
    """A new file that is written from its first byte to its last.

    What has been written goes to the disk while the rest is computed.

    Attributes:
        size: bytes written so far.
    """

    def __init__(self, path: Path) -> None:
        """Make the file, which must not exist."""
        self._file = path.open("xb", buffering=0)
        self._sent = 0
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        rest = memoryview(data).cast("B") if len(data) else memoryview(b"")
        while len(rest):
            written = self._file.write(rest)
            rest = rest[written:]
            self.size += written
        if self.size - self._sent >= _SEND_BYTES:
            drop_from_cache(self._file.fileno(), 0, self.size)
            self._sent = self.size

    def close(self, *, durable: bool) -> None:
        """Close the file, after waiting until it is on the disk if it is to be ``durable``."""
        with self._file:
            if durable:
                os.fsync(self._file.fileno())


_SEND_BYTES = 1 << 28
"""Bytes after which the system is asked to send what was written to the disk."""


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        yield fd
    finally:
        os.close(fd)


def _is_cached(fd: int, offsets: tuple[int, ...]) -> bool:
    """Whether the bytes at these offsets can be read without waiting for the disk."""
    try:
        nowait: Any = os.RWF_NOWAIT
        return all(os.preadv(fd, [bytearray(1)], offset, nowait) == 1 for offset in offsets)
    except BlockingIOError:
        return False
    except (OSError, AttributeError):  # not supported here: then leave the cache alone
        return True
