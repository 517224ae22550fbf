"""Whether the commands of a `bash` block are right: programs, options, extras, paths.

`run_or_check` runs what is quick and harmless (`swa-fast info`, `--version` and `--help`,
`python -c`) and checks the rest against what it would meet: the parser of `swa-fast`, the
extras of pyproject.toml, the files of the repository.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from documentation.blocks import ROOT
from swa_fast import cli

_ASSIGNMENT = re.compile(r"([A-Z_][A-Z0-9_]*)=(.*)")
_VARIABLES = ("KERAS_BACKEND", "TF_USE_LEGACY_KERAS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
_REQUIREMENT = re.compile(r"(swa-fast|\.)?(?:\[([\w,-]+)\])?(?:([\w-]+)==([\w.]+))?")


_FOREIGN = ("apt-get", "cd", "git", "ldd", "nvidia-smi", "rm")
"""Programs that are not ours, of which nothing is checked."""

_PIP_OPTIONS = (
    "-e",
    "-q",
    "-v",
    "--no-binary",
    "--no-build-isolation",
    "--only-binary",
    "--upgrade",
)


def commands(code: str) -> list[list[str]]:
    """Return the commands of a block, each as its words, without comments."""
    lines = code.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    found: list[list[str]] = []
    for line in words:
        found.append([])
        for word in line:
            if word == "&&":
                found.append([])
            else:
                found[-1].append(word)
    return [command for command in found if command]


def run_or_check(command: list[str], page: str) -> str:
    """Run or check one command.

    Returns:
        What it printed, "" if it was not run.

    Raises:
        AssertionError: it is wrong, or not known here.
    """
    if command[0] == "export":
        command = command[1:]
    while command and (found := _ASSIGNMENT.fullmatch(command[0])):
        name = found[1]
        known = name in _VARIABLES or (name.startswith("SWA_FAST_") and _is_in_source(name))
        assert known, f"{name} is no variable that anything here reads"
        command = command[1:]
    if not command:
        return ""
    program, arguments = Path(command[0]).name, command[1:]
    if program not in _PROGRAMS and (ROOT / command[0]).is_file():
        return _script(command)
    if program in _FOREIGN:
        return ""
    assert program in _PROGRAMS, f"no check for the program {program!r} of {shlex.join(command)!r}"
    return _PROGRAMS[program](arguments, page) or ""


def _is_in_source(name: str) -> bool:
    files = [ROOT / "CMakeLists.txt", *(ROOT / "csrc").rglob("*.cc")]
    return any(name in path.read_text(encoding="utf-8") for path in files)


def _swa_fast(arguments: list[str], page: str) -> str:
    if "--help" in arguments or arguments in (["info"], ["info", "--json"], ["--version"]):
        command = [sys.executable, "-m", "swa_fast", *arguments]
        done = subprocess.run(
            command,
            env={**os.environ, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
    if "--peers" in arguments:  # which the parser looks for
        for peer in arguments[arguments.index("--peers") + 1].split(","):
            pytest.importorskip(peer)
    cli.parse(arguments)
    return ""


def _pip(arguments: list[str], page: str) -> None:
    assert arguments[0] == "install", f"pip {arguments[0]} is not checked here"
    project = _project()
    words = iter(arguments[1:])
    for word in words:
        if word == "--group":
            group = next(words)
            assert group in project["dependency-groups"], f"no dependency group {group!r}"
        elif word.startswith("-"):
            known = any(word == option or word.startswith(f"{option}=") for option in _PIP_OPTIONS)
            assert known or word.startswith("-C"), f"pip install {word}?"
        elif word.endswith(".whl"):
            pass
        else:
            _require_requirement(word, project)


def _require_requirement(word: str, project: dict[str, Any]) -> None:
    found = _REQUIREMENT.fullmatch(word)
    known = ("pip", "scikit-build-core", "pybind11")
    assert (found is not None and word) or word in known, f"unknown requirement {word!r}"
    if found is None:
        return
    extras = project["project"]["optional-dependencies"]
    for extra in (found[2] or "").split(","):
        assert not extra or extra in extras, f"no extra {extra!r}: {sorted(extras)}"
    if found[3]:
        pinned = f"{found[3]}=={found[4]}"
        assert pinned in pins(found[3]), f"{pinned} is not the version that pyproject.toml pins"


def pins(package: str) -> list[str]:
    """Return the exact requirements of pyproject.toml's extras on a package."""
    extras = _project()["project"]["optional-dependencies"].values()
    return [item for extra in extras for item in extra if item.startswith(f"{package}==")]


def _project() -> dict[str, Any]:
    # Python 3.10 has no tomllib; there pytest brings tomli.
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, Any] = importlib.import_module(name).loads(text)
    return project


def _python(arguments: list[str], page: str) -> str | None:
    if arguments[:2] == ["-m", "pip"]:
        _pip(arguments[2:], page)
        return None
    if arguments[0] == "-c":
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
    if arguments[0] == "-m":
        assert arguments[1] in ("build", "pytest", "venv", "sphinx"), f"python -m {arguments[1]}?"
        if arguments[1] == "pytest":
            _require_paths(arguments[2:])
        return None
    source = _require_file(arguments[0])
    for option in arguments[1:]:
        assert not option.startswith("-") or f'"{option}"' in source, f"{arguments[0]} {option}?"
    return None


def _torchrun(arguments: list[str], page: str) -> None:
    assert re.fullmatch(r"--nproc[-_]per[-_]node=\d+", arguments[0]), arguments
    # The program itself is a block of the page, which is really run.
    assert "```python torchrun\n" in (ROOT / page).read_text(encoding="utf-8")


def _sphinx(arguments: list[str], page: str) -> None:
    sources = [word for word in arguments if not word.startswith("-")]
    assert (ROOT / sources[-2] / "conf.py").is_file(), f"no conf.py in {sources[-2]}"


def _script(command: list[str]) -> str:
    path = ROOT / command[0]
    assert os.access(path, os.X_OK), f"{command[0]} cannot be executed"
    source = path.read_text(encoding="utf-8")
    for option in command[1:]:
        name = option.split("=")[0]
        assert not option.startswith("-") or name in source, f"{command[0]} {option}?"
    return ""


def _require_paths(words: list[str]) -> None:
    for word in words:
        if "/" in word:
            assert (ROOT / word.split("::")[0]).exists(), f"{word} is not there"


def _require_file(name: str) -> str:
    path = ROOT / name
    assert path.is_file(), f"{name} is not in the repository"
    return path.read_text(encoding="utf-8")


_PROGRAMS: dict[str, Callable[[list[str], str], str | None]] = {
    "swa-fast": _swa_fast,
    "pip": _pip,
    "python": _python,
    "python3": _python,
    "torchrun": _torchrun,
    "sphinx-build": _sphinx,
}
