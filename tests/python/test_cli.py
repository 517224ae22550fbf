"""The `swa-fast` command as a user meets it: what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import swa_fast
from swa_fast import _cli
from swa_fast._bench import competitors, memory, run, workloads


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the real models with one small enough to run in no time."""
    workload = workloads.Workload("tiny", "made up", ((3, 5), (4000,)))
    monkeypatch.setattr(workloads, "load", lambda: {"tiny": workload})


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the benchmark gets past the point where it refuses what it cannot do."""

    def work(*arguments: Any) -> None:
        raise AssertionError("the benchmark began to work")

    monkeypatch.setattr(run, "_run", work)


def python(code: str) -> str:
    """Run code in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


# The command itself


def test_the_installed_command_runs() -> None:
    command = Path(sysconfig.get_path("scripts")) / "swa-fast"
    done = subprocess.run(
        [command, "--version"], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == f"swa-fast {swa_fast.__version__}\n"


def test_importing_the_command_imports_nothing_heavy() -> None:
    heavy = ["tqdm", "tabulate", "matplotlib", "torch", "tensorflow", "keras", "jax"]
    code = f"import sys, swa_fast._cli; print([name for name in {heavy} if name in sys.modules])"
    assert python(code) == "[]"


def test_without_a_command_it_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.main([]) == 0
    out = capsys.readouterr().out
    assert "bench" in out
    assert "info" in out


def test_help_names_every_default_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _cli.main(["bench", "--help"])
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for name in workloads.load():
        assert name in out


# info


def test_info_prints_how_it_was_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.main(["info"]) == 0
    out = capsys.readouterr().out
    build = swa_fast.build_info()
    assert out.startswith(f"swa-fast {build['version']}\n")
    assert build["compiler"] in out
    assert build["flags"] in out
    assert all(isa in out for isa in build["isas"])
    assert f"numpy {np.__version__}" in out
    assert "CUDA" in out


@pytest.mark.parametrize(
    ("openmp", "line"), [("OpenMP 201511", "yes, 3 threads"), ("none", "no, one thread")]
)
def test_info_says_whether_there_are_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], openmp: str, line: str
) -> None:
    build = {**swa_fast.build_info(), "openmp": openmp, "num_threads": 3}
    monkeypatch.setattr(_cli, "_build_info", lambda: build)
    assert _cli.main(["info"]) == 0
    assert f"  OpenMP         {line}\n" in capsys.readouterr().out


_CUDA: dict[str, Any] = {
    "built": True,
    "available": True,
    "reason": "",
    "toolkit": "13.0",
    "architectures": ["90", "120", "120-virtual"],
    "driver": "13.1",
    "devices": [{"name": "H200", "capability": "9.0", "memory": 141 * 2**30}],
    "max_pairs_per_launch": 1169,
}


