"""What a platform tag promises about the system that a wheel runs on (PEP 600)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LEGACY = {"manylinux1": "2_5", "manylinux2010": "2_12", "manylinux2014": "2_17"}

# The newest symbol versions of the compiler's libraries on the oldest system of each tag.
_COMPILER_LIBRARIES: list[tuple[tuple[int, int], dict[str, tuple[int, ...]]]] = [
    ((2, 17), {"GLIBCXX": (3, 4, 19), "CXXABI": (1, 3, 7), "GCC": (4, 8, 0)}),
    ((2, 28), {"GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}),
    ((2, 31), {"GLIBCXX": (3, 4, 28), "CXXABI": (1, 3, 12), "GCC": (7, 0, 0)}),
    ((2, 34), {"GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13), "GCC": (7, 0, 0)}),
    ((2, 35), {"GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GCC": (12, 0, 0)}),
]


@dataclass(frozen=True, order=True)
class Glibc:
    """The version of the GNU C library that a manylinux tag stands for."""

    major: int
    minor: int

    def __str__(self) -> str:
        """As in a tag, without the architecture."""
        return f"manylinux_{self.major}_{self.minor}"


def glibc_of(tag: str) -> Glibc | None:
    """The C library that a tag such as "manylinux_2_28_x86_64" or "manylinux2014" asks for.

    None for a tag that is not manylinux.
    """
    for name, version in _LEGACY.items():
        if tag == name or tag.startswith(name + "_"):
            tag = tag.replace(name, f"manylinux_{version}", 1)
    match = re.match(r"manylinux_(\d+)_(\d+)(_|$)", tag)
    return Glibc(int(match[1]), int(match[2])) if match else None


def too_new(version: str, glibc: Glibc) -> bool:
    """Whether a symbol version such as "GLIBCXX_3.4.29" is missing on a system of that tag."""
    name, _, number = version.rpartition("_")
    if not re.fullmatch(r"\d+(\.\d+)*", number):
        return version == "GLIBC_ABI_DT_RELR" and glibc < Glibc(2, 36)
    parsed = tuple(int(part) for part in number.split("."))
    if name == "GLIBC":
        return parsed > (glibc.major, glibc.minor)
    limits: dict[str, tuple[int, ...]] = {}
    for oldest, table in _COMPILER_LIBRARIES:
        if oldest <= (glibc.major, glibc.minor):
            limits = table
    return name in ("GLIBCXX", "CXXABI", "GCC") and parsed > limits.get(name, (0,))
