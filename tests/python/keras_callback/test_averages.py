"""The private averages, the state file and the iteration over data, without any Keras."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swa_fast import Average, decays
from swa_fast._keras import state as s
from swa_fast._keras.averages import HeldAverages
from swa_fast._keras.data import input_batches


def _labels() -> list[str]:
    return ["kernel", "bias"]


def _held(decay: float | None = None) -> HeldAverages:
    return HeldAverages({"average": Average(decay)})


def _snapshots(count: int) -> list[list[np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(0)
    return [[rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=5)] for _ in range(count)]


def test_mean_in_the_weights_own_width() -> None:
    averages, snapshots = _held(), _snapshots(4)
    for snapshot in snapshots:
        averages.take(snapshot, _labels)
    got = averages.copies("average")
    assert [array.dtype for array in got] == [np.float32, np.float64]
    for index, tolerance in ((0, 3e-7), (1, 1e-15)):
        exact = np.mean([snap[index].astype(np.float64) for snap in snapshots], 0)
        np.testing.assert_allclose(got[index], exact, rtol=tolerance, atol=tolerance)


def test_exponential_average() -> None:
    averages, snapshots = _held(decay=0.75), _snapshots(3)
    for snapshot in snapshots:
        averages.take(snapshot, _labels)
    expected = 0.75 * (0.75 * snapshots[0][1] + 0.25 * snapshots[1][1]) + 0.25 * snapshots[2][1]
    np.testing.assert_allclose(averages.copies("average")[1], expected, rtol=1e-14)
    assert averages.counts["average"] == 3


def test_changed_weights_are_refused_and_nothing_is_written() -> None:
    averages, (first, second) = _held(), _snapshots(2)
    averages.take(first, _labels)
    before = averages.copies("average")
    wrong = [second[0], np.zeros(6)]
    with pytest.raises(ValueError, match=r"'bias' had shape \(5,\) .* has \(6,\) now"):
        averages.take(wrong, _labels)
    with pytest.raises(ValueError, match=r"had 2 floating-point weights .* has 1 now"):
        averages.take(second[:1], _labels)
    assert averages.counts["average"] == 1
    for left, right in zip(before, averages.copies("average"), strict=True):
        assert left.tobytes() == right.tobytes()


def test_a_state_of_other_weights_is_called_so_until_it_fits() -> None:
    averages = _held()
    averages.restore({"average": [np.zeros((2, 3)), np.zeros(3)]}, {"average": 4}, 4)
    rule = "the state must be of a model with the same weights. Received: a state "
    shape = "whose average 1 has shape (3,), and a model whose weight 1, 'bias', has shape (4,)"
    number = "that has averages of 2 floating-point weights, and a model that has 1"
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{re.escape(rule + shape)}$"):
            averages.check([(2, 3), (4,)], _labels)
        with pytest.raises(ValueError, match=f"^{re.escape(rule + number)}$"):
            averages.check([(2, 3)], _labels)
    averages.check([(2, 3), (3,)], _labels)
    with pytest.raises(ValueError, match=r"during fit: 'kernel' had shape \(2, 3\) .*\(6,\)"):
        averages.check([(6,), (3,)], _labels)


def test_copies_are_copies() -> None:
    averages = _held()
    values = _snapshots(1)[0]
    averages.take(values, _labels)
    kept = values[0].copy()
    values[0].fill(9)
    averages.copies("average")[0].fill(8)
    np.testing.assert_array_equal(averages.copies("average")[0], kept)
    source = [array.copy() for array in averages.copies("average")]
    averages.restore({"average": source}, {"average": 4}, 4)
    source[0].fill(7)
    np.testing.assert_array_equal(averages.copies("average")[0], kept)


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


class _Table:
    """What pandas's DataFrame is to us: no array, iterates over its columns' names."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)
        self.shape = self._values.shape

    def to_numpy(self) -> Any:
        return self._values

    def __iter__(self) -> Any:
        return iter(["first", "second"])


