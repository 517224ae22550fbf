"""The functional calls on a real GPU: streams, launches, graphs, several devices, guests."""

from __future__ import annotations

from typing import Any

import pytest

import swa_fast

torch: Any = pytest.importorskip("torch")
from cuda_tools import assert_same_bits  # noqa: E402

pytestmark = pytest.mark.gpu


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


@pytest.mark.parametrize(("pairs", "launches"), [(1, 1), (167, 1), (1361, 1), (1362, 2)])
def test_launches_of_one_call(gpu: str, pairs: int, launches: int) -> None:
    if swa_fast.build_info()["cuda"]["max_pairs_per_launch"] < 1361:
        pytest.skip("this driver takes 167 pairs per launch")
    averages = [torch.zeros(100, device=gpu) for _ in range(pairs)]
    values = [torch.ones(100, device=gpu) for _ in range(pairs)]
    swa_fast.running_mean_(averages, values, 1)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        swa_fast.running_mean_(averages, values, 1)
        torch.cuda.synchronize()
    kernels = [e for e in profile.events() if "rows_kernel" in e.name]
    others = [e.name for e in profile.events() if "Memcpy" in e.name or "Memset" in e.name]
    assert len(kernels) == launches
    assert not others


def test_three_averages_take_one_launch(gpu: str) -> None:
    values = [torch.ones(1000, device=gpu) for _ in range(50)]
    averages = [[torch.zeros(1000, device=gpu) for _ in values] for _ in range(3)]
    lists: Any = [
        (f"a{k}", "average", k, -1, one, None, None, None) for k, one in enumerate(averages)
    ]
    prepared = swa_fast._core.Prepared(values, lists)
    assert prepared.run([0.5, 0.5, 0.5], values)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        assert prepared.run([0.5, 0.25, 3], values)
        torch.cuda.synchronize()
    assert len([e for e in profile.events() if "rows_kernel" in e.name]) == 1
    assert not [e.name for e in profile.events() if "Memcpy" in e.name or "Memset" in e.name]
    assert [one[49][999].item() for one in averages] == [0.75, 0.625, 0.625]


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
