"""AveragedModel on tensors of every kind: layouts, dtypes, autograd, odd modules."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn
from torch.optim import swa_utils

from swa_fast.torch import SWALR, AveragedModel
from torch_reference import all_bits, contract_mean, make_net


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
    from swa_fast.torch.module_tree import parameters_and_buffers

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
