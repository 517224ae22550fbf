"""Half-precision models: averaged in float32, where averaging in their own type stalls."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn
from torch.optim import swa_utils

from swa_fast.torch import (
    AveragedModel,
    WeightAverager,
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
)
from torch_reference import all_bits, bits, contract_ema, contract_mean, snapshots


def test_ten_thousand_updates_of_a_bfloat16_model(capsys: pytest.CaptureFixture[str]) -> None:
    updates, elements = 10_000, 64
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(elements, 1, bias=False, dtype=torch.bfloat16)
    averager = WeightAverager(model)
    in_float64 = WeightAverager(model, dtype=torch.float64)
    ours = AveragedModel(model)
    theirs = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_swa_multi_avg_fn())
    total = torch.zeros(elements, dtype=torch.float64)
    for update in range(updates):
        # A weight that drifts from 1 to 2 with noise: each value is an exact bfloat16 number.
        value = 1 + update / updates + 0.1 * torch.randn(elements, generator=generator)
        model.weight.data.copy_(value)
        total += model.weight.detach().double().view(-1)
        averager.update()
        in_float64.update()
        ours.update_parameters(model)
        theirs.update_parameters(model)
    exact = total / updates

    def error(average: Any) -> float:
        return float(((average.detach().double().view(-1) - exact) / exact).abs().max())

    float32, float64 = error(averager.averages()[0]), error(in_float64.averages()[0])
    shown, stalled = error(ours.module.weight), error(theirs.module.weight)
    with capsys.disabled():
        print(
            "\n10,000 updates of a bfloat16 model, largest relative error of the average: "
            f"{stalled:.1e} in bfloat16 as torch does, {float32:.1e} in float32 (shown rounded by "
            f"AveragedModel: {shown:.1e}), {float64:.1e} in float64"
        )
    assert stalled > 0.05
    # Each update rounds by up to 2**-24, at random: a walk of 2**-24 * sqrt(updates / 3), which
    # the largest of 64 elements exceeds a little. In float64 nothing of it is left.
    assert float32 < 2**-24 * (updates / 3) ** 0.5 * 2
    assert float64 < 1e-13
    assert shown <= 2**-8 + float32  # half a unit in the last place, at worst
    assert bits(ours.module.weight) == bits(averager.averages()[0].to(torch.bfloat16))


@pytest.mark.parametrize("decay", [None, 0.97])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_averaged_model_shows_the_rounded_float32_average(dtype: Any, decay: Any) -> None:
    net = nn.Sequential(nn.Linear(4, 4).to(dtype), nn.Linear(4, 4), nn.BatchNorm1d(4).to(dtype))
    function = get_swa_multi_avg_fn() if decay is None else get_ema_multi_avg_fn(decay)
    ours = AveragedModel(net, multi_avg_fn=function, use_buffers=True)
    seen = []
    for _ in snapshots(net, 40):
        ours.update_parameters(net)
        seen.append(
            [t.detach().clone().float().numpy() for t in (*net.parameters(), *net.buffers())]
        )
    shown = [*ours.module.parameters(), *ours.module.buffers()]
    for index, tensor in enumerate(shown[:-1]):
        values = [snapshot[index] for snapshot in seen]
        mean = contract_mean(values) if decay is None else contract_ema(values, decay)
        assert bits(tensor) == bits(torch.from_numpy(mean).to(tensor.dtype))
    assert tensor.dtype == dtype
    assert shown[-1].item() == 40  # num_batches_tracked, an integer, is copied


def _write(ours: Any) -> None:
    with torch.no_grad():
        ours.module.weight.fill_(8.0)


def _load(ours: Any) -> None:
    state = copy.deepcopy(ours.state_dict())
    state["module.weight"].fill_(8.0)
    ours.load_state_dict(state)


def _replace(ours: Any) -> None:
    ours.module.weight = nn.Parameter(torch.full((1, 2), 8.0, dtype=torch.bfloat16))


def _set_data(ours: Any) -> None:
    ours.module.weight.data = torch.full((1, 2), 8.0, dtype=torch.bfloat16)


def _convert(ours: Any) -> None:
    ours.float()
    ours.bfloat16()
    _write(ours)


@pytest.mark.parametrize("write", [_write, _load, _replace, _set_data, _convert])
def test_averaging_goes_on_from_what_someone_else_wrote(write: Any) -> None:
    net = nn.Linear(2, 1, bias=False, dtype=torch.bfloat16)
    ours = AveragedModel(net)
    for value in (1.0, 2.0, 3.0):
        net.weight.data.fill_(value)
        ours.update_parameters(net)
    write(ours)
    net.weight.data.fill_(4.0)
    ours.update_parameters(net)
    assert ours.module.weight.tolist() == [[7.0, 7.0]]  # 8 + (4 - 8) / 4


def test_a_converted_model_is_averaged_in_its_new_type() -> None:
    net = nn.Linear(2, 1, bias=False, dtype=torch.bfloat16)
    ours = AveragedModel(net)
    net.weight.data.fill_(1.0)
    ours.update_parameters(net)
    ours.float()
    net.weight.data.fill_(1.0078125)
    ours.update_parameters(net)
    assert ours.module.weight.tolist() == [[1.00390625] * 2]  # no bfloat16 number
    assert all_bits([ours.module.weight]) == all_bits([torch.full((1, 2), 1.00390625)])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("write", [_write, _load, _replace, _set_data])
def test_a_copy_notices_what_is_written_before_its_first_update(write: Any, copied: Any) -> None:
    net = nn.Linear(2, 1, bias=False, dtype=torch.bfloat16)
    ours = AveragedModel(net)
    for value in (1.0, 2.0, 3.0):
        net.weight.data.fill_(value)
        ours.update_parameters(net)
    ours = copied(ours)
    write(ours)
    net.weight.data.fill_(4.0)
    ours.update_parameters(net)
    assert ours.module.weight.tolist() == [[7.0, 7.0]]  # 8 + (4 - 8) / 4


def test_a_copy_keeps_the_averages_of_the_tensors_that_nobody_wrote() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).bfloat16()
    ours = AveragedModel(net)
    for _ in snapshots(net, 30):
        ours.update_parameters(net)
    with torch.no_grad():
        ours.module[1].bias.add_(0.0)
    other = copy.deepcopy(ours)
    for _ in snapshots(net, 30, seed=5):
        ours.update_parameters(net)
        other.update_parameters(net)
    assert all_bits(ours.parameters()) == all_bits(other.parameters())
    assert all_bits(ours._float32.averages) == all_bits(other._float32.averages)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [get_swa_multi_avg_fn, get_ema_multi_avg_fn])
def test_torchs_own_class_is_warned_of_once(dtype: Any, make: Any) -> None:
    net = nn.Linear(2, 2).to(dtype)
    averaged = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=make())
    averaged.update_parameters(net)  # a copy
    with pytest.warns(UserWarning, match=r"stall.*swa_fast\.torch\.AveragedModel"):
        averaged.update_parameters(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        averaged.update_parameters(net)
        ours = AveragedModel(net, multi_avg_fn=make())
        whole = nn.Linear(2, 2)
        others = torch.optim.swa_utils.AveragedModel(whole, multi_avg_fn=make())
        for _ in range(3):
            ours.update_parameters(net)
            others.update_parameters(whole)


def test_what_it_warns_of() -> None:
    def drift(make: Any) -> float:
        net = nn.Linear(64, 1, bias=False).to(torch.bfloat16)
        averaged = make(net)
        total = torch.zeros(1, 64, dtype=torch.float64)
        for index in range(1, 2001):
            with torch.no_grad():
                net.weight.fill_(1 + index / 2000)
            averaged.update_parameters(net)
            total += net.weight.detach().double()
        average = next(averaged.parameters()).detach().double()
        return float(((average - total / 2000).abs() / (total / 2000)).max())

    with pytest.warns(UserWarning, match="stall"):
        torchs = drift(
            lambda net: torch.optim.swa_utils.AveragedModel(
                net, multi_avg_fn=get_swa_multi_avg_fn()
            )
        )
    assert torchs > 0.1
    assert drift(AveragedModel) < 0.005
