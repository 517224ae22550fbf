"""The prepared engine: K targets at once, values that move, and what it refuses."""

from __future__ import annotations

import gc
import resource
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import swa_fast
from swa_fast import _core

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
SIZES = [0, 1, 63, 64, 4095, 4096, 4097, 8193, 20_001]


def random(size: int, dtype: Any, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def average(name: str, index: int, tensors: list[Any], **options: Any) -> Any:
    memory, of = options.get("memory"), options.get("of")
    return (name, "average", index, -1, tensors, memory, of, options.get("copied"))


def one_by_one(averages: list[Any], values: list[Any], action: Any) -> None:
    if isinstance(action, int):
        swa_fast.running_mean_(averages, values, action)
    elif action is not None:
        swa_fast.lerp_(averages, values, action)


@pytest.mark.parametrize("value_type", DTYPES, ids=str)
@pytest.mark.parametrize("types", [(a, b) for a in DTYPES for b in DTYPES], ids=str)
def test_several_targets_have_the_bits_of_several_calls(types: Any, value_type: Any) -> None:
    values = [random(size, value_type, size) for size in SIZES]
    for actions in ([3, 0.25], [0, None], [None, 0.0], [1.0, 7]):
        together = [
            [random(size, dtype, 7 * size + k) for size in SIZES] for k, dtype in enumerate(types)
        ]
        apart = [[a.copy() for a in one] for one in together]
        prepared = _core.Prepared(
            values, [average(f"averages{k}", k, one) for k, one in enumerate(together)]
        )
        assert prepared.run(actions, values)
        for one, action in zip(apart, actions, strict=True):
            one_by_one(one, values, action)
        for got, expected in zip(together, apart, strict=True):
            assert [x.tobytes() for x in got] == [x.tobytes() for x in expected]


@pytest.mark.parametrize("shown_type", [np.float16, ml_dtypes.bfloat16])
def test_a_view_shows_the_average_and_copies_follow(shown_type: Any) -> None:
    values = [random(5000, shown_type, 1), np.arange(7), random(9, np.float32, 2)]
    averages = [np.zeros(5000, np.float32), np.zeros(7, int), np.zeros(9, np.float32)]
    shown = [np.zeros(5000, shown_type)]
    other = [np.zeros(5000, np.float64), np.zeros(7, int), np.zeros(9, np.float32)]
    prepared = _core.Prepared(
        values,
        [
            average("averages", 0, averages, copied=[1]),
            ("shown", "view", 0, 0, shown, None, [0], None),
            average("others", 1, other, copied=[1, 2]),
        ],
    )
    expected = np.zeros(5000, np.float32)
    for count in range(4):
        for value in values:
            value += value.dtype.type(1)
        assert prepared.run([count, None if count % 2 else 0.0], values)
        swa_fast.running_mean_([expected], values[:1], count)
        assert averages[0].tobytes() == expected.tobytes()
        assert shown[0].tobytes() == expected.astype(shown_type).tobytes()
        assert averages[1].tolist() == values[1].tolist()
        assert (other[1].tolist() == values[1].tolist()) == (count % 2 == 0)
    assert not other[0].any()  # weight 0 keeps an average; what is copied follows all the same
    assert prepared.run([4, 0.0], values)
    assert other[2].tobytes() == values[2].tobytes()


def test_tfa_mean_is_the_formula_of_tfa() -> None:
    values = [random(1000, np.float32, 3)]
    averages = [random(1000, np.float32, 4)]
    n = np.float32(5)
    expected = (averages[0] * n + values[0]) / (n + np.float32(1))
    again = [averages[0].copy()]
    prepared = _core.Prepared(values, [average("averages", 0, averages)], op="tfa_mean")
    assert prepared.run([5], values)
    assert averages[0].tobytes() == expected.tobytes()
    _core.tfa_mean_(again, values, 5)
    assert again[0].tobytes() == expected.tobytes()
    assert prepared.run([0], values)
    assert averages[0].tobytes() == values[0].tobytes()


def test_new_arrays_of_the_same_kind_are_taken_where_they_are() -> None:
    averages = [np.zeros(1000, np.float32), np.zeros((3, 4), np.float32)]
    make = lambda seed: [random(1000, np.float32, seed), random(12, np.float32, seed).reshape(3, 4)]  # noqa: E731
    prepared = _core.Prepared(make(0), [average("averages", 0, averages)])
    expected = [a.copy() for a in averages]
    for count in range(5):
        values = make(count)
        assert prepared.run([count], values)
        swa_fast.running_mean_(expected, values, count)
    assert [a.tobytes() for a in averages] == [e.tobytes() for e in expected]


@pytest.mark.parametrize(
    "other",
    [
        lambda v: [v[0].astype(np.float64), v[1]],
        lambda v: [v[0][:5], v[1]],
        lambda v: [v[0], v[1].T],
        lambda v: [v[0]],
        lambda v: [*v, v[0]],
        lambda v: [v[0].reshape(2, 5), v[1]],
        lambda v: [np.frombuffer(bytearray(41), np.uint8)[1:].view(np.float32), v[1]],
    ],
    ids=["dtype", "shape", "layout", "fewer", "more", "ndim", "misaligned"],
)
def test_other_values_are_left_to_the_caller_and_nothing_is_written(other: Any) -> None:
    values = [np.ones(10, np.float32), np.ones((3, 3), np.float32)[:, ::1]]
    averages = [np.zeros(10, np.float32), np.zeros((3, 3), np.float32)]
    prepared = _core.Prepared(values, [average("averages", 0, averages)])
    if (
        other(values)[1:]
        and other(values)[1].strides == values[1].strides
        and len(other(values)) == 2
        and other(values)[0] is values[0]
    ):
        pytest.skip("a square array's transpose")  # pragma: no cover
    assert not prepared.run([0], other(values))
    assert not any(a.any() for a in averages)
    assert prepared.run([0], values)
    assert all(a.all() for a in averages)


def test_values_that_moved_onto_an_average_are_refused() -> None:
    memory = np.zeros(20, np.float32)
    averages = [memory[:10]]
    prepared = _core.Prepared([np.ones(10, np.float32)], [average("averages", 0, averages)])
    with pytest.raises(ValueError, match=r"averages\[0\] and values\[0\] overlap in memory"):
        prepared.run([1], [memory[5:15]])
    assert not memory.any()
    assert prepared.run([1], [np.ones(10, np.float32)])


def test_a_value_may_be_its_own_only_target() -> None:
    x = np.ones(4, np.float32)
    assert _core.Prepared([x], [average("averages", 0, [x])]).run([1], [x])
    with pytest.raises(ValueError, match="overlap in memory"):
        _core.Prepared([x], [average("a", 0, [x]), average("b", 1, [np.zeros(4, np.float32)])])
    y = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"a\[0\] and b\[0\] overlap"):
        _core.Prepared([x], [average("a", 0, [y]), average("b", 1, [y])])


