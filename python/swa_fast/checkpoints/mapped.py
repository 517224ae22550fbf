"""Files mapped into memory, read ahead of their use and given back behind it."""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError

__all__ = ["MappedFile", "OutputFile", "Window"]

Bytes = NDArray[np.uint8]

_OPEN_FILES = 64
"""Maps kept at a time: a model of many shards must not use up the process's file descriptors."""

_POPULATE_READ = 22
"""Linux 5.14's madvise that reads pages and maps them; Python has no name for it."""


class _Map:
    """A map of a file; it has one descriptor of its own."""

    def __init__(self, path: Path, size: int) -> None:
        with _descriptor(path) as fd:
            self.map = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        # The array keeps the map alive for as long as any slice of it.
        self.bytes: Bytes = np.frombuffer(self.map, np.uint8)


class MappedFile:
    """A file of which parts are read in place.

    Opened when it is first read, and closed when many others have been read since.

    Attributes:
        path: the file.
        size: its bytes when this object was made.

    Raises:
        CheckpointError: there is no such file.
    """

    _recent: ClassVar[OrderedDict[int, MappedFile]] = OrderedDict()
    _lock = threading.Lock()

    def __init__(self, path: Path) -> None:
        """See the class."""
        self.path = path
        try:
            status = path.stat()
        except FileNotFoundError:
            raise CheckpointError(f"{path} is not there") from None
        self.size = status.st_size
        self._map: _Map | None = None
        self._cold: set[int] = set()

    def read(self, begin: int, end: int) -> Bytes:
        """Return the bytes from ``begin`` up to ``end``, read-only and not copied.

        Raises:
            CheckpointError: the file is shorter.
        """
        if begin == end:
            return np.empty(0, np.uint8)
        if not 0 <= begin <= end <= self.size:
            raise CheckpointError(
                f"{self.path} is truncated: it has {self.size} bytes and {end} are needed"
            )
        return self._opened().bytes[begin:end]

    def prefetch(self, begin: int, end: int) -> None:
        """Read the bytes into memory, and note whether they had been there before.

        Raises:
            CheckpointError: the file has become shorter, or the disk fails, where Linux tells.
        """
        if begin == end:
            return
        opened = self._opened()
        first, length = _pages(begin, end)
        with contextlib.suppress(OSError), _descriptor(self.path) as fd:
            if not _is_cached(fd, (begin, (begin + end) // 2, end - 1)):
                self._cold.add(begin)
        try:
            opened.map.madvise(_POPULATE_READ, first, length)
        except (OSError, AttributeError) as error:
            if getattr(error, "errno", None) == errno.EFAULT:
                raise CheckpointError(
                    f"{self.path} was cut off while it was read, or its disk fails"
                ) from None
            # An older kernel, or another system.
            with contextlib.suppress(OSError, AttributeError):
                opened.map.madvise(mmap.MADV_WILLNEED, first, length)

    def release(self, begin: int, end: int) -> None:
        """Take the bytes out of this process's memory, and out of the page cache.

        Bytes that were in the page cache before ``prefetch`` are left there: someone wants them.
        """
        opened = self._map  # another thread may close it
        if begin == end or opened is None:
            return
        first, length = _pages(begin, end)
        with contextlib.suppress(OSError, AttributeError, ValueError):
            opened.map.madvise(mmap.MADV_DONTNEED, first, length)
        if begin in self._cold:
            self._cold.discard(begin)
            with contextlib.suppress(OSError), _descriptor(self.path) as fd:
                drop_from_cache(fd, begin, end)

    def close(self) -> None:
        """Close the file; slices that were read stay valid. Reading opens it again."""
        with MappedFile._lock:
            self._map = None
            MappedFile._recent.pop(id(self), None)

    def _opened(self) -> _Map:
        recent = MappedFile._recent
        with MappedFile._lock:
            if self._map is None:
                try:
                    self._map = _Map(self.path, self.size)
                except (FileNotFoundError, ValueError) as error:
                    raise CheckpointError(
                        f"{self.path} changed while it was read: {error}"
                    ) from None
            recent[id(self)] = self
            recent.move_to_end(id(self))
            while len(recent) > _OPEN_FILES:
                recent.popitem(last=False)[1]._map = None
            return self._map


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

    def __init__(self, file: MappedFile, offset: int, size: int) -> None:
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


def _pages(begin: int, end: int) -> tuple[int, int]:
    first = begin - begin % mmap.PAGESIZE
    return first, end - first


def _is_cached(fd: int, offsets: tuple[int, ...]) -> bool:
    """Whether the bytes at these offsets can be read without waiting for the disk."""
    try:
        nowait: Any = os.RWF_NOWAIT
        return all(os.preadv(fd, [bytearray(1)], offset, nowait) == 1 for offset in offsets)
    except BlockingIOError:
        return False
    except (OSError, AttributeError):  # not supported here: then leave the cache alone
        return True
