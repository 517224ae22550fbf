"""Averagers of modules on a GPU: the bits of the CPU, one look and no wait."""

from __future__ import annotations

from typing import Any

import pytest

from swa_fast import Average, decays

torch: Any = pytest.importorskip("torch")
from swa_fast.torch import AveragedModel, WeightAverager  # noqa: E402
from torch_reference import all_bits, make_net, perturb  # noqa: E402

pytestmark = pytest.mark.gpu

DESCRIBED = {
    "swa": Average(start=1, period=2),
    "ema": Average(decay=0.9),
    "warm": Average(decay=decays.warmup(0.999), dtype="float64"),
    "narrow": Average(decay=0.99, dtype="bfloat16"),
}


def on_cpu(tensors: Any) -> list[bytes]:
    return all_bits(tensor.cpu() for tensor in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_averages_of_a_module_have_the_bits_of_the_cpu(device: str, dtype: Any) -> None:
    here, there = make_net().to(dtype), make_net().to(dtype).to(device)
    ours, theirs = (WeightAverager(net, DESCRIBED, use_buffers=True) for net in (here, there))
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        perturb(here, generator)
        there.load_state_dict(here.state_dict())
        ours.update()
        theirs.update()
    for name in DESCRIBED:
        assert on_cpu(theirs.averages(name)) == on_cpu(ours.averages(name)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_averaged_model_has_the_bits_of_the_cpu(device: str, dtype: Any) -> None:
    here, there = make_net().to(dtype), make_net().to(dtype).to(device)
    ours, theirs = AveragedModel(here), AveragedModel(there)
    generator = torch.Generator().manual_seed(2)
    for _ in range(6):
        perturb(here, generator)
        there.load_state_dict(here.state_dict())
        ours.update_parameters(here)
        theirs.update_parameters(there)
    assert on_cpu(theirs.state_dict().values()) == on_cpu(ours.state_dict().values())


def test_parameters_replaced_between_updates(device: str) -> None:
    net = make_net().to(device)
    averager = WeightAverager(net)
    averager.update()
    before = averager.averages()[4].clone()
    net[4].weight = torch.nn.Parameter(torch.full((3, 16), 7.0, device=device))
    averager.update()
    averager.update()
    assert torch.allclose(averager.averages()[4], (before + 14.0) / 3)


def test_an_update_is_queued_on_the_current_stream_and_not_waited_for(gpu: str) -> None:
    net = make_net().to(gpu)
    averager = WeightAverager(net)
    averager.update()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(3.0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            averager.update()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert not side.query()
    side.synchronize()
    averager.update()
    torch.cuda.synchronize()
    assert averager.count == 3
