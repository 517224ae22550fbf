"""What a macOS extension loads and exports: a reader of Mach-O files (64-bit, one architecture)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAGIC = b"\xcf\xfa\xed\xfe"
_LOAD_COMMANDS = {0xC, 0x80000018, 0x8000001F}  # LC_LOAD_DYLIB, its weak and re-exporting variants
# Where in a command the offset and the size of the exported names are: LC_DYLD_INFO,
# LC_DYLD_INFO_ONLY, and LC_DYLD_EXPORTS_TRIE, which newer systems have instead.
_EXPORT_COMMANDS = {0x22: 40, 0x80000022: 40, 0x80000033: 8}


@dataclass
class MachO:
    """The load commands of one file.

    Attributes:
        libraries: the install names of the libraries that it loads.
        exported: the names of the symbols that other files can be bound to. That of the C
            function `f` is `_f`.
    """

    libraries: list[str] = field(default_factory=list)
    exported: set[str] = field(default_factory=set)


def _uleb128(data: bytes, position: int) -> tuple[int, int]:
    """The number that begins at `position`, 7 bits a byte, and where it ends."""
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position


def _names_of(trie: bytes) -> set[str]:
    """The names in a trie: each node says whether a name ends there, and how it goes on."""
    names: set[str] = set()
    nodes = [(0, b"")] if trie else []
    while nodes:
        node, name = nodes.pop()
        size, position = _uleb128(trie, node)
        if size > 0:
            names.add(name.decode())
        position += size
        children, position = trie[position], position + 1
        for _ in range(children):
            end = trie.index(b"\0", position)
            more = trie[position:end]
            child, position = _uleb128(trie, end + 1)
            nodes.append((child, name + more))
    return names


def read_mach_o(data: bytes) -> MachO:
    """Reads the load commands.

    Args:
        data: the whole file.

    Raises:
        ValueError: it is not a 64-bit Mach-O file, or one for several architectures.
    """
    if data[:4] != MAGIC:
        raise ValueError(f"not a 64-bit Mach-O file: it begins with {data[:4]!r}")
    (count,) = struct.unpack_from("<I", data, 16)
    position, file = 32, MachO()
    for _ in range(count):
        command, size = struct.unpack_from("<II", data, position)
        if command in _LOAD_COMMANDS:
            (offset,) = struct.unpack_from("<I", data, position + 8)
            name = data[position + offset : position + size]
            file.libraries.append(name.split(b"\0", 1)[0].decode())
        elif command in _EXPORT_COMMANDS:
            where = position + _EXPORT_COMMANDS[command]
            start, length = struct.unpack_from("<II", data, where)
            file.exported |= _names_of(data[start : start + length])
        position += size
    return file
