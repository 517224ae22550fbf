"""What a shared library asks of the system it is loaded on, and exports: a reader of ELF files.

Independent of the tool that made the wheel and of the machine that it is checked on: 64-bit
little-endian files of any architecture, as described in elf(5) and the Linux Standard Base.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MAGIC = b"\x7fELF"
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29
_DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
_DT_HASH, _DT_SYMTAB, _DT_GNU_HASH = 4, 6, 0x6FFFFEF5
_SHN_UNDEF = 0
_GLOBAL, _WEAK, _UNIQUE = 1, 2, 10  # the bindings that other files see
_DEFAULT, _PROTECTED = 0, 3  # the visibilities of which the same holds


@dataclass
class SharedLibrary:
    """The dynamic section of one file.

    Attributes:
        soname: the name by which the loader knows it, if it has one.
        needed: the libraries it needs, by their sonames.
        search_path: where the loader looks for them first (RPATH or RUNPATH).
        versions: the symbol versions it needs, e.g. "GLIBC_2.17", by library.
        exported: the names of the symbols that other files can be bound to.
    """

    soname: str = ""
    needed: list[str] = field(default_factory=list)
    search_path: list[str] = field(default_factory=list)
    versions: dict[str, set[str]] = field(default_factory=dict)
    exported: set[str] = field(default_factory=set)


def _findable(data: bytes, values: Mapping[int, int], offset_of: Callable[[int], int]) -> range:
    """Where in the symbol table the loader looks for a name: what the hash table leads to."""
    if _DT_GNU_HASH in values:
        table = offset_of(values[_DT_GNU_HASH])
        buckets, first, filter_words, _ = struct.unpack_from("<4I", data, table)
        table += 16 + 8 * filter_words
        last = max(struct.unpack_from(f"<{buckets}I", data, table), default=0)
        if last < first:  # every bucket is empty
            return range(0)
        chains = table + 4 * buckets
        while not struct.unpack_from("<I", data, chains + 4 * (last - first))[0] & 1:
            last += 1  # the lowest bit marks the end of a chain
        return range(first, last + 1)
    if _DT_HASH in values:
        return range(struct.unpack_from("<2I", data, offset_of(values[_DT_HASH]))[1])
    return range(0)


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
    for index in _findable(data, values, offset_of):
        name, info, other, section = struct.unpack_from(
            "<IBBH", data, offset_of(values[_DT_SYMTAB]) + 24 * index
        )
        if (
            section != _SHN_UNDEF
            and info >> 4 in (_GLOBAL, _WEAK, _UNIQUE)
            and other & 3 in (_DEFAULT, _PROTECTED)
        ):
            library.exported.add(text(name))
    return library
