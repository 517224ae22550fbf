"""`swa-fast bench --budgets`: each comparison that has a budget is met, missed or noisy."""

from __future__ import annotations

from typing import Any

import pytest

from swa_fast.bench import budgets, competitors, report, workloads
from swa_fast.bench.timing import Ratio
from swa_fast.bench.workloads import Arena

LISTS = {"mobilenet_v3_large": (174, 5_483_032), "gpt2": (148, 124_439_808)}


def timed(median: float, low: float, high: float) -> dict[str, Any]:
    return {"median": median, "ratio": {"median": median, "low": low, "high": high}}


def record(**ratios: dict[str, Any]) -> dict[str, Any]:
    """A record with one group of torch's lists in each model."""
    models = [
        {
            "model": name,
            "tensors": LISTS[name][0],
            "elements": LISTS[name][1],
            "updates_checked": 4,
            "groups": [{"swa_fast, torch tensors": timed(1, 1, 1), **others}],
        }
        for name, others in ratios.items()
    ]
    machine = {"cpu": "a CPU", "cores": 2}
    build = {"version": "1", "isa": "avx2"}
    return {
        "machine": machine, "swa_fast": build, "threads": 2, "frameworks": {}, "left_out": {},
        "models": models,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("median", "low", "high", "word"),
    [
        (1.2, 1.2, 1.2, "met"),
        (1.25, 1.21, 1.3, "met"),
        (1.19, 1.1, 1.19, "missed"),
        (1.25, 1.1, 1.4, "noisy"),
        (1.15, 1.1, 1.21, "noisy"),
    ],
)
def test_a_row_whose_spread_is_larger_than_what_it_decides_is_noisy(
    median: float, low: float, high: float, word: str
) -> None:
    assert budgets.verdict(Ratio(median, low, high), 1.2) == word


def test_models_of_many_small_tensors_have_budgets_of_their_own() -> None:
    label = "torch._foreach_lerp_"
    assert budgets.target(label, *LISTS["mobilenet_v3_large"]) == 1.2
    assert budgets.target(label, *LISTS["gpt2"]) == 1.0
    assert budgets.target("TF Addons expression, eager", *LISTS["gpt2"]) is None


def test_the_table_says_what_was_wanted_what_was_measured_and_how_it_ended() -> None:
    label = "torch._foreach_lerp_"
    made = record(
        mobilenet_v3_large={label: timed(1.1, 1.05, 1.15), "something else": timed(9, 9, 9)},
        gpt2={label: timed(1.1, 0.9, 1.2)},
    )
    first, _, _, _, *lines = budgets.render(made).splitlines()
    assert first == "Budgets, how many times as long the other takes: 0 met, 1 missed, 1 noisy."
    cells = "mobilenet_v3_large torch._foreach_lerp_ >= 1.20x 1.10x (1.05 to 1.15) missed"
    assert [" ".join(line.split()) for line in lines] == [
        cells,
        "gpt2 torch._foreach_lerp_ >= 1.00x 1.10x (0.90 to 1.20) noisy",
    ]


def test_nothing_compared_is_said() -> None:
    assert budgets.render(record(gpt2={})) == "Budgets: nothing was compared that has one."


def test_the_report_has_no_word_of_budgets_unless_it_is_given_them() -> None:
    made = record(gpt2={"torch._foreach_lerp_": timed(0.5, 0.5, 0.5)})
    plain = report.render(made).lower()
    for word in ("budget", "missed", "wanted", "met,"):
        assert word not in plain
    long = {"torch AveragedModel, multi_avg_fn": timed(110.0, 100.0, 120.0)}
    made["models"] += record(mobilenet_v3_large=long)["models"]
    shown = report.render(made, [budgets.render(made)])
    assert "1 met, 1 missed, 0 noisy" in shown
    assert shown.index("Budgets") > shown.index("GB/s: 12 bytes")
    assert shown.split("\n\n")[-1].startswith("swa_fast was faster")
    assert max(map(len, shown.splitlines())) <= 100


def test_every_budget_is_of_a_row_that_the_benchmark_has() -> None:
    pytest.importorskip("torch")
    arena = Arena(workloads.Workload("tiny", "made up", ((2, 3), (4,))))
    groups = [competitors.numpy_group(arena), *competitors.torch_groups(arena)]
    assert set(budgets.TARGETS) <= {label for group in groups for label in group.updates}
