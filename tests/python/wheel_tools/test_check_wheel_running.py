"""tools/check_wheel.py on wheels that are installed and run: doctored ones must be found out."""

from __future__ import annotations

import fcntl
import re
import sys
import time
from pathlib import Path
from typing import IO

import pytest

import check_wheel
import swa_fast
from build_marks import needs_openmp
from wheel_checks.contents import Wheel
from wheel_checks.environment import Environment
from wheel_files import installed_files, write_wheel

pytestmark = pytest.mark.skipif(
    f"swa_fast/{Path(swa_fast.__file__).name}" not in installed_files()[1],
    reason="an editable installation has no wheel to doctor",
)

INIT = "swa_fast/__init__.py"

SLOW = b"import time\ntime.sleep(0.3)\n"
BROKEN = b"raise ImportError('doctored')\n"
# One unit in the last place, in one element.
WRONG = b"""
_right = running_mean_
def running_mean_(averages, values, count):
    _right(averages, values, count)
    if count == 6 and averages[2].dtype == 'f4':
        averages[2][7] = __import__('numpy').nextafter(averages[2][7], 9)
"""
SILENT = b"""
_strict = running_mean_
def running_mean_(averages, values, count):
    try:
        _strict(averages, values, count)
    except ValueError:
        pass
"""
# As long as the child lives, it has a lock on the file `alive`.
HANGING = b"""
import fcntl, os, time
def _hang():
    file = open(os.path.join(os.path.dirname(__file__), "alive"), "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    time.sleep(1000)
os.register_at_fork(after_in_child=_hang)
"""
# What a renamed copy does: a second runtime is mapped.
SECOND_RUNTIME = b"""
import ctypes, shutil, tempfile
_maps = open('/proc/self/maps').read().split()
_copy = tempfile.mkdtemp() + '/libgomp-0123abcd.so.1'
shutil.copy(next(path for path in _maps if 'libgomp' in path), _copy)
_second = ctypes.CDLL(_copy)
"""


def problems(folder: Path, prologue: bytes = b"", epilogue: bytes = b"") -> list[str]:
    tag, files = installed_files()
    files[INIT] = prologue + files[INIT] + epilogue
    wheel = Wheel(write_wheel(folder, tag, files))
    environment = Environment(folder / "environment", sys.executable)
    try:
        return check_wheel.check_alone(wheel, environment)
    except RuntimeError as error:
        return [str(error)]


@pytest.fixture
def one_isa(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is wrong with every instruction set: look at the first."""
    real = Environment.functional

    def first_only(self: Environment, *order: str, **variables: str) -> list[str]:
        return real(self, *order, **variables) if variables["SWA_FAST_ISA"] == "baseline" else []

    monkeypatch.setattr(Environment, "functional", first_only)


@pytest.mark.skipif(
    sys.platform == "linux" and swa_fast.build_info()["openmp"] == "none",
    reason="a wheel for Linux has OpenMP",
)
def test_the_installed_package_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # How long it takes is for those to judge who check a wheel on a machine at rest.
    monkeypatch.setattr(check_wheel, "INSTALL_LIMIT", 1000)
    monkeypatch.setattr(check_wheel, "IMPORT_LIMIT", 1000)
    assert problems(tmp_path) == []
    assert "ok, baseline" in capsys.readouterr().out


@pytest.mark.usefixtures("one_isa")
@pytest.mark.parametrize(
    ("prologue", "epilogue", "message"),
    [
        pytest.param(BROKEN, b"", "import swa_fast failed:(.|\n)*doctored", id="import"),
        pytest.param(SLOW, b"", r"import took \d+\.\d+ s on top of NumPy", id="slow"),
        pytest.param(b"", WRONG, "running_mean_ of float32 and .*: other bits", id="bits"),
        pytest.param(b"", SILENT, "unequal shapes were taken", id="errors"),
        pytest.param(
            b"",
            SECOND_RUNTIME,
            "not one OpenMP runtime in the process: .*libgomp-0123abcd",
            id="runtimes",
            marks=needs_openmp,
        ),
    ],
)
def test_a_doctored_package_fails(
    tmp_path: Path, prologue: bytes, epilogue: bytes, message: str
) -> None:
    found = problems(tmp_path, prologue, epilogue)
    assert any(re.search(message, problem) for problem in found), found


def test_a_hanging_child_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wheel_checks.environment._TIMEOUT", 20)
    tag, files = installed_files()
    files[INIT] += HANGING
    environment = Environment(tmp_path / "environment", sys.executable)
    environment.create()
    environment.install("--no-deps", str(write_wheel(tmp_path, tag, files)))
    environment.provide("numpy")
    assert "no end after 20 s" in environment.functional("swa_fast")[0]
    (alive,) = (tmp_path / "environment").rglob("alive")
    with alive.open("w") as file:
        deadline = time.monotonic() + 60  # it was killed, and may need a moment to go
        while not locked(file):
            assert time.monotonic() < deadline, "the child is still there"
            time.sleep(0.01)


def locked(file: IO[str]) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_beside_torch_in_both_orders(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tag, files = installed_files()
    environment = Environment(tmp_path / "environment", sys.executable)
    environment.create()
    environment.install("--no-deps", str(write_wheel(tmp_path, tag, files)))
    environment.provide_all()
    assert environment.functional("swa_fast", "torch") == []
    assert environment.functional("torch", "swa_fast") == []


def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "environment", sys.executable)
    environment.create()
    with pytest.raises(RuntimeError, match="has no package surely_not_there"):
        environment.provide("surely_not_there>=1")
