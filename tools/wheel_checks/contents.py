"""Checks on a wheel as a file: nothing of it is run, so any machine can make them.

Every check returns sentences that say what is wrong; an empty list is a pass.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path, PurePosixPath

from wheel_checks import elf, mach_o
from wheel_checks.policy import glibc_of, too_new

SIZE_LIMIT = 5_000_000  # bytes
# What every manylinux system has, and libgomp, which the wheel brings itself.
_LINUX_LIBRARIES = (
    r"lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|gomp)\.so\.\d+",
    r"ld-linux(-x86-64|-aarch64)\.so\.\d",
)
_MACOS_LIBRARIES = r"(/usr/lib/|/System/Library/).*"
_REQUIRED = ("swa_fast/__init__.py", "swa_fast/py.typed", "swa_fast/_core.pyi")


@dataclass
class Wheel:
    """An opened wheel: its names, its files, and the tags of its file name."""

    path: Path

    def __post_init__(self) -> None:
        """Reads the archive.

        Raises:
            ValueError: the file name is not that of a wheel.
        """
        parts = self.path.name.removesuffix(".whl").split("-")
        if len(parts) != 5 or not self.path.name.endswith(".whl"):
            raise ValueError(
                f"a wheel is named NAME-VERSION-PYTHON-ABI-PLATFORM.whl. Received: {self.path.name}"
            )
        name, self.version, self.python_tag, self.abi_tag, platform = parts
        self.platforms = platform.split(".")
        with zipfile.ZipFile(self.path) as archive:
            self.files = {name: archive.read(name) for name in archive.namelist()}
        self.dist_info = f"{name}-{self.version}.dist-info"

    def extensions(self) -> dict[str, bytes]:
        """The binaries: extension modules and shared libraries, by name."""
        return {
            name: data
            for name, data in self.files.items()
            if re.search(r"\.(so|dylib)(\.\d+)*$", name) or data[:4] in (elf.MAGIC, mach_o.MAGIC)
        }

    def metadata(self, name: str) -> str:
        """A text of the dist-info folder, or "" if it is not there."""
        return self.files.get(f"{self.dist_info}/{name}", b"").decode()


def check_size(wheel: Wheel) -> list[str]:
    """At most 5 MB."""
    size = wheel.path.stat().st_size
    return [f"the wheel has {size} bytes, more than {SIZE_LIMIT}"] if size > SIZE_LIMIT else []


def check_files(wheel: Wheel) -> list[str]:
    """The modules, their types, the licences, and one version and tag throughout."""
    problems = [f"{name} is missing" for name in _REQUIRED if name not in wheel.files]
    suffixes = [PurePosixPath(name).name for name in wheel.extensions()]
    problems += [
        f"the extension module {module} is missing"
        for module in ("_core", "_cpu_floor")
        if not any(name.startswith(module + ".") for name in suffixes)
    ]
    metadata = Parser().parsestr(wheel.metadata("METADATA"))
    if metadata.get("Version") != wheel.version:
        problems.append(f"METADATA has the version {metadata.get('Version')}, not {wheel.version}")
    licences = ["LICENSE"]
    if "swa_fast/libgomp.so.1" in wheel.files:
        licences += ["licenses/GPL-3.0.txt", "licenses/GCC-exception-3.1.txt"]
    for licence in licences:
        if not wheel.metadata(f"licenses/{licence}"):
            problems.append(f"the licence {licence} is missing from {wheel.dist_info}")
        if licence not in metadata.get_all("License-File", []):
            problems.append(f"METADATA does not name the licence file {licence}")
    inside = Parser().parsestr(wheel.metadata("WHEEL")).get_all("Tag", [])
    named = {f"{wheel.python_tag}-{wheel.abi_tag}-{platform}" for platform in wheel.platforms}
    if set(inside) != named:
        problems.append(f"WHEEL has the tags {sorted(inside)}, the file name {sorted(named)}")
    return problems


def check_tag(wheel: Wheel, asked: str) -> list[str]:
    """The platform tag is the one asked for, or one of older systems."""
    limit = glibc_of(asked)
    problems = []
    for platform in wheel.platforms:
        promised = glibc_of(platform)
        if limit is None:
            if not platform.startswith(asked):
                problems.append(f"the platform tag {platform} is not {asked}")
        elif promised is None:
            problems.append(f"the platform tag {platform} is not a manylinux tag")
        elif promised > limit:
            problems.append(f"the platform tag {platform} is newer than {asked}")
    return problems


def _check_exported(name: str, exported: set[str], prefix: str = "") -> list[str]:
    """An extension module exports its init function alone; other libraries, what they like.

    Whatever else it exported, the loader could bind to another library's symbol of that name.
    """
    module = PurePosixPath(name).name.split(".")[0]
    if module.startswith("lib"):
        return []
    init = f"{prefix}PyInit_{module}"
    problems = [] if init in exported else [f"{name} does not export {init}"]
    others = sorted(exported - {init})
    if others:
        problems.append(
            f"{name} must export {init} alone: it also exports {len(others)} symbols, the first "
            f"{others[0]}"
        )
    return problems


def _check_elf(name: str, data: bytes, wheel: Wheel) -> list[str]:
    library = elf.read_elf(data)
    promised = [glibc for platform in wheel.platforms if (glibc := glibc_of(platform))]
    problems = [
        f"{name} needs {needed}, which is not a library of every system"
        for needed in library.needed
        if not any(re.fullmatch(pattern, needed) for pattern in _LINUX_LIBRARIES)
    ]
    for source, versions in sorted(library.versions.items()):
        problems += [
            f"{name} needs {version} of {source}, newer than {min(promised)} has"
            for version in sorted(versions)
            if promised and too_new(version, min(promised))
        ]
    if "libgomp.so.1" in library.needed:
        if "swa_fast/libgomp.so.1" not in wheel.files:
            problems.append(f"{name} needs libgomp.so.1, and swa_fast/libgomp.so.1 is missing")
        if library.search_path != ["$ORIGIN"]:
            problems.append(f"{name} looks for libgomp.so.1 in {library.search_path}, not $ORIGIN")
    if "libgomp" in name and (name, library.soname) != ("swa_fast/libgomp.so.1", "libgomp.so.1"):
        problems.append(
            f"{name} has the soname {library.soname!r}: under any name but libgomp.so.1 it is a "
            "second OpenMP runtime beside torch's"
        )
    return problems + _check_exported(name, library.exported)


def _check_mach_o(name: str, data: bytes) -> list[str]:
    file = mach_o.read_mach_o(data)
    problems = [
        f"{name} loads {library}, which is not a library of the system"
        for library in file.libraries
        if not re.fullmatch(_MACOS_LIBRARIES, library)
    ]
    return problems + _check_exported(name, file.exported, "_")


def check_binaries(wheel: Wheel) -> list[str]:
    """Nothing needed that the platform may lack, nothing exported beyond need, one libgomp."""
    problems = []
    for name, data in sorted(wheel.extensions().items()):
        try:
            if data[:4] == mach_o.MAGIC:
                problems += _check_mach_o(name, data)
            else:
                problems += _check_elf(name, data, wheel)
        except ValueError as error:
            problems.append(f"{name}: {error}")
        if "libomp" in PurePosixPath(name).name or "libiomp" in PurePosixPath(name).name:
            problems.append(f"{name} is an OpenMP runtime of its own")
    return problems
