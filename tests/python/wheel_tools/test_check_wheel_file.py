"""tools/check_wheel.py on wheels as files: a good one passes, every doctored one fails."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import check_wheel
from swa_fast import _core, _cpu_floor
from wheel_checks import mach_o
from wheel_checks.contents import Wheel, check_size, check_tag
from wheel_checks.elf import MAGIC, read_elf
from wheel_checks.policy import Glibc, glibc_of, too_new
from wheel_files import DIST_INFO, good_files, make_elf, make_mach_o, write_wheel

Files = dict[str, bytes]
TAG = "cp311-cp311-manylinux_2_28_x86_64"
CORE = "swa_fast/_core.cpython-311-x86_64-linux-gnu.so"


def problems(folder: Path, change: Callable[[Files], object], tag: str = TAG) -> list[str]:
    files = good_files(tag)
    change(files)
    return check_wheel.check_file(Wheel(write_wheel(folder, tag, files)), "manylinux_2_28")


def test_a_good_wheel_passes(tmp_path: Path) -> None:
    assert problems(tmp_path, lambda files: None) == []
    older = "cp311-cp311-manylinux_2_17_x86_64"
    assert problems(tmp_path, lambda files: None, older) == []


def put(name: str, data: bytes) -> Callable[[Files], None]:
    return lambda files: files.update({name: data})


def drop(name: str) -> Callable[[Files], bytes]:
    return lambda files: files.pop(name)


def core(**changes: object) -> Callable[[Files], None]:
    settings: dict[str, object] = {"needed": ["libgomp.so.1", "libc.so.6"], "runpath": "$ORIGIN"}
    settings |= {"exported": ["PyInit__core"], **changes}
    return put(CORE, make_elf(**settings))  # type: ignore[arg-type]


def rename_libgomp(files: Files) -> None:
    del files["swa_fast/libgomp.so.1"]
    name = "libgomp-a34b3233.so.1.0.0"
    files[f"swa_fast.libs/{name}"] = make_elf(soname=name)
    core(needed=[name], runpath="$ORIGIN/../swa_fast.libs")(files)


DOCTORED = {
    "no types": (drop("swa_fast/py.typed"), "swa_fast/py.typed is missing"),
    "no stub": (drop("swa_fast/_core.pyi"), "swa_fast/_core.pyi is missing"),
    "no module": (drop(CORE), "the extension module _core is missing"),
    "no licence": (drop(f"{DIST_INFO}/licenses/LICENSE"), "the licence LICENSE is missing"),
    "no licence of libgomp": (
        drop(f"{DIST_INFO}/licenses/licenses/GPL-3.0.txt"),
        "the licence licenses/GPL-3.0.txt is missing",
    ),
    "licence not named": (
        lambda files: files.update({f"{DIST_INFO}/METADATA": b"Version: 0.1.0\n"}),
        "METADATA does not name the licence file LICENSE",
    ),
    "another version": (
        put(f"{DIST_INFO}/METADATA", b"Version: 9\nLicense-File: LICENSE\n"),
        "METADATA has the version 9, not",
    ),
    "another tag inside": (
        put(f"{DIST_INFO}/WHEEL", b"Tag: cp311-cp311-linux_x86_64\n"),
        "WHEEL has the tags",
    ),
    "CUDA": (core(needed=["libcuda.so.1"]), "needs libcuda.so.1, which is not a library of every"),
    "CUDA's runtime": (core(needed=["libcudart.so.12"]), "needs libcudart.so.12"),
    "a newer libstdc++": (
        core(versions={"libstdc++.so.6": ["GLIBCXX_3.4.9", "GLIBCXX_3.4.29"]}),
        "needs GLIBCXX_3.4.29 of libstdc.*, newer than manylinux_2_28 has",
    ),
    "a newer C library": (
        core(versions={"libc.so.6": ["GLIBC_2.28", "GLIBC_2.34"]}),
        "needs GLIBC_2.34 of libc.so.6, newer than manylinux_2_28 has",
    ),
    "a newer C library under libgomp": (
        put(
            "swa_fast/libgomp.so.1",
            make_elf(soname="libgomp.so.1", versions={"libc.so.6": ["GLIBC_2.34"]}),
        ),
        "swa_fast/libgomp.so.1 needs GLIBC_2.34",
    ),
    "no libgomp": (drop("swa_fast/libgomp.so.1"), "swa_fast/libgomp.so.1 is missing"),
    "libgomp renamed": (rename_libgomp, "a second OpenMP runtime"),
    "libgomp not found": (core(runpath=""), r"looks for libgomp.so.1 in \[\], not \$ORIGIN"),
    "not a library": (put(CORE, b"MZ"), "not a 64-bit little-endian ELF file"),
    "the symbols of a static libstdc++": (
        core(exported=["PyInit__core", "_ZSt4cout", "_ZSt3cin"]),
        f"{CORE} must export PyInit__core alone: it also exports 2 symbols, the first _ZSt3cin",
    ),
    "a weak symbol": (core(exported=["PyInit__core", "_ZTIFivE"], binding=2), "the first _ZTIFivE"),
    "a unique symbol": (
        core(exported=["PyInit__core", "_ZNSs4_Rep20_S_empty_rep_storageE"], binding=10),
        "also exports 1 symbols",
    ),
    "a symbol of the other module": (
        put(
            "swa_fast/_cpu_floor.cpython-311-x86_64-linux-gnu.so",
            make_elf(exported=["PyInit__cpu_floor", "detected"]),
        ),
        "must export PyInit__cpu_floor alone: .*, the first detected",
    ),
    "no init function": (core(exported=[]), f"{CORE} does not export PyInit__core"),
    "a local init function": (core(binding=0), f"{CORE} does not export PyInit__core"),
    "symbols of macOS": (
        put(CORE, make_mach_o([], ["_PyInit__core", "__ZTISt9bad_alloc"])),
        "must export _PyInit__core alone: it also exports 1 symbols, the first __ZTISt9bad_alloc",
    ),
    "no init function on macOS": (
        put(CORE, make_mach_o([], ["__ZTISt9bad_alloc"], newer=True)),
        f"{CORE} does not export _PyInit__core",
    ),
    "libomp": (put("swa_fast/libomp.dylib", make_mach_o([])), "is an OpenMP runtime of its own"),
    "loads libomp": (
        put(CORE, make_mach_o(["/usr/lib/libc++.1.dylib", "/opt/homebrew/lib/libomp.dylib"])),
        "loads /opt/homebrew/lib/libomp.dylib, which is not a library of the system",
    ),
}


@pytest.mark.parametrize("name", DOCTORED)
def test_a_doctored_wheel_fails(tmp_path: Path, name: str) -> None:
    change, message = DOCTORED[name]
    found = problems(tmp_path, change)
    assert any(re.search(message, problem) for problem in found), found


@pytest.mark.parametrize(
    ("platform", "asked", "message"),
    [
        ("manylinux_2_34_x86_64", "manylinux_2_28", "is newer than manylinux_2_28"),
        ("linux_x86_64", "manylinux_2_28", "is not a manylinux tag"),
        ("musllinux_1_2_x86_64", "manylinux2014", "is not a manylinux tag"),
        ("macosx_14_0_arm64", "macosx_11_0_arm64", "is not macosx_11_0_arm64"),
    ],
)
def test_platform_tags(tmp_path: Path, platform: str, asked: str, message: str) -> None:
    wheel = Wheel(write_wheel(tmp_path, f"cp311-cp311-{platform}", {}))
    assert message in check_tag(wheel, asked)[0]
    assert check_tag(wheel, platform.removesuffix("_x86_64")) == [] or "linux" in platform[:6]


def test_size(tmp_path: Path) -> None:
    wheel = Wheel(write_wheel(tmp_path, TAG, {"big": b"x" * 5_000_001}))
    assert "more than 5000000" in check_size(wheel)[0]
    assert check_size(Wheel(write_wheel(tmp_path, TAG, {"big": b"x" * 4_900_000}))) == []


def test_versions_of_tags() -> None:
    assert glibc_of("manylinux2014_x86_64") == glibc_of("manylinux_2_17_x86_64") == Glibc(2, 17)
    assert glibc_of("manylinux_2_28_aarch64") == Glibc(2, 28)
    assert glibc_of("macosx_11_0_arm64") is None
    assert not too_new("GLIBC_2.9", Glibc(2, 28))
    assert too_new("GLIBC_2.29", Glibc(2, 28))
    assert too_new("GLIBC_ABI_DT_RELR", Glibc(2, 28))
    assert too_new("CXXABI_1.3.13", Glibc(2, 28))
    assert not too_new("CXXABI_1.3.13", Glibc(2, 34))
    assert not too_new("GOMP_5.0", Glibc(2, 17))  # the wheel brings its own


@pytest.mark.skipif(sys.platform != "linux", reason="ELF files are Linux's")
@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is the oracle")
def test_reader_agrees_with_readelf() -> None:
    data = Path(_core.__file__).read_bytes()
    assert data[:4] == MAGIC
    library = read_elf(data)
    run = ["readelf", "--wide", "--dynamic", "--version-info", _core.__file__]
    text = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert library.needed == re.findall(r"\(NEEDED\).*\[(.*)\]", text)
    needs = text[text.index("Version needs section") :]
    assert {v for names in library.versions.values() for v in names} == set(
        re.findall(r"Name: (\S+) +Flags", needs)
    )


def mapped_libraries() -> list[str]:
    """What a process with NumPy and swa_fast in it has loaded."""
    code = "import swa_fast; print(open('/proc/self/maps').read())"
    run = [sys.executable, "-c", code]
    maps = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    return sorted(set(re.findall(r"/\S+\.so(?:\.\d+)*$", maps, re.MULTILINE)))


@pytest.mark.skipif(sys.platform != "linux", reason="ELF files are Linux's")
@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is the oracle")
def test_reader_finds_the_symbols_that_readelf_finds() -> None:
    counts = []
    for path in mapped_libraries():
        run = ["readelf", "--wide", "--dyn-syms", path]
        text = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        line = r"(?:GLOBAL|WEAK|UNIQUE) +(?:DEFAULT|PROTECTED) +(?:\[.*?\] +)?(?!UND )\w+ ([^\s@]+)"
        exported = read_elf(Path(path).read_bytes()).exported
        assert exported == set(re.findall(line, text)), path
        counts.append(len(exported))
    assert min(counts) == 1  # a module with nothing but its init function
    assert max(counts) > 1000  # the C library


@pytest.mark.parametrize("newer", [False, True])
def test_reader_of_macos_files(newer: bool) -> None:
    names = ["_PyInit__core", "_PyInit__core_too", "__ZTISt9bad_alloc"]
    file = mach_o.read_mach_o(make_mach_o(["/usr/lib/libc++.1.dylib"], names, newer))
    assert file == mach_o.MachO(["/usr/lib/libc++.1.dylib"], set(names))
    assert mach_o.read_mach_o(make_mach_o([], newer=newer)) == mach_o.MachO()


@pytest.mark.parametrize("module", [_core, _cpu_floor], ids=["_core", "_cpu_floor"])
def test_the_modules_export_their_init_functions_alone(module: ModuleType) -> None:
    init = "PyInit_" + module.__name__.rpartition(".")[2]
    data = Path(str(module.__file__)).read_bytes()
    if data[:4] == MAGIC:
        assert read_elf(data).exported == {init}
    else:
        assert mach_o.read_mach_o(data).exported == {f"_{init}"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = write_wheel(tmp_path, TAG, good_files(TAG))
    arguments = [str(wheel), "--file-only", "--tag"]
    assert check_wheel.main([*arguments, "manylinux_2_28"]) == 0
    assert "all is well (the file alone)" in capsys.readouterr().out
    assert check_wheel.main([*arguments, "manylinux_2_17"]) == 1
    assert "WRONG: the platform tag manylinux_2_28_x86_64 is newer" in capsys.readouterr().err
    assert check_wheel.main([str(tmp_path / "no.whl"), "--file-only"]) == 1
    assert "NAME-VERSION-PYTHON-ABI-PLATFORM.whl. Received: no.whl" in capsys.readouterr().err
