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
from bench_tools import hide
from build_marks import needs_openmp
from swa_fast import cli
from swa_fast.bench import run, workloads


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the benchmark gets past the point where it refuses what it cannot do."""

    def work(*arguments: Any) -> None:
        raise AssertionError("the benchmark began to work")

    monkeypatch.setattr(run, "_measure", work)


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


def test_the_package_runs_as_the_command() -> None:
    command = [sys.executable, "-m", "swa_fast"]
    options = {"capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([*command, "--version"], check=True, **options)  # type: ignore[call-overload]
    assert done.stdout == f"swa-fast {swa_fast.__version__}\n"
    done = subprocess.run([*command, "bench", "--fast"], check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 2
    assert done.stderr.startswith("swa-fast bench: error: unrecognized arguments: --fast")


def test_importing_the_command_imports_nothing_heavy() -> None:
    heavy = ["tqdm", "tabulate", "matplotlib", "torch", "tensorflow", "keras", "jax"]
    code = f"import sys, swa_fast.cli; print([name for name in {heavy} if name in sys.modules])"
    assert python(code) == "[]"


def test_without_a_command_it_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert "bench" in out
    assert "info" in out


def test_help_names_every_default_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "--help"])
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for name in workloads.load():
        assert name in out


# info


def test_info_prints_how_it_was_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
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
    monkeypatch.setattr(cli, "_build_info", lambda: build)
    assert cli.main(["info"]) == 0
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
    monkeypatch.setattr(cli, "_build_info", lambda: build)
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for word in words:
        assert word in out


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["build"] == json.loads(json.dumps(swa_fast.build_info()))
    assert content["frameworks"]["numpy"] == np.__version__


def test_info_names_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "frameworks", lambda: {"numpy": "2.0", "torch": None})
    assert cli.main(["info"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "torch" not in lines["frameworks"]
    assert "torch" in lines["not"]


def test_info_imports_no_framework() -> None:
    code = (
        "import contextlib, io, sys, swa_fast.cli as cli\n"
        "with contextlib.redirect_stdout(io.StringIO()): cli.main(['info'])\n"
        "print([n for n in ('torch', 'tensorflow', 'keras', 'jax') if n in sys.modules])"
    )
    assert python(code) == "[]"


# bench


@pytest.mark.usefixtures("tiny")
def test_bench_prints_the_table_and_a_conclusion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--model", "tiny", "--peers", "numpy", "--seconds", "0.001"]) == 0
    captured = capsys.readouterr()
    assert "4 updates of 1 models have the bits of NumPy's formula" in captured.out
    for text in ("tiny", "swa_fast, NumPy arrays", "NumPy, a += (p - a) * w", "ms:"):
        assert text in captured.out
    assert "of 1 comparisons" in " ".join(captured.out.split())
    assert "It was slower in" in captured.out
    # Nobody looks at this output, so it has no colours, and no progress bar is on stderr.
    assert "\x1b" not in captured.out
    assert captured.err == ""


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("terminal", "no_colour"), [(True, False), (True, True), (False, False)])
def test_colours_are_for_a_terminal_without_no_color(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: bool,
    no_colour: bool,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    assert cli.main(["bench", "--model", "tiny", "--peers", "none", "--seconds", "0.001"]) == 0
    assert ("\x1b[1m" in capsys.readouterr().out) is (terminal and not no_colour)


@pytest.mark.usefixtures("tiny")
def test_bench_judges_budgets_only_when_it_is_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--model", "tiny", "--peers", "numpy", "--seconds", "0.001"]
    assert cli.main(arguments) == 0
    assert "udget" not in capsys.readouterr().out
    assert cli.main([*arguments, "--budgets"]) == 0
    parts = capsys.readouterr().out.split("\n\n")
    assert parts[-3].startswith("Budgets, how many times as long the other takes: ")
    assert "NumPy, a += (p - a) * w  >= 3.00x" in parts[-2]
    assert parts[-2].split()[-1] in ("met", "missed", "noisy")


@pytest.mark.usefixtures("tiny")
def test_bench_writes_the_record_and_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    record, picture = tmp_path / "result.json", tmp_path / "result.svg"
    arguments = ["--model", "tiny", "--peers", "numpy", "--seconds", "0.001"]
    assert cli.main(["bench", *arguments, "--json", str(record), "--plot", str(picture)]) == 0
    assert json.loads(record.read_text(encoding="utf-8"))["models"][0]["model"] == "tiny"
    assert "tiny, 6 tensors" in picture.read_text(encoding="utf-8")


@pytest.mark.usefixtures("tiny")
def test_bench_with_a_number_that_json_does_not_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    genuine = run.run

    def with_nan(*arguments: Any) -> dict[str, Any]:
        return {**genuine(*arguments), "nan": float("nan")}

    monkeypatch.setattr(run, "run", with_nan)
    path = tmp_path / "x.json"
    arguments = ["--model", "tiny", "--peers", "none", "--seconds", "0.001", "--json", str(path)]
    with pytest.raises(ValueError, match="JSON"):
        cli.main(["bench", *arguments])
    assert not path.exists()


@needs_openmp
@pytest.mark.usefixtures("tiny")
def test_bench_uses_the_threads_asked_for_and_puts_the_number_back(tmp_path: Path) -> None:
    before, path = swa_fast.get_num_threads(), tmp_path / "x.json"
    threads = ["--threads", str(before + 1)]
    arguments = ["--model", "tiny", "--peers", "none", "--seconds", "0.001", "--json", str(path)]
    assert cli.main(["bench", *arguments, *threads]) == 0
    assert json.loads(path.read_text(encoding="utf-8"))["threads"] == before + 1
    assert swa_fast.get_num_threads() == before


def test_models_keep_the_order_asked_for_and_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(workloads: Any, *others: Any) -> Any:
        asked.append([workload.name for workload in workloads])
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", note)
    repeated = [word for name in ("gpt2", "resnet50", "gpt2") for word in ("--model", name)]
    assert cli.main(["bench", *repeated]) == cli.main(["bench"]) == 130
    assert asked == [["gpt2", "resnet50"], list(workloads.DEFAULT_MODELS)]


def test_peers_keep_the_order_of_the_report_and_default_to_all() -> None:
    assert cli.parse(["bench"]).peers is None
    assert cli.parse(["bench", "--peers", "numpy"]).peers == ["numpy"]
    assert cli.parse(["bench", "--peers", "none"]).peers == []
    assert cli.parse(["bench", "--peers", ""]).peers == []


def test_a_peer_that_is_asked_for_must_be_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "torch")
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "--peers", "numpy,torch"])
    assert ended.value.code == 2
    assert "names torch, which is not installed" in capsys.readouterr().err


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
    assert cli.main(["bench", "--model", "tiny", "--peers", "none"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "CHECK FAILED" in captured.err
    assert "averages[" in captured.err
    assert "count=2" in captured.err


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet5000"], "Received: 'resnet5000', did you mean 'resnet50'?"),
        (["--threads", "0"], "must be an integer >= 1. Received: '0'"),
        (["--threads", "two"], "must be an integer >= 1. Received: 'two'"),
        (["--seconds", "0"], "must be a number of seconds > 0. Received: '0'"),
        (["--seconds", "inf"], "must be a number of seconds > 0. Received: 'inf'"),
        (["--seconds", "nan"], "must be a number of seconds > 0. Received: 'nan'"),
        (["--peers", "nunpy"], "Received: 'nunpy', did you mean 'numpy'?"),
        (["--json", "/no/such/folder/x.json"], "--json cannot write /no/such/folder/x.json"),
        (["--plot", "/no/such/folder/x.svg"], "--plot cannot write /no/such/folder/x.svg"),
        (["--plot", "chart.jpeg2"], "--plot must end in .svg, .png, .pdf. Received: chart.jpeg2"),
        (["--device", "cuda", "--peers", "numpy"], "--device cuda compares with torch alone"),
        (["--device", "cuda", "--budgets"], "--budgets are those of the CPU"),
        (["--fast"], "unrecognized arguments: --fast (see swa-fast bench --help)"),
        (["--sedonds", "3"], "unrecognized arguments: --sedonds 3, did you mean '--seconds'?"),
        (["--device", "cdua"], "invalid choice: 'cdua'"),
        (["--device", "cdua"], "did you mean 'cuda'?"),
    ],
)
def test_bench_refuses_before_it_works(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    if arguments[0] == "--plot":
        pytest.importorskip("matplotlib")
    try:
        code: Any = cli.main(["bench", *arguments])
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
    assert cli.main(["bench", "--json", str(tmp_path)]) == 2
    assert f"--json cannot write {tmp_path}" in capsys.readouterr().err


def test_asking_whether_a_file_can_be_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupt)
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    old.write_text("kept", encoding="utf-8")
    for path in (new, old):
        assert cli.main(["bench", "--json", str(path)]) == 130
    assert not new.exists()
    assert old.read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize(("word", "meant"), [("bnech", "bench"), ("inof", "info")])
def test_a_misspelt_command_gets_a_suggestion(
    capsys: pytest.CaptureFixture[str], word: str, meant: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([word])
    assert ended.value.code == 2
    assert f"did you mean {meant!r}? (see swa-fast --help)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["merge", "a.npz", "--ouput", "b.npz"], "-o/--output, did you mean '--output'?"),
        (["merge", "a.npz", "--overwrite"], "-o/--output (see"),
    ],
)
def test_a_misspelt_option_that_is_required_gets_a_suggestion(
    capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err


@pytest.mark.usefixtures("no_work")
def test_bench_names_the_extra_that_the_plot_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["bench", "--peers", "none", "--plot", str(tmp_path / "x.svg")]) == 2
    assert 'pip install "swa-fast[plot]"' in capsys.readouterr().err


@pytest.mark.usefixtures("no_work")
def test_bench_refuses_a_model_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workloads, "available_bytes", lambda: 4 * 10**9)
    assert cli.main(["bench", "--model", "llama_1b", "--peers", "numpy"]) == 2
    assert "llama_1b needs about" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_bench_ends_cleanly_when_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_measure", interrupt)
    assert cli.main(["bench", "--model", "tiny", "--peers", "none"]) == 130
    assert capsys.readouterr().err == "swa-fast: interrupted\n"
