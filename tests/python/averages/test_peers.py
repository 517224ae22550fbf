"""Every schedule against the classes that people know it from, over 10,000 updates.

What is compared is the weight of each snapshot, in float64. The other packages are run where their
classes can be had (see `peers.py`), and written out here where they cannot. Where one counts from
another origin, or counts something else, the schedule is given that count, and the test says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import peers
from swa_fast import Average, decays
from swa_fast._counters import Counters

UPDATES = 10_000
PERIODS = pytest.mark.parametrize("period", [1, 7, 100])
AFTER = pytest.mark.parametrize("after", [0, 1, 50])
"""Snapshots that only replace the average: `update_after_step` of those who count their calls."""

WARMUPS = [
    {"decay": 0.9999},
    {"decay": 0.99, "power": 0.75},
    {"decay": 0.9, "gamma": 10.0, "power": 1.0, "minimum": 0.5},
]


def weights_of(average: Average) -> dict[int, float]:
    """The weight of each snapshot, by the number of its update."""
    counters = Counters([average])
    found: dict[int, float] = {}
    for update in range(1, UPDATES + 1):
        weights = counters.weights()
        if weights is not None:
            (weight,) = weights
            assert weight is not None
            found[update] = 1 / (weight + 1) if isinstance(weight, int) else weight
        counters.advance(weights)
    return found


def updates_due(average: Average) -> range:
    return range(average.start + 1, UPDATES + 1, average.period)


def same(average: Average, decay_of_call: Callable[[int], float]) -> None:
    """Compares with a peer that is called once per snapshot, its calls counted from 1."""
    expected = {
        update: 1 - decay_of_call(call) for call, update in enumerate(updates_due(average), start=1)
    }
    assert weights_of(average) == expected


@PERIODS
@AFTER
@pytest.mark.parametrize("settings", WARMUPS)
def test_timm_with_warmup(period: int, after: int, settings: dict[str, float]) -> None:
    peer = timm(
        settings["decay"],
        min_decay=settings.get("minimum", 0.0),
        update_after_step=after,
        use_warmup=True,
        warmup_gamma=settings.get("gamma", 1.0),
        warmup_power=settings.get("power", 2 / 3),
    )
    schedule = decays.after(after * period, decays.warmup(**settings))
    same(Average(decay=schedule, period=period), peer.get_decay)


@PERIODS
@AFTER
@pytest.mark.parametrize("initial", [False, True])
def test_timm_without_warmup(period: int, after: int, initial: bool) -> None:
    """It begins with the model's weights; the first update with a step replaces them."""
    peer = timm(0.999, update_after_step=after)
    schedule = decays.after(after * period, 0.999)
    same(Average(decay=schedule, period=period, initial=initial), peer.get_decay)
    if after == 0:
        same(Average(decay=0.999, period=period), peer.get_decay)


@PERIODS
def test_timm_without_step(period: int) -> None:
    """Called without a step, it averages from the first update on."""
    peer = timm(0.999, update_after_step=5)
    average = Average(decay=0.999, period=period, initial=True)
    same(average, lambda call: peer.get_decay())


@PERIODS
def test_timm_called_with_the_training_step(period: int) -> None:
    """Called at every so many steps with the number of the step, timm counts updates.

    So the schedule's `s` is `t - u - 1`.
    """
    after = 300
    peer = timm(0.9999, update_after_step=after, use_warmup=True)
    warmup = decays.warmup(0.9999)

    def shifted(s: int, t: int, n: int) -> float:
        return warmup(t - after - 1, t, n) if t > after + 1 else 0.0

    average = Average(decay=shifted, period=period, start=period - 1)
    assert weights_of(average) == {
        update: 1 - peer.get_decay(update) for update in updates_due(average)
    }


def timm(decay: float, **settings: Any) -> Any:
    torch = pytest.importorskip("torch")
    return peers.timm_ema()(torch.nn.Linear(1, 1), decay, **settings)


@PERIODS
@AFTER
def test_diffusers(period: int, after: int) -> None:
    peer = diffusers(decay=0.99, update_after_step=after)
    schedule = decays.after(after * period, decays.ratio(0.99))
    same(Average(decay=schedule, period=period), peer.get_decay)


