"""How much each step weighs in an average: from the schedule alone, and by averaging one-hots."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import swa_fast
from swa_fast import Average, decays
from swa_fast._counters import Counters

STEPS = 400
AVERAGES = [
    Average(),
    Average(start=100, period=7),
    Average(decay=0.99),
    Average(decay=0.9, period=10, start=3),
    Average(decay=0.0),
    Average(decay=1.0),
    Average(decay=decays.warmup(0.999)),
    Average(decay=decays.ratio(0.95), period=3),
    Average(decay=decays.ramp(0.99, 50)),
    Average(decay=decays.half_life(40), period=10),
    Average(decay=decays.power(sigma_rel=0.1)),
    Average(decay=decays.power(gamma=3), period=9, start=8),
    Average(decay=decays.after(100, decays.warmup(0.99)), period=2),
    Average(decay=lambda s, t, n: 0.5 if t % 2 else 0.9),
]


def without_address(average: Average) -> str:
    """The representation, the same in every process."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(average))


def one_hots_averaged(average: Average, steps: int) -> Any:
    """The average of values that are 1 in the entry of their own step, and 0 in all others.

    Entry 0 is for the values at construction.
    """
    held = [np.zeros(steps + 1)]
    held[0][0] = 1
    counters = Counters([average])
    for step in range(1, steps + 1):
        value = np.zeros(steps + 1)
        value[step] = 1
        (weight,) = counters.weights() or [None]
        if isinstance(weight, int):
            swa_fast.running_mean_(held, [value], weight)
        elif weight is not None:
            swa_fast.lerp_(held, [value], weight)
        counters.advance([weight])
    return held[0]


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("average", AVERAGES, ids=without_address)
def test_profile_is_what_averaging_gives(average: Average, initial: bool) -> None:
    settings = {**average.to_dict(), "decay": average.decay, "initial": initial}
    average = Average(**settings)
    for steps in (STEPS, average.start + 1):
        profile = average.profile(steps)
        expected = one_hots_averaged(average, steps)
        assert profile.shape == (steps,)
        assert profile.dtype == np.float64
        np.testing.assert_allclose(profile, expected[1:], rtol=1e-12, atol=1e-15)
        assert profile.sum() + expected[0] == pytest.approx(1, abs=1e-13)
        if not initial:
            assert expected[0] == 0


def test_closed_forms() -> None:
    assert Average().profile(8).tolist() == pytest.approx([1 / 8] * 8)
    period = Average(start=4, period=5).profile(20)
    assert np.flatnonzero(period).tolist() == [4, 9, 14, 19]
    assert period[period > 0].tolist() == pytest.approx([1 / 4] * 4)
    ema = Average(decay=0.9, initial=True).profile(50)
    np.testing.assert_allclose(ema, 0.1 * 0.9 ** np.arange(49, -1, -1), rtol=1e-12)
    # From update to update the shares of a power are the differences of (t / T) ** (gamma + 1).
    edges = np.arange(501) / 500
    power = Average(decay=decays.power(gamma=3.5)).profile(500)
    np.testing.assert_allclose(power, np.diff(edges**4.5), rtol=1e-11)


def test_a_long_profile_sums_to_1() -> None:
    for average in (Average(), Average(decay=decays.power(sigma_rel=0.05)), Average(decay=0.9999)):
        assert average.profile(200_000).sum() == pytest.approx(1, abs=1e-10)


def test_no_snapshot() -> None:
    average = Average(start=100)
    with pytest.raises(
        ValueError,
        match=r"^steps must be > start, which is 100, for there to be a snapshot\. Received: 100$",
    ):
        average.profile(100)
    assert average.profile(101).tolist() == [0.0] * 100 + [1.0]
    assert Average(start=100, initial=True).profile(3).tolist() == [0.0] * 3
    with pytest.raises(ValueError, match=r"^steps must be >= 1\. Received: 0$"):
        average.profile(0)
    with pytest.raises(TypeError, match=r"^steps must be an int\. Received: 1\.5 of type float$"):
        average.profile(1.5)  # type: ignore[arg-type]


# The drawing --------------------------------------------------------------------------------------


@pytest.fixture
def axes() -> Any:
    figure = pytest.importorskip("matplotlib.figure")
    return figure.Figure().subplots()


def lines(axes: Any) -> dict[str, list[Any]]:
    return {line.get_label(): [line.get_xdata(), line.get_ydata()] for line in axes.get_lines()}


def test_one_average_is_drawn(axes: Any) -> None:
    average = Average(start=10, period=5)
    assert swa_fast.plots.profile(average, 100, ax=axes) is axes
    (drawn,) = axes.get_lines()
    assert drawn.get_xdata().tolist() == list(range(11, 100, 5))
    np.testing.assert_allclose(drawn.get_ydata(), 100 * average.profile(100)[10::5])
    assert axes.get_legend() is None
    assert axes.get_ylabel() == "share of the average, %"
    assert axes.get_xlim() == (0, 100)
    assert axes.get_ylim()[0] == 0


def test_several_are_drawn(axes: Any) -> None:
    averages = {"mean": Average(), "ema": Average(decay=0.9)}
    swa_fast.plots.profile(averages, 200, ax=axes)
    assert list(lines(axes)) == ["mean", "ema"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mean", "ema"]


def test_a_first_snapshot_that_outweighs_all_is_written(axes: Any) -> None:
    averages = {
        "first": Average(decay=0.99),
        "initial": Average(decay=0.99, initial=True),
        "forgotten": Average(decay=0.9, initial=True),
    }
    swa_fast.plots.profile(averages, 100, ax=axes)
    first, initial, forgotten = lines(axes).items()
    assert first[0] == "first (first snapshot: 37 %)"  # 0.99 ** 99
    assert first[1][0][0] == 2
    assert max(first[1][1]) == pytest.approx(1)
    assert initial[0] == "initial (first snapshot: 37 %)"  # 0.99 ** 100
    assert initial[1][0][0] == 1
    assert forgotten[0] == "forgotten"
    assert forgotten[1][0][0] == 0
    assert forgotten[1][1][0] == pytest.approx(100 * 0.9**100)


def test_only_a_first_snapshot(axes: Any) -> None:
    swa_fast.plots.profile(Average(decay=0.99), 1, ax=axes)
    ((_, shares),) = lines(axes).values()
    assert shares.tolist() == [100.0]


def test_new_axes() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    axes = swa_fast.plots.profile(Average(), 10)
    assert axes.figure.number in pyplot.get_fignums()
    pyplot.close(axes.figure)


@pytest.mark.parametrize(
    ("averages", "kind", "message"),
    [
        ({}, ValueError, "averages must hold one average at least. Received: {}"),
        (0.9, TypeError, "averages must be a swa_fast.Average. Received: float"),
        (
            {"swa": Average(), "ema": 0.9},
            TypeError,
            "averages['ema'] must be a swa_fast.Average. Received: float",
        ),
        (
            Average(start=50),
            ValueError,
            "steps must be > start, which is 50, for there to be a snapshot. Received: 20",
        ),
    ],
)
def test_refused(axes: Any, averages: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        swa_fast.plots.profile(averages, 20, ax=axes)
    assert str(caught.value) == message
    assert not axes.get_lines()


def test_example() -> None:
    pytest.importorskip("matplotlib").use("agg")
    result = doctest.testmod(swa_fast.plots)
    assert result.attempted > 0
    assert result.failed == 0


def test_without_matplotlib() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; import swa_fast; "
        "swa_fast.plots.profile(swa_fast.Average(), 10)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: swa_fast.plots needs matplotlib, which is not installed: "
        "pip install 'swa-fast[plot]'"
    )
