"""Parameter lists, their memory, and whether it is there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench_tools import TINY
from swa_fast._bench import (
    arena,
    memory,
    workloads,
)
from swa_fast._bench.errors import UserError


@pytest.mark.parametrize(
    ("name", "tensors", "elements", "many_small"),
    [
        ("mobilenet_v3_large", 174, 5_483_032, True),
        ("efficientnet_b0", 213, 5_288_548, True),
        ("resnet50", 214, 25_583_592, False),
        ("bert_base", 199, 109_482_240, False),
        ("gpt2", 148, 124_439_808, False),
        ("llama_1b", 146, 1_235_814_400, False),
    ],
)
def test_workload_has_the_size_of_the_real_model(
    name: str, tensors: int, elements: int, many_small: bool
) -> None:
    workload = workloads.load()[name]
    assert workload.tensors == tensors == len(workload.sizes)
    assert workload.elements == elements == sum(workload.sizes)
    assert workload.nbytes == 4 * elements
    assert workload.many_small is many_small
    assert workload.source


def test_select_keeps_the_order_and_drops_repeats() -> None:
    names = [workload.name for workload in workloads.select(["gpt2", "resnet50", "gpt2"])]
    assert names == ["gpt2", "resnet50"]


def test_select_without_names_is_the_default_without_the_largest() -> None:
    names = tuple(workload.name for workload in workloads.select([]))
    assert names == workloads.DEFAULT_MODELS
    assert "llama_1b" not in names


def test_select_names_the_unknown_model_and_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"resnet50.*Received: 'resnet5000'"):
        workloads.select(["resnet5000"])


def test_arena_gives_every_tensor_its_shape_and_a_cache_line(made: arena.Arena) -> None:
    for tensors in (made.averages, made.values):
        assert [tensor.shape for tensor in tensors] == list(TINY.shapes)
        assert all(tensor.ctypes.data % 64 == 0 for tensor in tensors if tensor.size)
        assert all(tensor.flags.c_contiguous and tensor.flags.writeable for tensor in tensors)


def test_arena_keeps_tensors_apart_and_the_two_streams_half_a_page(
    made: arena.Arena,
) -> None:
    for one, other in itertools.combinations(made.averages + made.values, 2):
        assert not np.shares_memory(one, other)
    shift = made.values_all.ctypes.data - made.averages_all.ctypes.data
    assert shift % 4096 == 2048


def test_flat_buffer_has_the_same_number_of_elements_in_the_same_memory(
    made: arena.Arena,
) -> None:
    assert made.averages_flat.size == made.values_flat.size == TINY.elements
    assert np.shares_memory(made.averages_flat, made.averages[0])
    assert made.averages_flat.ctypes.data == made.averages_all.ctypes.data


def test_fill_random_fills_everything_with_finite_numbers() -> None:
    buffer = np.full(2_500_000, np.nan, np.float32)
    arena.fill_random(buffer, np.random.default_rng(0))
    assert np.isfinite(buffer).all()
    # A kernel that reads a power of two too far must meet another number.
    for stride in (1, 16, 1024, 2**16, 2**20):
        assert np.mean(buffer[stride:] == buffer[:-stride]) < 0.01


def test_memory_estimate_counts_lists_and_frameworks() -> None:
    workload = workloads.load()["gpt2"]
    alone = memory.needed_bytes(workload, ())
    assert alone > 3 * workload.nbytes
    assert memory.needed_bytes(workload, ("numpy",)) == alone
    with_torch = memory.needed_bytes(workload, ("numpy", "torch"))
    assert with_torch == alone + workload.nbytes
    with_tensorflow = memory.needed_bytes(workload, ("tensorflow",))
    assert with_torch < with_tensorflow < 8e9
    assert memory.needed_bytes(workload, ("torch", "tensorflow")) == with_tensorflow


def test_memory_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * 10**9)
    llama = workloads.load()["llama_1b"]
    with pytest.raises(UserError, match=r"llama_1b needs about \d+\.\d GB.*10\.0 GB") as caught:
        memory.require(llama, ("numpy", "tensorflow"))
    assert "--peers" in str(caught.value)
    with pytest.raises(UserError) as caught:
        memory.require(llama, ("numpy",))
    assert "--peers" not in str(caught.value)
    memory.require(TINY, ("numpy", "torch", "tensorflow"))


def test_memory_does_not_refuse_what_it_cannot_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    memory.require(workloads.load()["llama_1b"], ())


def test_available_memory_is_a_sane_number() -> None:
    available = memory.available_bytes()
    assert available is None or 10**7 < available < 10**15
