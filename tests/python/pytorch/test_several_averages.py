"""Several averages at once: one read of each value, schedules, names, states."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast import Average, _core, decays
from swa_fast.torch import SWA, AveragedModel, WeightAverager
from torch_reference import all_bits, make_net, snapshots

DESCRIBED = {
    "swa": Average(start=2, period=3),
    "ema": Average(decay=0.9),
    "warm": Average(decay=decays.warmup(0.999), dtype="float64"),
    "half": Average(decay=decays.half_life(5), period=2, dtype="bfloat16"),
    "initial": Average(decay=decays.ratio(0.99), initial=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("use_buffers", [False, True])
def test_each_has_the_bits_of_one_alone(use_buffers: bool, dtype: Any) -> None:
    net = make_net().to(dtype)
    together = WeightAverager(net, DESCRIBED, use_buffers=use_buffers)
    alone = {
        name: WeightAverager(net, {name: average}, use_buffers=use_buffers)
        for name, average in DESCRIBED.items()
    }
    taken = []
    for _ in snapshots(net, 9):
        taken.append(together.update())
        for one in alone.values():
            one.update()
    assert all(taken)
    for name, one in alone.items():
        assert all_bits(together.averages(name)) == all_bits(one.averages(name)), name
        assert together.counts[name] == one.counts[name]
    assert together.counts == {"swa": 3, "ema": 9, "warm": 9, "half": 5, "initial": 10}


def test_all_are_updated_in_one_native_call(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_net()
    averager = WeightAverager(net, DESCRIBED)
    averager.update()
    given: list[Any] = []
    run = _core.Prepared.run

    def noted(self: Any, *args: Any) -> bool:
        given.append(args[0])
        return run(self, *args)

    monkeypatch.setattr(_core.Prepared, "run", noted)
    averager.update()
    assert len(given) == 1
    assert given[0][0] is None  # "swa" is not due
    assert given[0][1] == pytest.approx(0.1)


def test_values_at_construction_are_a_snapshot_if_initial() -> None:
    value = torch.zeros(2)
    averager = WeightAverager([value], {"a": Average(decay=0.5, initial=True)})
    assert averager.counts == {"a": 1}
    value.fill_(8.0)
    averager.update()
    assert averager.averages("a")[0].tolist() == [4.0, 4.0]
    with averager.applied("a"):
        assert value.tolist() == [4.0, 4.0]


def test_a_name_is_needed_and_one_is_swapped_in_at_a_time() -> None:
    value = torch.ones(2)
    averager = WeightAverager([value], {"a": Average(), "b": Average(decay=0.5)})
    for number in (1.0, 3.0, 5.0):
        value.fill_(number)
        averager.update()
    for call in (averager.averages, averager.swap, averager.copy_to):
        with pytest.raises(ValueError, match=r"one of the averages \['a', 'b'\]. Received: none"):
            call()
    with pytest.raises(ValueError, match="Received: 'c'"):
        averager.averages("c")
    with pytest.raises(ValueError, match=r"one of the averages \['a', 'b'\]"):
        averager.applied().__enter__()
    with pytest.raises(RuntimeError, match=r"averages \['a', 'b'\]; see \.counts"):
        _ = averager.count
    averager.swap("b")
    assert value.tolist() == [3.5, 3.5]
    assert averager.averages("b")[0].tolist() == [3.5, 3.5]
    assert averager.averages("a")[0].tolist() == [3.0, 3.0]
    with pytest.raises(RuntimeError, match="while average 'b' is swapped into"):
        averager.swap("a")
    with pytest.raises(RuntimeError, match="swapped"):
        averager.update()
    averager.swap("b")
    assert value.tolist() == [5.0, 5.0]
    with averager.applied("a"):
        assert value.tolist() == [3.0, 3.0]
    averager.copy_to(name="b")
    assert value.tolist() == [3.5, 3.5]
    single = WeightAverager([value])
    with pytest.raises(ValueError, match="takes no name, because there is a single average"):
        single.averages("a")


@pytest.mark.parametrize("config", [False, True])
def test_a_state_resumes_bit_for_bit(config: bool) -> None:
    def make() -> tuple[Any, WeightAverager]:
        net = make_net()
        return net, WeightAverager(net, DESCRIBED, use_buffers=True)

    net, averager = make()
    for _ in snapshots(net, 5):
        averager.update()
    file = io.BytesIO()
    torch.save(averager.state_dict(config=config), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    keys = ["averages", "counts", "step", "skipped", "kind", "config"]
    assert list(state) == (keys if config else keys[:-1])
    assert set(state["averages"]) == set(DESCRIBED)
    other_net, other = make()
    other.load_state_dict(state)
    third = pickle.loads(pickle.dumps((net, averager)))
    other_net.load_state_dict(net.state_dict())
    for (first_net, first), seed in (((net, averager), 3), ((other_net, other), 3), (third, 3)):
        for _ in snapshots(first_net, 5, seed=seed):
            first.update()
    for name in DESCRIBED:
        assert all_bits(other.averages(name)) == all_bits(averager.averages(name))
        assert all_bits(third[1].averages(name)) == all_bits(averager.averages(name))
    assert other.counts == averager.counts


def _several() -> WeightAverager:
    net = make_net()
    averager = WeightAverager(net, {"a": Average(), "b": Average(decay=0.5)})
    for _ in snapshots(net, 2):
        averager.update()
    return averager


@pytest.mark.parametrize(
    ("break_", "error", "message"),
    [
        (lambda s: s["averages"].pop("a"), KeyError, r"\['averages'\] does not match: missing"),
        (lambda s: s["averages"].update(c={}), KeyError, r"unknown \['c'\]"),
        (lambda s: s["counts"].pop("b"), KeyError, r"\['counts'\] does not match"),
        (lambda s: s["counts"].update(b=9), ValueError, "must be at most step"),
        (lambda s: s["averages"]["b"].pop("0.bias"), KeyError, r"\['b'\] does not match: missing"),
        (lambda s: s["averages"].update(b=3), TypeError, r"\['averages'\]\['b'\] must be a dict"),
        (lambda s: s["averages"]["a"].update({"0.bias": 1}), TypeError, r"\['0\.bias'\] must be"),
        (lambda s: s["config"]["b"].update(decay=0.25), ValueError, "saved with another schedule"),
        (lambda s: s.update(count=s.pop("counts")), KeyError, "it is the state of one average"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(break_: Any, error: Any, message: str) -> None:
    averager = _several()
    before = all_bits([*averager.averages("a"), *averager.averages("b")])
    state = copy.deepcopy(averager.state_dict(config=True))
    for each in state["averages"].values():
        for tensor in each.values():
            tensor.zero_()
    break_(state)
    with pytest.raises(error, match=message):
        averager.load_state_dict(state)
    assert all_bits([*averager.averages("a"), *averager.averages("b")]) == before
    assert averager.counts == {"a": 2, "b": 2}


def test_the_state_of_one_average_has_todays_keys() -> None:
    averager = WeightAverager(make_net(), decay=0.9)
    averager.update()
    state = averager.state_dict()
    assert list(state) == ["averages", "count", "step", "skipped", "kind"]
    assert list(state["averages"]) == averager.names
    with pytest.raises(KeyError, match="it is the state of several averages"):
        averager.load_state_dict(_several().state_dict())


def test_which_tensors_are_averaged_is_chosen_at_construction() -> None:
    net = make_net()
    net[0].weight.requires_grad_(False)
    assert WeightAverager(net, requires_grad_only=True).names == [
        name for name, p in net.named_parameters() if p.requires_grad
    ]
    chosen = WeightAverager(net, include="weight", exclude=r"^1\.")
    assert chosen.names == ["0.weight", "4.weight"]
    for _ in snapshots(net, 2):
        assert chosen.update()
    net[0].weight.requires_grad_(True)
    net[1].weight = nn.Parameter(torch.ones(4))  # left out, and may be replaced
    assert chosen.update()
    assert WeightAverager([("a", torch.ones(1)), ("b", torch.ones(1))], exclude="a").names == ["b"]
    for arguments, error, message in (
        ({"include": "nothing"}, ValueError, "include, exclude and requires_grad_only leave no"),
        ({"include": "("}, ValueError, "include must be a regular expression. Received: '\\('"),
        ({"exclude": 3}, TypeError, "exclude must be a regular expression. Received: 3"),
    ):
        with pytest.raises(error, match=message):
            WeightAverager(net, **arguments)


def test_values_of_another_model_or_list() -> None:
    net, other = make_net(), make_net(3)
    averager = WeightAverager(net)
    averager.update(other)
    assert all_bits(averager.averages()) == all_bits(other.parameters())
    averager.update([p.detach() for p in net.parameters()])
    averager.update()
    assert averager.count == 3
    wrong = make_net()
    wrong[4] = nn.Linear(16, 4)
    with pytest.raises(ValueError, match=r"'4\.weight' has shape"):
        averager.update(wrong)
    with pytest.raises(ValueError, match="values must have a tensor for each of 6 averages"):
        averager.update([torch.ones(2)])
    assert averager.count == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"averages": {"a": Average()}, "decay": 0.5},
            TypeError,
            "decay describe a single",
        ),
        ({"averages": {"a": Average()}, "start": 1}, TypeError, "start describe a single"),
        ({"averages": {"a": Average()}, "period": 2}, TypeError, "period describe"),
        ({"averages": {"a": Average()}, "dtype": torch.float64}, TypeError, "dtype describe"),
        ({"averages": {}}, TypeError, "at least one"),
        ({"averages": [Average()]}, TypeError, "averages must be a dict"),
        ({"averages": {"a": 0.5}}, TypeError, "each name a str. Received: {'a': 0.5}"),
        ({"averages": {1: Average()}}, TypeError, "each name a str"),
        ({"averages": {"": Average()}}, TypeError, "each name a str"),
    ],
)
def test_bad_arguments(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        WeightAverager([torch.ones(2)], **arguments)


def test_a_snapshot_with_nan_is_skipped_by_those_that_are_due() -> None:
    value = torch.ones(2)
    averager = WeightAverager([value], {"a": Average(), "b": Average(period=2)}, nonfinite="skip")
    for number in (1.0, float("nan"), float("nan"), 3.0, 5.0):
        value.fill_(number)
        averager.update()
    assert averager.counts == {"a": 3, "b": 2}
    assert averager.skipped == {"a": 2, "b": 1}
    assert averager.averages("a")[0].tolist() == [3.0, 3.0]
    assert averager.averages("b")[0].tolist() == [3.0, 3.0]


def test_repr_tells_schedules_and_counts() -> None:
    assert "count=0" in repr(WeightAverager([torch.ones(2)], decay=0.5))
    assert "decay=0.5" in repr(WeightAverager([torch.ones(2)], decay=0.5))
    assert "counts={'a': 2, 'b': 2}" in repr(_several())


def test_an_average_for_averaged_model_and_for_swa() -> None:
    net = make_net()
    schedule = decays.warmup(0.9)
    averaged = AveragedModel(net, multi_avg_fn=Average(decay=schedule, start=1, period=2))
    averager = WeightAverager(net, decay=schedule, start=1, period=2)
    optimizer = SWA(
        torch.optim.SGD(net.parameters(), lr=0.1),
        averages={"mean": Average(), "ema": Average(decay=0.5)},
    )
    means = []
    for _ in snapshots(net, 6):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        means.append([p.detach().clone() for p in net.parameters()])
        averaged.update_parameters(net)
        averager.update()
    assert all_bits(averaged.module.parameters()) == all_bits(averager.averages())
    assert int(averaged.n_averaged) == 6  # updates, so that a saved model can go on
    assert optimizer.averager.counts == {"mean": 6, "ema": 6}
    optimizer.assign_average_vars(name="mean")
    for index, parameter in enumerate(net.parameters()):
        mean = torch.stack([step[index].double() for step in means]).mean(0)
        torch.testing.assert_close(parameter.double(), mean, rtol=1e-5, atol=1e-6)


def test_it_says_which_average_is_swapped_in() -> None:
    net = make_net()
    averager = WeightAverager(net, {"ema": Average(decay=0.9), "mean": Average()})
    averager.update()
    assert averager.swapped_in is None
    with averager.applied("mean"):
        assert averager.swapped_in == "mean"
    assert averager.swapped_in is None
    single = WeightAverager(net)
    single.update()
    single.swap()
    assert single.swapped_in == ""
