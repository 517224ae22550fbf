"""The schedules: their formulas, their settings, what they refuse, and how they are saved."""

from __future__ import annotations

import copy
import json
import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swa_fast import decays

anything: Any = decays
"""The module to those who check types, for arguments of the wrong ones."""

ALL = [
    decays.constant(0.999),
    decays.warmup(0.9999, gamma=3, power=0.75, minimum=0.1),
    decays.ratio(0.99),
    decays.ramp(0.9999, 2000),
    decays.half_life(123.5),
    decays.power(sigma_rel=0.05),
    decays.power(gamma=6.94),
    decays.after(100, 0.9),
    decays.after(7, decays.warmup(0.99)),
]
NAMES = {type(schedule).__name__ for schedule in ALL}


def named(schedule: Any) -> str:
    return repr(schedule)


def test_none_is_missing() -> None:
    assert set(decays.__all__) - {"to_dict", "from_dict"} == NAMES


def test_formulas() -> None:
    """The table of the documentation, at s = 40, t = 500, n = 10."""
    s, t, n = 40, 500, 10
    assert decays.constant(0.25)(s, t, n) == 0.25
    assert decays.warmup(0.9999)(s, t, n) == 1 - 41 ** (-2 / 3)
    assert decays.warmup(0.9999, 8, 0.75)(s, t, n) == 1 - 6**-0.75
    assert decays.ratio(0.99)(s, t, n) == 41 / 50
    assert decays.ramp(0.99, 20)(s, t, n) == 0.99 * (1 - math.exp(-2))
    assert decays.half_life(5)(s, t, n) == 0.25
    assert decays.power(gamma=2)(s, t, n) == 0.98**3
    # The snapshots after update 100 are at 110, 120, ..., 490: 39 of them.
    assert decays.after(100, decays.ratio(0.99))(s, t, n) == 40 / 49
    assert decays.after(100, decays.power(gamma=2))(s, t, n) == 0.975**3


def test_bounds() -> None:
    warmup = decays.warmup(0.9, minimum=0.6)
    assert warmup(1, 2, 1) == 0.6
    assert warmup(10**9, 10**9 + 1, 1) == 0.9
    assert decays.ratio(0.9)(10**9, 10**9, 1) == 0.9
    assert decays.ramp(0.9, 1e-300)(1, 2, 1) == 0.9
    assert decays.half_life(1e-300)(1, 2, 1) == 0.0
    assert decays.power(gamma=1e300)(1, 2, 1) == 0.0
    assert decays.power(gamma=3)(1, 1, 1) == 0.0  # at the first update after the initial values


@settings(deadline=None)
@given(
    st.sampled_from(ALL),
    st.integers(1, 2**53),
    st.integers(1, 2**53),
    st.integers(1, 2**53),
)
def test_every_decay_is_a_float_from_0_to_1(schedule: Any, s: int, t: int, n: int) -> None:
    decay = schedule(s, t, min(n, t))
    assert type(decay) is float
    assert 0.0 <= decay <= 1.0


def test_after() -> None:
    schedule = decays.after(10, lambda s, t, n: s + t / 100 + n / 10_000)
    assert [schedule(t - 1, t, 1) for t in (1, 2, 10, 11)] == [0, 0, 0, 0]
    assert schedule(11, 12, 1) == 1 + 0.02 + 0.0001
    assert schedule(20, 21, 1) == 10 + 0.11 + 0.0001
    # Snapshots at 1, 4, 7, 10, 13, 16, ...: that of 13 is the first after 10.
    assert schedule(4, 13, 3) == 0
    assert schedule(5, 16, 3) == 1 + 0.06 + 0.0003
    # None was taken until 41, and that one is the first.
    assert schedule(1, 42, 1) == 1 + 0.32 + 0.0001


def test_settings_are_floats() -> None:
    schedule = anything.warmup(1, np.float32(2), np.array(0.5), np.int64(0))
    assert schedule == decays.warmup(1.0, 2.0, 0.5, 0.0)
    assert {type(getattr(schedule, name)) for name in ("decay", "gamma", "power", "minimum")} == {
        float
    }
    assert anything.after(np.int64(3), np.float64(0.5)) == decays.after(3, decays.constant(0.5))
    with pytest.raises(AttributeError, match="cannot assign"):
        schedule.decay = 0.5


@pytest.mark.parametrize("schedule", ALL, ids=named)
def test_equal_copies(schedule: Any) -> None:
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert copy.deepcopy(schedule) == schedule
    assert eval(repr(schedule), vars(decays)) == schedule
    assert len({schedule, copy.copy(schedule)}) == 1
    assert [other for other in ALL if other == schedule] == [schedule]


