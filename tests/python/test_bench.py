"""The parts of `swa-fast bench`. No test here asserts on how long anything takes."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import json
import os
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import swa_fast
from swa_fast._bench import (
    arena,
    budgets,
    check,
    competitors,
    machine,
    memory,
    outputs,
    overhead,
    quiet,
    report,
    results,
    run,
    timing,
    workloads,
)
from swa_fast._bench.errors import CheckError, UserError

TINY = workloads.Workload("tiny", "made up", ((3, 5), (7,), (), (2, 0), (70_000,), (1,)))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> workloads.Workload:
    """Replace the real models with one small enough to run in no time."""
    monkeypatch.setattr(workloads, "load", lambda: {"tiny": TINY})
    return TINY


@pytest.fixture
def made() -> arena.Arena:
    return filled_arena(TINY)


def filled_arena(workload: workloads.Workload) -> arena.Arena:
    made = arena.allocate(workload)
    rng = np.random.default_rng(7)
    arena.fill_random(made.averages_all, rng)
    arena.fill_random(made.values_all, rng)
    return made


# Workloads


@pytest.mark.parametrize(
    ("name", "tensors", "elements", "many_small"),
    [
        ("mobilenet_v3_large", 174, 5_483_032, True),
        ("efficientnet_b0", 213, 5_288_548, True),
        ("resnet50", 214, 25_583_592, False),
        ("bert_base", 199, 109_482_240, False),
        ("gpt2", 148, 124_439_808, False),
        ("llama_1b", 146, 1_235_814_400, False),
    ],
)
def test_workload_has_the_size_of_the_real_model(
    name: str, tensors: int, elements: int, many_small: bool
) -> None:
    workload = workloads.load()[name]
    assert workload.tensors == tensors == len(workload.sizes)
    assert workload.elements == elements == sum(workload.sizes)
    assert workload.nbytes == 4 * elements
    assert workload.many_small is many_small
    assert workload.source


def test_select_keeps_the_order_and_drops_repeats() -> None:
    names = [workload.name for workload in workloads.select(["gpt2", "resnet50", "gpt2"])]
    assert names == ["gpt2", "resnet50"]


def test_select_without_names_is_the_default_without_the_largest() -> None:
    names = tuple(workload.name for workload in workloads.select([]))
    assert names == workloads.DEFAULT_MODELS
    assert "llama_1b" not in names


def test_select_names_the_unknown_model_and_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"resnet50.*Received: 'resnet5000'"):
        workloads.select(["resnet5000"])


# Arena


def test_arena_gives_every_tensor_its_shape_and_a_cache_line(made: arena.Arena) -> None:
    for tensors in (made.averages, made.values):
        assert [tensor.shape for tensor in tensors] == list(TINY.shapes)
        assert all(tensor.ctypes.data % 64 == 0 for tensor in tensors if tensor.size)
        assert all(tensor.flags.c_contiguous and tensor.flags.writeable for tensor in tensors)


def test_arena_keeps_tensors_apart_and_the_two_streams_half_a_page(
    made: arena.Arena,
) -> None:
    for one, other in itertools.combinations(made.averages + made.values, 2):
        assert not np.shares_memory(one, other)
    shift = made.values_all.ctypes.data - made.averages_all.ctypes.data
    assert shift % 4096 == 2048


def test_flat_buffer_has_the_same_number_of_elements_in_the_same_memory(
    made: arena.Arena,
) -> None:
    assert made.averages_flat.size == made.values_flat.size == TINY.elements
    assert np.shares_memory(made.averages_flat, made.averages[0])
    assert made.averages_flat.ctypes.data == made.averages_all.ctypes.data


def test_fill_random_fills_everything_with_finite_numbers() -> None:
    buffer = np.full(2_500_000, np.nan, np.float32)
    arena.fill_random(buffer, np.random.default_rng(0))
    assert np.isfinite(buffer).all()
    # A kernel that reads a power of two too far must meet another number.
    for stride in (1, 16, 1024, 2**16, 2**20):
        assert np.mean(buffer[stride:] == buffer[:-stride]) < 0.01


# Memory


def test_memory_estimate_counts_lists_and_frameworks() -> None:
    workload = workloads.load()["gpt2"]
    alone = memory.needed_bytes(workload, ())
    assert alone > 3 * workload.nbytes
    assert memory.needed_bytes(workload, ("numpy",)) == alone
    with_torch = memory.needed_bytes(workload, ("numpy", "torch"))
    assert with_torch == alone + workload.nbytes
    with_tensorflow = memory.needed_bytes(workload, ("tensorflow",))
    assert with_torch < with_tensorflow < 8e9
    assert memory.needed_bytes(workload, ("torch", "tensorflow")) == with_tensorflow


def test_memory_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * 10**9)
    llama = workloads.load()["llama_1b"]
    with pytest.raises(UserError, match=r"llama_1b needs about \d+\.\d GB.*10\.0 GB") as caught:
        memory.require(llama, ("numpy", "tensorflow"))
    assert "--peers" in str(caught.value)
    with pytest.raises(UserError) as caught:
        memory.require(llama, ("numpy",))
    assert "--peers" not in str(caught.value)
    memory.require(TINY, ("numpy", "torch", "tensorflow"))


def test_memory_does_not_refuse_what_it_cannot_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    memory.require(workloads.load()["llama_1b"], ())


def test_available_memory_is_a_sane_number() -> None:
    available = memory.available_bytes()
    assert available is None or 10**7 < available < 10**15


# Timing


class FakeClock:
    """Time passes only when a task says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(
        self, key: str, cost: float | Callable[[], float], every_round: bool = False
    ) -> timing.Task:
        def work() -> None:
            self.calls.append(key)
            self.now += cost if isinstance(cost, float) else cost()

        return timing.Task(key, work, every_round)


