"""What is legal and rarely meant is said once, and what looks like it is not."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast import Average
from swa_fast.decays import warmup
from swa_fast.torch import WeightAverager


def with_batch_norm() -> Any:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.fixture
def silent() -> Any:
    """Any warning fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_running_statistics_are_told_of_at_construction() -> None:
    with pytest.warns(UserWarning, match=r"BatchNorm1d '1' keeps running.*update_bn") as told:
        WeightAverager(with_batch_norm())
    assert told[0].filename == __file__
    two = nn.Sequential(nn.BatchNorm1d(2), nn.InstanceNorm1d(2, track_running_stats=True))
    with pytest.warns(UserWarning, match=r"BatchNorm1d '0' and 1 more keep running"):
        WeightAverager(two)


@pytest.mark.usefixtures("silent")
def test_running_statistics_are_not_told_of_where_that_was_decided() -> None:
    WeightAverager(with_batch_norm(), use_buffers=False)
    WeightAverager(with_batch_norm(), use_buffers=True)
    WeightAverager(list(with_batch_norm().parameters()))
    WeightAverager(nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2)))


def enter_and_leave(averager: Any) -> None:
    with averager.applied():
        pass


READS: dict[str, Any] = {
    "averages": lambda averager: averager.averages(),
    "copy_to": lambda averager: averager.copy_to(),
    "applied": lambda averager: enter_and_leave(averager),
    "swap": lambda averager: averager.swap(),
    "model_state_dict": lambda averager: averager.model_state_dict(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_slow_start_is_told_of_at_the_first_read(read: Any) -> None:
    averager = WeightAverager(nn.Linear(1, 1), decay=0.999)
    for _ in range(100):
        averager.update()
    averager.state_dict()  # a checkpoint is no read
    message = (
        r"of decay 0\.999, is read after 100 snapshots, and the first one is 91% of it.*warmup"
    )
    with pytest.warns(UserWarning, match=message) as told:
        read(averager)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        averager.averages()


@pytest.mark.usefixtures("silent")
def test_a_start_that_is_over_is_not_told_of() -> None:
    for options, updates in (
        ({"decay": 0.9}, 23),  # 0.9 ** 22 is 0.098
        ({}, 2),
        ({"decay": warmup(0.9999)}, 3),
        ({"averages": {"mean": Average(), "ema": Average(decay=0.5)}}, 5),
    ):
        averager = WeightAverager(nn.Linear(1, 1), **options)
        averager.averages("ema" if "averages" in options else None)  # before the first snapshot
        for _ in range(updates):
            averager.update()
        averager.averages("ema" if "averages" in options else None)


def test_a_warning_that_is_an_error_leaves_nothing_swapped() -> None:
    net = nn.Linear(1, 1)
    averager = WeightAverager(net, decay=0.999)
    averager.update()
    with torch.no_grad():
        net.weight.fill_(5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="is read after 1 snapshot,"), averager.applied():
            raise AssertionError("not reached")
    assert net.weight.item() == 5.0
    assert averager.update()


def trained(net: Any) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(1, 1)).sum().backward()
    optimizer.step()


def train_while_swapped(averager: Any, net: Any, way: str) -> None:
    if way == "applied":
        with averager.applied():
            trained(net)
    else:
        averager.swap()
        trained(net)
        averager.swap()


def fail_while_applied(averager: Any, net: Any) -> None:
    with averager.applied():
        trained(net)
        raise ZeroDivisionError


@pytest.mark.parametrize("way", ["applied", "swap"])
def test_a_step_on_swapped_weights_is_told_of_when_they_are_swapped_back(way: str) -> None:
    net = nn.Linear(1, 1)
    averager = WeightAverager(net)
    averager.update()
    with pytest.warns(UserWarning, match="parameter 'weight' was written while") as told:
        train_while_swapped(averager, net, way)
    assert told[0].filename == __file__


@pytest.mark.usefixtures("silent")
def test_no_step_is_told_of_where_there_was_none() -> None:
    net = nn.Sequential(nn.Embedding(3, 2, max_norm=0.1), nn.Linear(2, 2), nn.BatchNorm1d(2))
    averager = WeightAverager(net, use_buffers=True)
    averager.update()
    with averager.applied():
        net.train()
        net(torch.tensor([0, 1, 2]))  # renormalizes the embedding, and writes the statistics
    with averager.applied():
        copied = copy.deepcopy(averager)
    copied.swap()


def test_an_exception_of_the_body_is_not_hidden_by_a_warning() -> None:
    net = nn.Linear(1, 1)
    averager = WeightAverager(net)
    averager.update()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError):
            fail_while_applied(averager, net)
    assert averager.update()


@pytest.mark.parametrize("several", [False, True])
def test_a_state_of_another_kind_is_told_of(several: bool) -> None:
    def make(decay: float | None) -> WeightAverager:
        net = nn.Linear(1, 1)
        if several:
            return WeightAverager(net, {"one": Average(decay=decay)})
        return WeightAverager(net, decay=decay)

    mean, ema = make(None), make(0.5)
    mean.update()
    ema.update()
    saved = mean.state_dict()
    which = " of average 'one'" if several else ""
    with pytest.warns(
        UserWarning, match=f"the state{which} is a mean, and it goes on as an exponential average"
    ):
        ema.load_state_dict(saved)
    with pytest.warns(UserWarning, match="is an exponential average, and it goes on as a mean"):
        mean.load_state_dict(ema.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean.load_state_dict(saved)
        del saved["kind"]  # as an earlier version saved it
        ema.load_state_dict(saved)


def test_a_state_of_copies_is_left_alone() -> None:
    net = nn.Linear(2, 1)
    averager = WeightAverager(net)
    averager.update()
    live, kept = averager.state_dict(), averager.state_dict(copy=True)
    before = kept["averages"]["weight"].clone()
    with torch.no_grad():
        net.weight.add_(8.0)
    averager.update()
    assert torch.equal(kept["averages"]["weight"], before)
    assert torch.equal(live["averages"]["weight"], averager.averages()[0])
    assert not torch.equal(before, averager.averages()[0])


def test_what_loads_into_the_model() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).to(torch.bfloat16)
    net[2].bias = net[0].weight  # tied
    net[2].bias = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    averager = WeightAverager(torch.compile(net, backend="eager"), use_buffers=False)
    with pytest.raises(RuntimeError, match=r"model_state_dict\(\) needs at least one snapshot"):
        averager.model_state_dict()
    averager.update()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    averager.update()
    other = copy.deepcopy(net)
    assert not other.load_state_dict(averager.model_state_dict(copy=True)).missing_keys
    for parameter, average in zip(other.parameters(), averager.averages(), strict=True):
        assert torch.equal(parameter, average.to(torch.bfloat16))
    assert torch.equal(other[1].running_mean, net[1].running_mean)
    with (
        averager.applied(),
        pytest.raises(RuntimeError, match=r"model_state_dict\(\) is refused while"),
    ):
        averager.model_state_dict()
    of_a_list = WeightAverager(list(net.parameters()))
    of_a_list.update()
    with pytest.raises(TypeError, match=r"needs an averager of a module\. Received: one of a list"):
        of_a_list.model_state_dict()


def test_the_model_itself_may_be_given_at_every_update() -> None:
    net = nn.Linear(2, 2)
    averager = WeightAverager(net)
    wrapped = torch.compile(net, backend="eager")
    for given in (net, wrapped, net):
        assert averager.update(given)
    assert averager.count == 3
    assert torch.equal(averager.averages()[0], net.weight)
