"""What the scripts in benchmarks/ share: budgets, options, tables; and what each judges."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import budgets
import call_overhead
import everything
import lists
import neighbours
import swa_fast
from bench_tools import TINY
from budgets import Finding, Verdict, at_least, at_most
from swa_fast.bench import workloads
from swa_fast.bench.timing import Comparison, Ratio

FOLDER = Path(__file__).parents[3] / "benchmarks"


def exact(median: float) -> Ratio:
    return Ratio(median, median, median)


@pytest.mark.parametrize(
    ("ratio", "met", "measured"),
    [
        (exact(1.2), True, "1.20x"),
        (exact(1.19), False, "1.19x"),
        (Ratio(1.25, 1.1, 1.4), None, "1.25x, noisy (1.10 to 1.40)"),
        (Ratio(1.25, 1.21, 1.4), True, "1.25x"),
    ],
)
def test_at_least(ratio: Ratio, met: bool | None, measured: str) -> None:
    verdict = at_least("a against b", "gpt2", ratio, 1.2)
    assert verdict == Verdict("a against b", "gpt2", ">= 1.20x", measured, met)


@pytest.mark.parametrize(("median", "met"), [(1.0, True), (1.01, True), (1.011, False)])
def test_at_most(median: float, met: bool) -> None:
    assert at_most("a", "b", exact(median), 1.01).met is met
    assert at_most("a", "b", Ratio(1.0, 0.9, 1.1), 1.01).met is None


def test_the_table_counts_what_is_judged_and_names_what_is_missed() -> None:
    verdicts = [
        Verdict("a", "x", ">= 1.00x", "2.00x", True),
        Verdict("b", "y", ">= 1.00x", "0.50x", False),
        Verdict("c", "z", ">= 1.00x", "1.00x, noisy (0.90 to 1.10)", None),
        Verdict("d", "z", "<= 4 MB", budgets.NOT_MEASURED, None),
    ]
    head, *lines = budgets.render(verdicts).splitlines()
    assert head == "Budgets: 1 of 2 met"
    assert [line.split()[-1] for line in lines[2:]] == ["met", "missed", "noisy", "-"]


def test_a_script_prints_its_findings_and_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure(workload: workloads.Workload, seconds: float) -> Iterator[Finding]:
        asked.append((workload.name, seconds))
        found = Comparison({"ours": {0: 1.0, 1: 1.0}, "theirs": {0: 3.0, 1: 3.0}})
        kept = at_least("against theirs", workload.name, found.ratio("theirs"), 2.0)
        yield Finding(workload.name, "this and that", found, [kept], "a note")

    monkeypatch.setattr(neighbours.Neighbours, "share", lambda self: 0.3)
    path = tmp_path / "found.json"
    arguments = ["--model", "gpt2", "--seconds", "3", "--json", str(path)]
    budgets.main("What it is.\n\nMore.", measure, argv=arguments)
    assert asked == [("gpt2", 3.0)]
    out = capsys.readouterr().out
    assert out.startswith("gpt2: this and that\n")
    assert "\na note\n\n" in out
    assert "Budgets: 1 of 1 met" in out
    assert "NOISY: others used 30% of the CPU meanwhile" in out
    content = json.loads(path.read_text(encoding="utf-8"))
    (finding,) = content["findings"]
    assert finding["calls"]["theirs"]["ratio"]["median"] == 3.0
    assert (finding["subject"], finding["title"], finding["note"]) == (
        "gpt2", "this and that", "a note",
    )  # fmt: skip
    assert content["budgets"][0]["met"] is True
    assert content["cpu_used_by_others"] == 0.3
    asked.clear()
    budgets.main("What it is.", measure, argv=[])
    assert [name for name, _ in asked] == list(workloads.DEFAULT_MODELS)
    assert "NOISY" in capsys.readouterr().out


def test_a_quiet_machine_is_not_mentioned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for share in (0.01, None):
        monkeypatch.setattr(neighbours.Neighbours, "share", lambda self, share=share: share)
        budgets.main("", lambda workload, seconds: [], models=None, argv=[])
        assert "NOISY" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "ratio", "target", "met"),
    [
        ("mobilenet_v3_large", 1.2, ">= 1.20x", True),
        ("efficientnet_b0", 1.19, ">= 1.20x", False),
        ("resnet50", 1.0, ">= 1.00x", True),
        ("bert_base", 0.99, ">= 1.00x", False),
    ],
)
def test_budget_over_foreach_depends_on_the_model(
    model: str, ratio: float, target: str, met: bool
) -> None:
    found = Comparison(
        {
            "swa_fast, torch tensors": dict.fromkeys(range(3), 1.0),
            "torch._foreach_lerp_": dict.fromkeys(range(3), ratio),
            lists.FLAT: dict.fromkeys(range(3), 1.0),
        }
    )
    flat, foreach = lists.verdicts(workloads.load()[model], "torch list", found)
    assert flat.what == "torch list against one flat buffer"
    assert (foreach.subject, foreach.target, foreach.met) == (model, target, met)


def test_budgets_of_the_ceiling_and_of_numpy() -> None:
    def judged(flat: float, numpy: float) -> list[Verdict]:
        times = {
            "swa_fast, NumPy arrays": 1.0,
            "NumPy, a += (p - a) * w": numpy,
            lists.FLAT: flat,
        }
        found = Comparison({k: dict.fromkeys(range(3), t) for k, t in times.items()})
        return lists.verdicts(workloads.load()["gpt2"], "NumPy list", found)

    verdicts = judged(0.951, 2.5)
    assert [verdict.measured for verdict in verdicts] == ["0.95x", "2.50x"]
    assert [verdict.met for verdict in verdicts] == [True, False]
    assert [verdict.met for verdict in judged(0.949, 3.0)] == [False, True]


def test_fit_recovers_a_straight_line() -> None:
    seconds = [1.5e-6 + 80e-9 * length for length in call_overhead.LENGTHS]
    fixed, per_pair = call_overhead.fit(call_overhead.LENGTHS, seconds)
    assert fixed == pytest.approx(1.5e-6)
    assert per_pair == pytest.approx(80e-9)


def test_fit_weighs_relative_errors() -> None:
    # 10 % of noise at 1000 pairs is 8 us: it must not become the fixed part.
    seconds = [1.5e-6 + 80e-9 * length for length in call_overhead.LENGTHS]
    seconds[-1] *= 1.1
    fixed, _ = call_overhead.fit(call_overhead.LENGTHS, seconds)
    assert fixed == pytest.approx(1.5e-6, rel=0.1)


def test_budgets_of_the_overhead() -> None:
    fixed, per_pair = call_overhead.verdicts(call_overhead.Overhead("torch", 2.1e-6, 99e-9))
    assert (fixed.measured, fixed.met) == ("2.1 us", False)
    assert (per_pair.measured, per_pair.met) == ("99.0 ns", True)


@pytest.mark.parametrize("with_torch", [False, True])
def test_overhead_measures_one_thread_and_puts_the_number_back(
    monkeypatch: pytest.MonkeyPatch, with_torch: bool
) -> None:
    if with_torch:
        pytest.importorskip("torch")
    monkeypatch.setattr(call_overhead, "is_installed", lambda name: with_torch)
    seen = set()
    genuine = swa_fast.running_mean_

    def spy(*arguments: Any) -> None:
        seen.add(swa_fast.get_num_threads())
        genuine(*arguments)

    monkeypatch.setattr(swa_fast, "running_mean_", spy)
    before = swa_fast.get_num_threads()
    (finding,) = call_overhead.measure(None, 1e-9)
    assert swa_fast.get_num_threads() == before
    assert seen == {1}
    assert finding.comparison is not None
    labels = [call_overhead.TORCH, call_overhead.FOREACH, call_overhead.NUMPY]
    expected = labels if with_torch else labels[-1:]
    assert list(finding.comparison.seconds) == [
        call_overhead.name_of(label, length)
        for label in expected
        for length in call_overhead.LENGTHS
    ]
    assert len(finding.verdicts) == (2 if with_torch else 0)


@pytest.mark.usefixtures("tiny")
def test_lists_compares_every_group_with_the_flat_buffer() -> None:
    pytest.importorskip("torch")
    findings = list(lists.measure(TINY, 1e-3))
    titles = [(finding.subject, finding.title) for finding in findings]
    assert titles == [("tiny", "NumPy list"), ("tiny", "torch list"), ("tiny", "AveragedModel")]
    for finding in findings:
        assert finding.comparison is not None
        assert lists.FLAT in finding.comparison.seconds
    assert lists.DEFAULT in findings[1].comparison.seconds  # type: ignore[union-attr]
    assert [len(finding.verdicts) for finding in findings] == [2, 2, 2]


def test_neighbours_give_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: Iterator[tuple[float, float]] = iter([(100.0, 1000.0), (108.0, 1020.0)])
    own: Iterator[float] = iter([50.0, 55.0])
    monkeypatch.setattr(neighbours, "machine_seconds", lambda: next(readings))
    monkeypatch.setattr(neighbours, "own_seconds", lambda: next(own))
    # 8 of 20 core seconds were in use, 5 of them ours.
    assert neighbours.Neighbours().share() == pytest.approx(3 / 20)


def test_neighbours_know_when_they_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "machine_seconds", lambda: (0.0, 0.0))
    assert neighbours.Neighbours().share() is None


def test_everything_is_every_script_that_can_run_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []

    def run_json(*command: str) -> dict[str, Any]:
        commands.append(command)
        if command[0] == "-m":
            return {"schema": 2}
        verdict = {"what": Path(command[0]).stem, "subject": "", "target": "", "measured": ""}
        return {
            "findings": [{"title": command[0]}],
            "budgets": [{**verdict, "met": True}],
            "cpu_used_by_others": 0.1,
        }

    monkeypatch.setattr(everything, "run_json", run_json)
    monkeypatch.setattr(everything, "is_installed", lambda name: name != "keras")
    path = tmp_path / "all.json"
    everything.main(["--seconds", "0.5", "--json", str(path)])
    assert commands[0] == ("-m", "swa_fast", "bench", "--seconds", "0.5")
    ran = [Path(command[0]).stem for command in commands[1:]]
    assert ran == [
        "lists",
        "call_overhead",
        "prepared_updates",
        "several_averages",
        "torch_averagers",
        "tensorflow_snapshots",
    ]
    assert all(Path(command[0]).is_file() for command in commands[1:])
    out = capsys.readouterr().out
    assert "keras_steps is left out: keras" in out
    assert "Budgets: 6 of 6 met" in out
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["schema"] == 2
    assert [verdict["what"] for verdict in record["budgets"]] == ran


def test_every_script_is_in_everything_or_is_about_a_gpu() -> None:
    with_main = {
        path.stem
        for path in FOLDER.glob("*.py")
        if re.search(r"^    main\(__doc__", path.read_text("utf-8"), re.MULTILINE)
    }
    rest = with_main - set(everything.SCRIPTS)
    assert rest == {"cuda_lists", "cuda_host", "cuda_training"}
    assert set(everything.SCRIPTS) <= with_main


def test_the_page_names_a_command_for_each_script() -> None:
    page = (FOLDER.parent / "docs" / "benchmarks.md").read_text("utf-8")
    named = set(re.findall(r"`python benchmarks/(\w+)\.py", page))
    gpu = {"cuda_lists", "cuda_host", "cuda_training"}
    assert named == {*everything.SCRIPTS, *gpu, "everything", "merge"}


def test_a_script_runs_as_the_pages_say(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    found = everything.run_json(str(FOLDER / "call_overhead.py"), "--seconds", "0.01")
    assert found["findings"][0]["subject"] == "one-element tensors"
    assert "swa_fast, NumPy arrays: " in found["findings"][0]["note"]
    for script in ("lists", "torch_averagers"):
        command = [sys.executable, str(FOLDER / f"{script}.py"), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "--model" in done.stdout
    assert not path.exists()
