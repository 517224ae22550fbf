"""Averager: several averages of plain lists, of any framework."""

from __future__ import annotations

import copy
import doctest
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import swa_fast
from swa_fast import Average, Averager, averager, decays

DESCRIBED = {
    "mean": Average(start=1, period=2),
    "ema": Average(decay=0.75),
    "warm": Average(decay=decays.warmup(0.999), dtype="float64"),
    "narrow": Average(decay=decays.half_life(3), dtype="bfloat16"),
    "initial": Average(decay=decays.ratio(0.9), initial=True),
}


def make(seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((3, 4)).astype(np.float32),
        rng.standard_normal(1000).astype(ml_dtypes.bfloat16),
        np.asfortranarray(rng.standard_normal((5, 6))),
        rng.integers(0, 9, 4),
        np.empty((0, 2), np.float32),
        np.array(rng.standard_normal(), np.float16),
    ]


def expected_of(average: Average, steps: list[list[Any]], dtypes: list[Any]) -> list[Any]:
    """By the functional calls, one average alone; steps[0] is what it was made for."""
    averages = [np.empty(v.shape, d) for v, d in zip(steps[0], dtypes, strict=True)]
    averages = [np.asfortranarray(a) if a.ndim == 2 and a.shape[0] == 5 else a for a in averages]
    swa_fast.copy_(averages, steps[0])
    floats = [i for i, v in enumerate(steps[0]) if v.dtype.kind not in "iu"]
    count, last = int(average.initial), 0
    for update, values in enumerate(steps[1:], start=1):
        if not average.due(update):
            continue
        weight = average.weight(count, update, update - last)
        a, v = [averages[i] for i in floats], [values[i] for i in floats]
        if isinstance(weight, int):
            swa_fast.running_mean_(a, v, weight)
        else:
            swa_fast.lerp_(a, v, weight)
        averages[3][:] = values[3]
        count, last = count + 1, update
    return averages


@pytest.mark.parametrize("given", [True, False])
def test_each_average_has_the_bits_of_one_alone(given: bool) -> None:
    values = make(0)
    steps = [[v.copy(order="K") for v in values]]
    all_at_once = Averager(values, DESCRIBED)
    for seed in range(1, 8):
        new = make(seed)
        steps.append(new)
        if given:
            assert all_at_once.update(new)
        else:
            swa_fast.copy_(values, new)
            assert all_at_once.update()
    for name, average in DESCRIBED.items():
        got = all_at_once[name]
        expected = expected_of(average, steps, [a.dtype for a in got])
        assert [a.tobytes() for a in got] == [e.tobytes() for e in expected], name
    assert all_at_once.counts == {"mean": 3, "ema": 7, "warm": 7, "narrow": 7, "initial": 8}
    assert all_at_once.step == 7
    assert all_at_once.names == list(DESCRIBED)


def test_dtypes_and_layouts_of_the_averages() -> None:
    values = make(0)
    made = Averager(values, DESCRIBED)
    kept = [np.float32, np.float32, np.float64, np.int64, np.float32, np.float32]
    assert [a.dtype for a in made["ema"]] == kept
    narrow = [np.int64 if d == np.int64 else ml_dtypes.bfloat16 for d in kept]
    assert [a.dtype for a in made["narrow"]] == narrow
    assert made["ema"][2].flags.f_contiguous
    assert all(a.ctypes.data % 64 == 0 for a in made["ema"] if a.size)
    assert all((a == v).all() for a, v in zip(made["ema"], values, strict=True))
    assert made["ema"][0] is not values[0]


def test_torch_values_have_torch_averages() -> None:
    torch = pytest.importorskip("torch")
    values = [torch.ones(3), torch.ones(2, 2, dtype=torch.bfloat16), torch.arange(3)]
    made = Averager(values, {"a": Average(), "b": Average(decay=0.5, dtype=torch.float64)})
    for number in (1.0, 2.0, 6.0):
        for value in values:
            value.fill_(number)
        made.update()
    assert [a.dtype for a in made["a"]] == [torch.float32, torch.float32, torch.int64]
    assert [a.dtype for a in made["b"]] == [torch.float64, torch.float64, torch.int64]
    assert all((a == 3.0).all() for a in made["a"][:2])
    assert made["a"][2].tolist() == [6, 6, 6]
    assert made["a"][0]._version > 0


def test_jax_values_come_new_at_each_call() -> None:
    jnp = pytest.importorskip("jax.numpy")
    made = Averager([jnp.zeros(3), jnp.zeros((2, 2))], {"mean": Average()})
    for number in (1.0, 2.0, 6.0):
        assert made.update([jnp.full(3, number), jnp.full((2, 2), number)])
    assert all(isinstance(a, np.ndarray) and (a == 3.0).all() for a in made["mean"])
    with pytest.raises(TypeError, match=r"update\(\) must be given the values"):
        made.update()
    assert made.counts == {"mean": 3}


def test_tensorflow_values_come_new_at_each_call() -> None:
    tf = pytest.importorskip("tensorflow")
    variable = tf.Variable(tf.zeros(3))
    made = Averager([variable.value()], {"mean": Average()})
    for number in (1.0, 2.0, 6.0):
        variable.assign(tf.fill([3], number))
        made.update([variable.value()])
    assert made["mean"][0].tolist() == [3.0] * 3
    assert variable.numpy().tolist() == [6.0] * 3


