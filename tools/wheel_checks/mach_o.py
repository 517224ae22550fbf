"""Which libraries a macOS extension loads: a reader of Mach-O files (64-bit, one architecture)."""

from __future__ import annotations

import struct

MAGIC = b"\xcf\xfa\xed\xfe"
_LOAD_COMMANDS = {0xC, 0x80000018, 0x8000001F}  # LC_LOAD_DYLIB, its weak and re-exporting variants


def read_mach_o(data: bytes) -> list[str]:
    """The install names of the libraries that the file loads.

    Raises:
        ValueError: it is not a 64-bit Mach-O file, or one for several architectures.
    """
    if data[:4] != MAGIC:
        raise ValueError(f"not a 64-bit Mach-O file: it begins with {data[:4]!r}")
    (count,) = struct.unpack_from("<I", data, 16)
    position, names = 32, []
    for _ in range(count):
        command, size = struct.unpack_from("<II", data, position)
        if command in _LOAD_COMMANDS:
            (offset,) = struct.unpack_from("<I", data, position + 8)
            name = data[position + offset : position + size]
            names.append(name.split(b"\0", 1)[0].decode())
        position += size
    return names