def test_interleave_runs_every_task_once_per_round_in_changing_order() -> None:
    clock = FakeClock()
    tasks = [clock.task(key, 1.0) for key in "abcd"]
    samples = timing.interleave(tasks, 40.0, prime=False, clock=clock)
    warm_up, timed = clock.calls[:8], clock.calls[8:]
    assert sorted(warm_up) == sorted("aabbccdd")
    rounds = [tuple(timed[start : start + 4]) for start in range(0, len(timed), 4)]
    assert len(rounds) == 10
    assert all(sorted(one) == list("abcd") for one in rounds)
    assert len(set(rounds)) > 1
    for key in "abcd":
        assert samples[key].rounds == list(range(10))
        assert samples[key].seconds == [1.0] * 10
        assert samples[key].median == 1.0


def test_interleave_has_a_least_and_a_largest_number_of_rounds() -> None:
    clock = FakeClock()
    slow = timing.interleave([clock.task("a", 100.0)], 1.0, prime=False, clock=clock)
    assert len(slow["a"].seconds) == timing.MIN_ROUNDS
    fast = timing.interleave([clock.task("a", 1e-6)], 1e9, prime=False, clock=clock)
    assert len(fast["a"].seconds) == timing.MAX_ROUNDS


def test_interleave_lets_slow_tasks_sit_out_but_not_the_reference() -> None:
    clock = FakeClock()
    tasks = [
        clock.task("fast", 1.0),
        clock.task("medium", 9.0),
        clock.task("slow", 100.0),
        clock.task("reference", 100.0, every_round=True),
    ]
    samples = timing.interleave(tasks, 1.0, prime=False, clock=clock)
    assert samples["fast"].rounds == [0, 1, 2, 3, 4, 5, 6]
    assert samples["medium"].rounds == [0, 2, 4, 6]
    assert samples["slow"].rounds == [0]
    assert samples["reference"].rounds == samples["fast"].rounds


def test_interleave_primes_each_task_just_before_it_is_timed() -> None:
    clock = FakeClock()
    tasks = [clock.task(key, 1.0) for key in "abc"]
    samples = timing.interleave(tasks, 1.0, prime=True, clock=clock)
    timed = clock.calls[6:]
    assert timed[0::2] == timed[1::2]
    assert samples["a"].seconds == [1.0] * timing.MIN_ROUNDS


def test_interleave_lets_the_machine_settle_after_a_task_that_lingers() -> None:
    clock = FakeClock()
    lingering = timing.Task("b", clock.task("b", 0.02).run, lingers=True)
    timing.interleave([clock.task("a", 0.004), lingering], 1e-9, prime=True, clock=clock)
    runs = [len(list(group)) for key, group in itertools.groupby(clock.calls[4:]) if key == "a"]
    assert set(runs) <= {2, 4, 2 + 4, 4 + 4}  # primed for 10 ms after b, once after a itself
    assert 4 in runs


