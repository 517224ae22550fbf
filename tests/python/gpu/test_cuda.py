"""The functional calls on CUDA tensors: the CPU's bits, streams, graphs, devices, errors.

Run with `pytest -m gpu` where there is a GPU. `SWA_FAST_TEST_DEVICE=cpu` runs those that need no
more than tensors on the CPU instead, to see that the tests themselves work.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import swa_fast

torch: Any = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SIZES = [0, 1, 3, 4, 5, 255, 1023, 1024, 1025, 4096, 4099, 70001]


@pytest.fixture
def device() -> str:
    """The device under test."""
    chosen = os.environ.get("SWA_FAST_TEST_DEVICE", "cuda")
    if chosen != "cpu":
        require_gpu()
    return chosen


@pytest.fixture
def gpu() -> str:
    """A real GPU, whatever the environment says."""
    require_gpu()
    return "cuda"


def require_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU, or this torch cannot use one")
    info = swa_fast.build_info()["cuda"]
    assert info["available"], info["reason"]


def random_tensors(sizes: list[int], dtype: Any, seed: int) -> list[Any]:
    """Ordinary numbers, and in every tensor some that rounding can trip over."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for size in sizes:
        x = torch.randn(size, generator=generator, dtype=torch.float64)
        scale = torch.randint(-30, 16, (size,), generator=generator).double()
        x = x * torch.exp2(scale)
        odd = torch.tensor([0.0, -0.0, np.inf, -np.inf, np.nan, 65504.0, 65520.0, 6e-8, 1e-300])
        where = torch.rand(size, generator=generator) < 0.1
        x[where] = odd.double()[torch.randint(0, 9, (int(where.sum()),), generator=generator)]
        tensors.append(x.to(dtype))
    return tensors


def bits(tensor: Any) -> bytes:
    """The contents, with every NaN made the same."""
    host = tensor.detach().cpu().clone()
    host[torch.isnan(host)] = torch.nan
    return bytes(host.reshape(-1).view(torch.uint8).numpy().tobytes())


def assert_same_bits(got: list[Any], expected: list[Any]) -> None:
    for i, (g, e) in enumerate(zip(got, expected, strict=True)):
        assert g.dtype == e.dtype
        assert bits(g) == bits(e), f"tensor {i} of {tuple(e.shape)} differs"


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
    for count in (1, 145, 146, 1169, 1170, 5000):
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


# From here on a real GPU is needed.


def test_work_is_queued_on_the_current_stream(gpu: str) -> None:
    size = 1 << 24
    stream = torch.cuda.Stream()
    for _ in range(10):
        average, value = torch.zeros(size, device=gpu), torch.zeros(size, device=gpu)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)  # a kernel on any other stream would overtake the fill
            value.fill_(4.0)
            swa_fast.running_mean_([average], [value], 1)
            value.fill_(-1.0)
            result = average.sum()
        stream.synchronize()
        assert result.item() == 2.0 * size


def test_no_call_waits_for_the_device(gpu: str) -> None:
    averages = [torch.zeros(1000, device=gpu) for _ in range(2000)]
    values = [torch.ones(1000, device=gpu, dtype=torch.bfloat16) for _ in range(2000)]
    other = [torch.ones(1000, device=gpu) for _ in range(2000)]
    count = torch.ones((), dtype=torch.int64, device=gpu)

    def call_everything() -> None:
        swa_fast.running_mean_(averages, values, 1)
        swa_fast.running_mean_(averages, values, count)
        swa_fast.lerp_(averages, values, 0.1)
        swa_fast.copy_(averages, values)
        swa_fast.swap_(averages, other)

    call_everything()  # loads the kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)
        call_everything()
        marker = torch.cuda.Event()
        marker.record()
        assert not marker.query()  # about a second of sleep is still ahead
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()


@pytest.mark.parametrize(("pairs", "launches"), [(1, 1), (145, 1), (1169, 1), (1170, 2)])
def test_launches_of_one_call(gpu: str, pairs: int, launches: int) -> None:
    if swa_fast.build_info()["cuda"]["max_pairs_per_launch"] < 1169:
        pytest.skip("this driver takes 145 pairs per launch")
    averages = [torch.zeros(100, device=gpu) for _ in range(pairs)]
    values = [torch.ones(100, device=gpu) for _ in range(pairs)]
    swa_fast.running_mean_(averages, values, 1)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        swa_fast.running_mean_(averages, values, 1)
        torch.cuda.synchronize()
    kernels = [e for e in profile.events() if "pairs_kernel" in e.name]
    others = [e.name for e in profile.events() if "Memcpy" in e.name or "Memset" in e.name]
    assert len(kernels) == launches
    assert not others


