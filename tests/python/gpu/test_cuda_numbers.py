"""The functional calls on CUDA tensors: the CPU's bits, whatever the types, sizes and starts.

Run with `pytest -m gpu` where there is a GPU. `SWA_FAST_TEST_DEVICE=cpu` runs these tests on
tensors on the CPU instead, to see that the tests themselves work.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

import swa_fast

torch: Any = pytest.importorskip("torch")
from cuda_tools import DTYPES, SIZES, assert_same_bits, random_tensors  # noqa: E402

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("value_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("average_dtype", DTYPES, ids=str)
def test_every_pair_of_types_has_the_bits_of_the_cpu(
    device: str, average_dtype: Any, value_dtype: Any
) -> None:
    averages = random_tensors(SIZES, average_dtype, 1)
    values = random_tensors(SIZES, value_dtype, 2)
    calls: list[Callable[[list[Any], list[Any]], None]] = [
        *(lambda a, v, n=n: swa_fast.running_mean_(a, v, n) for n in (0, 1, 2, 998)),
        *(lambda a, v, w=w: swa_fast.lerp_(a, v, w) for w in (0.0, 1e-3, 0.5, 1.0)),
        swa_fast.copy_,
    ]
    for call in calls:
        here = [a.clone() for a in averages]
        there = [a.to(device) for a in averages]
        call(here, values)
        call(there, [v.to(device) for v in values])
        assert_same_bits(there, here)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8, torch.int64, torch.complex64], ids=str)
def test_swap_and_copy_move_bits(device: str, dtype: Any) -> None:
    a = [torch.arange(n, device=device).to(dtype) for n in SIZES]
    b = [torch.arange(n, device=device).flip(0).to(dtype) for n in SIZES]
    a_before, b_before = [x.clone() for x in a], [x.clone() for x in b]
    swa_fast.swap_(a, b)
    assert all(torch.equal(x, y) for x, y in zip(a, b_before, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(b, a_before, strict=True))
    swa_fast.copy_(a, b)
    assert all(torch.equal(x, y) for x, y in zip(a, a_before, strict=True))


def test_starts_of_every_alignment(device: str) -> None:
    size = 5001
    for a_start, v_start in itertools.product(range(5), range(9)):
        a_all = torch.randn(size + 16)
        v_all = torch.randn(size + 16).to(torch.bfloat16)
        a_there, v_there = a_all.to(device), v_all.to(device)
        swa_fast.running_mean_(
            [a_all[a_start : a_start + size]], [v_all[v_start : v_start + size]], 2
        )
        swa_fast.running_mean_(
            [a_there[a_start : a_start + size]], [v_there[v_start : v_start + size]], 2
        )
        # The whole buffers: nothing beside the tensors was written.
        assert_same_bits([a_there, v_there], [a_all, v_all])


def test_channels_last_parameters_and_scalars(device: str) -> None:
    def make() -> tuple[list[Any], list[Any]]:
        generator = torch.Generator().manual_seed(3)
        values = [
            torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
            torch.nn.Parameter(torch.randn(7, generator=generator)),
            torch.randn((), generator=generator),
        ]
        return [torch.ones_like(v) for v in values], values

    averages, values = make()
    swa_fast.running_mean_(averages, values, 2)
    there, _ = ([x.detach().to(device) for x in xs] for xs in make())
    version = there[0]._version
    swa_fast.running_mean_(there, [v.detach().to(device).requires_grad_() for v in values], 2)
    assert there[0]._version > version
    assert_same_bits(there, averages)


def test_many_pairs(device: str) -> None:
    for count in (1, 167, 168, 1361, 1362, 5000):
        averages = [torch.full((1 + i % 50,), 1.0, device=device) for i in range(count)]
        values = [torch.full((1 + i % 50,), 4.0, device=device) for i in range(count)]
        swa_fast.running_mean_(averages, values, 2)
        assert torch.equal(torch.cat(averages), torch.full_like(torch.cat(averages), 2.0))


def test_half_precision_averages_against_float64(device: str) -> None:
    values = [torch.randn(1000, dtype=torch.float64) for _ in range(20)]
    average = torch.zeros(1000, device=device)
    for count, value in enumerate(values):
        swa_fast.running_mean_([average], [value.to(device, torch.bfloat16)], count)
    exact = torch.stack([v.to(torch.bfloat16).double() for v in values]).mean(0)
    error = (average.cpu().double() - exact).norm() / exact.norm()
    assert error < 1e-6


def test_copies_go_along(device: str) -> None:
    averages, values = (random_tensors(SIZES, torch.float32, seed) for seed in (1, 2))
    counters = [torch.arange(5), torch.zeros(3, dtype=torch.bool)]
    a, v = ([t.clone().to(device) for t in tensors] for tensors in (averages, values))
    targets = [torch.zeros_like(t, device=device) for t in counters]
    swa_fast.running_mean_(averages, values, 3)
    swa_fast.running_mean_(a, v, 3, copies=(targets, [t.to(device) for t in counters]))
    assert_same_bits([*a, *targets], [*averages, *counters])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weighted_sums_have_the_bits_of_the_cpu(device: str, dtype: Any) -> None:
    sources = [random_tensors(SIZES, other, seed) for seed, other in enumerate([*DTYPES, dtype])]
    weights = [0.25, -1.5, 1e-3, 0.1, 1.0]
    outputs = random_tensors(SIZES, dtype, 9)
    there = [x.to(device) for x in outputs]
    swa_fast.combine_(outputs, sources, weights)
    swa_fast.combine_(there, [[x.to(device) for x in one] for one in sources], weights)
    assert_same_bits(there, outputs)


def test_several_averages_at_once_have_the_bits_of_the_cpu(device: str) -> None:
    values = [random_tensors(SIZES, torch.bfloat16, seed) for seed in (1, 2, 3)]
    here = [random_tensors(SIZES, torch.float32, seed) for seed in (4, 5, 6)]
    there = [[a.to(device) for a in one] for one in here]
    copies = [[v.to(device) for v in one] for one in values]
    lists: Any = [
        (f"averages{k}", "average", k, -1, a, None, None, None) for k, a in enumerate(there)
    ]
    prepared = swa_fast._core.Prepared(copies[0], lists)
    for count, (value, copy) in enumerate(zip(values, copies, strict=True)):
        decayed = [None, 0.125, 0.5][count]
        assert prepared.run([count, 0.5, decayed], copy)  # values that have moved
        swa_fast.running_mean_(here[0], value, count)
        swa_fast.lerp_(here[1], value, 0.5)
        if decayed is not None:
            swa_fast.lerp_(here[2], value, decayed)
    for got, expected in zip(there, here, strict=True):
        assert_same_bits(got, expected)
