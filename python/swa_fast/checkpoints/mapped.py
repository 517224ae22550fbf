"""Files mapped into memory, read ahead of their use and given back behind it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import io
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError

__all__ = ["MappedFile", "OutputFile", "Window"]

Bytes = NDArray[np.uint8]

_POPULATE_READ = 22
"""Linux 5.14's madvise that reads pages and maps them; Python has no name for it."""

_PROT_READ, _MAP_SHARED = 1, 1  # of Linux and macOS alike
_MAP_FAILED = 2**64 - 1


class _Map:
    """A whole file in memory, read-only, without a file descriptor.

    Python's own ``mmap`` keeps one for each map, and there are as many maps as a merge has files.
    """

    def __init__(self, path: Path, size: int) -> None:
        with _descriptor(path) as fd:
            if os.fstat(fd).st_size < size:
                raise CheckpointError(f"{path} was cut off while it was read")
            self._address = _libc().mmap(None, size, _PROT_READ, _MAP_SHARED, fd, 0)
        if self._address in (None, _MAP_FAILED):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        memory: Any = (ctypes.c_ubyte * size).from_address(self._address)
        # The memory is let go with the last slice of it.
        weakref.finalize(memory, _libc().munmap, self._address, size).atexit = False
        self.bytes: Bytes = np.frombuffer(memory, np.uint8)
        self.bytes.flags.writeable = False

    def advise(self, what: int, first: int, length: int) -> None:
        """Tell the system about a range that begins with a page; OSError if it does not like it."""
        if _libc().madvise(self._address + first, length, what):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    integers, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    libc.mmap.restype = pointer
    libc.mmap.argtypes = (pointer, size, integers, integers, integers, ctypes.c_int64)
    libc.munmap.argtypes = (pointer, size)
    libc.madvise.argtypes = (pointer, size, integers)
    return libc


class MappedFile:
    """A file of which parts are read in place.

    Mapped when it is first read.

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
        self._map: _Map | None = None
        self._lock = threading.Lock()
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
            opened.advise(_POPULATE_READ, first, length)
        except (OSError, AttributeError) as error:
            if getattr(error, "errno", None) == errno.EFAULT:
                raise CheckpointError(
                    f"{self.path} was cut off while it was read, or its disk fails"
                ) from None
            # An older kernel, or another system.
            with contextlib.suppress(OSError, AttributeError):
                opened.advise(mmap.MADV_WILLNEED, first, length)

    def release(self, begin: int, end: int) -> None:
        """Take the bytes out of this process's memory, and out of the page cache.

        Bytes that were in the page cache before ``prefetch`` are left there: someone wants them.
        """
        opened = self._map  # another thread may close it
        if begin == end or opened is None:
            return
        first, length = _pages(begin, end)
        with contextlib.suppress(OSError, AttributeError, ValueError):
            opened.advise(mmap.MADV_DONTNEED, first, length)
        if begin in self._cold:
            self._cold.discard(begin)
            with contextlib.suppress(OSError), _descriptor(self.path) as fd:
                drop_from_cache(fd, begin, end)

    def close(self) -> None:
        """Close the file; slices that were read stay valid. Reading opens it again."""
        self._map = None

    def _opened(self) -> _Map:
        with self._lock:
            if self._map is None:
                try:
                    self._map = _Map(self.path, self.size)
                except FileNotFoundError:
                    raise CheckpointError(f"{self.path} was deleted while it was read") from None
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
