"""Zip archives whose members are read in place and written in one pass.

torch's files, `.npz` and `.keras` are zip archives of members that are stored, not compressed: each
is a range of the file.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from .errors import CheckpointError
from .files import InputFile
from .tensors import Bytes

__all__ = ["Inflated", "ZipWriter", "list_members", "member_offset", "read_member"]

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)
_PADDING_ID = 0xFB5A  # unregistered; readers skip fields of the extra area that they do not know
_ZIP64_FIELD = 20  # bytes that zipfile adds to the extra area of a member whose size may be large
_MAX_SMALL_MEMBER = 1 << 28


def list_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by name.

    Raises:
        CheckpointError: it is not there, not an archive, cut off, or has a member twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there") from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        cut_off = str(error) == "File is not a zip file"  # zipfile looks for the end alone
        why = "the directory at its end is missing: it was cut off" if cut_off else error
        raise CheckpointError(f"{path} is not a valid zip archive: {why}") from None
    found = {member.filename: member for member in members}
    if len(found) != len(members):
        raise CheckpointError(f"{path} is not a valid zip archive: it has a member twice")
    return found


def member_offset(file: InputFile, member: zipfile.ZipInfo, base: int = 0) -> int:
    """Return where the bytes of a stored member begin.

    Args:
        file: holds the archive.
        member: one of it.
        base: where in the file the archive begins.

    Raises:
        CheckpointError: the member is compressed or encrypted, or does not lie inside the file.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1:
        raise CheckpointError(f"{file.path}: the member {member.filename} is not stored as it is")
    if member.compress_size != member.file_size:
        raise _invalid(file, member)
    header_at = base + member.header_offset
    header_end = header_at + _LOCAL_HEADER.size
    if not member.header_offset >= 0 or header_end > file.size:
        raise _invalid(file, member)
    header = _LOCAL_HEADER.unpack(file.read(header_at, header_end).tobytes())
    if header[0] != b"PK\3\4":
        raise _invalid(file, member)
    offset = header_end + header[-2] + header[-1]
    if offset + member.file_size > file.size:
        raise _invalid(file, member)
    return int(offset)


def read_member(path: Path, name: str) -> bytes:
    """Return a small member's bytes, with its checksum checked.

    Raises:
        CheckpointError: there is no such member, it is damaged, or it is not small.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(name).file_size > _MAX_SMALL_MEMBER:
                raise CheckpointError(f"{path}: the member {name} is too large for what it is")
            return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path} is not a valid zip archive: {error}") from None


class Inflated:
    """The bytes of a compressed member, from an offset on, read from the first to the last.

    Args:
        path: the archive.
        name: the member.
        offset: bytes of the member that come before.
    """

    def __init__(self, path: Path, name: str, offset: int) -> None:
        """See the class."""
        self._path = path
        self._name = name
        self._offset = offset
        self._stream: IO[bytes] | None = None
        self._archive: zipfile.ZipFile | None = None

    def prefetch(self, begin: int, end: int) -> None:
        """Do nothing: ``read_into`` is called ahead of the arithmetic."""

    def read_into(self, begin: int, into: Bytes) -> None:
        """Inflate bytes."""
        if into.size == 0:
            return
        try:
            if self._stream is None:
                self._archive = zipfile.ZipFile(self._path)
                self._stream = self._archive.open(self._name)
            self._stream.seek(self._offset + begin)
            data = self._stream.read(into.size)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            # NotImplementedError is a RuntimeError: an unknown compression.
            raise CheckpointError(f"{self._path}: the member {self._name}: {error}") from None
        if len(data) != into.size:
            raise CheckpointError(f"{self._path}: the member {self._name} is too short")
        into[:] = np.frombuffer(data, np.uint8)

    def release(self, begin: int, end: int) -> None:
        """Do nothing: the bytes were a copy."""


class ZipWriter:
    """Writes an archive of stored members, one after another, aligned as torch wants them.

    Args:
        path: the archive, which must not exist.
        alignment: bytes at whose multiples the data of each member begins.
    """

    def __init__(self, path: Path, alignment: int = 64) -> None:
        """See the class."""
        self._file = path.open("xb")
        self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._alignment = alignment
        self._member: IO[bytes] | None = None

    def begin(self, name: str) -> None:
        """Begin a member, ending the one before."""
        self.end()
        info = zipfile.ZipInfo(name, _FIXED_DATE)
        info.external_attr = 0o644 << 16
        start = self._file.tell() + _LOCAL_HEADER.size + len(name.encode()) + _ZIP64_FIELD + 4
        padding = -start % self._alignment
        info.extra = struct.pack("<2H", _PADDING_ID, padding) + b"\0" * padding
        self._member = self._archive.open(info, "w", force_zip64=True)

    def write(self, data: Bytes | bytes) -> None:
        """Append bytes to the member."""
        assert self._member is not None
        self._member.write(data.data if isinstance(data, np.ndarray) else data)

    def add(self, name: str, data: bytes) -> None:
        """Write a small member."""
        self.begin(name)
        self.write(data)
        self.end()

    def copy(self, name: str, source: InputFile, offset: int, size: int) -> None:
        """Write a member with the bytes of a part of a file."""
        self.begin(name)
        for begin in range(0, size, _COPIED):
            end = min(begin + _COPIED, size)
            self.write(source.read(offset + begin, offset + end))
        self.end()

    def end(self) -> None:
        """End the member, if one was begun."""
        if self._member is not None:
            self._member.close()
            self._member = None

    def finish(self, comment: bytes = b"", *, durable: bool) -> None:
        """Write the directory and close the archive."""
        import os

        self.end()
        self._archive.comment = comment
        self._archive.close()
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close what was written so far, which is no archive then."""
        self._archive.fp = None  # else it is completed when it is freed, into a closed file
        self._file.close()


_COPIED = 1 << 23


def overhead(names: Sequence[str], alignment: int = 64) -> int:
    """Return how many bytes an archive needs at most beside its members' data."""
    each = 2 * (_LOCAL_HEADER.size + _ZIP64_FIELD + 4 + alignment) + 64
    return sum(each + 2 * len(name.encode()) for name in names) + 256


def _invalid(file: InputFile, member: zipfile.ZipInfo) -> CheckpointError:
    return CheckpointError(f"{file.path} is cut off or damaged at the member {member.filename}")
