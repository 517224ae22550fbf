"""The private averages, the state file and the iteration over data, without any Keras."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swa_fast._callback import state as s
from swa_fast._callback.averages import Averages
from swa_fast._callback.data import input_batches

NAMES_AND_TYPES = (lambda: ["kernel", "bias"], lambda: ["float32", "float64"])


def _snapshots(count: int) -> list[list[np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(0)
    return [[rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=5)] for _ in range(count)]


def test_mean_in_the_weights_own_width() -> None:
    averages, snapshots = Averages(), _snapshots(4)
    for snapshot in snapshots:
        averages.take(snapshot, *NAMES_AND_TYPES)
    got = averages.copies()
    assert [array.dtype for array in got] == [np.float32, np.float64]
    for index, tolerance in ((0, 3e-7), (1, 1e-15)):
        exact = np.mean([snap[index].astype(np.float64) for snap in snapshots], 0)
        np.testing.assert_allclose(got[index], exact, rtol=tolerance, atol=tolerance)


def test_exponential_average() -> None:
    averages, snapshots = Averages(decay=0.75), _snapshots(3)
    for snapshot in snapshots:
        averages.take(snapshot, *NAMES_AND_TYPES)
    expected = 0.75 * (0.75 * snapshots[0][1] + 0.25 * snapshots[1][1]) + 0.25 * snapshots[2][1]
    np.testing.assert_allclose(averages.copies()[1], expected, rtol=1e-14)
    assert averages.count == 3


def test_changed_weights_are_refused_and_nothing_is_written() -> None:
    averages, (first, second) = Averages(), _snapshots(2)
    averages.take(first, *NAMES_AND_TYPES)
    before = averages.copies()
    wrong = [second[0], np.zeros(6)]
    with pytest.raises(ValueError, match=r"'bias' had shape \(5,\) .* has \(6,\) now"):
        averages.take(wrong, *NAMES_AND_TYPES)
    with pytest.raises(ValueError, match=r"had 2 floating-point weights .* has 1 now"):
        averages.take(second[:1], *NAMES_AND_TYPES)
    assert averages.count == 1
    for left, right in zip(before, averages.copies(), strict=True):
        assert left.tobytes() == right.tobytes()


def test_a_state_of_other_weights_is_called_so_until_it_fits() -> None:
    labels = ["kernel", "bias"]
    averages = Averages()
    averages.restore([np.zeros((2, 3)), np.zeros(3)], count=4)
    rule = "the state must be of a model with the same weights. Received: a state "
    shape = "whose average 1 has shape (3,), and a model whose weight 1, 'bias', has shape (4,)"
    number = "that has averages of 2 floating-point weights, and a model that has 1"
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{re.escape(rule + shape)}$"):
            averages.check([(2, 3), (4,)], lambda: labels)
        with pytest.raises(ValueError, match=f"^{re.escape(rule + number)}$"):
            averages.check([(2, 3)], lambda: labels)
    averages.check([(2, 3), (3,)], lambda: labels)
    with pytest.raises(ValueError, match=r"during fit: 'kernel' had shape \(2, 3\) .*\(6,\)"):
        averages.check([(6,), (3,)], lambda: labels)


def test_copies_are_copies() -> None:
    averages = Averages()
    values = _snapshots(1)[0]
    averages.take(values, *NAMES_AND_TYPES)
    kept = values[0].copy()
    values[0].fill(9)
    averages.copies()[0].fill(8)
    np.testing.assert_array_equal(averages.copies()[0], kept)
    source = [array.copy() for array in averages.copies()]
    averages.restore(source, 4)
    source[0].fill(7)
    np.testing.assert_array_equal(averages.copies()[0], kept)


def _state(count: int = 2, epochs: int = 5) -> s.State:
    return s.State(
        averages=_snapshots(1)[0],
        count=count,
        epochs=epochs,
        steps=30,
        start_step=None,
        rates=[0.1, 0.01, None],
    )


def test_state_file_round_trip(tmp_path: Path) -> None:
    state, path = _state(), tmp_path / "new folder" / "state"
    s.save(path, state)
    loaded = s.load(path)
    for left, right in zip(state["averages"], loaded["averages"], strict=True):
        assert left.tobytes() == right.tobytes()
        assert left.dtype == right.dtype
    assert {k: v for k, v in state.items() if k != "averages"} == {
        k: v for k, v in loaded.items() if k != "averages"
    }
    assert [file.name for file in path.parent.iterdir()] == ["state"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    s.save(path, _state())
    before = path.read_bytes()
    broken = _state()
    broken["rates"] = [object()]  # type: ignore[list-item]
    with pytest.raises(TypeError):
        s.save(path, broken)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]


def test_backups_keep_the_last_two(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    assert s.backups(path) == []
    for epochs in (1, 2, 3):
        s.save_backup(path, _state(epochs=epochs))
    assert [state["epochs"] for state in s.backups(path)] == [3, 2]
    s.delete_backups(path)
    assert list(tmp_path.iterdir()) == []


def test_array_batches() -> None:
    x = np.arange(10).reshape(5, 2)
    batches = [batch.tolist() for batch in input_batches((x, None), batch_size=2)]
    assert batches == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9]]]
    named = list(input_batches({"a": x, "b": x * 2}, batch_size=4, steps=1))
    assert len(named) == 1
    assert named[0]["b"].tolist() == (x[:4] * 2).tolist()
    several = list(input_batches([x, x], batch_size=5))
    assert len(several) == 1
    assert isinstance(several[0], list)


def test_batches_of_iterables() -> None:
    assert list(input_batches(iter([(1, "y"), (2, "y")]))) == [1, 2]
    assert list(input_batches(itertools.count(3), steps=2)) == [3, 4]