@pytest.mark.parametrize("schedule", ALL, ids=named)
def test_configs(schedule: Any) -> None:
    config = decays.to_dict(schedule)
    assert config["name"] == type(schedule).__name__
    again = decays.from_dict(json.loads(json.dumps(config)))
    assert again == schedule
    assert again(40, 500, 10) == schedule(40, 500, 10)
    assert decays.to_dict(again) == config


def test_a_callable_of_ones_own_is_not_saved() -> None:
    class Mine:
        decay = 0.5

        def __call__(self, s: int, t: int, n: int) -> float:
            return self.decay

    Mine.__name__ = "constant"
    for schedule in (lambda s, t, n: 0.5, Mine(), math.gcd):
        assert decays.to_dict(schedule) == {"name": "custom"}
    inside = {"name": "after", "updates": 3, "schedule": {"name": "custom"}}
    assert decays.to_dict(decays.after(3, Mine())) == inside
    for config in ({"name": "custom"}, inside):
        with pytest.raises(ValueError, match="not saved, so give it again"):
            decays.from_dict(config)


# sigma_rel and gamma ------------------------------------------------------------------------------


def cubic(sigma_rel: float, gamma: Fraction) -> Fraction:
    """Zero where gamma belongs to sigma_rel, and rising there."""
    return (gamma + 2) ** 2 * (gamma + 3) * Fraction(sigma_rel) ** 2 - (gamma + 1)


@settings(deadline=None)
@given(st.floats(1e-300, 1 / math.sqrt(12)))
def test_gamma_is_correctly_rounded(sigma_rel: float) -> None:
    gamma = decays.power(sigma_rel=sigma_rel).gamma
    half_below = (Fraction(gamma) + Fraction(math.nextafter(gamma, -math.inf))) / 2
    half_above = (Fraction(gamma) + Fraction(math.nextafter(gamma, math.inf))) / 2
    assert cubic(sigma_rel, half_above) >= 0
    # 1 / sqrt(12) rounded up belongs to a gamma just below 0, which is taken for 0.
    assert cubic(sigma_rel, half_below) <= 0 or gamma == 0


def test_gammas_that_are_known() -> None:
    """Those of the paper, arXiv 2312.02696, section 3."""
    assert decays.power(sigma_rel=0.05).gamma == pytest.approx(16.97, abs=0.005)
    assert decays.power(sigma_rel=0.10).gamma == pytest.approx(6.94, abs=0.005)
    for bound in (1 / math.sqrt(12), 12**-0.5, math.sqrt(1 / 12)):
        assert decays.power(sigma_rel=bound).gamma == pytest.approx(0, abs=1e-15)
    assert decays.power(gamma=0).sigma_rel == pytest.approx(1 / math.sqrt(12), rel=1e-15)


@settings(deadline=None)
@given(st.floats(0, 1e100))
def test_there_and_back(gamma: float) -> None:
    sigma_rel = decays.power(gamma=gamma).sigma_rel
    assert decays.power(sigma_rel=sigma_rel).gamma == pytest.approx(gamma, rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.15, 0.25, 1 / math.sqrt(12)])
