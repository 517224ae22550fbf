"""A second `pip install` finds its object files again; see the comment in CMakeLists.txt."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
COMPILED = re.compile(r"^\s*(add_library|add_executable|\w+_add_(module|library))\(", re.MULTILINE)


def test_nothing_is_compiled_in_the_folder_that_pip_clears() -> None:
    root = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert not COMPILED.search(root)
    included = set(re.findall(r"include\(cmake/(\w+)\.cmake\)", root))
    of_wheels = {
        path.stem
        for path in (ROOT / "cmake").glob("*.cmake")
        if COMPILED.search(path.read_text(encoding="utf-8"))
    }
    assert of_wheels == {"extension"}
    assert included.isdisjoint(of_wheels)
    assert "add_subdirectory(csrc)" in root


def test_no_header_comes_from_the_folder_that_pip_makes_anew() -> None:
    """Its path is part of each compile command: a new one compiles everything again."""
    text = (ROOT / "cmake" / "extension.cmake").read_text(encoding="utf-8")
    copied = re.search(
        r"set_target_properties\(pybind11::pybind11_headers PROPERTIES(.*?)\)", text, re.DOTALL
    )
    assert copied is not None
    assert copied[1].split() == [
        "INTERFACE_INCLUDE_DIRECTORIES",
        "${pybind11_copy}",
        "INTERFACE_SYSTEM_INCLUDE_DIRECTORIES",
        "${pybind11_copy}",
    ]