@PERIODS
@AFTER
@pytest.mark.parametrize("settings", WARMUPS)
def test_diffusers_with_warmup(period: int, after: int, settings: dict[str, float]) -> None:
    peer = diffusers(
        decay=settings["decay"],
        min_decay=settings.get("minimum", 0.0),
        update_after_step=after,
        use_ema_warmup=True,
        inv_gamma=settings.get("gamma", 1.0),
        power=settings.get("power", 2 / 3),
    )
    schedule = decays.after(after * period, decays.warmup(**settings))
    same(Average(decay=schedule, period=period), peer.get_decay)


def test_diffusers_counts_its_calls() -> None:
    """The step that its `get_decay` is asked with in `step()`: the number of the call, from 1."""
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.ones(1))
    peer = peers.diffusers_ema()([parameter], decay=0.99)
    average = Average(decay=decays.ratio(0.99))
    for update in range(1, 20):
        peer.step([parameter])
        weight = average.weight(update - 1, update, 1)
        assert 1 - peer.cur_decay_value == (weight if isinstance(weight, float) else 1.0)


def diffusers(**settings: Any) -> Any:
    torch = pytest.importorskip("torch")
    return peers.diffusers_ema()([torch.nn.Parameter(torch.ones(1))], **settings)


@pytest.fixture
def doubles() -> Iterator[None]:
    """torch computes in float64 what it makes of integers: ema_pytorch's decay."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def recorded(peer: Any) -> list[float]:
    """The decays with which ema_pytorch's `update` averages; 0 where it copies."""
    found: list[float] = []
    peer.update_moving_average = lambda *args: found.append(peer.get_current_decay())
    peer.copy_params_from_model_to_ema = lambda: found.append(0.0)
    for _ in range(UPDATES):
        peer.update()
    return found


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("after", [0, 1, 100, 1003])
@pytest.mark.parametrize("settings", WARMUPS)
def test_ema_pytorch(after: int, settings: dict[str, float]) -> None:
    average = Average(decay=decays.after(after, decays.warmup(**settings)))
    np.testing.assert_allclose(
        list(weights_of(average).values()),
        1 - np.array(recorded(ema_pytorch(1, after, settings))),
        rtol=1e-15,
    )


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("period", [7, 100])
@pytest.mark.parametrize("after", [0, 1, 100, 1003])
def test_ema_pytorch_every_so_many_updates(period: int, after: int) -> None:
    """ema_pytorch counts updates where `s` counts snapshots: the schedule gets `t - u - 1`."""
    warmup = decays.warmup(0.9999)

    def shifted(s: int, t: int, n: int) -> float:
        return warmup(t - after - 1, t, n) if t > after + 1 else 0.0

    average = Average(decay=shifted, period=period)
    found = recorded(ema_pytorch(period, after, {"decay": 0.9999}))
    ours = list(weights_of(average).values())
    np.testing.assert_allclose(ours, 1 - np.array(found), rtol=1e-15)
    if after == 0:
        # From the first snapshot on, that is a gamma so many times smaller.
        scaled = Average(decay=decays.warmup(0.9999, gamma=1 / period), period=period)
        np.testing.assert_allclose(list(weights_of(scaled).values()), ours, rtol=1e-14)


def ema_pytorch(period: int, after: int, settings: dict[str, float]) -> Any:
    torch = pytest.importorskip("torch")
    return peers.ema_pytorch().EMA(
        torch.nn.Linear(1, 1),
        beta=settings["decay"],
        update_after_step=after,
        update_every=period,
        inv_gamma=settings.get("gamma", 1.0),
        power=settings.get("power", 2 / 3),
        min_value=settings.get("minimum", 0.0),
    )


@pytest.mark.parametrize("width", [{"sigma_rel": 0.05}, {"sigma_rel": 0.25}, {"gamma": 16.97}])
def test_ema_pytorch_karras(width: dict[str, float]) -> None:
    """`KarrasEMA` counts its first update as step 2: our update t is its t - 1."""
    torch = pytest.importorskip("torch")
    peer = peers.ema_pytorch().KarrasEMA(torch.nn.Linear(1, 1), update_every=1, **width)
    schedule = decays.power(**width)
    assert schedule.gamma == pytest.approx(peer.gamma, rel=1e-12)
    weights = weights_of(Average(decay=schedule))
    theirs = []
    for _ in range(1, UPDATES):
        peer.step += 1
        theirs.append(1 - peer.beta)
    np.testing.assert_allclose([weights[t] for t in range(2, UPDATES + 1)], theirs, rtol=1e-11)