def test_a_graph_advances_the_average_at_each_replay(gpu: str) -> None:
    average = [torch.full((n,), torch.nan, device=gpu) for n in (1, 1000, 70001)]
    value = [torch.zeros(n, device=gpu) for n in (1, 1000, 70001)]
    count = torch.zeros((), dtype=torch.int64, device=gpu)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # warm up, as torch asks for
        swa_fast.running_mean_(average, value, count)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        swa_fast.running_mean_(average, value, count)
        count.add_(1)
    expected = [torch.full((n,), torch.nan) for n in (1, 1000, 70001)]
    for replay in range(50):
        snapshot = [torch.randn(n) for n in (1, 1000, 70001)]
        for v, s in zip(value, snapshot, strict=True):
            v.copy_(s)
        graph.replay()
        swa_fast.running_mean_(expected, snapshot, replay)
    torch.cuda.synchronize()
    assert count.item() == 50
    assert_same_bits(average, expected)


def test_a_counter_is_not_changed_and_gives_the_same_bits(gpu: str) -> None:
    for n in (0, 1, 2, 3, 6, 99_999, 2**40 + 1, 2**53 - 1):
        by_number, by_counter = torch.randn(1000, device=gpu), None
        by_counter = by_number.clone()
        value = torch.randn(1000, device=gpu)
        count = torch.tensor(n, device=gpu)
        swa_fast.running_mean_([by_number], [value], n)
        swa_fast.running_mean_([by_counter], [value], count)
        assert_same_bits([by_counter], [by_number])
        assert count.item() == n
    average = torch.zeros(5, device=gpu)
    swa_fast.running_mean_([average], [average.clone()], torch.tensor(-1, device=gpu))
    assert average.isnan().all()


def test_counters_of_the_wrong_kind_are_refused(gpu: str) -> None:
    average, value = torch.zeros(5, device=gpu), torch.ones(5, device=gpu)
    for count, words in (
        (torch.tensor(1, dtype=torch.int32, device=gpu), "count must be an int, or a CUDA tensor"),
        (torch.tensor([1], device=gpu), "count must be an int, or a CUDA tensor"),
    ):
        with pytest.raises(TypeError, match=words):
            swa_fast.running_mean_([average], [value], count)
    with pytest.raises(ValueError, match=r"averages\[0\] is on cpu, count is on cuda:0"):
        swa_fast.running_mean_([average.cpu()], [value.cpu()], torch.tensor(1, device=gpu))
    assert not average.any()
    swa_fast.running_mean_([average.cpu()], [value.cpu()], torch.tensor(1))  # the CPU's is read


def test_what_is_refused_is_not_written(gpu: str) -> None:
    good = torch.zeros(5, device=gpu), torch.ones(5, device=gpu)
    base = torch.zeros(10, device=gpu)
    for bad, error, words in (
        ((torch.zeros(5), torch.ones(5, device=gpu)), ValueError, r"is on cpu, .* is on cuda:0"),
        ((base[:4], base[2:6]), ValueError, "overlap in memory"),
        ((base[::2], torch.ones(5, device=gpu)), BufferError, "not contiguous"),
        ((torch.zeros(5, device=gpu), torch.ones(4, device=gpu)), ValueError, "shape"),
    ):
        with pytest.raises(error, match=words):
            swa_fast.running_mean_([good[0], bad[0]], [good[1], bad[1]], 1)
        assert not good[0].any()


def test_the_same_device_is_current_afterwards(gpu: str) -> None:
    before = torch.cuda.current_device()
    last = torch.cuda.device_count() - 1
    average, value = torch.zeros(5, device=f"cuda:{last}"), torch.ones(5, device=f"cuda:{last}")
    swa_fast.running_mean_([average], [value], 0)
    assert torch.cuda.current_device() == before
    assert torch.zeros(1, device="cuda").device.index == before
    assert average.sum().item() == 5


