#!/usr/bin/env python3
"""Does a build that carries its own libstdc++ keep it to itself?

usage: python tools/check_symbols.py

Builds a wheel with libstdc++ and libgcc linked statically and without CUDA, counts the symbols that
its modules export (one each), and uses it twice in a fresh environment with this Python's packages:
behind torch, which loads another libstdc++, and behind a library whose data have the names of
libstdc++'s functions, where a call that leaves our copy ends. Exit status 1 names what is wrong.

For Linux and GCC, with the static libstdc++ (Debian, Ubuntu: g++; Fedora: libstdc++-static). Needs
pip, NumPy and torch, and the network unless pip is told otherwise. About two minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from wheel_checks import contents, elf
from wheel_checks.environment import Environment, package_folders

_SOURCE = Path(__file__).resolve().parents[1]
_COMPILER = os.environ.get("CXX", "c++")
_STATIC = ("libstdc++.so.6", "libgcc_s.so.1")  # what the build must not need


def build(folder: Path) -> contents.Wheel:
    """Builds the wheel in `folder`, whatever the build folder of this tree has."""
    options = "-DSWA_FAST_CUDA=OFF -DSWA_FAST_BUNDLE_LIBGOMP=ON"
    flags = "-static-libstdc++ -static-libgcc"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run(
        [*command, "--config-settings", f"build-dir={folder / 'build'}", str(_SOURCE)],
        env={
            **os.environ,
            "LDFLAGS": f"{os.environ.get('LDFLAGS', '')} {flags}",
            "CMAKE_ARGS": f"{os.environ.get('CMAKE_ARGS', '')} {options}",
        },
        check=True,
    )
    (path,) = folder.glob("*.whl")
    return contents.Wheel(path)


def check_linking(wheel: contents.Wheel) -> list[str]:
    """The build is the one meant, and its modules export their init functions alone."""
    problems = []
    for name, data in sorted(wheel.extensions().items()):
        if "libgomp" in name:
            continue
        library = elf.read_elf(data)
        print(f"  {name}: {len(data):,} bytes, {len(library.exported):,} exported symbols")
        problems += [
            f"{name} needs {needed}, which should have been linked statically"
            for needed in library.needed
            if needed in _STATIC
        ]
    return problems + contents.check_binaries(wheel)


def make_impostor(folder: Path) -> Path:
    """A library that has every name of libstdc++ and libgcc, and no function: all are data."""
    names: set[str] = set()
    for library in _STATIC:
        command = [_COMPILER, f"-print-file-name={library}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        names |= elf.read_elf(Path(path).read_bytes()).exported
    lines = [f'.globl "{name}"\n.type "{name}", %object\n"{name}":' for name in sorted(names)]
    source, library_path = folder / "impostor.s", folder / "impostor.so"
    source.write_text("\n".join([".data", *lines, ".quad 0", ""]), encoding="utf-8")
    subprocess.run([_COMPILER, "-shared", "-nostdlib", "-o", library_path, source], check=True)
    print(f"  an impostor with {len(names):,} names")
    return library_path


def check_use(wheel: contents.Wheel, folder: Path) -> list[str]:
    """It works behind torch, and behind the impostor in every process's first scope."""
    environment = Environment(folder / "environment", sys.executable)
    environment.create()
    environment.install("--no-deps", str(wheel.path))
    environment.provide_all()
    impostor = make_impostor(folder)
    module = Path(package_folders(environment.python)[0]) / "impostor.py"
    # functional.py has NumPy by then, whose own symbols are bound.
    module.write_text(
        f"import ctypes\nctypes.CDLL({str(impostor)!r}, ctypes.RTLD_GLOBAL)\n", encoding="utf-8"
    )
    return environment.functional("torch", "swa_fast") + environment.functional(
        "impostor", "swa_fast"
    )


def main() -> int:
    """The command line; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        problems = check_linking(wheel) + check_use(wheel, Path(folder))
    for problem in problems:
        print(f"WRONG: {problem}", file=sys.stderr)
    print(f"{len(problems)} problems" if problems else "all is well")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
