"""What a shared library asks of the system it is loaded on: a reader of ELF files.

Independent of the tool that made the wheel and of the machine that it is checked on: 64-bit
little-endian files of any architecture, as described in elf(5) and the Linux Standard Base.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAGIC = b"\x7fELF"
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29
_DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF


@dataclass
class SharedLibrary:
    """The dynamic section of one file.

    Attributes:
        soname: the name by which the loader knows it, if it has one.
        needed: the libraries it needs, by their sonames.
        search_path: where the loader looks for them first (RPATH or RUNPATH).
        versions: the symbol versions it needs, e.g. "GLIBC_2.17", by library.
    """

    soname: str = ""
    needed: list[str] = field(default_factory=list)
    search_path: list[str] = field(default_factory=list)
    versions: dict[str, set[str]] = field(default_factory=dict)


def read_elf(data: bytes) -> SharedLibrary:
    """Reads the dynamic section.

    Args:
        data: the whole file.

    Raises:
        ValueError: it is not a 64-bit little-endian ELF file with a dynamic section.
    """
    if data[:6] != MAGIC + b"\x02\x01":
        raise ValueError(f"not a 64-bit little-endian ELF file: it begins with {data[:6]!r}")
    (header_offset,) = struct.unpack_from("<Q", data, 32)
    entry_size, count = struct.unpack_from("<HH", data, 54)
    segments = [
        struct.unpack_from("<IIQQQQ", data, header_offset + i * entry_size) for i in range(count)
    ]

    def offset_of(address: int) -> int:
        for kind, _, offset, start, _, size in segments:
            if kind == _PT_LOAD and start <= address < start + size:
                return int(offset + address - start)
        raise ValueError(f"address {address:#x} lies in no segment of the file")

    dynamic: list[tuple[int, int]] = []
    for kind, _, offset, _, _, size in segments:
        if kind == _PT_DYNAMIC:
            dynamic = list(struct.iter_unpack("<qQ", data[offset : offset + size]))
    values = dict(dynamic)
    if _DT_STRTAB not in values:
        raise ValueError("an ELF file without a dynamic section is no shared library")
    strings = offset_of(values[_DT_STRTAB])

    def text(index: int) -> str:
        begin = strings + index
        return data[begin : data.index(b"\0", begin)].decode()

    library = SharedLibrary(
        soname=text(values[_DT_SONAME]) if _DT_SONAME in values else "",
        needed=[text(value) for tag, value in dynamic if tag == _DT_NEEDED],
    )
    for tag, value in dynamic:
        if tag in (_DT_RPATH, _DT_RUNPATH):
            library.search_path += text(value).split(":")
    if _DT_VERNEED in values:
        position = offset_of(values[_DT_VERNEED])
        for _ in range(values[_DT_VERNEEDNUM]):
            _, entries, file, first, following = struct.unpack_from("<HHIII", data, position)
            names = library.versions.setdefault(text(file), set())
            entry = position + first
            for _ in range(entries):
                _, _, _, name, next_entry = struct.unpack_from("<IHHII", data, entry)
                names.add(text(name))
                entry += next_entry
            position += following
    return library