def test_tables_are_arrays() -> None:
    x = np.arange(10.0).reshape(5, 2)
    table = _Table(x)
    for data in (table, (table, _Table(x[:, 0]))):
        got = list(input_batches(data, batch_size=3))
        assert [batch.tolist() for batch in got] == [x[:3].tolist(), x[3:].tolist()]
    named = list(input_batches({"a": table, "b": _Table(x[:, 0])}, batch_size=5))
    assert named[0]["b"].tolist() == x[:, 0].tolist()
    streamed = list(input_batches(iter([(table, 1), (table, 2)])))
    assert [batch.tolist() for batch in streamed] == [x.tolist(), x.tolist()]
    with pytest.raises(TypeError, match="data must hold numbers"):
        input_batches(_Table(np.array([[1, "one"]], dtype=object)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_held_averages_go_on_from_their_copies(dtype: str) -> None:
    """In the middle of everything: a schedule, another start, an average without a snapshot."""
    described = {
        "slow": Average(decays.ratio(0.9), dtype=dtype),
        "late": Average(start=4, period=2),
        "never": Average(start=99),
    }
    snapshots = _snapshots(9)
    whole, first = HeldAverages(described), HeldAverages(described)
    for index, snapshot in enumerate(snapshots):
        for held in (whole, first) if index < 6 else (whole,):
            held.take(snapshot, _labels) if held.due() else held.pass_by()
    second = HeldAverages(described)
    second.restore({name: first.copies(name) for name in described}, first.counts, first.step)
    assert second.counts == {"slow": 6, "late": 1, "never": 0}
    for snapshot in snapshots[6:]:
        second.take(snapshot, _labels)
    assert second.counts == whole.counts
    assert second.step == whole.step == 9
    for name in ("slow", "late"):
        for left, right in zip(second.copies(name), whole.copies(name), strict=True):
            assert left.tobytes() == right.tobytes()
    assert second.copies("never") == []


def test_snapshots_that_are_not_finite_are_left_out() -> None:
    held = HeldAverages({"all": Average(), "half": Average(period=2)}, skips=True)
    good, bad = _snapshots(1)[0], [np.full((3, 2), np.inf, np.float32), np.zeros(5)]
    assert held.take(good, _labels)
    assert not held.take(bad, _labels)
    assert not held.take(bad, _labels)
    assert held.counts == {"all": 1, "half": 1}
    assert held.skipped == {"all": 2, "half": 1}
    assert held.step == 3
    assert held.finite()
    first = HeldAverages({"all": Average()}, skips=True)
    assert not first.take(bad, _labels)
    assert first.take(good, _labels)
    assert first.counts == {"all": 1}
    plain = HeldAverages({"all": Average()})
    assert plain.take(bad, _labels)
    assert not plain.finite()


def test_the_state_file_of_several_averages(tmp_path: Path) -> None:
    described = {"a": Average(0.5), "none": Average(start=9)}
    state = s.NamedState(
        averages={"a": list(_snapshots(1)[0]), "none": []},
        counts={"a": 3, "none": 0},
        config={name: average.to_dict() for name, average in described.items()},
        steps=3,
        epochs=1,
    )
    path = tmp_path / "state.npz"
    s.save(path, state)
    loaded = s.load(path, lambda state: s.check_named(state, described))
    assert {**loaded, "averages": None} == {**state, "averages": None}
    for left, right in zip(state["averages"]["a"], loaded["averages"]["a"], strict=True):
        assert left.tobytes() == right.tobytes()
    assert loaded["averages"]["none"] == []
    with pytest.raises(ValueError, match=r"average 'a' is .*0\.25.* here\. Received: .*0\.5"):
        s.check_named(state, {**described, "a": Average(0.25)})
    with pytest.raises(ValueError, match=r"state\['averages'\] must be a dict of \['b'\]"):
        s.check_named(state, {"b": Average()})
    with pytest.raises(ValueError, match=r"is not a state that swa_fast saved"):
        s.load(path)  # as one of SWA
    with pytest.raises(ValueError, match="if and only if its count > 0"):
        s.check_named({**state, "counts": {"a": 0, "none": 0}}, described)
