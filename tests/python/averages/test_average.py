"""`Average`: when a snapshot is due and with what weight, its config, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.util
import json
import math
import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swa_fast import Average, decays
from swa_fast._mean import due_at_step
from swa_fast.average import due, taken_before

starts, periods = st.integers(0, 100), st.integers(1, 60)


@settings(deadline=None)
@given(starts, periods, st.booleans())
def test_when(start: int, period: int, initial: bool) -> None:
    average = Average(start=start, period=period, initial=initial)
    taken = [update for update in range(1, 400) if update in range(start + 1, 10**6, period)]
    assert [update for update in range(1, 400) if average.due(update)] == taken
    for update in range(1, 300):
        before = [each for each in taken if each <= update]
        assert average.count(update) == len(before) + initial
        assert average.last_due(update) == max(before, default=0)
        assert average.next_due(update) == min(each for each in taken if each >= update)
    assert average.count(0) == initial
    assert average.last_due(0) == 0


@settings(deadline=None)
@given(starts, periods)
def test_the_rule_on_arrays(start: int, period: int) -> None:
    updates = np.arange(1, 500)
    average = Average(start=start, period=period)
    flags = due(updates, start, period)
    assert flags.tolist() == [average.due(int(update)) for update in updates]
    counts = taken_before(updates, start, period)
    assert counts[flags].tolist() == list(range(flags.sum()))


@settings(deadline=None)
@given(starts, periods, st.integers(0, 500))
def test_steps_counted_from_0(start: int, period: int, step: int) -> None:
    """What the optimizer wrappers count: the steps completed before."""
    average = Average(start=start, period=period)
    is_due, count = due_at_step(step, start, period)
    assert is_due == average.due(step + 1)
    if is_due:
        assert count == average.count(step)


def test_weights() -> None:
    mean = Average()
    assert [mean.weight(s, s + 1, 1) for s in range(4)] == [0, 1, 2, 3]
    assert type(mean.weight(3, 4, 1)) is int
    for ema in (Average(decay=0.9), Average(decay=decays.constant(0.9))):
        assert [ema.weight(s, s + 1, 1) for s in range(3)] == [0, 1 - 0.9, 1 - 0.9]
        assert type(ema.weight(1, 2, 1)) is float
    asked: list[tuple[int, int, int]] = []

    def schedule(s: int, t: int, n: int) -> float:
        asked.append((s, t, n))
        return 0.25

    scheduled = Average(decay=schedule)
    assert scheduled.weight(0, 4, 3) == 0  # copied; nobody is asked
    assert scheduled.weight(5, 21, 4) == 0.75
    assert asked == [(5, 21, 4)]


@pytest.mark.parametrize(
    ("decay", "weight"),
    [(0, 1.0), (1, 0.0), (0.0, 1.0), (np.float32(0.5), 0.5), (np.array(0.5), 0.5)],
)
def test_decays_given_as_numbers(decay: Any, weight: float) -> None:
    average = Average(decay=decay)
    assert type(average.decay) is float
    assert average.weight(1, 2, 1) == weight
    assert average == Average(decay=float(decay)) == Average(decay=decays.constant(decay))


@pytest.mark.parametrize("result", [0, 1, np.float32(0.5), np.float64(0.25), 1e-320])
def test_results_of_a_callable(result: Any) -> None:
    weight = Average(decay=lambda s, t, n: result).weight(1, 2, 1)
    assert type(weight) is float
    assert weight == 1.0 - float(result)


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        (
            1.0000000000000002,
            ValueError,
            "the decay that a schedule returns must be between 0 and 1. "
            "Received: 1.0000000000000002 at s=2, t=30, n=4",
        ),
        (
            -1e-300,
            ValueError,
            "the decay that a schedule returns must be between 0 and 1. "
            "Received: -1e-300 at s=2, t=30, n=4",
        ),
        (
            math.nan,
            ValueError,
            "the decay that a schedule returns must be between 0 and 1. "
            "Received: nan at s=2, t=30, n=4",
        ),
        (
            None,
            TypeError,
            "the decay that a schedule returns must be a number. Received: None",
        ),
        (
            "0.9",
            TypeError,
            "the decay that a schedule returns must be a number. Received: '0.9'",
        ),
    ],
)
def test_results_that_are_refused(result: Any, kind: type[Exception], message: str) -> None:
    for decay in (lambda s, t, n: result, decays.after(3, lambda s, t, n: result)):
        with pytest.raises(kind) as caught:
            Average(decay=decay).weight(2, 30, 4)
        assert str(caught.value) == message


# dtype --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("package", ["torch", "numpy", "tensorflow", "jax.numpy", "ml_dtypes"])
def test_dtypes_of_frameworks(package: str, name: str) -> None:
    if importlib.util.find_spec(package.split(".")[0]) is None:
        pytest.skip(f"{package} is not installed")
    module = importlib.import_module(package)
    if not hasattr(module, name):
        pytest.skip(f"{package} has no {name}")
    dtype = getattr(module, name)
    assert Average(dtype=dtype).dtype == name
    assert Average(dtype=dtype) == Average(dtype=name)
    if package in ("numpy", "ml_dtypes"):
        assert Average(dtype=np.dtype(dtype)).dtype == name


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("int32", ValueError),
        ("float", ValueError),
        ("torch.float32", ValueError),
        (np.int64, TypeError),
        (np.dtype("complex64"), TypeError),
        (float, TypeError),
        (32, TypeError),
        (np.zeros(3), TypeError),
    ],
)
def test_dtypes_that_are_refused(dtype: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        Average(dtype=dtype)
    assert str(caught.value) == (
        f"dtype must be one of float64, float32, float16, bfloat16. Received: {dtype!r}"
    )


# What is refused ----------------------------------------------------------------------------------

NO_SCHEDULE = "decay must be a number or a schedule (s, t, n) -> decay. Received: "
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"decay": 1.1}, ValueError, "decay must be between 0 and 1. Received: 1.1"),
    ({"decay": -0.5}, ValueError, "decay must be between 0 and 1. Received: -0.5"),
    ({"decay": math.nan}, ValueError, "decay must be between 0 and 1. Received: nan"),
    ({"decay": "0.9"}, TypeError, NO_SCHEDULE + "'0.9'"),
    ({"decay": True}, TypeError, "decay must be a number. Received: True"),
    ({"decay": {}}, TypeError, NO_SCHEDULE + "{}"),
    ({"decay": decays.ratio}, TypeError, NO_SCHEDULE + "<class 'swa_fast.decays.ratio'>"),
    ({"start": -1}, ValueError, "start must be >= 0. Received: -1"),
    ({"start": 1.0}, TypeError, "start must be an int. Received: 1.0 of type float"),
    ({"period": 0}, ValueError, "period must be >= 1. Received: 0"),
    ({"period": None}, TypeError, "period must be an int. Received: None of type NoneType"),
    ({"period": True}, TypeError, "period must be an int. Received: True of type bool"),
    ({"initial": 1}, TypeError, "initial must be True or False. Received: 1"),
    ({"initial": None}, TypeError, "initial must be True or False. Received: None"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD, ids=lambda value: None)
def test_refused(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        Average(**arguments)
    assert type(caught.value) is kind
    assert str(caught.value) == message


# Copies and configs -------------------------------------------------------------------------------

ALL = [
    Average(),
    Average(0.99, 5, 10, "float32", True),
    Average(decay=decays.warmup(0.9999), period=3),
    Average(decay=decays.after(50, decays.power(sigma_rel=0.1)), start=3, period=7),
    Average(dtype=np.float16),
]


@pytest.mark.parametrize("average", ALL, ids=repr)
def test_equal_copies(average: Average) -> None:
    for same in (pickle.loads(pickle.dumps(average)), copy.deepcopy(average)):
        assert same == average
        assert hash(same) == hash(average)
        assert same.weight(20, 150, 7) == average.weight(20, 150, 7)
    assert eval(repr(average), {**vars(decays), "Average": Average}) == average
    assert [other for other in ALL if other == average] == [average]


@pytest.mark.parametrize("average", ALL, ids=repr)
def test_configs(average: Average) -> None:
    config = average.to_dict()
    assert list(config) == ["decay", "start", "period", "dtype", "initial"]
    again = Average.from_dict(json.loads(json.dumps(config)))
    assert again == average
    assert again.to_dict() == config
    assert again.weight(20, 150, 7) == average.weight(20, 150, 7)


def test_a_config_may_leave_out_what_is_default() -> None:
    assert Average.from_dict({}) == Average()
    assert Average.from_dict({"decay": 0.9}) == Average(decay=0.9)


def test_a_callable_is_not_saved() -> None:
    config = Average(decay=lambda s, t, n: 0.9).to_dict()
    assert json.loads(json.dumps(config))["decay"] == {"name": "custom"}
    with pytest.raises(ValueError, match="a callable of your own is not saved, so give it again"):
        Average.from_dict(config)


def test_bad_configs() -> None:
    with pytest.raises(TypeError, match=r"an average's config must be a dict\. Received: 0\.9"):
        Average.from_dict(0.9)  # type: ignore[arg-type]
    known = "['decay', 'start', 'period', 'dtype', 'initial']"
    message = f"an average's config has only {known}. Received: ['beta'] too"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Average.from_dict({"decay": 0.9, "beta": 3})
    with pytest.raises(ValueError, match=r"period must be >= 1\. Received: 0"):
        Average.from_dict({"period": 0})


def test_numbers_of_numpy() -> None:
    counts: Any = np.int64(3)
    average = Average(start=counts, period=counts)
    assert average == Average(start=3, period=3)
    assert {type(average.start), type(average.period)} == {int}


def test_frozen_and_replaced() -> None:
    average = Average(decay=decays.after(10, 0.9), period=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        average.period = 3  # type: ignore[misc]
    every = dataclasses.replace(average, period=1)
    assert every == Average(decay=decays.after(10, 0.9))
    assert every.weight(12, 13, 1) == 1 - 0.9
