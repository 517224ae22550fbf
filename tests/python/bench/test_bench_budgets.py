"""Call overhead, and what is judged."""

from __future__ import annotations

from typing import Any

import pytest

import swa_fast
from bench_tools import model_result, row
from swa_fast._bench import (
    budgets,
    competitors,
    overhead,
)


def test_fit_recovers_a_straight_line() -> None:
    seconds = [1.5e-6 + 80e-9 * length for length in overhead.LENGTHS]
    fixed, per_pair = overhead.fit(overhead.LENGTHS, seconds)
    assert fixed == pytest.approx(1.5e-6)
    assert per_pair == pytest.approx(80e-9)


def test_fit_weighs_relative_errors() -> None:
    # 10 % of noise at 1000 pairs is 8 us: it must not become the fixed part.
    seconds = [1.5e-6 + 80e-9 * length for length in overhead.LENGTHS]
    seconds[-1] *= 1.1
    fixed, _ = overhead.fit(overhead.LENGTHS, seconds)
    assert fixed == pytest.approx(1.5e-6, rel=0.1)


@pytest.mark.parametrize("with_torch", [False, True])
def test_overhead_measures_one_thread_and_puts_the_number_back(
    monkeypatch: pytest.MonkeyPatch, with_torch: bool
) -> None:
    if with_torch:
        pytest.importorskip("torch")
    seen = set()
    genuine = swa_fast.running_mean_

    def spy(*arguments: Any) -> None:
        seen.add(swa_fast.get_num_threads())
        genuine(*arguments)

    monkeypatch.setattr(swa_fast, "running_mean_", spy)
    before = swa_fast.get_num_threads()
    entries = overhead.measure(with_torch, 1e-9)
    assert swa_fast.get_num_threads() == before
    assert seen == {1}
    expected = [overhead.TORCH, overhead.FOREACH, overhead.NUMPY]
    assert [entry.key for entry in entries] == (expected if with_torch else expected[-1:])
    for entry in entries:
        assert len(entry.seconds) == len(overhead.LENGTHS)
        assert all(seconds > 0 for seconds in entry.seconds)


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
    timed = model_result(model, foreach=row(competitors.TORCH_FOREACH, fused_is_faster=ratio))
    (verdict,) = budgets.judge([timed], [], None)
    assert (verdict.subject, verdict.target, verdict.met) == (model, target, met)


def test_budgets_of_the_ceiling_and_of_numpy() -> None:
    timed = model_result(
        "gpt2",
        fused=row(competitors.FUSED, share_of_flat=0.951),
        tensors=row(competitors.FUSED_TORCH, share_of_flat=0.949),
        numpy=row(competitors.NUMPY, fused_is_faster=2.5),
    )
    verdicts = budgets.judge([timed], [], None)
    assert [verdict.met for verdict in verdicts] == [True, False, False]
    assert [verdict.measured for verdict in verdicts] == ["0.95x", "0.95x", "2.50x"]


def test_budgets_of_the_overhead() -> None:
    seconds = (0.0, 0.0, 0.0, 0.0)
    entry = overhead.Overhead(overhead.TORCH, seconds, fixed=2.1e-6, per_pair=99e-9)
    fixed, per_pair = budgets.judge([], [entry], None)
    assert (fixed.measured, fixed.met) == ("2.1 us", False)
    assert (per_pair.measured, per_pair.met) == ("99.0 ns", True)


def test_budgets_say_what_was_not_measured() -> None:
    timed = model_result("gpt2", foreach=row(competitors.TORCH_FOREACH, missing="not installed"))
    verdicts = budgets.judge([timed], [], "not installed")
    assert len(verdicts) == 3
    assert all(verdict.measured == "not installed" for verdict in verdicts)
    assert all(verdict.met is None for verdict in verdicts)


def test_budgets_leave_out_what_the_user_left_out() -> None:
    assert budgets.judge([model_result("gpt2")], [], None) == []
