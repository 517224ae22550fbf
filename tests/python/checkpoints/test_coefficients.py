from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swa_fast.checkpoints import CheckpointError, coefficients

COUNTS = st.integers(1, 60)


def test_minus_sqrt_is_megatrons() -> None:
    expected = [0.447214, 0.185242, 0.142141, 0.119830, 0.105573]
    assert coefficients.minus_sqrt(5) == pytest.approx(expected, abs=1e-6)


@given(COUNTS)
def test_a_linear_decay_is_the_mean(count: int) -> None:
    assert coefficients.linear(count) == pytest.approx(coefficients.mean(count), rel=1e-12)


@given(COUNTS, st.sampled_from(["linear", "cosine", "sqrt"]))
def test_updates_count_as_if_their_rate_had_decayed(count: int, shape: str) -> None:
    """Checkpoint k is the sum of the updates up to k, so update j counts sum of c_k over k >= j."""
    shapes = {
        "linear": lambda x: 1 - x,
        "cosine": lambda x: 0.5 + 0.5 * math.cos(math.pi * x),
        "sqrt": lambda x: 1 - math.sqrt(x),
    }
    found = coefficients.wsm(count, shape)
    for j in range(1, count):
        assert sum(found[j:]) == pytest.approx(shapes[shape](j / count), abs=1e-12)
    assert sum(found) == pytest.approx(1)


@given(COUNTS, st.floats(0, 1))
def test_ema_is_its_recursion(count: int, decay: float) -> None:
    values = np.sin(np.arange(count))
    average = values[0]
    for value in values[1:]:
        average = decay * average + (1 - decay) * value
    assert np.dot(coefficients.ema(count, decay), values) == pytest.approx(average, abs=1e-12)


def profile(steps: np.ndarray, end: float, sigma_rel: float) -> np.ndarray:
    gamma = coefficients_gamma(sigma_rel)
    return np.where(steps <= end, (gamma + 1) / end * (steps / end) ** gamma, 0.0)


def coefficients_gamma(sigma_rel: float) -> float:
    """By bisection of the standard deviation of t ** gamma on [0, 1]."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        width = math.sqrt((middle + 1) / ((middle + 2) ** 2 * (middle + 3)))
        low, high = (middle, high) if width > sigma_rel else (low, middle)
    return low


def test_power_makes_the_profile_that_it_says() -> None:
    snapshots = [(t, s) for t in range(500, 10001, 500) for s in (0.05, 0.1)]
    found = coefficients.power(snapshots, 0.075)
    steps = (np.arange(200_000) + 0.5) / 200_000 * 10_000
    made = sum(
        c * profile(steps, t, s) for c, (t, s) in zip(found.coefficients, snapshots, strict=True)
    )
    wanted = profile(steps, 10_000, 0.075)
    error = np.sqrt(((made - wanted) ** 2).mean() / (wanted**2).mean())
    assert found.error == pytest.approx(error, rel=0.02)
    assert found.error < 0.01
    assert found.warnings == []
    assert sum(found.coefficients) == pytest.approx(1, abs=1e-12)
    assert min(found.coefficients) < 0


def test_power_finds_a_snapshot_that_is_there() -> None:
    found = coefficients.power([(100, 0.1), (200, 0.05), (200, 0.1)], 0.05)
    assert found.coefficients == pytest.approx([0, 1, 0], abs=1e-6)
    assert found.error < 1e-6


def test_power_warns_of_a_width_that_the_snapshots_cannot_make() -> None:
    assert len(coefficients.power([(100, 0.2), (200, 0.2), (200, 0.25)], 0.01).warnings) >= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coefficients.mean(0), "at least 1 checkpoint"),
        (lambda: coefficients.explicit([0.5, 0.4]), r"must have the sum 1. Received: 0.9"),
        (lambda: coefficients.explicit([1.5, -0.5]), "--allow-negative"),
        (lambda: coefficients.explicit([math.nan, 1]), "finite"),
        (lambda: coefficients.explicit([0, 0], normalize=True), "sum > 0"),
        (lambda: coefficients.ema(3, 1.5), "from 0 to 1"),
        (lambda: coefficients.wsm(3, "step"), "linear, cosine, sqrt"),
        (lambda: coefficients.decays_to_coefficients([0.2, 0.5]), "must not grow"),
        (lambda: coefficients.power([(1, 0.1)], 0.4), "sigma_rel must be"),
        (lambda: coefficients.power([(1, 0.0)], 0.1), "sigma_rel must be"),
        (lambda: coefficients.power([(1, 0.1)], 1e-200), "too far from"),
        (lambda: coefficients.power([], 0.1), "at least 1 checkpoint"),
        (
            lambda: coefficients.power([(1, "wide")], 0.1),  # type: ignore[list-item]
            "sigma_rel must be a number",
        ),
        (lambda: coefficients.power([(0, 0.1)], 0.1), "step must be > 0"),
        (lambda: coefficients.schedule("cubic", 3), "must be one of mean"),
        (lambda: coefficients.schedule("ema:x", 3), "needs a number"),
        (lambda: coefficients.schedule("power:0.1", 2, [None, (3.0, 0.1)]), "1 of 2 do not"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        call()  # type: ignore[operator]


def test_typed_weights() -> None:
    assert coefficients.explicit([1.5, -0.5], allow_negative=True) == [1.5, -0.5]
    assert coefficients.explicit([0.333, 0.333, 0.334]) == [0.333, 0.333, 0.334]
