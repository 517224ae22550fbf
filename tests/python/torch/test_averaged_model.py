"""AveragedModel against torch's own, and against the arithmetic contract bit for bit."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from typing import Any

import pytest

pytest.importorskip("torch.nn")
import torch  # noqa: E402

from averaging_models import (  # noqa: E402
    all_bits,
    bits,
    contract_ema,
    contract_mean,
    make_net,
    snapshots,
)
from torch import nn  # noqa: E402
from torch.optim import swa_utils  # noqa: E402

from swa_fast.torch import (  # noqa: E402
    SWALR,
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
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

    given = {argument: {"avg_fn": avg_fn, "multi_avg_fn": multi_avg_fn}[argument]}
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
        with pytest.raises(ValueError, match=r"'4\.bias'"):
            shorter = make_net()
            shorter[4] = nn.Linear(16, 3, bias=False)
            ours.update_parameters(shorter)
        other_buffers = make_net()
        other_buffers[1].running_mean = torch.zeros(1)
        with pytest.raises(ValueError, match=r"'1\.running_mean' has shape \(1,\)"):
            ours.update_parameters(other_buffers)
        assert all_bits(everything(ours)) == before


class Expanded(nn.Module):
    """Parameters that fill no solid block of memory: expanded and sliced."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Parameter(torch.zeros(3, 1).expand(3, 4))
        self.sliced = nn.Parameter(torch.zeros(4, 6)[:, ::2])
        self.plain = nn.Parameter(torch.zeros(5))
        self.last = nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))


def test_parameters_without_a_dense_layout_go_through_torch() -> None:
    net = Expanded()
    ours = AveragedModel(net)
    seen = []
    for step in range(3):
        for parameter in net.parameters():
            parameter.data[..., :1] += torch.randn(parameter[..., :1].shape) + step
        ours.update_parameters(net)
        seen.append([parameter.detach().clone().numpy() for parameter in net.parameters()])
    for index, parameter in enumerate(ours.module.parameters()):
        expected = contract_mean([values[index] for values in seen])
        torch.testing.assert_close(parameter.detach(), torch.tensor(expected))
    assert ours.module.last.stride() == net.last.stride()


def test_a_write_to_a_saved_tensor_raises_in_backward() -> None:
    net = nn.Linear(3, 2)
    ours = AveragedModel(net)
    ours.update_parameters(net)
    kept = ours.module.weight.pow(2).sum()
    ours.update_parameters(net)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_inference_mode() -> None:
    net = make_net()
    outside = AveragedModel(net)
    with torch.inference_mode():
        inside = AveragedModel(net)
        for _ in range(3):
            outside.update_parameters(net)
            inside.update_parameters(net)
    outside.update_parameters(net)
    assert int(outside.n_averaged) == 4
    assert int(inside.n_averaged) == 3
    assert all_bits(outside.parameters()) == all_bits(net.parameters())
    assert all_bits(inside.parameters()) == all_bits(net.parameters())


def test_double_and_complex_parameters() -> None:
    net = nn.Module()
    net.wide = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    net.pairs = nn.Parameter(torch.tensor([1 + 2j, 3 - 1j]))
    ours = AveragedModel(net)
    ours.update_parameters(net)
    with torch.no_grad():
        net.wide += 1.0
        net.pairs *= 3
    ours.update_parameters(net)
    assert ours.module.wide.tolist() == [1.5, 2.5]
    assert ours.module.pairs.tolist() == [2 + 4j, 6 - 2j]


def test_swalr_and_bn_as_in_the_documentation_of_torch() -> None:
    net = make_net()
    ours = AveragedModel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    data = torch.randn(8, 1, 4, 4)
    for _ in range(4):
        optimizer.zero_grad()
        net(data).pow(2).mean().backward()
        optimizer.step()
        ours.update_parameters(net)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    swa_utils.update_bn([data], ours)  # torch's own works on it
    torch.testing.assert_close(
        ours.module[1].running_mean, ours.module[0](data).mean((0, 2, 3)).detach()
    )


def test_listing_follows_torch_on_awkward_modules() -> None:
    from swa_fast.torch._parameters import parameters_and_buffers

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))
            self.items = nn.ParameterList([nn.Parameter(torch.ones(2)) for _ in range(2)])
            self.again = self.block
            self.none = None
            self.register_parameter("absent", None)
            self.register_buffer("missing", None)
            self.register_buffer("kept", torch.ones(1), persistent=False)
            self.weight = self.block[0].weight

    class Hidden(Odd):
        def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
            return itertools.islice(super().named_parameters(*args, **kwargs), 1)

    traced = torch.jit.script(make_net())
    for module in (Odd(), nn.Sequential(Odd(), Hidden()), Hidden(), traced, make_net()):
        parameters, buffers = parameters_and_buffers(module)
        assert [id(p) for p in parameters] == [id(p) for p in module.parameters()] or (
            module is traced and all_bits(parameters) == all_bits(module.parameters())
        )
        assert all_bits(buffers) == all_bits(module.buffers())
