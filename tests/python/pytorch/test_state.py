"""Saving an averager and going on from it, bit for bit."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from swa_fast.torch import SWA, WeightAverager
from torch_reference import all_bits, make_net, snapshots


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", [None, 0.9])
@pytest.mark.parametrize("stop", [0, 1, 4, 5])
def test_resumes_bit_for_bit(stop: int, decay: Any, dtype: Any) -> None:
    def make() -> tuple[Any, WeightAverager]:
        net = make_net().to(dtype)
        return net, WeightAverager(net, decay=decay, start=1, period=3, use_buffers=True)

    net, averager = make()
    other_net, other = make()
    for index in snapshots(net, 12):
        if index == stop:
            saved = through_a_file(averager.state_dict())
            other.load_state_dict(saved)
        averager.update()
        if index >= stop:
            other_net.load_state_dict(net.state_dict())
            other.update()
    assert all_bits(other.averages()) == all_bits(averager.averages())
    assert (other.count, other.step) == (averager.count, averager.step) == (4, 12)


def test_the_state_can_be_taken_while_swapped() -> None:
    net = make_net().to(torch.bfloat16)
    net[0].float()
    averager = WeightAverager(net)
    for _ in snapshots(net, 3):
        averager.update()
    outside = through_a_file(averager.state_dict())
    with averager.applied(), pytest.warns(UserWarning, match="while the averages are swapped"):
        inside = through_a_file(averager.state_dict())
    assert list(inside["averages"]) == list(outside["averages"])
    assert all_bits(inside["averages"].values()) == all_bits(outside["averages"].values())


def test_the_state_of_a_compiled_model_fits_the_plain_one() -> None:
    net = make_net()
    averager = WeightAverager(torch.compile(net))
    averager.update()
    other = WeightAverager(make_net(4))
    other.load_state_dict(averager.state_dict())
    assert all_bits(other.averages()) == all_bits(net.parameters())


def _without(state: Any, key: str) -> None:
    del state[key]


@pytest.mark.parametrize(
    ("break_", "error", "message"),
    [
        (
            lambda s: s["averages"].update({"0.bias": torch.ones(9)}),
            ValueError,
            r"'0\.bias' has sh",
        ),
        (
            lambda s: s["averages"].update({"0.bias": torch.ones(4).double()}),
            ValueError,
            r"'0\.bias' has dtype torch.float64",
        ),
        (lambda s: s["averages"].update({"0.bias": [1.0]}), TypeError, r"'0\.bias'\] must be a te"),
        (lambda s: s["averages"].pop("4.bias"), KeyError, r"missing \['4\.bias'\]"),
        (lambda s: s["averages"].update({"5.x": torch.ones(1)}), KeyError, r"unknown \['5\.x'\]"),
        (lambda s: s.update(averages=[1]), TypeError, "must be a dict"),
        (lambda s: s.pop("count"), KeyError, "must hold 'count'"),
        (lambda s: s.update(count=-1), ValueError, "count must be >= 0"),
        (lambda s: s.update(step=1.5), TypeError, "step must be an int"),
        (lambda s: s.update(count=9), ValueError, "must be at most step"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(break_: Any, error: Any, message: str) -> None:
    net = make_net()
    averager = WeightAverager(net)
    for _ in snapshots(net, 2):
        averager.update()
    before = all_bits(averager.averages())
    state = copy.deepcopy(averager.state_dict())
    for tensor in state["averages"].values():
        tensor.zero_()
    break_(state)
    with pytest.raises(error, match=message):
        averager.load_state_dict(state)
    assert all_bits(averager.averages()) == before
    assert (averager.count, averager.step) == (2, 2)
    with pytest.raises(TypeError, match="state_dict must be a dict"):
        averager.load_state_dict([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: torch.empty(2, device="meta"), r"'1' is on the meta device"),
        (lambda: torch.ones(2).to_sparse(), r"'1' has layout torch\.sparse_coo"),
    ],
    ids=["meta", "sparse"],
)
def test_tensors_without_values_are_refused_before_anything_is_loaded(
    bad: Any, message: str
) -> None:
    params = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))]
    optimizer = SWA(torch.optim.SGD(params, lr=0.1, momentum=0.9), 0, 1)
    for param in params:
        param.grad = torch.ones(2)
    optimizer.step()
    before = all_bits(optimizer.averager.averages())
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 7.0
    state["state"][0]["swa_average"].fill_(9.0)
    state["state"][1]["swa_average"] = bad()
    averages = copy.deepcopy(optimizer.averager.state_dict())
    averages["averages"]["0"].fill_(9.0)
    averages["averages"]["1"] = bad()
    for load in (
        lambda: optimizer.load_state_dict(state),
        lambda: optimizer.averager.load_state_dict(averages),
    ):
        with pytest.raises(ValueError, match=message):
            load()
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert all_bits(optimizer.averager.averages()) == before


def test_a_count_that_no_weight_could_follow_is_refused() -> None:
    averager = WeightAverager(make_net())
    state = copy.deepcopy(averager.state_dict())
    state.update(count=2**60, step=2**60)
    with pytest.raises(ValueError, match=r"step must be at most 2\*\*53 - 1\. Received: 1152921"):
        averager.load_state_dict(state)
    state.update(count=2**53 - 2, step=2**53 - 2)
    averager.load_state_dict(state)
    assert averager.update()


def test_keys_of_several_types_are_listed() -> None:
    optimizer = SWA(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
    with pytest.raises(KeyError, match=r"must hold 'swa_average'.*\[1, 'a'\]"):
        optimizer.load_state_dict({1: 2, "a": 3})  # type: ignore[dict-item]
    with pytest.raises(KeyError, match=r"must hold 'averages'.*\[1, 'a'\]"):
        optimizer.averager.load_state_dict({1: 2, "a": 3})  # type: ignore[dict-item]