def test_refusals_tell_the_rule_and_the_index() -> None:
    good, wrong = np.zeros(3, np.float32), np.zeros(4, np.float32)
    for rule, index, call in (
        (
            "shape",
            1,
            lambda: _core.Prepared([good, wrong], [average("a", 0, [good * 1, good * 1])]),
        ),
        ("length", -1, lambda: _core.Prepared([good], [average("a", 0, [])])),
        ("dtype", 0, lambda: swa_fast.lerp_([np.zeros(3, int)], [good], 0.5)),
        ("layout", 0, lambda: swa_fast.lerp_([np.zeros(6, np.float32)[::2]], [good], 0.5)),
        ("overlap", -1, lambda: swa_fast.lerp_([good, good], [good * 1, good * 1], 0.5)),
    ):
        with pytest.raises((ValueError, TypeError, BufferError)) as refused:
            call()
        assert refused.value.refusal == (rule, index)  # type: ignore[attr-defined]


def test_actions_are_checked_before_anything_is_looked_at() -> None:
    x = [np.ones(2, np.float32)]
    prepared = _core.Prepared(x, [average("averages", 0, [np.zeros(2, np.float32)])])
    for actions, error, message in (
        ([], ValueError, "one item for each of 1 averages. Received: 0"),
        ([1, 2], ValueError, "Received: 2"),
        ([-1], ValueError, "count must be at least 0"),
        ([1.5], ValueError, "weight must be between 0 and 1. Received: 1.5"),
        (["x"], TypeError, "count must be an int"),
    ):
        with pytest.raises(error, match=message):
            prepared.run(actions, x)  # type: ignore[arg-type]
    assert prepared.run([None], x)


def test_ten_thousand_preparations_leave_nothing_behind() -> None:
    values = [np.ones(64, np.float32) for _ in range(8)]
    averages = [np.zeros(64, np.float32) for _ in range(8)]

    def prepare(times: int) -> None:
        for _ in range(times):
            _core.Prepared(values, [average("averages", 0, averages)]).run([1], values)

    prepare(1000)
    gc.collect()
    references = [sys.getrefcount(x) for x in (*values, *averages)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prepare(10_000)
    gc.collect()
    assert [sys.getrefcount(x) for x in (*values, *averages)] == references
    # Each keeps about 2 KB while it lives: ten thousand that stayed would be 20 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024
