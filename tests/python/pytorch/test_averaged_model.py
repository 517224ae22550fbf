"""AveragedModel against torch's own, and against the arithmetic contract bit for bit."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn
from torch.optim import swa_utils

from swa_fast.torch import (
    SWALR,
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
)
from torch_reference import (
    all_bits,
    bits,
    contract_ema,
    contract_mean,
    make_net,
    snapshots,
)


def everything(module: Any) -> list[Any]:
    return [*module.parameters(), *module.buffers()]


def test_is_torchs_own_class_with_the_same_state_dict_keys() -> None:
    net = make_net()
    ours, theirs = AveragedModel(net), swa_utils.AveragedModel(net)
    assert isinstance(ours, swa_utils.AveragedModel)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert SWALR is swa_utils.SWALR
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn"):
        AveragedModel(net, avg_fn=get_swa_avg_fn(), multi_avg_fn=get_swa_multi_avg_fn())


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("kind", ["default", "swa", "ema"])
def test_agrees_with_torch_and_with_the_contract(kind: str, use_buffers: bool) -> None:
    net = make_net()
    decay = 0.7
    functions = {
        "default": (None, None),
        "swa": (get_swa_multi_avg_fn(), None),
        "ema": (get_ema_multi_avg_fn(decay), get_ema_avg_fn(decay)),
    }
    multi, per_tensor = functions[kind]
    ours = AveragedModel(net, multi_avg_fn=multi, use_buffers=use_buffers)
    theirs = swa_utils.AveragedModel(net, avg_fn=per_tensor, use_buffers=use_buffers)
    seen = []
    for index in snapshots(net, 6):
        ours.update_parameters(net)
        theirs.update_parameters(net)
        seen.append([tensor.detach().clone().numpy() for tensor in everything(net)])
        assert int(ours.n_averaged) == int(theirs.n_averaged) == index + 1
    parameters = len(list(net.parameters()))
    for i, (mine, other) in enumerate(
        zip(everything(ours.module), everything(theirs.module), strict=True)
    ):
        values = [snapshot[i] for snapshot in seen]
        if not mine.is_floating_point():
            assert mine.item() == values[-1]  # integers are copied
            continue
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
        if i < parameters or use_buffers:
            expected = contract_ema(values, decay) if kind == "ema" else contract_mean(values)
        else:
            expected = values[-1]
        assert bits(mine) == expected.tobytes()


@pytest.mark.parametrize("argument", ["avg_fn", "multi_avg_fn"])
def test_custom_functions_run_as_in_torch(argument: str) -> None:
    def avg_fn(average: Any, value: Any, count: Any) -> Any:
        return torch.maximum(average, value) + count

    def multi_avg_fn(averages: Any, values: Any, count: Any) -> None:
        assert isinstance(count, torch.Tensor)
        torch._foreach_maximum_(averages, values)

    given: dict[str, Any] = {argument: {"avg_fn": avg_fn, "multi_avg_fn": multi_avg_fn}[argument]}
    net = make_net()
    ours, theirs = AveragedModel(net, **given), swa_utils.AveragedModel(net, **given)
    for _ in snapshots(net, 4):
        ours.update_parameters(net)
        theirs.update_parameters(net)
    assert all_bits(everything(ours)) == all_bits(everything(theirs))


@pytest.mark.parametrize("make", [get_swa_multi_avg_fn, get_ema_multi_avg_fn])
def test_our_functions_in_torchs_own_model(make: Any) -> None:
    net = make_net()
    ours = AveragedModel(net, multi_avg_fn=make(), use_buffers=True)
    theirs = swa_utils.AveragedModel(net, multi_avg_fn=make(), use_buffers=True)
    for _ in snapshots(net, 4):
        ours.update_parameters(net)
        theirs.update_parameters(net)
    assert all_bits(everything(ours)) == all_bits(everything(theirs))


def test_checkpoints_go_both_ways_and_averaging_goes_on() -> None:
    net = make_net()
    ours, theirs = AveragedModel(net), swa_utils.AveragedModel(net)
    for _ in snapshots(net, 3):
        ours.update_parameters(net)
        theirs.update_parameters(net)
    from_theirs, from_ours = AveragedModel(make_net(5)), swa_utils.AveragedModel(make_net(5))
    from_theirs.update_parameters(make_net(6))  # so that a remembered count would be wrong
    from_theirs.load_state_dict(theirs.state_dict())
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    from_ours.load_state_dict(torch.load(file, weights_only=True))
    assert all_bits(everything(from_theirs)) == all_bits(everything(theirs))
    assert all_bits(everything(from_ours)) == all_bits(everything(ours))
    for _ in snapshots(net, 2, seed=9):
        ours.update_parameters(net)
        from_theirs.update_parameters(net)
    for mine, other in zip(ours.parameters(), from_theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert int(from_theirs.n_averaged) == 5


def _by_pickle(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def _by_file(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("copied", [copy.deepcopy, _by_pickle, _by_file])
def test_a_copy_goes_on_bit_for_bit(copied: Any, dtype: Any) -> None:
    net = make_net().to(dtype)
    ours = AveragedModel(net, multi_avg_fn=get_swa_multi_avg_fn(), use_buffers=True)
    for _ in snapshots(net, 30):
        ours.update_parameters(net)
    other = copied(ours)
    for _ in snapshots(net, 30, seed=3):
        ours.update_parameters(net)
        other.update_parameters(net)
    assert all_bits(everything(ours)) == all_bits(everything(other))
    assert int(other.n_averaged) == 60


def test_a_count_written_by_hand_is_believed() -> None:
    net = nn.Linear(1, 1, bias=False)
    ours = AveragedModel(net)
    with torch.no_grad():
        net.weight.fill_(1.0)
        ours.update_parameters(net)
        ours.n_averaged.fill_(3)
        net.weight.fill_(5.0)
        ours.update_parameters(net)
        assert ours.module.weight.item() == 2.0
        ours.n_averaged = torch.tensor(0)
        ours.update_parameters(net)
        assert ours.module.weight.item() == 5.0
        assert int(ours.n_averaged) == 1


def test_shared_parameters_are_averaged_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.block = nn.Linear(3, 3)
            self.again = self.block
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight
            # The same memory in another Parameter object.
            self.alias = nn.Parameter(self.embed.weight.detach())

    net = Tied()
    ours = AveragedModel(net)
    seen = []
    for _ in range(3):
        with torch.no_grad():
            net.embed.weight.add_(torch.randn(5, 3))
            net.block.weight.add_(1.0)
        ours.update_parameters(net)
        seen.append(net.embed.weight.detach().clone().numpy())
    assert bits(ours.module.embed.weight) == contract_mean(seen).tobytes()
    assert ours.module.head.weight is ours.module.embed.weight
    assert bits(ours.module.alias) == bits(ours.module.embed.weight)


def test_a_mismatched_model_is_refused_by_name_and_nothing_is_written() -> None:
    net = make_net()
    for use_buffers in (False, True):
        ours = AveragedModel(net, use_buffers=use_buffers)
        for _ in snapshots(net, 2):
            ours.update_parameters(net)
        before = all_bits(everything(ours))
        wider = make_net()
        wider[4] = nn.Linear(16, 4)
        with pytest.raises(ValueError, match=r"parameter '4\.weight' has shape \(4, 16\)"):
            ours.update_parameters(wider)
        shorter = make_net()
        shorter[4] = nn.Linear(16, 3, bias=False)
        with pytest.raises(ValueError, match=r"'4\.bias'"):
            ours.update_parameters(shorter)
        other_buffers = make_net()
        other_buffers[1].running_mean = torch.zeros(1)
        with pytest.raises(ValueError, match=r"'1\.running_mean' has shape \(1,\)"):
            ours.update_parameters(other_buffers)
        assert all_bits(everything(ours)) == before