@PERIODS
@pytest.mark.parametrize("dynamic", [True, False])
def test_torch_ema(period: int, dynamic: bool) -> None:
    """It begins with the parameters' values, and averages with a decay from the first update."""
    torch = pytest.importorskip("torch")
    value = torch.ones(1, dtype=torch.float64)
    peer = peers.torch_ema()([value], decay=0.99, use_num_updates=dynamic)
    schedule = decays.ratio(0.99) if dynamic else 0.99
    average = Average(decay=schedule, period=period, initial=True)
    expected = {}
    for update in updates_due(average):
        peer.shadow_params[0].zero_()  # so that the average of 0 and 1 is the weight
        peer.update([value])
        expected[update] = peer.shadow_params[0].item()
    assert weights_of(average) == expected


@PERIODS
def test_tensorflow_addons_moving_average(period: int) -> None:
    """`MovingAverage(dynamic_decay=True)`: the average begins as the variables.

    It counts the optimizer's iterations, 0 at the first, where our `s` is 1: the values at
    construction count.
    """
    ratio = decays.ratio(0.99)
    average = Average(decay=lambda s, t, n: ratio(s - 1, t, n), period=period, initial=True)
    same(average, lambda call: tfa_decay(call - 1, 0.99, start_step=0))


@pytest.mark.parametrize("start_step", [1, 100])
def test_tensorflow_addons_start_step(start_step: int) -> None:
    """The same from `start_step` on: s is 0 at the first average of two."""
    ratio = decays.ratio(0.99)

    def shifted(s: int, t: int, n: int) -> float:
        return ratio(t - start_step - 1, t, n) if t > start_step else 0.0

    average = Average(decay=shifted, initial=True)
    same(average, lambda call: tfa_decay(call - 1, 0.99, start_step))
    # Which is `after`, but for the snapshot that `after` copies as the first of its average.
    ours = weights_of(Average(decay=decays.after(start_step, ratio), initial=True))
    theirs = weights_of(average)
    assert {t for t in ours if ours[t] != theirs[t]} == {start_step + 1}


def tfa_decay(iterations: int, average_decay: float, start_step: int) -> float:
    if iterations < start_step:
        return 0.0
    counted = iterations - start_step
    return min(average_decay, (1.0 + counted) / (10.0 + counted))


@PERIODS
@pytest.mark.parametrize(("decay", "tau"), [(0.9999, 2000), (0.99, 7.5)])
def test_ultralytics(period: int, decay: float, tau: float) -> None:
    """`ModelEMA` begins as a copy of the model, and counts its update before it asks the decay."""
    average = Average(decay=decays.ramp(decay, tau), period=period, initial=True)
    same(average, lambda updates: decay * (1 - math.exp(-updates / tau)))


@PERIODS
@pytest.mark.parametrize("half_life", [1, 10, 1000])
def test_composer(period: int, half_life: int) -> None:
    """`EMA(half_life, update_interval)`, both in batches, has one smoothing for all updates."""
    average = Average(decay=decays.half_life(half_life), period=period, start=period - 1)
    smoothing = 2 ** (-(period / half_life))
    same(average, lambda call: smoothing if call > 1 else 0.0)


@PERIODS
def test_torchtitan(period: int) -> None:
    """Its half-life is a share of the updates so far; it counts those, the first two as 1."""
    share = 0.05
    average = Average(
        decay=lambda s, t, n: 2.0 ** (-1.0 / (share * max(s - 1, 1))), period=period, initial=True
    )
    same(average, lambda call: 2.0 ** (-1.0 / (share * max(call - 1, 1))))
    # From some way on, that is nearly a power.
    power = decays.power(gamma=math.log(2) / share - 1)
    weights = weights_of(average)
    update = max(weights)
    assert 1 - power(len(weights), update, period) == pytest.approx(weights[update], rel=0.15)