def test_interleave_rests_after_a_task_that_lingers_if_it_does_not_prime() -> None:
    clock = FakeClock()
    rests: list[str] = []
    lingering = timing.Task("b", clock.task("b", 1.0).run, lingers=True)
    tasks = [clock.task("a", 1.0), lingering]
    timing.interleave(
        tasks, 1.0, prime=False, clock=clock, sleep=lambda seconds: rests.append(clock.calls[-1])
    )
    assert rests == ["b"] * (timing.MIN_ROUNDS - (clock.calls[-1] == "b"))


def test_interleave_reports_progress_up_to_one() -> None:
    clock = FakeClock()
    seen: list[float] = []
    timing.interleave([clock.task("a", 1.0)], 10.0, prime=False, clock=clock, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert seen[-1] == 1.0


@pytest.mark.parametrize("enabled", [True, False])
def test_interleave_stops_the_garbage_collector_and_puts_it_back(enabled: bool) -> None:
    states = []
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        task = timing.Task("a", lambda: states.append(gc.isenabled()))
        timing.interleave([task], 1e-9, prime=False)
        assert gc.isenabled() is enabled
        assert not any(states[2:])
    finally:
        (gc.enable if before else gc.disable)()


def test_ratios_do_not_see_drift() -> None:
    clock = FakeClock()
    # The machine gets slower with every moment that passes, for both alike within a round.
    slowness = [1.0]

    def cost(base: float) -> Callable[[], float]:
        return lambda: base * slowness[0]

    def drift(fraction: float) -> None:
        slowness[0] *= 1.5

    samples = timing.interleave(
        [clock.task("fast", cost(1.0)), clock.task("slow", cost(3.0))],
        1.0,
        prime=False,
        clock=clock,
        progress=drift,
    )
    assert timing.median_ratio(samples["slow"], samples["fast"]) == pytest.approx(3.0)
    assert timing.median_ratio(samples["fast"], samples["slow"]) == pytest.approx(1 / 3)


def test_ratios_use_only_rounds_that_both_took_part_in() -> None:
    fast = timing.Samples([0, 1, 2, 3], [1.0, 2.0, 4.0, 8.0])
    slow = timing.Samples([1, 3], [6.0, 40.0])
    assert timing.ratios(slow, fast) == [3.0, 5.0]
    assert timing.median_ratio(slow, fast) == 4.0


# Check


def fused_targets(made: arena.Arena) -> list[check.Target]:
    return [
        check.Target(entry.label, entry.update, flat=entry.key == competitors.FLAT)
        for entry in competitors.build_fused(made)
    ]


def test_check_accepts_the_fused_call(made: arena.Arena) -> None:
    compared = check.check(made, fused_targets(made), np.random.default_rng(0))
    assert compared == len(check.COUNTS) + 1


def test_check_accepts_the_plain_expression(made: arena.Arena) -> None:
    def update(count: int) -> None:
        weight = np.float32(1 / (count + 1))
        for a, v in zip(made.averages, made.values, strict=True):
            a[...] = v if count == 0 else a + (v - a) * weight

    assert check.check(made, [check.Target("NumPy", update)], np.random.default_rng(0)) == 4


def one_ulp(made: arena.Arena) -> None:
    last = made.averages[4]
    last[69_999] = np.nextafter(last[69_999], np.float32(9))


def negative_zero(made: arena.Arena) -> None:
    made.averages[1][2] = -0.0
    made.values[1][2] = -0.0


def padding(made: arena.Arena) -> None:
    made.averages_all[15] = 0.0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (one_ulp, r"averages\[4\] of shape \(70000,\) differs first at \(69999,\).*1 of 70,000"),
        (negative_zero, r"averages\[1\] of shape \(7,\) differs first at \(2,\)"),
        (padding, r"padding between two tensors"),
    ],
)
def test_check_names_the_first_wrong_element(
    made: arena.Arena, damage: Callable[[arena.Arena], None], message: str
) -> None:
    def update(count: int) -> None:
        swa_fast.running_mean_(made.averages, made.values, count)
        if count == 2:
            damage(made)

    with pytest.raises(CheckError, match=message) as caught:
        check.check(made, [check.Target("bad kernel", update)], np.random.default_rng(0))
    assert "tiny (bad kernel, count=2)" in str(caught.value)


