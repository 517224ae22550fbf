"""The examples run, and compute what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from example_modules import load_example

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits() -> Any:
    """The example as a module."""
    return load_example("digits_numpy")


def test_digits_prints_a_row_per_seed(digits: Any, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = digits.main(["--seeds", "2", "--epochs", "4"])
    out = capsys.readouterr().out
    for name in ("seed 0", "seed 1", "mean", "std deviation", "standard error"):
        assert name in out
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert outcome.snapshots == 2
        for accuracy in (outcome.last, outcome.average, outcome.annealed):
            # Ten classes: guessing is right on a tenth.
            assert 0.5 < accuracy <= 1.0
            assert f"{100 * accuracy:.2f}" in out


def test_digits_average_is_the_mean_of_the_snapshots(digits: Any) -> None:
    snapshots: list[list[Any]] = []
    outcome = digits.train(
        seed=3, epochs=8, on_snapshot=lambda weights: snapshots.append([w.copy() for w in weights])
    )
    assert len(snapshots) == outcome.snapshots == 4
    for number, average in enumerate(outcome.averages):
        exact = np.mean([snapshot[number] for snapshot in snapshots], axis=0, dtype=np.float64)
        np.testing.assert_allclose(average, exact, rtol=1e-5, atol=1e-7)
    changed = [not np.array_equal(snapshots[0][0], snapshot[0]) for snapshot in snapshots[1:]]
    assert all(changed)


def test_digits_is_the_same_every_time(digits: Any) -> None:
    first, second = digits.train(seed=1, epochs=3), digits.train(seed=1, epochs=3)
    assert (first.last, first.average) == (second.last, second.average)
    for one, other in zip(first.averages, second.averages, strict=True):
        np.testing.assert_array_equal(one, other)


def test_digits_seeds_differ(digits: Any) -> None:
    first, second = digits.train(seed=1, epochs=2), digits.train(seed=2, epochs=2)
    assert not np.array_equal(first.averages[0], second.averages[0])


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--epochs", "1"], ["--seeds", "x"]])
def test_digits_refuses_bad_arguments(
    digits: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        digits.main(arguments)
    assert ended.value.code == 2
    assert "error" in capsys.readouterr().err


def test_digits_tensorflow(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorflow")
    module = load_example("digits_tensorflow")
    outcomes = module.main(["--seeds", "1", "--epochs", "6"])
    assert "mean" in capsys.readouterr().out
    assert len(outcomes) == 1
    assert 0.8 < outcomes[0].last <= 1.0
    assert 0.8 < outcomes[0].average <= 1.0
    assert outcomes[0].average != outcomes[0].last
