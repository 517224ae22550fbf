"""What is timed computes the mean, on the same memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import swa_fast
from bench_tools import hide
from swa_fast._bench import (
    arena,
    competitors,
    workloads,
)
from swa_fast._bench.errors import UserError


@pytest.mark.parametrize("name", ["numpy", "torch", "tensorflow"])
def test_every_competitor_computes_the_mean(made: arena.Arena, name: str) -> None:
    pytest.importorskip(name)
    module = competitors.PEERS[name].module()
    assert module.prepare(swa_fast.get_num_threads())
    for entry in module.build(made) + competitors.build_fused(made):
        flat = entry.key == competitors.FLAT
        values = [as_float64(v) for v in ([made.values_flat] if flat else made.values)]
        before = [as_float64(average) for average in entry.averages]
        entry.update(9)
        for old, value, new in zip(before, values, entry.averages, strict=True):
            expected = (old * 9 + value) / 10
            np.testing.assert_allclose(as_float64(new), expected, rtol=1e-5, atol=1e-6)


def as_float64(tensor: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a copy of an array, a torch tensor or a TensorFlow variable."""
    array = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
    return np.array(array, np.float64)


@pytest.mark.parametrize("name", ["numpy", "torch", "tensorflow"])
def test_every_peer_builds_the_competitors_that_it_announces(made: arena.Arena, name: str) -> None:
    pytest.importorskip(name)
    peer = competitors.PEERS[name]
    entries = peer.module().build(made)
    assert tuple(entry.key for entry in entries) == peer.keys
    assert all(entry.label == competitors.LABELS[entry.key] for entry in entries)


def test_both_tensorflow_snapshots_are_the_mean(made: arena.Arena) -> None:
    """One after the other, in each way to run them, as they share their averages."""
    pytest.importorskip("tensorflow")
    module = competitors.averager("tensorflow")
    snapshots, averages = module.build(made)
    expected = [as_float64(array) for array in made.averages]
    assert list(snapshots) == ["eager", "tf.function", "jit_compile=True"]
    for ours, theirs in snapshots.values():
        for take in (ours, theirs, ours):
            take()
            for index, (value, average) in enumerate(zip(made.values, averages, strict=True)):
                expected[index] = (expected[index] * 9 + as_float64(value)) / 10
                np.testing.assert_allclose(
                    as_float64(average), expected[index], rtol=1e-5, atol=1e-6
                )


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("mobilenet_v3_large", [">= 8.00x", ">= 1.30x", ">= 0.95x"]),
        ("bert_base", [">= 3.00x", ">= 1.30x", ">= 0.95x"]),
    ],
)
@pytest.mark.parametrize("met", [False, True])
def test_tensorflow_budgets(model: str, targets: list[str], met: bool) -> None:
    pytest.importorskip("tensorflow")
    module = competitors.averager("tensorflow")
    ratios = {"eager": 8.0, "tf.function": 1.3, "jit_compile=True": 0.95}
    if not met:
        ratios = {mode: 0.9 for mode in ratios}
    verdicts = module.verdicts(workloads.load()[model], ratios)
    assert [verdict.target for verdict in verdicts] == targets
    assert [verdict.met for verdict in verdicts] == [met] * 3
    assert {verdict.subject for verdict in verdicts} == {model}


def test_only_frameworks_with_an_averager_have_promises() -> None:
    assert competitors.averager("numpy") is None


def test_torch_works_on_the_very_memory_of_the_arena(made: arena.Arena) -> None:
    pytest.importorskip("torch")
    for entry in competitors.PEERS["torch"].module().build(made):
        for tensor, array in zip(entry.averages, made.averages, strict=True):
            assert tensor.data_ptr() == array.ctypes.data or not array.size


def test_peers_default_to_all_and_keep_the_order_of_the_report() -> None:
    assert [peer.name for peer in competitors.select(None)] == list(competitors.PEERS)
    assert [peer.name for peer in competitors.select("numpy")] == ["numpy"]
    assert competitors.select("none") == []
    assert competitors.select("") == []


def test_peers_refuse_an_unknown_name() -> None:
    with pytest.raises(UserError, match=r"numpy, torch, tensorflow.*Received: 'nunpy'"):
        competitors.select("nunpy")


def test_peers_refuse_a_framework_that_was_asked_for_and_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(monkeypatch, "torch")
    with pytest.raises(UserError, match=r"torch, which is not installed"):
        competitors.select("torch")
    assert "torch" in [peer.name for peer in competitors.select(None)]
