#!/usr/bin/env python3
"""Verifies a wheel of swa_fast: the file, and what it does in a fresh virtual environment.

usage: python tools/check_wheel.py WHEEL [--tag manylinux_2_28] ...

Run it with the Python that the wheel is for. Looks at the platform tag, size, licences, types, the
libraries and symbol versions it needs, and the symbols that its modules export; installs it into a
fresh environment with NumPy alone, times that and the import, and runs functional.py there once per
instruction set; then again beside torch and TensorFlow, each imported before it and after it. Exit
status 1 names everything that is wrong.

Needs pip and, without --packages-from, the network.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from email.parser import Parser
from pathlib import Path

from wheel_checks import contents
from wheel_checks.environment import Environment

INSTALL_LIMIT = 10.0  # seconds, beside the dependencies
IMPORT_LIMIT = 0.1  # seconds, on top of NumPy
FRAMEWORKS = ("torch", "tensorflow")
ORDERS = (
    ("torch", "swa_fast"),
    ("swa_fast", "torch"),
    ("tensorflow", "swa_fast"),
    ("swa_fast", "tensorflow"),
    ("torch", "tensorflow", "swa_fast"),
    ("swa_fast", "tensorflow", "torch"),
)


def check_file(wheel: contents.Wheel, tag: str | None) -> list[str]:
    """Everything that can be seen without running it."""
    problems = contents.check_size(wheel) + contents.check_files(wheel)
    if tag is not None:
        problems += contents.check_tag(wheel, tag)
    return problems + contents.check_binaries(wheel)


def requirements(wheel: contents.Wheel, extra: str | None) -> list[str]:
    """The wheel's dependencies, without those of extras, or those that the extra pins."""
    lines = Parser().parsestr(wheel.metadata("METADATA")).get_all("Requires-Dist", [])
    if extra is None:
        return [line for line in lines if "extra ==" not in line]
    return [line.split(";")[0].strip() for line in lines if f'extra == "{extra}"' in line]


def check_alone(wheel: contents.Wheel, environment: Environment) -> list[str]:
    """With NumPy alone: installation, import, and every instruction set of this CPU."""
    environment.create()
    installed = environment.install("--no-deps", str(wheel.path))
    environment.provide(*requirements(wheel, None))
    imported = environment.seconds_to_import()
    print(f"  installed in {installed:.1f} s, imported in {imported * 1000:.1f} ms")
    problems = []
    if installed > INSTALL_LIMIT:
        problems.append(f"installation took {installed:.1f} s, more than {INSTALL_LIMIT}")
    if imported > IMPORT_LIMIT:
        problems.append(f"import took {imported:.3f} s on top of NumPy, more than {IMPORT_LIMIT}")
    code = "import json, swa_fast; print(json.dumps(swa_fast.build_info()))"
    info = json.loads(environment.run("-c", code).stdout)
    print(f"  commit {info['commit']}, {info['compiler']}, {info['flags']}, {info['openmp']}")
    print(f"  CUDA: {info['cuda']['toolkit'] or 'no'}, {' '.join(info['cuda']['architectures'])}")
    if info["version"] != wheel.version:
        problems.append(f"build_info has the version {info['version']}, not {wheel.version}")
    for isa in info["isas"]:
        problems += environment.functional("swa_fast", SWA_FAST_ISA=isa)
    return problems


def check_beside(wheel: contents.Wheel, environment: Environment) -> list[str]:
    """Beside torch and TensorFlow, in both orders."""
    environment.create()
    environment.install("--no-deps", str(wheel.path))
    pinned = [line for line in requirements(wheel, "test") if line.startswith(FRAMEWORKS)]
    environment.provide_all(*requirements(wheel, None), *pinned)
    problems = []
    for order in ORDERS:
        problems += environment.functional(*order)
    return problems


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--tag", help="the newest platform tag allowed, e.g. manylinux_2_28")
    parser.add_argument(
        "--packages-from", metavar="PYTHON", help="use this Python's packages; download nothing"
    )
    parser.add_argument("--file-only", action="store_true", help="run nothing of the wheel")
    parser.add_argument(
        "--without-frameworks", action="store_true", help="leave torch and TensorFlow out"
    )
    options = parser.parse_args(arguments)
    try:
        wheel = contents.Wheel(options.wheel.resolve())
        print(f"{wheel.path.name}: {wheel.path.stat().st_size:,} bytes")
        problems = check_file(wheel, options.tag)
        with tempfile.TemporaryDirectory() as folder:
            if not options.file_only:
                alone = Environment(Path(folder) / "alone", options.packages_from)
                problems += check_alone(wheel, alone)
            if not (options.file_only or options.without_frameworks):
                beside = Environment(Path(folder) / "beside", options.packages_from)
                problems += check_beside(wheel, beside)
    except (OSError, RuntimeError, ValueError) as error:
        problems = [str(error)]
    for problem in problems:
        print(f"WRONG: {problem}", file=sys.stderr)
    left_out = "the file alone" if options.file_only else "all but frameworks"
    partly = f" ({left_out})" if options.file_only or options.without_frameworks else ""
    print(f"{len(problems)} problems" if problems else f"all is well{partly}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