@pytest.mark.parametrize(
    ("cuda", "words"),
    [
        (_CUDA, ["13.0 for 90, 120, 120 and newer", "CUDA 13.1, 1169", "H200, compute", "141 GiB"]),
        (
            {**_CUDA, "available": False, "reason": "no driver", "devices": []},
            ["13.0 for 90, 120", "GPU            off: no driver"],
        ),
        ({**_CUDA, "built": False, "reason": "no nvcc"}, ["CUDA           off: no nvcc"]),
    ],
)
def test_info_says_what_cuda_can_do_here_or_why_it_cannot(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cuda: dict[str, Any],
    words: list[str],
) -> None:
    build = {**swa_fast.build_info(), "cuda": cuda}
    monkeypatch.setattr(_cli, "_build_info", lambda: build)
    assert _cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for word in words:
        assert word in out


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.main(["info", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["build"] == json.loads(json.dumps(swa_fast.build_info()))
    assert content["frameworks"]["numpy"] == np.__version__


def test_info_names_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_cli, "frameworks", lambda: {"numpy": "2.0", "torch": None})
    assert _cli.main(["info"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "torch" not in lines["frameworks"]
    assert "torch" in lines["not"]


def test_info_imports_no_framework() -> None:
    code = (
        "import contextlib, io, sys, swa_fast._cli as cli\n"
        "with contextlib.redirect_stdout(io.StringIO()): cli.main(['info'])\n"
        "print([n for n in ('torch', 'tensorflow', 'keras', 'jax') if n in sys.modules])"
    )
    assert python(code) == "[]"


# bench


@pytest.mark.usefixtures("tiny")
def test_bench_prints_the_table_and_the_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.main(["bench", "--model", "tiny", "--peers", "numpy", "--seconds", "0.001"]) == 0
    captured = capsys.readouterr()
    assert "5 fused updates on 1 models are bit-identical to NumPy" in captured.out
    assert "tiny" in captured.out
    for key in (competitors.FUSED, competitors.FLAT, competitors.NUMPY):
        assert competitors.LABELS[key] in captured.out
    assert "Call overhead" in captured.out
    assert "Budgets: " in captured.out
    # Nobody looks at this stderr, so there is no progress bar on it.
    assert captured.err == ""


@pytest.mark.usefixtures("tiny")
def test_bench_prints_a_missed_budget_and_still_ends_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("swa_fast._bench.budgets.OVER_NUMPY", 1e9)
    assert _cli.main(["bench", "--model", "tiny", "--peers", "numpy", "--seconds", "0.001"]) == 0
    assert "MISSED" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_bench_ends_with_1_when_the_fused_result_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fused_multiply_add(averages: list[Any], values: list[Any], count: int) -> None:
        """What a compiler makes of the expression when it may contract: more exact, and wrong."""
        weight = np.float64(np.float32(1 / (count + 1)))
        for a, v in zip(averages, values, strict=True):
            a[...] = v if count == 0 else a + np.float64(v - a) * weight

    monkeypatch.setattr(swa_fast, "running_mean_", fused_multiply_add)
    assert _cli.main(["bench", "--model", "tiny", "--peers", "none"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "CHECK FAILED" in captured.err
    assert "averages[" in captured.err
    assert "count=2" in captured.err


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet5000"], "Received: 'resnet5000'"),
        (["--threads", "0"], "must be an integer >= 1. Received: '0'"),
        (["--threads", "two"], "must be an integer >= 1. Received: 'two'"),
        (["--seconds", "0"], "must be a number of seconds > 0. Received: '0'"),
        (["--seconds", "inf"], "must be a number of seconds > 0. Received: 'inf'"),
        (["--seconds", "nan"], "must be a number of seconds > 0. Received: 'nan'"),
        (["--peers", "nunpy"], "Received: 'nunpy'"),
        (["--json", "/no/such/folder/x.json"], "--json cannot write /no/such/folder/x.json"),
        (["--plot", "/no/such/folder/x.svg"], "--plot cannot write /no/such/folder/x.svg"),
        (["--plot", "chart.jpeg2"], "--plot must end in .svg, .png, .pdf. Received: chart.jpeg2"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bench_refuses_before_it_works(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    if arguments[0] == "--plot":
        pytest.importorskip("matplotlib")
    try:
        code: Any = _cli.main(["bench", *arguments])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.usefixtures("no_work")
def test_bench_refuses_a_folder_as_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.main(["bench", "--json", str(tmp_path)]) == 2
    assert f"--json cannot write {tmp_path}" in capsys.readouterr().err


@pytest.mark.usefixtures("no_work")
def test_bench_names_the_extra_that_the_plot_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _cli.main(["bench", "--peers", "none", "--plot", str(tmp_path / "x.svg")]) == 2
    assert 'pip install "swa-fast[plot]"' in capsys.readouterr().err


@pytest.mark.usefixtures("no_work")
def test_bench_refuses_a_model_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 * 10**9)
    assert _cli.main(["bench", "--model", "llama_1b", "--peers", "numpy"]) == 2
    assert "llama_1b needs about" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_bench_ends_cleanly_when_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_run", interrupt)
    assert _cli.main(["bench", "--model", "tiny", "--peers", "none"]) == 130
    assert capsys.readouterr().err == "swa-fast: interrupted\n"
