"""The learning rates against real runs of keras-swa 0.1.7 and against the issue's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swa_fast._keras import rates as r

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "keras_swa_schedules.json").read_text())[
    "runs"
]


def _float32_init(run: dict[str, Any]) -> float:
    return float(np.float32(run["init_lr"]))


@pytest.mark.parametrize("run", [run for run in GOLDEN if run["lr_record"]])
def test_rates_are_those_of_keras_swa(run: dict[str, Any]) -> None:
    args, initial = run["args"], _float32_init(run)
    start = args["start_epoch"] - 1
    if args["lr_schedule"] == "constant":
        got = [r.constant(e, start, initial, args["swa_lr"]) for e in range(run["epochs"])]
    else:
        rates = r.resolve("cyclic", args["swa_lr"], args["swa_lr2"], initial)
        steps = run["steps_per_epoch"]
        got = [
            r.cyclic(epoch, batch, steps, start, args["swa_freq"], rates)
            for epoch in range(run["epochs"])
            for batch in range(steps)
        ]
    assert len(got) == len(run["lr_record"])
    np.testing.assert_array_equal(np.array(got, np.float32), np.array(run["lr_record"], np.float32))


@pytest.mark.parametrize("start", [1, 2, 5, 10, 74, 100])
def test_constant_holds_falls_and_stays(start: int) -> None:
    values = [r.constant(epoch, start, 0.5, 0.05) for epoch in range(2 * start + 3)]
    for epoch, value in enumerate(values):
        if epoch <= start / 2:
            assert value == 0.5
        elif epoch > 0.9 * start:
            assert value == 0.05
        else:
            line = 0.5 - 0.45 * (epoch - 0.5 * start) / (0.4 * start)
            assert value == pytest.approx(line, rel=1e-12)


@pytest.mark.parametrize(("steps", "period"), [(1, 2), (6, 3), (7, 2), (100, 5)])
def test_every_cycle_falls_from_upper_to_exactly_lower(steps: int, period: int) -> None:
    rates = r.Rates(1.0, 0.01, 0.3)
    cycle = [
        r.cyclic(4 + epoch, batch, steps, 4, period, rates)
        for epoch in range(period)
        for batch in range(steps)
    ]
    line = np.linspace(0.3, 0.01, steps * period + 1)[1:]
    np.testing.assert_allclose(cycle, line, rtol=1e-12)
    assert cycle[-1] == 0.01
    assert r.cyclic(4 + period, 0, steps, 4, period, rates) == cycle[0]


def test_automatic_rates() -> None:
    assert r.resolve("constant", "auto", "auto", 0.5) == (0.5, 0.05, None)
    assert r.resolve("cyclic", "auto", "auto", 0.5) == (0.5, 0.05, 0.05 + 0.45 * 0.25)
    assert r.resolve("cyclic", 0.02, None, 0.5) == (0.5, 0.02, 0.2)
    assert r.resolve("cyclic", 0.02, 0.3, 0.5) == (0.5, 0.02, 0.3)


def test_a_rate_above_the_optimizers_is_refused_but_not_its_float32_twin() -> None:
    stored = float(np.float32(0.01))
    assert stored < 0.01
    assert r.resolve("constant", 0.01, "auto", stored).lower == 0.01
    with pytest.raises(ValueError, match='"swa_lr" must be lower than rate set in optimizer'):
        r.resolve("constant", 0.0101, "auto", stored)