def test_check_catches_a_wrong_flat_update(made: arena.Arena) -> None:
    good = fused_targets(made)[0]
    bad = check.Target("flat", lambda count: None, flat=True)
    with pytest.raises(CheckError, match=r"flat, count=4.*averages\[0\] of shape \(70024,\)"):
        check.check(made, [good, bad], np.random.default_rng(0))


def test_check_catches_a_first_update_that_is_no_exact_copy(made: arena.Arena) -> None:
    def update(count: int) -> None:
        weight = np.float32(1 / (count + 1))
        for a, v in zip(made.averages, made.values, strict=True):
            a += (v - a) * weight

    with pytest.raises(CheckError, match=r"count=0"):
        check.check(made, [check.Target("NumPy", update)], np.random.default_rng(0))


# Competitors


@pytest.mark.parametrize("name", ["numpy", "torch", "tensorflow"])
def test_every_competitor_computes_the_mean(made: arena.Arena, name: str) -> None:
    pytest.importorskip(name)
    module = competitors.PEERS[name].module()
    assert module.prepare(swa_fast.get_num_threads())
    for entry in module.build(made) + competitors.build_fused(made):
        flat = entry.key == competitors.FLAT
        values = [as_float64(v) for v in ([made.values_flat] if flat else made.values)]
        before = [as_float64(average) for average in entry.averages]
        entry.update(9)
        for old, value, new in zip(before, values, entry.averages, strict=True):
            expected = (old * 9 + value) / 10
            np.testing.assert_allclose(as_float64(new), expected, rtol=1e-5, atol=1e-6)


