"""WeightAverager: what is averaged, when, and what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast.torch import WeightAverager
from torch_reference import (
    all_bits,
    bits,
    contract_ema,
    contract_mean,
    make_net,
    perturb,
    snapshots,
)


def values_of(net: Any) -> list[Any]:
    return [p.detach().clone().float().numpy() for p in net.parameters()]


@pytest.mark.parametrize("decay", [None, 0.8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_average_is_the_contracts_bit_for_bit_in_float32(dtype: Any, decay: Any) -> None:
    net = make_net().to(dtype)
    averager = WeightAverager(net, decay=decay)
    seen = []
    for _ in snapshots(net, 7):
        assert averager.update()
        seen.append(values_of(net))
    assert averager.count == 7
    for index, average in enumerate(averager.averages()):
        assert average.dtype == torch.float32
        assert not average.requires_grad
        values = [snapshot[index] for snapshot in seen]
        expected = contract_mean(values) if decay is None else contract_ema(values, decay)
        assert bits(average) == expected.tobytes()


def test_dtype_and_device_of_the_averages() -> None:
    net = nn.ParameterList(
        [torch.ones(2, dtype=d) for d in (torch.float64, torch.float32, torch.bfloat16)]
    )
    net.append(nn.Parameter(torch.ones(2, dtype=torch.complex64)))
    net.append(nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False))
    kept = [a.dtype for a in WeightAverager(net).averages()]
    same = [torch.complex64, torch.int64]
    assert kept == [torch.float64, torch.float32, torch.float32, *same]
    chosen = WeightAverager(net, dtype=torch.bfloat16, device="cpu")
    assert [a.dtype for a in chosen.averages()] == [torch.bfloat16] * 3 + same
    chosen.update()
    assert chosen.to("cpu") is chosen
    assert chosen.count == 1


def test_snapshots_follow_start_and_period() -> None:
    net = nn.Linear(1, 1, bias=False)
    averager = WeightAverager(net, start=2, period=3)
    taken = []
    for step in range(10):
        net.weight.data.fill_(float(step))
        if averager.update():
            taken.append(step)
    assert taken == [2, 5, 8]
    assert (averager.count, averager.step, averager.skipped) == (3, 10, 0)
    assert averager.averages()[0].item() == 5.0


def test_sources_of_parameters() -> None:
    net = make_net()
    by_name = WeightAverager(net.named_parameters())
    assert (
        by_name.names == [name for name, _ in net.named_parameters()] == WeightAverager(net).names
    )
    assert WeightAverager(list(net.parameters())).names == [str(i) for i in range(6)]
    assert WeightAverager(dict(net.named_parameters())).names == by_name.names


def test_names_are_the_same_with_and_without_compile() -> None:
    net = make_net()
    assert WeightAverager(torch.compile(net)).names == WeightAverager(net).names
    assert WeightAverager(nn.Sequential(torch.compile(net))).names[0] == "0.0.weight"


def test_tied_weights_are_averaged_once() -> None:
    first = nn.Linear(3, 3, bias=False)
    net = nn.Sequential(first, nn.ReLU(), first, nn.Linear(3, 3, bias=False))
    net[3].weight = first.weight
    averager = WeightAverager([first.weight, first.weight])
    whole = WeightAverager(net)
    values = []
    for value in (1.0, 2.0, 6.0):
        first.weight.data.fill_(value)
        averager.update()
        whole.update()
        values.append(value)
    for one in (averager, whole):
        assert len(one.averages()) == 1
        assert one.averages()[0].unique().tolist() == [3.0]


def test_weight_norm_and_other_parametrizations() -> None:
    net = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    old = nn.utils.weight_norm(nn.Linear(4, 3)) if hasattr(nn.utils, "weight_norm") else net
    for module in (net, old):
        data = torch.ones(2, 4)
        module(data).sum().backward()  # the old weight_norm then holds a tensor with a history
        averager = WeightAverager(module)
        averager.update()
        before = module(data)
        perturb(module, torch.Generator().manual_seed(0))
        assert not torch.equal(module(data), before)
        with averager.applied():
            assert torch.equal(module(data), before)


def test_buffers() -> None:
    net = make_net()
    averager = WeightAverager(net, use_buffers=True)
    seen = []
    for _ in snapshots(net, 4):
        averager.update()
        seen.append([b.detach().clone() for b in net.buffers()])
    assert averager.names[-1] == "1.num_batches_tracked"
    means = averager.averages()[-3:]
    for index, mean in enumerate(means[:2]):
        assert bits(mean) == contract_mean([s[index].numpy() for s in seen]).tobytes()
    assert means[2].item() == seen[-1][2].item()
    expected = all_bits(averager.averages())
    with averager.applied():
        assert all_bits([*net.parameters(), *net.buffers()]) == expected
    assert all_bits(net.buffers()) == all_bits(seen[-1])


def test_parameters_may_be_replaced_between_updates() -> None:
    net = make_net()
    averager = WeightAverager(net)
    averager.update()
    net[4].weight = nn.Parameter(torch.full((3, 16), 7.0))
    net[0].weight.data = torch.full((4, 1, 3, 3), 9.0)
    first = [a.clone() for a in averager.averages()]
    averager.update()
    second = averager.averages()
    assert torch.equal(second[4], first[4] + (7.0 - first[4]) * 0.5)
    assert torch.equal(second[0], first[0] + (9.0 - first[0]) * 0.5)


def test_copy_to() -> None:
    net = make_net().to(torch.bfloat16)
    averager = WeightAverager(net)
    for _ in snapshots(net, 5):
        averager.update()
    other = make_net(3).to(torch.bfloat16)
    averager.copy_to(other)
    expected = [average.to(torch.bfloat16) for average in averager.averages()]
    assert all_bits(other.parameters()) == all_bits(expected)
    averager.copy_to()
    assert all_bits(net.parameters()) == all_bits(expected)
    wrong = make_net()
    wrong[4] = nn.Linear(16, 4)
    before = all_bits(wrong.parameters())
    with pytest.raises(ValueError, match=r"parameter '4\.weight' has shape \(4, 16\)"):
        averager.copy_to(wrong)
    assert all_bits(wrong.parameters()) == before


def test_a_model_that_no_longer_matches_is_refused_by_name() -> None:
    net = make_net()
    averager = WeightAverager(net)
    averager.update()
    before = all_bits(averager.averages())
    kept = net[4]
    net[4] = nn.Linear(16, 4)
    with pytest.raises(ValueError, match=r"'4\.weight' has shape \(4, 16\).*\(3, 16\)"):
        averager.update()
    net[4] = nn.Linear(16, 3, bias=False)
    with pytest.raises(ValueError, match=r"5 tensors for 6 averages \(parameter '4\.bias' is "):
        averager.update()
    net[4] = nn.Linear(16, 3, device="meta")
    with pytest.raises(ValueError, match=r"'4\.weight' is on the meta device"):
        averager.update()
    net[4] = kept
    assert all_bits(averager.averages()) == before
    assert (averager.count, averager.step) == (1, 1)
    averager.update()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_nonfinite_values_propagate_or_are_skipped_whole(bad: float, dtype: Any) -> None:
    params = [torch.ones(3), torch.ones(4, dtype=dtype), torch.empty(0)]
    through, skipping = WeightAverager(params), WeightAverager(params, nonfinite="skip")
    for step in range(3):
        params[1][2] = bad if step == 1 else 1.0
        params[0].fill_(step)
        assert through.update()
        assert skipping.update() == (step != 1)
    assert not torch.isfinite(through.averages()[1][2])
    assert skipping.averages()[0].tolist() == [1.0] * 3  # (0 + 2) / 2
    assert torch.isfinite(skipping.averages()[1]).all()
    assert (skipping.count, skipping.skipped, skipping.step) == (2, 1, 3)
    assert (through.count, through.skipped) == (3, 0)


NO_NUMBER: Any = "x"
NO_INTEGER: Any = 2.0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: WeightAverager([]), ValueError, "at least one tensor"),
        (lambda p: WeightAverager(p), TypeError, "a single tensor"),
        (lambda p: WeightAverager(3), TypeError, "a module or a list of tensors"),
        (lambda p: WeightAverager([p, 3]), TypeError, r"params_or_module\[1\] must be a tensor"),
        (lambda p: WeightAverager([{"params": [p]}]), TypeError, "parameter group"),
        (lambda p: WeightAverager([p], dtype="float32"), TypeError, "dtype must be"),
        (lambda p: WeightAverager([p], dtype=torch.int8), TypeError, "dtype must be"),
        (lambda p: WeightAverager([p], decay=1.5), ValueError, "decay must be between 0 and 1"),
        (lambda p: WeightAverager([p], decay=NO_NUMBER), TypeError, "decay must be a number"),
        (lambda p: WeightAverager([p], start=-1), ValueError, "start must be >= 0"),
        (lambda p: WeightAverager([p], period=0), ValueError, "period must be >= 1"),
        (lambda p: WeightAverager([p], period=NO_INTEGER), TypeError, "period must be an int"),
        (lambda p: WeightAverager([p], nonfinite="drop"), ValueError, "nonfinite must be one of"),
        (lambda p: WeightAverager([p], use_buffers=True), ValueError, "needs a module"),
        (lambda p: WeightAverager([("a", p), ("a", p + 1)]), ValueError, "two different tensors"),
        (lambda p: WeightAverager(nn.LazyLinear(3)), ValueError, "not initialized yet"),
        (lambda p: WeightAverager(nn.Linear(2, 2, device="meta")), ValueError, "meta device"),
    ],
)
def test_bad_arguments(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make(torch.ones(2))


def test_parameters_without_a_dense_layout() -> None:
    base = torch.zeros(4, 6)
    sliced, expanded = base[:, ::2], torch.zeros(3, 1).expand(3, 4)
    last = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    averager = WeightAverager([sliced, last])
    for value in (1.0, 2.0, 6.0):
        sliced.fill_(value)
        last.fill_(value)
        averager.update()
    averages = averager.averages()
    assert [a.unique().tolist() for a in averages] == [[3.0], [3.0]]
    assert averages[1].stride() == last.stride()
    with averager.applied():
        assert sliced.unique().tolist() == last.unique().tolist() == [3.0]
    assert sliced.unique().tolist() == last.unique().tolist() == [6.0]
    assert base[:, 1::2].unique().tolist() == [0.0]

    reader = WeightAverager([expanded, sliced])
    reader.update()
    with pytest.raises(ValueError, match="is expanded"):
        reader.swap()
    assert sliced.unique().tolist() == [6.0]


def test_copies_go_on_on_their_own() -> None:
    net = make_net()
    averager = WeightAverager(net, period=2)
    for _ in snapshots(net, 3):
        averager.update()
    copies = [copy.deepcopy((net, averager)), pickle.loads(pickle.dumps((net, averager)))]
    results = []
    for one_net, one in [(net, averager), *copies]:
        for _ in snapshots(one_net, 4, seed=8):
            one.update()
        results.append((all_bits(one.averages()), one.count, one.step))
    assert results[0][1:] == (4, 7)
    assert results[1] == results[2] == results[0]


@pytest.mark.parametrize("as_list", [False, True])
def test_a_shallow_copy_goes_on_by_itself(as_list: bool) -> None:
    net = nn.Linear(2, 2)
    averager = WeightAverager(list(net.parameters()) if as_list else net)
    averager.update()
    other = copy.copy(averager)
    with torch.no_grad():
        net.weight.fill_(7.0)
    before = [average.clone() for average in averager.averages()]
    other.update()
    assert (averager.count, other.count) == (1, 2)
    assert all(map(torch.equal, averager.averages(), before))
    assert not torch.equal(other.averages()[0], before[0])
    with other.applied():
        assert torch.equal(net.weight, other.averages()[0])
        averager.copy_to([torch.empty(2, 2), torch.empty(2)])