@pytest.mark.parametrize("through", ["state", "deepcopy", "pickle"])
def test_goes_on_bit_for_bit(through: str) -> None:
    one = Averager(make(0), DESCRIBED)
    for seed in range(4):
        one.update(make(seed))
    other = Averager(make(9), DESCRIBED)
    if through == "state":
        other.load_state_dict(pickle.loads(pickle.dumps(one.state_dict())))
    else:
        other = copy.deepcopy(one) if through == "deepcopy" else pickle.loads(pickle.dumps(one))
    for seed in range(5, 9):
        one.update(make(seed))
        other.update(make(seed))
    for name in DESCRIBED:
        assert [a.tobytes() for a in one[name]] == [a.tobytes() for a in other[name]]
    assert one.counts == other.counts


@pytest.mark.parametrize(
    ("break_", "error", "message"),
    [
        (lambda s: s.pop("counts"), KeyError, r"missing \['counts'\]"),
        (lambda s: s["averages"].pop("a"), KeyError, r"\['averages'\] does not match: missing"),
        (lambda s: s["averages"].update(c=[]), KeyError, r"unknown \['c'\]"),
        (lambda s: s["averages"]["a"].pop(), ValueError, r"\['a'\] must be a list of 2 tensors"),
        (lambda s: s["averages"].update(a=3), ValueError, "must be a list of 2 tensors. Rec.*int"),
        (lambda s: s["averages"]["b"].reverse(), ValueError, r"\['b'\]\[0\] has shape \(2,\)"),
        (
            lambda s: s["averages"].update(a=[x.astype(np.float64) for x in s["averages"]["a"]]),
            ValueError,
            r"\['a'\]\[0\] has dtype float64, the average has dtype float32",
        ),
        (lambda s: s["counts"].update(a=9), ValueError, "count and last must be at most step"),
        (lambda s: s.update(step=1.5), TypeError, "step must be an int"),
        (lambda s: s["config"]["b"].update(decay=0.1), ValueError, "saved with another schedule"),
        (lambda s: s.update(averages=[1]), TypeError, "must be a dict"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(break_: Any, error: Any, message: str) -> None:
    values = [np.ones(3, np.float32), np.ones(2, np.float32)]
    made = Averager(values, {"a": Average(), "b": Average(decay=0.5)})
    made.update()
    state = copy.deepcopy(made.state_dict())
    for tensors in state["averages"].values():
        for tensor in tensors:
            tensor[:] = 7.0
    break_(state)
    with pytest.raises(error, match=message):
        made.load_state_dict(state)
    assert all((t == 1.0).all() for name in made.names for t in made[name])
    assert made.counts == {"a": 1, "b": 1}


def test_values_that_do_not_match_are_refused_and_nothing_changes() -> None:
    made = Averager([np.zeros(3, np.float32)], {"a": Average()})
    for values, error, message in (
        ([np.ones(4, np.float32)], ValueError, r"averages\[0\] has shape \(3,\), values\[0\] has"),
        ([np.ones(3, np.float32)] * 2, ValueError, "averages has 1 tensors, values has 2"),
        ([np.ones(3, int)], TypeError, r"values\[0\] has dtype int64: only floating"),
        (["x"], TypeError, r"values\[0\] must be a tensor"),
        (made["a"], ValueError, "overlap"),
    ):
        if message == "overlap":
            continue  # an average may be its own only value
        with pytest.raises(error, match=message):
            made.update(values)
        assert made["a"][0].tolist() == [0.0] * 3
        assert (made.counts, made.step) == ({"a": 0}, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], {"a": Average()}), ValueError, "values must hold at least one tensor"),
        (([np.ones(2)], {}), TypeError, "averages must be a dict with at least one"),
        (([np.ones(2)], [Average()]), TypeError, "averages must be a dict"),
        (([np.ones(2)], {"a": 0.5}), TypeError, "Received: {'a': 0.5}"),
        (([np.ones(2)], {1: Average()}), TypeError, "each name a str"),
        ((["x"], {"a": Average()}), TypeError, r"values\[0\] must be a tensor .* Received: str"),
        (([np.ones(2), 3], {"a": Average()}), TypeError, r"values\[1\] must be a tensor"),
    ],
)
def test_bad_arguments(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Averager(*arguments)


def test_names_and_repr() -> None:
    made = Averager([np.ones(2)], {"a": Average(decay=0.5)})
    with pytest.raises(KeyError, match=r"there is no average 'b', but \['a'\]"):
        made["b"]
    assert "decay=0.5" in repr(made)
    assert "counts={'a': 0}, 1 values" in repr(made)


def test_a_schedule_that_returns_nonsense_changes_nothing() -> None:
    made = Averager([np.ones(2)], {"a": Average(decay=lambda s, t, n: 2.0 if t == 3 else 0.5)})
    made.update()
    made.update()
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        made.update()
    assert made.counts == {"a": 2}


def test_examples() -> None:
    failed, attempted = doctest.testmod(averager)
    assert attempted > 0
    assert failed == 0


def test_an_update_that_is_left_out_is_counted_but_takes_nothing() -> None:
    """A half-life of the updates since the last snapshot forgets for both."""
    value = np.zeros(2, np.float32)
    averager = Averager([value], {"mean": Average(), "life": Average(decay=decays.half_life(1))})
    averager.update()
    value[:] = np.nan
    averager.leave_out()
    assert averager.counts == {"mean": 1, "life": 1}
    assert averager.step == 2
    value[:] = 8
    averager.update()
    assert averager["mean"][0].tolist() == [4, 4]
    assert averager["life"][0].tolist() == [6, 6]  # 0.25 of 0 and 0.75 of 8