def as_float64(tensor: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a copy of an array, a torch tensor or a TensorFlow variable."""
    array = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
    return np.array(array, np.float64)


@pytest.mark.parametrize("name", ["numpy", "torch", "tensorflow"])
def test_every_peer_builds_the_competitors_that_it_announces(made: arena.Arena, name: str) -> None:
    pytest.importorskip(name)
    peer = competitors.PEERS[name]
    entries = peer.module().build(made)
    assert tuple(entry.key for entry in entries) == peer.keys
    assert all(entry.label == competitors.LABELS[entry.key] for entry in entries)


def test_both_tensorflow_snapshots_are_the_mean(made: arena.Arena) -> None:
    """One after the other, in each way to run them, as they share their averages."""
    pytest.importorskip("tensorflow")
    module = competitors.averager("tensorflow")
    snapshots, averages = module.build(made)
    expected = [as_float64(array) for array in made.averages]
    assert list(snapshots) == ["eager", "tf.function", "jit_compile=True"]
    for ours, theirs in snapshots.values():
        for take in (ours, theirs, ours):
            take()
            for index, (value, average) in enumerate(zip(made.values, averages, strict=True)):
                expected[index] = (expected[index] * 9 + as_float64(value)) / 10
                np.testing.assert_allclose(
                    as_float64(average), expected[index], rtol=1e-5, atol=1e-6
                )


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("mobilenet_v3_large", [">= 8.00x", ">= 1.30x", ">= 0.95x"]),
        ("bert_base", [">= 3.00x", ">= 1.30x", ">= 0.95x"]),
    ],
)
@pytest.mark.parametrize("met", [False, True])
def test_tensorflow_budgets(model: str, targets: list[str], met: bool) -> None:
    pytest.importorskip("tensorflow")
    module = competitors.averager("tensorflow")
    ratios = {"eager": 8.0, "tf.function": 1.3, "jit_compile=True": 0.95}
    if not met:
        ratios = {mode: 0.9 for mode in ratios}
    verdicts = module.verdicts(workloads.load()[model], ratios)
    assert [verdict.target for verdict in verdicts] == targets
    assert [verdict.met for verdict in verdicts] == [met] * 3
    assert {verdict.subject for verdict in verdicts} == {model}


def test_only_frameworks_with_an_averager_have_promises() -> None:
    assert competitors.averager("numpy") is None


def test_torch_works_on_the_very_memory_of_the_arena(made: arena.Arena) -> None:
    pytest.importorskip("torch")
    for entry in competitors.PEERS["torch"].module().build(made):
        for tensor, array in zip(entry.averages, made.averages, strict=True):
            assert tensor.data_ptr() == array.ctypes.data or not array.size


def test_peers_default_to_all_and_keep_the_order_of_the_report() -> None:
    assert [peer.name for peer in competitors.select(None)] == list(competitors.PEERS)
    assert [peer.name for peer in competitors.select("numpy")] == ["numpy"]
    assert competitors.select("none") == []
    assert competitors.select("") == []


def test_peers_refuse_an_unknown_name() -> None:
    with pytest.raises(UserError, match=r"numpy, torch, tensorflow.*Received: 'nunpy'"):
        competitors.select("nunpy")


def test_peers_refuse_a_framework_that_was_asked_for_and_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(monkeypatch, "torch")
    with pytest.raises(UserError, match=r"torch, which is not installed"):
        competitors.select("torch")
    assert "torch" in [peer.name for peer in competitors.select(None)]


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the benchmark find some frameworks no more."""
    monkeypatch.setattr(
        competitors.Peer, "installed", property(lambda peer: peer.name not in names)
    )


# Overhead


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


# Budgets


def model_result(name: str, **values: results.Row) -> results.ModelResult:
    return results.ModelResult(workloads.load()[name], 5, None, tuple(values.values()))


def row(key: str, **values: Any) -> results.Row:
    return results.Row(key, competitors.LABELS[key], **values)


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


# A whole run


def quick(**changes: Any) -> run.Options:
    return run.Options(**{"models": ("tiny",), "peers": "numpy", "seconds": 1e-3, **changes})


@pytest.mark.usefixtures("tiny")
def test_run_writes_everything_as_json(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    run.run(quick(json=path, threads=1))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {
        "schema", "date", "settings", "machine", "swa_fast", "frameworks", "models", "overhead",
        "budgets",
    }  # fmt: skip
    assert content["schema"] == results.SCHEMA
    assert content["settings"] == {"threads": 1, "seconds_per_model": 1e-3, "peers": ["numpy"]}
    assert content["frameworks"] == {"numpy": np.__version__}
    assert content["swa_fast"]["version"] == swa_fast.__version__
    assert {"cpu", "cores", "os", "python"} <= set(content["machine"])
    (model,) = content["models"]
    assert (model["model"], model["tensors"], model["elements"]) == ("tiny", 6, TINY.elements)
    assert model["updates_checked"] == 5
    keys = [entry["key"] for entry in model["competitors"]]
    assert keys == [competitors.FUSED, competitors.FLAT, competitors.NUMPY]
    for entry in model["competitors"]:
        assert entry["missing"] is None
        assert len(entry["seconds"]) == len(entry["rounds"]) >= 3
        assert sorted(entry["seconds"])[len(entry["seconds"]) // 2] > 0
    rate = 12 * TINY.elements / model["competitors"][2]["median"] / 1e9
    assert model["competitors"][2]["gigabytes_per_second"] == pytest.approx(rate)
    assert [entry["key"] for entry in content["overhead"]] == [overhead.NUMPY]
    assert len(content["budgets"]) == 2


@pytest.mark.usefixtures("tiny")
def test_run_with_every_framework_times_every_competitor() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorflow")
    result = run.run(quick(peers=None))
    (model,) = result.models
    assert {timed.key for timed in model.rows} == set(competitors.LABELS)
    assert all(timed.missing is None and timed.median for timed in model.rows)
    assert model.updates_checked == 7
    against = {timed.key for timed in model.rows if timed.fused_is_faster is not None}
    assert against == set(competitors.LABELS) - set(competitors.FUSED_KEYS)
    promised = [
        verdict.what for verdict in model.promises if verdict.what.startswith("TF snapshot")
    ]
    assert promised == [
        f"TF snapshot, {mode}, against TFA's expression"
        for mode in ("eager", "tf.function", "jit_compile=True")
    ]
    callback = [verdict for verdict in result.verdicts if verdict.what.startswith("Keras callback")]
    if importlib.util.find_spec("keras") is None:
        assert callback == []
    else:
        assert [verdict.subject for verdict in callback] == ["tiny", "digits"]
        assert all(float(verdict.measured.split("x")[0]) > 0 for verdict in callback)
    step = [verdict for verdict in result.verdicts if verdict.what.startswith("Keras SWA")]
    assert len(step) == (1 if callback else 0)
    assert all(float(verdict.measured.split("x")[0]) > 0 for verdict in step)
    assert len(result.verdicts) - len(callback) - len(step) == 14
    text = report.render(result)
    assert all(label in text for label in competitors.LABELS.values())


@pytest.mark.usefixtures("tiny")
def test_run_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "torch", "tensorflow")
    result = run.run(quick(peers=None))
    assert result.frameworks["torch"] == result.frameworks["tensorflow"] == "not installed"
    rows = {timed.key: timed for timed in result.models[0].rows}
    assert rows[competitors.TORCH_FOREACH].missing == "not installed"
    assert rows[competitors.NUMPY].missing is None
    text = report.render(result)
    assert text.count("not installed") >= 6 + 4
    assert "Budgets: " in text


@pytest.mark.usefixtures("tiny")
def test_run_survives_a_framework_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(peer: competitors.Peer) -> Any:
        if peer.name == "torch":
            raise ImportError("libfoo.so: cannot open\nlong story")
        return types.SimpleNamespace(prepare=lambda threads: "1.0", build=lambda made: [])

    monkeypatch.setattr(competitors.Peer, "installed", property(lambda peer: True))
    monkeypatch.setattr(competitors.Peer, "module", broken)
    result = run.run(quick(peers="torch"))
    assert result.frameworks["torch"] == "import failed: ImportError: libfoo.so: cannot open"
    assert "import failed" in report.render(result)


@pytest.mark.usefixtures("tiny")
def test_run_puts_the_number_of_threads_back() -> None:
    before = swa_fast.get_num_threads()
    result = run.run(quick(threads=before + 1, peers="none"))
    assert result.settings["threads"] == before + 1
    assert swa_fast.get_num_threads() == before


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("ending", ["svg", "png"])
def test_run_draws_the_plot(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"chart.{ending}"
    run.run(quick(plot=path))
    content = path.read_bytes()
    assert content.startswith(b"<?xml" if ending == "svg" else b"\x89PNG")
    if ending == "svg":
        text = content.decode()
        assert "tiny" in text
        assert competitors.LABELS[competitors.NUMPY] in text


def test_report_says_that_the_machine_was_busy() -> None:
    def rendered(others: float | None) -> str:
        model = results.ModelResult(TINY, 5, others, (row(competitors.FUSED, missing="x"),))
        described = {"cpu": "c", "cores_usable": 2, "python": "3"}
        result = results.Result("now", {"threads": 2}, described, {}, {}, (model,), (), ())
        return report.render(result)

    assert "NOISY: others used the CPU meanwhile: tiny 30%" in rendered(0.3)
    assert "NOISY" not in rendered(0.01)
    assert "NOISY" not in rendered(None)


def test_neighbours_give_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: Iterator[tuple[float, float]] = iter([(100.0, 1000.0), (108.0, 1020.0)])
    own: Iterator[float] = iter([50.0, 55.0])
    monkeypatch.setattr(machine, "_machine_seconds", lambda: next(readings))
    monkeypatch.setattr(machine, "_own_seconds", lambda: next(own))
    # 8 of 20 core seconds were in use, 5 of them ours.
    assert machine.Neighbours().share() == pytest.approx(3 / 20)


def test_neighbours_know_when_they_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_machine_seconds", lambda: (0.0, 0.0))
    assert machine.Neighbours().share() is None


def test_json_has_no_token_that_json_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        outputs.write_json(tmp_path / "x.json", {"median": float("nan")})


def test_require_writable_leaves_nothing_behind_and_nothing_changed(tmp_path: Path) -> None:
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    old.write_text("kept", encoding="utf-8")
    outputs.require_writable("--json", new)
    outputs.require_writable("--json", old)
    assert not new.exists()
    assert old.read_text(encoding="utf-8") == "kept"


def test_quiet_stderr_silences_the_descriptor_and_gives_it_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with quiet.quiet_stderr():
        os.write(2, b"noise of a C++ library\n")
    with pytest.raises(ImportError), quiet.quiet_stderr():
        raise ImportError
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"