def test_sigma_rel_is_the_width_of_the_average(sigma_rel: float) -> None:
    """The standard deviation of the updates' numbers, weighed as they are in the average."""
    schedule = decays.power(sigma_rel=sigma_rel)
    updates = 20_000
    shares = np.zeros(updates)
    shares[0] = 1
    for update in range(2, updates + 1):
        decay = schedule(update - 1, update, 1)
        shares *= decay
        shares[update - 1] = 1 - decay
    when = np.arange(1, updates + 1) / updates
    mean = (shares * when).sum()
    assert np.sqrt((shares * (when - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-3)


# What is refused ----------------------------------------------------------------------------------

RANGE = "decay must be between 0 and 1. Received: "
BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: anything.constant(1.5), ValueError, RANGE + "1.5"),
    (lambda: anything.constant(-0.1), ValueError, RANGE + "-0.1"),
    (lambda: anything.constant(math.nan), ValueError, RANGE + "nan"),
    (lambda: anything.constant(10**400), ValueError, RANGE + "inf"),
    (lambda: anything.constant("0.9"), TypeError, "decay must be a number. Received: '0.9'"),
    (lambda: anything.constant(True), TypeError, "decay must be a number. Received: True"),
    (lambda: anything.constant([0.9]), TypeError, "decay must be a number. Received: [0.9]"),
    (
        lambda: anything.constant(np.array([0.9])),
        TypeError,
        "decay must be a number. Received: array([0.9])",
    ),
    (lambda: anything.warmup(2), ValueError, RANGE + "2.0"),
    (lambda: anything.warmup(0.9, 0), ValueError, "gamma must be > 0 and finite. Received: 0.0"),
    (lambda: anything.warmup(0.9, -1), ValueError, "gamma must be > 0 and finite. Received: -1.0"),
    (
        lambda: anything.warmup(0.9, power=0),
        ValueError,
        "power must be > 0 and finite. Received: 0.0",
    ),
    (
        lambda: anything.warmup(0.9, power=math.inf),
        ValueError,
        "power must be > 0 and finite. Received: inf",
    ),
    (
        lambda: anything.warmup(0.9, minimum=0.95),
        ValueError,
        "minimum must be between 0 and decay, which is 0.9. Received: 0.95",
    ),
    (
        lambda: anything.warmup(0.9, minimum=-0.1),
        ValueError,
        "minimum must be between 0 and decay, which is 0.9. Received: -0.1",
    ),
    (lambda: anything.ratio(1.01), ValueError, RANGE + "1.01"),
    (lambda: anything.ramp(1.01, 10), ValueError, RANGE + "1.01"),
    (lambda: anything.ramp(0.9, 0), ValueError, "tau must be > 0 and finite. Received: 0.0"),
    (lambda: anything.half_life(0), ValueError, "updates must be > 0 and finite. Received: 0.0"),
    (lambda: anything.half_life(-5), ValueError, "updates must be > 0 and finite. Received: -5.0"),
    (
        lambda: anything.half_life("1000ba"),
        TypeError,
        "updates must be a number. Received: '1000ba'",
    ),
    (
        lambda: anything.power(),
        TypeError,
        "exactly one of sigma_rel and gamma must be given. Received: sigma_rel=None, gamma=None",
    ),
    (
        lambda: anything.power(sigma_rel=0.1, gamma=3),
        TypeError,
        "exactly one of sigma_rel and gamma must be given. Received: sigma_rel=0.1, gamma=3",
    ),
    (
        lambda: anything.power(gamma=-0.5),
        ValueError,
        "gamma must be >= 0 and finite. Received: -0.5",
    ),
    (lambda: anything.power(gamma="3"), TypeError, "gamma must be a number. Received: '3'"),
    *(
        (
            lambda sigma_rel=sigma_rel: decays.power(sigma_rel=sigma_rel),
            ValueError,
            "sigma_rel must be > 0 and <= 1 / sqrt(12), which is 0.288675. "
            f"Received: {float(sigma_rel)}",
        )
        for sigma_rel in (0, -0.1, 0.29, math.nan, math.inf)
    ),
    (lambda: anything.after(-1, 0.9), ValueError, "updates must be >= 0. Received: -1"),
    (lambda: anything.after(3, 1.5), ValueError, "schedule must be between 0 and 1. Received: 1.5"),
    (
        lambda: anything.after(3, None),
        TypeError,
        "schedule must be a number or a schedule (s, t, n) -> decay. Received: None",
    ),
    (
        lambda: anything.after(3, anything.after(4, 0.9)),
        ValueError,
        "schedule must not be another `after`. "
        "Received: after(updates=4, schedule=constant(decay=0.9))",
    ),
    (
        lambda: anything.from_dict(0.9),
        TypeError,
        "a schedule's config must be a dict. Received: 0.9",
    ),
    (
        lambda: anything.from_dict({"name": "warm"}),
        ValueError,
        "a schedule's name must be one of constant, warmup, ratio, ramp, half_life, power, after. "
        "Received: 'warm'",
    ),
    (
        lambda: anything.from_dict({"name": "ratio"}),
        ValueError,
        "the config of ratio must fit it: missing a required argument: 'decay'. "
        "Received: {'name': 'ratio'}",
    ),
    (
        lambda: anything.from_dict({"name": "ratio", "decay": 0.9, "tau": 3}),
        ValueError,
        "the config of ratio must fit it: got an unexpected keyword argument 'tau'. "
        "Received: {'name': 'ratio', 'decay': 0.9, 'tau': 3}",
    ),
    (lambda: anything.from_dict({"name": "ratio", "decay": 3}), ValueError, RANGE + "3.0"),
    (
        lambda: anything.from_dict({"name": "after", "updates": 3, "schedule": 0.9}),
        TypeError,
        "a schedule's config must be a dict. Received: 0.9",
    ),
]


@pytest.mark.parametrize(("make", "kind", "message"), BAD, ids=lambda value: None)
def test_refused(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        make()
    assert type(caught.value) is kind
    assert str(caught.value) == message
