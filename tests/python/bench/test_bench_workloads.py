"""Parameter lists, their memory, and whether it is there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import budgets
from bench_tools import TINY
from swa_fast.bench import UserError, workloads


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
    assert len(workload.shapes) == tensors == len(workload.sizes)
    assert workload.elements == elements == sum(workload.sizes)
    assert budgets.many_small(workload) is many_small
    assert workload.source


def test_the_default_set_is_without_the_largest() -> None:
    assert "llama_1b" not in workloads.DEFAULT_MODELS
    assert {*workloads.DEFAULT_MODELS, "llama_1b"} == set(workloads.load())


def test_arena_gives_every_tensor_its_shape_and_a_cache_line(made: workloads.Arena) -> None:
    for tensors in (made.averages, made.values):
        assert [tensor.shape for tensor in tensors] == list(TINY.shapes)
        assert all(tensor.ctypes.data % 64 == 0 for tensor in tensors if tensor.size)
        assert all(tensor.flags.c_contiguous and tensor.flags.writeable for tensor in tensors)


def test_arena_keeps_tensors_apart_and_the_two_streams_half_a_page(made: workloads.Arena) -> None:
    for one, other in itertools.combinations(made.averages + made.values, 2):
        assert not np.shares_memory(one, other)
    shift = made.values_all.ctypes.data - made.averages_all.ctypes.data
    assert shift % 4096 == 2048


def test_arenas_buffers_hold_the_lists(made: workloads.Arena) -> None:
    assert made.averages_all.size == made.values_all.size >= TINY.elements
    for buffer, tensors in ((made.averages_all, made.averages), (made.values_all, made.values)):
        assert all(np.shares_memory(buffer, tensor) for tensor in tensors if tensor.size)
        assert buffer.ctypes.data == tensors[0].ctypes.data


def test_fill_random_fills_everything_with_finite_numbers() -> None:
    buffer = np.full(2_500_000, np.nan, np.float32)
    workloads.fill_random(buffer, np.random.default_rng(0))
    assert np.isfinite(buffer).all()
    # A kernel that reads a power of two too far must meet another number.
    for stride in (1, 16, 1024, 2**16, 2**20):
        assert np.mean(buffer[stride:] == buffer[:-stride]) < 0.01


def test_memory_counts_lists_and_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2 = workloads.load()["gpt2"]
    one_list = 4 * gpt2.elements

    def fits(available: float, *peers: str) -> bool:
        monkeypatch.setattr(workloads, "available_bytes", lambda: int(available))
        try:
            workloads.require_memory(gpt2, peers)
        except UserError:
            return False
        return True

    alone = 10**9 + 3 * one_list + 3 * 4 * max(gpt2.sizes)
    for peers in ((), ("numpy",), ("numpy", "torch")):
        assert fits(alone, *peers)
        assert not fits(alone - 1, *peers)
    with_tensorflow = alone + 2 * one_list
    assert fits(with_tensorflow, "tensorflow", "torch")
    assert not fits(with_tensorflow - 1, "tensorflow", "torch")
    assert with_tensorflow < 8e9


def test_memory_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "available_bytes", lambda: 10 * 10**9)
    llama = workloads.load()["llama_1b"]
    with pytest.raises(UserError, match=r"llama_1b needs about \d+\.\d GB.*10\.0 GB") as caught:
        workloads.require_memory(llama, ("numpy", "tensorflow"))
    assert "--peers" in str(caught.value)
    with pytest.raises(UserError) as caught:
        workloads.require_memory(llama, ("numpy",))
    assert "--peers" not in str(caught.value)
    workloads.require_memory(TINY, ("numpy", "torch", "tensorflow"))


def test_memory_does_not_refuse_what_it_cannot_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "available_bytes", lambda: None)
    workloads.require_memory(workloads.load()["llama_1b"], ())


def test_available_memory_is_a_sane_number() -> None:
    available = workloads.available_bytes()
    assert available is None or 10**7 < available < 10**15
