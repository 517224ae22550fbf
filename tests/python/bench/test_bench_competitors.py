"""What is timed computes the mean, on the same memory."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pytest

import swa_fast
from bench_tools import as_float64
from swa_fast.bench import competitors, run
from swa_fast.bench.competitors import Group
from swa_fast.bench.workloads import Arena, Workload

SHAPES = ((4, 3, 3, 3), (4,), (4,), (4,), (5, 4), (5,), (70_000,))


def groups_of(made: Arena, name: str) -> list[Group]:
    assert competitors.prepare(name, swa_fast.get_num_threads())
    if name == "numpy":
        return [competitors.numpy_group(made)]
    if name == "tensorflow":
        return [competitors.tensorflow_group(made)]
    return competitors.torch_groups(made)


@pytest.mark.parametrize("name", competitors.PEERS)
def test_every_competitor_computes_the_mean(made: Arena, name: str) -> None:
    pytest.importorskip(name)
    values = [as_float64(value) for value in made.values]
    for group in groups_of(made, name):
        for update in group.updates.values():
            before = [as_float64(average) for average in group.averages]
            update(9)
            for old, value, new in zip(before, values, group.averages, strict=True):
                expected = (old * 9 + value) / 10
                np.testing.assert_allclose(as_float64(new), expected, rtol=1e-5, atol=1e-6)


def test_swa_fast_is_the_first_of_each_group_and_no_other(made: Arena) -> None:
    pytest.importorskip("torch")
    for group in groups_of(made, "numpy") + groups_of(made, "torch"):
        ours = [label.startswith("swa_fast") for label in group.updates]
        assert ours == [True] + [False] * (len(ours) - 1)
    assert list(competitors.numpy_group(made, with_numpy=False).updates) == [
        "swa_fast, NumPy arrays"
    ]


def test_torch_works_on_the_very_memory_of_the_arena(made: Arena) -> None:
    pytest.importorskip("torch")
    for group in groups_of(made, "torch"):
        for tensor, array in zip(group.averages, made.averages, strict=True):
            assert tensor.data_ptr() == array.ctypes.data or not array.size


def test_tensors_on_a_gpu_get_the_arenas_numbers_and_are_waited_for(
    made: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it goes without a GPU: `.to("cuda")` makes a copy in this machine's memory."""
    torch: Any = pytest.importorskip("torch")
    waits: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda tensor, device: tensor.clone())
        groups = competitors.torch_groups(made, "cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    for group in groups:
        assert not group.prime
        for tensor, array in zip(group.averages, made.averages, strict=True):
            assert tensor.data_ptr() != array.ctypes.data
    assert run.check(made, groups, np.random.default_rng(0)) == len(run.COUNTS) + 1
    assert len(waits) == len(run.COUNTS) + 1


def test_averaged_models_update_the_memory_of_the_arena() -> None:
    pytest.importorskip("torch")
    arena = Arena(Workload("small", "made up", SHAPES)).fill(np.random.default_rng(0))
    _, modules = competitors.torch_groups(arena)
    assert len(modules.updates) == 3
    for label, update in modules.updates.items():
        before = [as_float64(array) for array in arena.averages]
        update(4)
        for old, value, new in zip(before, arena.values, arena.averages, strict=True):
            expected = old + (value - old) / 5
            np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-6, err_msg=label)


def test_the_module_has_the_tensors_in_order_and_in_submodules() -> None:
    torch: Any = pytest.importorskip("torch")
    tensors = [torch.randn(shape) for shape in SHAPES]
    module = competitors.module_of(tensors)
    listed = [parameter.data_ptr() for parameter in module.parameters()]
    assert listed == [tensor.data_ptr() for tensor in tensors]
    assert [len(list(part.parameters())) for part in module.children()] == [2, 2, 2, 1]


def test_a_group_primes_models_that_a_cache_may_hold(made: Arena) -> None:
    assert competitors.numpy_group(made).prime
    large = Workload("large", "made up", ((competitors.PRIME_BELOW,),))
    assert not competitors.numpy_group(Arena(large)).prime


def test_a_group_is_compared_with_its_first(made: Arena) -> None:
    counts: list[int] = []
    updates: dict[str, competitors.Update] = {"swa_fast": counts.append, "other": counts.append}
    found = Group(updates, made.averages, prime=False).compare(1e-9)
    assert list(found.seconds) == ["swa_fast", "other"]
    assert set(counts) == {9}


def test_quiet_stderr_silences_the_descriptor_and_gives_it_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with competitors.quiet_stderr():
        os.write(2, b"noise of a C++ library\n")
    with pytest.raises(ImportError), competitors.quiet_stderr():
        raise ImportError
    os.write(2, b"heard\n")
    print("heard too", file=sys.stderr)
    assert capfd.readouterr().err == "heard\nheard too\n"
