"""Where native code cannot run, torch's operations give the same averages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

import swa_fast
from swa_fast import Average, _core
from swa_fast.torch import (
    AveragedModel,
    WeightAverager,
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
    mixed_pass,
    pairs,
    sorting,
)
from swa_fast.torch.averaged_model import HostCount
from torch_reference import all_bits, make_net, snapshots


@pytest.fixture
def unserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device that native code has no kernels for; a call to them fails the test."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("native code was called")

    monkeypatch.setattr(sorting, "is_served", lambda device: False)
    for name in ("running_mean_", "lerp_", "swap_", "copy_"):
        monkeypatch.setattr(swa_fast, name, never)


@pytest.mark.usefixtures("unserved")
@pytest.mark.parametrize("make", [get_swa_multi_avg_fn, get_ema_multi_avg_fn])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_averaged_model_without_native_code(
    make: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = make_net().to(dtype)
    by_torch = AveragedModel(net, multi_avg_fn=make(), use_buffers=True)
    for _ in snapshots(net, 5):
        by_torch.update_parameters(net)
    monkeypatch.undo()
    net = make_net().to(dtype)
    native = AveragedModel(net, multi_avg_fn=make(), use_buffers=True)
    for _ in snapshots(net, 5):
        native.update_parameters(net)
    for one, other in zip(by_torch.state_dict().items(), native.state_dict().items(), strict=True):
        torch.testing.assert_close(
            one[1], other[1], rtol=1e-5 if dtype != torch.bfloat16 else 1e-2, atol=1e-6, msg=one[0]
        )


@pytest.mark.usefixtures("unserved")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_averager_without_native_code(dtype: Any) -> None:
    net = make_net().to(dtype)
    averager = WeightAverager(net, use_buffers=True)
    total = [torch.zeros(p.shape, dtype=torch.float64) for p in net.parameters()]
    for _ in snapshots(net, 6):
        averager.update()
        for t, p in zip(total, net.parameters(), strict=True):
            t += p.detach().double()
    for t, average in zip(total, averager.averages(), strict=False):
        torch.testing.assert_close(average.double(), t / 6, rtol=1e-5, atol=1e-6)
    before = all_bits(net.parameters()), all_bits(averager.averages())
    with averager.applied():
        assert all_bits(net.parameters()) == all_bits(a.to(dtype) for a in averager.averages()[:6])
    assert (all_bits(net.parameters()), all_bits(averager.averages())) == before


def test_a_device_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(averages: Any, values: Any, count: int) -> None:
        calls.append(averages[0].device)
        raise RuntimeError("no kernels for it")

    monkeypatch.setattr(swa_fast, "running_mean_", refuse)
    sorting.is_served.cache_clear()
    try:
        device = torch.device("meta")
        assert [sorting.is_served(device) for _ in range(3)] == [False] * 3
        assert calls == [device]
        assert sorting.is_served(torch.device("cpu"))
    finally:
        sorting.is_served.cache_clear()


def test_a_refusal_that_torch_would_not_mend_stands() -> None:
    with pytest.raises(ValueError, match="shape"):
        pairs.running_mean_([torch.ones(2)], [torch.ones(3)], 1)
    with pytest.raises(ValueError, match="equally long"):
        pairs.copy_([torch.ones(2)], [])
    with pytest.raises(TypeError, match="must have the same dtype"):
        pairs.swap_([torch.ones(2)], [torch.ones(2).double()])
    base = torch.ones(4)
    with pytest.raises(ValueError, match="overlap"):
        pairs.running_mean_([base[:3], base[1:]], [torch.ones(3), torch.ones(3)], 1)
    with pytest.raises(TypeError):
        pairs.running_mean_([torch.ones(2)], [object()], 1)


def test_values_of_another_kind_are_converted_as_torch_does() -> None:
    net, other = nn.Module(), nn.Module()
    for module, dtype in ((net, torch.int64), (other, torch.float32)):
        module.register_buffer("counts", torch.tensor([1, 2, 3]).to(dtype))
        module.weight = nn.Parameter(torch.ones(2))
    averaged = AveragedModel(net)
    other.counts += 4.5
    averaged.update_parameters(other)
    assert averaged.module.counts.tolist() == [5, 6, 7]


class OnADevice:
    """A count tensor that seems to be on a device, and counts the times it is read."""

    is_cpu = False

    def __init__(self, value: int) -> None:
        self.tensor = torch.tensor(value)
        self.reads = 0

    def __int__(self) -> int:
        self.reads += 1
        return int(self.tensor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor, name)


def test_a_count_on_a_device_is_read_only_after_someone_wrote_it() -> None:
    count, tensor = HostCount(), OnADevice(0)
    for expected in range(5):
        assert count.read(tensor) == expected
        tensor.tensor.add_(1)
        count.wrote(tensor, expected + 1)
    assert tensor.reads == 1
    tensor.tensor.fill_(9)
    assert count.read(tensor) == 9
    count.wrote(tensor, 9)
    tensor.tensor.data = torch.tensor(4)
    assert count.read(tensor) == 4
    replaced = OnADevice(7)
    assert count.read(replaced) == 7
    assert (tensor.reads, replaced.reads) == (3, 1)


def test_what_does_not_match_is_refused_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "is_served", lambda device: False)
    one, other = torch.zeros(2), torch.ones(3)
    for call in (pairs.copy_, pairs.swap_, lambda a, v: pairs.running_mean_(a, v, 1)):
        with pytest.raises(ValueError, match="shape"):
            call([one], [other])
        with pytest.raises(ValueError, match="equally long"):
            call([one], [])
    with pytest.raises(ValueError, match=r"copies\[0\]\[0\] has shape"):
        pairs.running_mean_([one], [one + 1], 1, copies=([other], [one]))
    assert not one.any()


class Counted:
    """Stands before a function and counts its calls."""

    def __init__(self, function: Any) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        return self.function(*args, **options)


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("make", [get_swa_multi_avg_fn, lambda: None, get_ema_multi_avg_fn])
def test_parameters_and_buffers_go_in_one_native_call(
    use_buffers: bool, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = make_net()
    averaged = AveragedModel(net, multi_avg_fn=make(), use_buffers=use_buffers)
    averager = WeightAverager(net, use_buffers=use_buffers)
    others = [Counted(getattr(swa_fast, name)) for name in ("running_mean_", "lerp_", "copy_")]
    for name, function in zip(("running_mean_", "lerp_", "copy_"), others, strict=True):
        monkeypatch.setattr(swa_fast, name, function)
    done = []
    run = _core.Prepared.run

    def counted(self: Any, *args: Any) -> bool:
        done.append(run(self, *args))
        return done[-1]

    monkeypatch.setattr(_core.Prepared, "run", counted)
    for calls, _ in enumerate(snapshots(net, 3)):
        averaged.update_parameters(net)
        assert done == [True] * (2 * calls + 1)
        averager.update()
        assert done == [True] * (2 * calls + 2)
    assert sum(function.calls for function in others) == 0
    assert all_bits(averaged.module.buffers())[2] == all_bits(net.buffers())[2]  # a counter


@pytest.mark.parametrize("value", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("average", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("negated", ["average", "value", "both"])
def test_lazily_negated_tensors_keep_their_sign(average: Any, value: Any, negated: str) -> None:
    # torch's own copy_ between a lazily negated tensor and another dtype loses the sign.
    x, y = torch.zeros(3, dtype=average), torch.full((3,), 2.0, dtype=value)
    x = torch._neg_view(x) if negated != "value" else x
    y = torch._neg_view(y) if negated != "average" else y
    sign = 1.0 if negated == "average" else -1.0
    for weight, expected in ((1.0, 2.0), (0.0, 2.0), (0.25, 2.0)):
        pairs.lerp_([x], [y], weight)
        assert x.tolist() == [sign * expected] * 3
    y.fill_(-4.0)
    pairs.lerp_([x], [y], 0.5)
    assert x.tolist() == [(sign * 2.0 - 4.0) / 2] * 3
    pairs.copy_([x], [y])
    assert x.tolist() == [-4.0] * 3


def test_a_lazily_conjugated_average_is_written() -> None:
    held = torch.tensor([1 + 2j, 3 + 4j])
    plain = torch.zeros(2, dtype=torch.complex64)[::1]
    pairs.lerp_([plain, held.conj()], [torch.ones(2) + 0j, torch.tensor([3 + 0j, 5 + 0j])], 0.5)
    assert held.conj().tolist() == [2 - 1j, 4 - 2j]
    assert plain.tolist() == [0.5 + 0j] * 2


@pytest.mark.parametrize("kind", ["averager", "model"])
def test_pairs_that_torch_handles_are_sorted_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    sort = sorting.sort

    def counted(*given: Any) -> Any:
        calls.append(given)
        return sort(*given)

    monkeypatch.setattr(mixed_pass, "sort", counted)
    net = nn.Module()
    net.dense = nn.Parameter(torch.zeros(3))
    net.columns = nn.Parameter(torch.zeros(4, 6)[:, ::2])
    net.register_buffer("seen", torch.zeros((), dtype=torch.int64))
    update: Callable[[], object]
    if kind == "averager":
        averager = WeightAverager(
            net, {"mean": Average(), "ema": Average(decay=0.75)}, use_buffers=True
        )
        update = averager.update
    else:
        averaged = AveragedModel(net, use_buffers=True)
        update = functools.partial(averaged.update_parameters, net)
    taken: list[float] = []

    def step(number: float) -> None:
        with torch.no_grad():
            net.dense.fill_(number)
            net.columns.fill_(number)
            net.seen.fill_(int(number))
        update()
        taken.append(number)

    for number in (1.0, 2.0, 6.0, 7.0):
        step(number)
    assert len(calls) == (4 if kind == "averager" else 2)  # for each average two lists
    net.columns.data = torch.zeros(4, 9)[:, ::3]
    step(4.0)
    assert len(calls) == (8 if kind == "averager" else 4)
    if kind == "averager":
        ema = taken[0]
        for number in taken[1:]:
            ema = 0.75 * ema + 0.25 * number
        for key, expected in (("mean", 4.0), ("ema", ema)):
            dense, columns, seen = averager.averages(key)
            assert (dense - expected).abs().max() < 1e-6
            assert (columns - expected).abs().max() < 1e-6
            assert seen == 4
    else:
        module = averaged.module
        assert (module.dense == 4.0).all()
        assert (module.columns == 4.0).all()
        assert module.seen == 4
