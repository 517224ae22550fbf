"""tests/gpu/run.sh where no GPU is: with stand-ins for all that it starts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STAND_IN = Path(__file__).with_name("stand_in.py")
PROGRAMS = ("python", "nvcc", "nvidia-smi", "compute-sanitizer")
STEPS = [
    "machine",
    "build",
    "info",
    "cpp",
    "memcheck",
    "racecheck",
    "initcheck",
    "pytest",
    "requirements",
    "bench",
]
MEMCHECK = "compute-sanitizer --tool memcheck"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CUDA's Linux is what it is for")


@dataclass
class Row:
    """A row of the table."""

    result: str
    seconds: int
    limit: int
    text: str


class Machine:
    """A machine with nothing but stand-ins, and a tree with nothing but the script."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.out = folder, folder / "bin", folder / "out"
        self.tree = folder / "tree"
        (self.tree / "tests" / "gpu").mkdir(parents=True)
        shutil.copy(ROOT / "tests" / "gpu" / "run.sh", self.tree / "tests" / "gpu")
        self.bin.mkdir()
        (self.bin / "stand_in").write_text(
            f"#!{sys.executable}\n{STAND_IN.read_text(encoding='utf-8')}", encoding="utf-8"
        )
        (self.bin / "stand_in").chmod(0o755)
        for program in PROGRAMS:
            (self.bin / program).symlink_to("stand_in")
        self.build = self.tree / "build" / "gpu-90"
        self.hanging = folder / "hanging"

    def start(self, **variables: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "PYTHON": str(self.bin / "python"),
            "CALLS": str(self.folder / "calls"),
            "HANGING": str(self.hanging),
            **variables,
        }
        command = [str(self.tree / "tests" / "gpu" / "run.sh"), str(self.out)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, **variables: str) -> tuple[int, str]:
        """The exit status, and what was printed."""
        with self.start(**variables) as process:
            printed, _ = process.communicate(timeout=120)
        return process.returncode, printed

    def rows(self) -> dict[str, Row]:
        """The table, by step."""
        lines = (self.out / "summary.txt").read_text(encoding="utf-8").splitlines()
        found = {}
        for line in lines[1:]:
            match = re.fullmatch(r"(ok|FAILED|CUT|not run|absent) +(\S+) +(\d+) +(\d+) +(.*)", line)
            if match is None:
                break
            result, step, seconds, limit, text = match.groups()
            found[step] = Row(result, int(seconds), int(limit), text)
        return found

    def results(self) -> dict[str, str]:
        return {step: row.result for step, row in self.rows().items()}

    def calls(self) -> list[list[str]]:
        """What was started, without what a Python was told by -c."""
        lines = (self.folder / "calls").read_text(encoding="utf-8").splitlines()
        return [call for call in map(json.loads, lines) if call[1:2] != ["-c"]]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended may wait for its parent to ask."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def hanging_pids(machine: Machine) -> list[int]:
    deadline = time.monotonic() + 60
    while not (machine.hanging.exists() and machine.hanging.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [int(pid) for pid in machine.hanging.read_text(encoding="utf-8").split()]


def test_every_step_starts_what_it_says(machine: Machine) -> None:
    status, printed = machine.run()
    rows = machine.rows()
    assert (status, list(rows)) == (0, STEPS), printed
    assert {row.result for row in rows.values()} == {"ok"}
    assert rows["cpp"].text == "8 of 8 tests passed"
    assert rows["pytest"].text == "48 passed, 2 skipped in 30.50s"
    assert (machine.out / "summary.txt").read_text(encoding="utf-8") in printed

    test = str(machine.build / "tests" / "cpp" / "cuda_gpu_test")
    sanitizer = ["compute-sanitizer", "--tool"]
    calls = machine.calls()
    pip, pytest_call = calls[3], calls[9]
    assert calls == [
        ["nvcc", "--version"],
        ["nvidia-smi"],
        ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
        pip,
        ["swa-fast", "info"],
        ["cuda_gpu_test"],
        [*sanitizer, "memcheck", "--report-api-errors", "no", "--error-exitcode", "1", test],
        [*sanitizer, "racecheck", "--error-exitcode", "1", test, "five_thousand"],
        [*sanitizer, "initcheck", "--error-exitcode", "1", test, "lerp_has"],
        pytest_call,
        [
            *("swa-fast", "bench", "--device", "cuda", "--seconds", "2"),
            *("--json", str(machine.out / "bench.json")),
        ],
    ]
    assert pip[:4] == ["python", "-m", "pip", "install"]
    assert {"--no-deps", "--no-build-isolation", "--no-index", "."} < set(pip)
    assert "--config-settings=cmake.define.SWA_FAST_CUDA=ON" in pip
    assert "--config-settings=cmake.define.SWA_FAST_CUDA_ARCHITECTURES=90" in pip
    assert pytest_call[:5] == ["python", "-m", "pytest", "-m", "gpu"]
    assert pytest_call[-1] == "tests/python/gpu"


def test_the_limits_add_up_to_less_than_six_minutes(machine: Machine) -> None:
    machine.run()
    limits = {step: row.limit for step, row in machine.rows().items()}
    assert sum(limits.values()) <= 350, limits  # and some seconds to end a step that hangs


def test_at_most_eight_files_in_one_folder(machine: Machine) -> None:
    machine.run()
    machine.run()  # into the same folder
    files = sorted(machine.out.iterdir())
    assert [file.name for file in files] == [
        *("bench.json", "bench.txt", "build.txt", "cpp.txt", "machine.txt", "pytest.txt"),
        "summary.txt",
    ]
    assert all(file.is_file() for file in files)
    text = (machine.out / "cpp.txt").read_text(encoding="utf-8")
    assert re.findall(r"== (\w+): ", text) == ["cpp", "memcheck", "racecheck", "initcheck"]


def test_a_hanging_step_is_ended_and_the_others_run(machine: Machine) -> None:
    status, printed = machine.run(HANG=MEMCHECK, LIMIT_PERCENT="1")
    assert status == 1
    assert machine.results() == {step: "CUT" if step == "memcheck" else "ok" for step in STEPS}
    row = machine.rows()["memcheck"]
    assert row.limit == 5
    assert row.seconds < 20
    assert row.text == "about to hang"
    assert "CUT: memcheck. The end of cpp.txt:" in printed
    assert not any(map(is_alive, hanging_pids(machine)))


@pytest.mark.parametrize(
    ("call", "step"),
    [
        ("nvidia-smi", "machine"),
        ("swa-fast info", "info"),
        ("cuda_gpu_test", "cpp"),
        (MEMCHECK, "memcheck"),
        ("python -m pytest", "pytest"),
        ("swa-fast bench", "bench"),
    ],
)
def test_a_failing_step_is_shown_with_the_end_of_its_log(
    machine: Machine, call: str, step: str
) -> None:
    status, printed = machine.run(FAIL=call)
    assert status == 1
    assert machine.results() == {name: "FAILED" if name == step else "ok" for name in STEPS}
    assert machine.rows()[step].text == "the reason"
    tail = printed[printed.index(f"\nFAILED: {step}. The end of ") :]
    assert "    line 99 of many\n    the reason\n" in tail
    assert "line 50 of many" not in printed
    assert len(list(machine.out.iterdir())) <= 8


def test_a_failed_build_leaves_nothing_old_to_be_tested(machine: Machine) -> None:
    machine.run()
    (machine.folder / "calls").unlink()
    assert machine.run(FAIL="python -m pip")[0] == 1
    assert machine.results() == {
        step: {"machine": "ok", "build": "FAILED"}.get(step, "not run") for step in STEPS
    }
    assert {call[0] for call in machine.calls()} == {"nvcc", "nvidia-smi", "python"}
    assert not list(machine.build.rglob("cuda_gpu_test"))


def test_skipped_tests_are_no_passed_tests(machine: Machine) -> None:
    assert machine.run(PYTEST_SAYS="50 skipped in 4.57s")[0] == 1
    assert machine.results()["pytest"] == "FAILED"


def test_without_compute_sanitizer(machine: Machine) -> None:
    (machine.bin / "compute-sanitizer").unlink()
    assert machine.run()[0] == 0
    assert machine.results() == {
        **{step: "ok" for step in STEPS if not step.endswith("check")},
        "compute-sanitizer": "absent",
    }


def test_a_missing_requirement_is_fetched_for_the_benchmark_alone(machine: Machine) -> None:
    missing = {"MISSING": "tabulate>=0.9\ntqdm>=4.60"}
    assert machine.run(**missing)[0] == 0
    assert machine.calls()[-2][-2:] == ["tabulate>=0.9", "tqdm>=4.60"]
    assert machine.run(**missing, FAIL="python -m pip install --retries")[0] == 1
    rows = machine.rows()
    assert rows["requirements"].text == "swa-fast needs tabulate>=0.9 tqdm>=4.60"
    assert rows["bench"].result == "not run"
    assert rows["pytest"].result == "ok"


def test_ended_from_outside_it_leaves_the_rows_so_far_and_no_process(machine: Machine) -> None:
    with machine.start(HANG="python -m pytest") as process:
        pids = hanging_pids(machine)
        assert all(map(is_alive, pids))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert list(machine.rows()) == STEPS[: STEPS.index("pytest")]
    for _ in range(100):  # what was killed is gone when the system has seen to it
        if not any(map(is_alive, pids)):
            break
        time.sleep(0.1)
    assert not any(map(is_alive, pids))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the tests import torch")
def test_the_tests_are_found_with_pytest_alone(machine: Machine) -> None:
    machine.run()
    (call,) = (call for call in machine.calls() if call[1:3] == ["-m", "pytest"])
    done = subprocess.run(
        [sys.executable, *call[1:], "--collect-only", "-p", "no:timeout"],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = set(re.findall(r"^tests/python/gpu/(\w+\.py)::", done.stdout, re.MULTILINE))
    gpu = [path for path in (ROOT / "tests" / "python" / "gpu").glob("*.py")]
    assert files == {path.name for path in gpu if "mark.gpu" in path.read_text(encoding="utf-8")}
    assert re.search(r"\d+/\d+ tests collected", done.stdout.splitlines()[-1])