def test_lists_spanning_two_devices(gpu: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    averages = [torch.zeros(100, device=f"cuda:{i % 2}") for i in range(10)]
    values = [torch.full((100,), 4.0, device=f"cuda:{i % 2}") for i in range(10)]
    swa_fast.running_mean_(averages, values, 1)
    assert all((a == 2.0).all() for a in averages)
    with pytest.raises(ValueError, match=r"is on cuda:0, .* is on cuda:1"):
        swa_fast.running_mean_(averages[:1], values[1:2], 1)


def test_more_than_two_to_the_31_elements(gpu: str) -> None:
    if torch.cuda.mem_get_info()[0] < 16 << 30:
        pytest.skip("needs 16 GiB of free GPU memory")
    size = (1 << 31) + 4097
    average = torch.zeros(size, device=gpu, dtype=torch.bfloat16)
    value = torch.full((size,), 4.0, device=gpu, dtype=torch.bfloat16)
    swa_fast.running_mean_([average], [value], 1)
    assert average.min().item() == average.max().item() == 2.0


def test_other_frameworks_as_sources(gpu: str) -> None:
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("this JAX has no GPU")
    average = torch.zeros(1000, device=gpu)
    value = jax.numpy.arange(1000, dtype="float32")
    swa_fast.running_mean_([average], [value], 0)
    assert torch.equal(average.cpu(), torch.arange(1000.0))
    with pytest.raises(BufferError, match="read-only"):
        swa_fast.running_mean_([value], [average], 0)


def test_cupy_arrays(gpu: str) -> None:
    cupy = pytest.importorskip("cupy")
    with cupy.cuda.Stream(non_blocking=True) as stream:
        average, value = cupy.zeros(1 << 22, "float32"), cupy.full(1 << 22, 4.0, "float32")
        swa_fast.running_mean_([average], [value], 1)
        total = average.sum()
        stream.synchronize()
        assert float(total) == 2.0 * (1 << 22)
    mixed = torch.zeros(1 << 22, device=gpu)
    swa_fast.running_mean_([mixed], [value], 0)
    assert mixed.min().item() == 4.0


class Lying:
    """Says that memory of the CPU is on cuda:0."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.tensor.__dlpack__()


def test_memory_that_is_not_where_its_owner_says(gpu: str) -> None:
    average = torch.zeros(5, device=gpu)
    with pytest.raises(BufferError, match="says it is on cuda:0, and was exported on cpu"):
        swa_fast.running_mean_([average], [Lying(np.ones(5, np.float32))], 0)
    assert not average.any()


def test_a_fault_on_the_device_is_named(gpu: str) -> None:
    # A fault ends the process's use of the GPU, so it happens in a process of its own.
    code = """
import torch, swa_fast
a, b = torch.zeros(5, device="cuda"), torch.ones(5, device="cuda")
swa_fast.running_mean_([a], [b], 1)
torch.cuda._sleep(1000)
try:
    torch.zeros(4, device="cuda")[torch.tensor([10**6], device="cuda")]  # a device-side assertion
    torch.cuda.synchronize()
except Exception:
    pass
try:
    swa_fast.running_mean_([a], [b], 1)
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "failed: cudaError" in done.stdout, done.stdout + done.stderr[-2000:]


def test_a_forked_child_is_told_what_to_do(gpu: str) -> None:
    code = """
import os, torch, swa_fast
a, b = torch.zeros(5, device="cuda"), torch.ones(5, device="cuda")
swa_fast.running_mean_([a], [b], 1)
child = os.fork()
if child == 0:
    try:
        swa_fast.running_mean_([a], [b], 1)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cudaError" in done.stdout, done.stdout + done.stderr[-2000:]


def test_copies_go_along(device: str) -> None:
    averages, values = (random_tensors(SIZES, torch.float32, seed) for seed in (1, 2))
    counters = [torch.arange(5), torch.zeros(3, dtype=torch.bool)]
    a, v = ([t.clone().to(device) for t in tensors] for tensors in (averages, values))
    targets = [torch.zeros_like(t, device=device) for t in counters]
    swa_fast.running_mean_(averages, values, 3)
    swa_fast.running_mean_(a, v, 3, copies=(targets, [t.to(device) for t in counters]))
    for expected, got in zip([*averages, *counters], [*a, *targets], strict=True):
        assert expected.numpy().tobytes() == got.cpu().numpy().tobytes()
