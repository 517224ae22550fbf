"""Wheels made for tests: whole, or with one thing wrong."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

VERSION = importlib.metadata.version("swa-fast")
DIST_INFO = f"swa_fast-{VERSION}.dist-info"


def make_elf(
    needed: Sequence[str] = ("libc.so.6",),
    versions: Mapping[str, Sequence[str]] | None = None,
    soname: str = "",
    runpath: str = "",
    exported: Sequence[str] = (),
    binding: int = 1,
) -> bytes:
    """A 64-bit ELF file that consists of a dynamic section and the symbols it exports.

    `binding` is that of the symbols: 0 local, 1 global, 2 weak, 10 unique.
    """
    strings = bytearray(b"\0")

    def text(value: str) -> int:
        strings.extend(value.encode() + b"\0")
        return len(strings) - len(value) - 1

    versions = versions or {}
    needs = b""
    for i, (library, names) in enumerate(versions.items()):
        size = 16 + 16 * len(names)
        following = size if i + 1 < len(versions) else 0
        needs += struct.pack("<HHIII", 1, len(names), text(library), 16, following)
        for j, name in enumerate(names):
            needs += struct.pack("<IHHII", 0, 0, j + 2, text(name), 16 * (j + 1 < len(names)))
    # Symbol 0 is nobody's; the next is another library's; all are in one chain of one hash bucket.
    symbols = bytes(24) + struct.pack("<IBBHQQ", text("malloc"), 1 << 4, 0, 0, 0, 0)
    for name in exported:
        symbols += struct.pack("<IBBHQQ", text(name), binding << 4 | 2, 0, 1, 64, 1)
    count = len(symbols) // 24
    hashes = struct.pack(f"<{3 + count}I", 1, count, count - 1, 0, *range(count - 1))
    dynamic = [(1, text(library)) for library in needed]
    dynamic += [(14, text(soname))] * bool(soname) + [(29, text(runpath))] * bool(runpath)
    start = 64 + 2 * 56
    base = 0x10000  # addresses are not offsets
    length = 16 * (len(dynamic) + 6)
    symbols_at = start + length + len(needs)
    hashes_at = symbols_at + len(symbols)
    strings_at = hashes_at + len(hashes)
    dynamic += [(5, base + strings_at), (6, base + symbols_at), (4, base + hashes_at)]
    dynamic += [(0x6FFFFFFE, base + start + length), (0x6FFFFFFF, len(versions)), (0, 0)]
    end = strings_at + len(strings)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, end, end, 4096)
    link = struct.pack("<IIQQQQQQ", 2, 6, start, base + start, base + start, length, length, 8)
    section = b"".join(struct.pack("<qQ", tag, value) for tag, value in dynamic)
    return header + load + link + section + needs + symbols + hashes + bytes(strings)


def make_mach_o(
    libraries: Sequence[str], exported: Sequence[str] = (), newer: bool = False
) -> bytes:
    """A Mach-O file that loads these libraries and exports these symbols.

    `newer` says where the names are: in the command that macOS 12 brought, or in the one before.
    """
    commands = []
    for library in libraries:
        name = library.encode() + b"\0" * (8 - len(library) % 8)
        commands.append(struct.pack("<6I", 0xC, 24 + len(name), 24, 0, 0, 0) + name)
    trie = _trie(exported) if exported else b""
    start = 32 + sum(map(len, commands)) + (16 if newer else 48)
    kind = (0x80000033, 16) if newer else (0x80000022, 48, *[0] * 8)
    commands.append(struct.pack(f"<{len(kind) + 2}I", *kind, start, len(trie)))
    size = sum(map(len, commands))
    header = struct.pack("<8I", 0xFEEDFACF, 0x100000C, 0, 6, len(commands), size, 0, 0)
    return header + b"".join(commands) + trie


def _trie(names: Sequence[str]) -> bytes:
    """Exported names as a tree: a root, one node for the "_" before them all, and a leaf each."""

    def number(value: int) -> bytes:
        return bytes([value & 0x7F | 0x80, value >> 7])  # always two bytes, so that sizes are known

    root = b"\0\1_\0" + number(6)
    leaf = b"\2\0\x40" + b"\0"  # two bytes about the symbol, its flags and address; no children
    rests = [name.removeprefix("_").encode() for name in names]
    first = len(root) + 2 + sum(len(rest) + 3 for rest in rests)
    edges = [rest + b"\0" + number(first + len(leaf) * i) for i, rest in enumerate(rests)]
    return root + b"\0" + bytes([len(rests)]) + b"".join(edges) + leaf * len(rests)


def good_files(tag: str) -> dict[str, bytes]:
    """The contents of a wheel with nothing wrong, its binaries mere dynamic sections."""
    core = make_elf(
        ["libgomp.so.1", "libstdc++.so.6", "libc.so.6", "ld-linux-x86-64.so.2"],
        {
            "libgomp.so.1": ["GOMP_4.0"],
            "libstdc++.so.6": ["GLIBCXX_3.4.19", "CXXABI_1.3.7"],
            "libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.17"],
        },
        runpath="$ORIGIN",
        exported=["PyInit__core"],
    )
    licences = ["LICENSE", "licenses/GPL-3.0.txt", "licenses/GCC-exception-3.1.txt"]
    named = "".join(f"License-File: {name}\n" for name in licences)
    return {
        "swa_fast/__init__.py": b"",
        "swa_fast/py.typed": b"",
        "swa_fast/_core.pyi": b"",
        "swa_fast/_core.cpython-311-x86_64-linux-gnu.so": core,
        "swa_fast/_cpu_floor.cpython-311-x86_64-linux-gnu.so": make_elf(
            exported=["PyInit__cpu_floor"]
        ),
        "swa_fast/libgomp.so.1": make_elf(soname="libgomp.so.1", exported=["GOMP_parallel"]),
        f"{DIST_INFO}/METADATA": f"Name: swa-fast\nVersion: {VERSION}\n{named}".encode(),
        f"{DIST_INFO}/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n".encode(),
        **{f"{DIST_INFO}/licenses/{name}": b"text" for name in licences},
    }


def installed_files() -> tuple[str, dict[str, bytes]]:
    """The tag and the contents of the wheel that was installed."""
    distribution = importlib.metadata.distribution("swa-fast")
    files = {
        str(file): Path(str(file.locate())).read_bytes()
        for file in distribution.files or []
        if file.parts[0] in ("swa_fast", DIST_INFO) and "__pycache__" not in file.parts
    }
    for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
        files.pop(f"{DIST_INFO}/{name}", None)
    lines = files[f"{DIST_INFO}/WHEEL"].decode().splitlines()
    return next(line[5:] for line in lines if line.startswith("Tag: ")), files


def write_wheel(folder: Path, tag: str, files: Mapping[str, bytes]) -> Path:
    """Writes a wheel with a RECORD."""
    path = folder / f"swa_fast-{VERSION}-{tag}.whl"
    record = f"{DIST_INFO}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(data)}\n"
        archive.writestr(f"{DIST_INFO}/RECORD", record)
    return path
