"""Snapshots that a real GPU leaves out by itself: the CPU's bits and counts, and no wait."""

from __future__ import annotations

from typing import Any

import pytest

from swa_fast import Average, decays

torch: Any = pytest.importorskip("torch")
from cuda_tools import assert_same_bits  # noqa: E402
from swa_fast.torch import WeightAverager  # noqa: E402
from torch_reference import make_net, perturb  # noqa: E402

pytestmark = pytest.mark.gpu

DESCRIBED = {
    "swa": Average(start=1, period=2),
    "ema": Average(decay=0.9),
    "wide": Average(dtype="float64"),
    "begun": Average(decay=0.5, initial=True),
}
BAD = {0: float("nan"), 3: float("inf"), 4: float("-inf"), 8: float("nan")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gpu_leaves_out_what_the_cpu_leaves_out(device: str, dtype: Any) -> None:
    here, there = make_net().to(dtype), make_net().to(dtype).to(device)
    ours, theirs = (
        WeightAverager(net, DESCRIBED, use_buffers=True, nonfinite="skip") for net in (here, there)
    )
    generator = torch.Generator().manual_seed(1)
    parameters = list(here.parameters())
    for update in range(10):
        perturb(here, generator)
        kept = [parameter.detach().clone() for parameter in parameters]
        if update in BAD:
            with torch.no_grad():
                parameters[update % len(parameters)].view(-1)[-1] = BAD[update]
        there.load_state_dict(here.state_dict())
        ours.update()
        theirs.update()
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)
    assert theirs.counts == ours.counts
    assert theirs.skipped == ours.skipped
    assert ours.skipped["wide"] == len(BAD)
    for name in DESCRIBED:
        assert_same_bits(theirs.averages(name), ours.averages(name))


def test_the_host_does_not_wait_until_a_count_is_read(gpu: str) -> None:
    net = make_net().to(gpu)
    averager = WeightAverager(net, decay=0.9, nonfinite="skip")
    averager.update()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(1_000_000_000)
        assert averager.update()
        assert averager.update()
        marker = torch.cuda.Event()
        marker.record()
        assert not marker.query()  # half a second of sleep is still ahead
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert averager.count == 3
    assert marker.query()


def test_snapshots_on_several_streams_are_counted(gpu: str) -> None:
    net = make_net().to(gpu)
    averager = WeightAverager(net, nonfinite="skip")
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] = float("nan")
    averager.update()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(3.0)
        averager.update()
    assert (averager.count, averager.skipped) == (1, 1)  # read on another stream
    assert all((average == 3.0).all() for average in averager.averages()[:2])


def test_other_schedules_wait_as_before(gpu: str) -> None:
    value = torch.ones(1000, device=gpu)
    averager = WeightAverager([value], decay=decays.warmup(0.9), nonfinite="skip")
    assert averager.update()
    value[999] = float("nan")
    assert not averager.update()
    assert (averager.count, averager.skipped) == (1, 1)
