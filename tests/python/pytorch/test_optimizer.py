"""The SWA optimizer wrapper with schedulers, GradScaler, closures, and a resumed run."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast.torch import SWA, SWALR, WeightAverager
from torch_reference import all_bits, bits, contract_mean, make_net


def averages_in(state: Any) -> list[Any]:
    return [entries["swa_average"] for entries in state["state"].values()]


def train_step(net: Any, optimizer: Any, index: int) -> None:
    generator = torch.Generator().manual_seed(index)
    data = torch.randn(8, 1, 4, 4, generator=generator)
    optimizer.zero_grad()
    net(data).pow(2).mean().backward()
    optimizer.step()


@pytest.mark.parametrize(("start", "period"), [(0, 1), (0, 10), (3, 2), (5, 4), (11, 1)])
def test_snapshots_are_those_of_tf_addons(start: int, period: int) -> None:
    net = make_net()
    optimizer = SWA(torch.optim.SGD(net.parameters(), lr=0.1), start, period)
    due = [start + 1 + i * period for i in range(20)]  # after this many steps
    seen = []
    for step in range(12):
        train_step(net, optimizer, step)
        if step + 1 in due:
            seen.append([p.detach().clone().numpy() for p in net.parameters()])
    assert optimizer.averager.count == len(seen) > 0
    optimizer.assign_average_vars()
    for index, parameter in enumerate(net.parameters()):
        assert bits(parameter) == contract_mean([s[index] for s in seen]).tobytes()


def test_training_itself_is_unchanged_by_the_wrapper() -> None:
    plain, wrapped = make_net(), make_net()
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    averaging = SWA(torch.optim.Adam(wrapped.parameters(), lr=0.01), 2, 2)
    for one, scheduler_of in ((plain, optimizer), (wrapped, averaging)):
        scheduler = torch.optim.lr_scheduler.StepLR(scheduler_of, step_size=2, gamma=0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "lr_scheduler.step() before optimizer.step()"
            for step in range(6):
                train_step(one, scheduler_of, step)
                scheduler.step()
    assert all_bits(plain.parameters()) == all_bits(wrapped.parameters())
    assert averaging.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.00125
    assert list(averaging.state) == list(averaging.optimizer.state)
    assert averaging.averager.count == 2


def test_swalr_sets_the_learning_rate_through_the_wrapper() -> None:
    net = make_net()
    optimizer = SWA(torch.optim.SGD(net.parameters(), lr=0.1), 0, 1)
    scheduler = SWALR(optimizer, swa_lr=0.02, anneal_epochs=1)
    for step in range(3):
        train_step(net, optimizer, step)
        scheduler.step()
    assert optimizer.optimizer.param_groups[0]["lr"] == pytest.approx(0.02)


def test_a_step_of_the_wrapped_optimizer_counts() -> None:
    net = make_net()
    inner = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer = SWA(inner, 0, 1)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train_step(net, inner, 0)
    train_step(net, optimizer, 1)
    assert optimizer.averager.count == 2
    assert calls == ["before", "after"] * 2


def test_closures() -> None:
    weight = nn.Parameter(torch.tensor([4.0]))
    optimizer = SWA(torch.optim.LBFGS([weight], lr=0.5, max_iter=2), 0, 1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (weight - 1).pow(2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    optimizer.step(closure=closure)
    assert optimizer.averager.count == 2
    assert 1.0 <= weight.item() < 4.0


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scaled_object", ["wrapper", "wrapped"])
def test_steps_that_grad_scaler_skips_take_no_snapshot(fused: bool, scaled_object: str) -> None:
    weight = nn.Parameter(torch.ones(4))
    inner = torch.optim.Adam([weight], lr=0.1, fused=fused)
    optimizer = SWA(inner, 1, 1)
    target = optimizer if scaled_object == "wrapper" else inner
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    seen = []
    for step in range(6):
        optimizer.zero_grad()
        factor = float("inf") if step in (0, 3) else 1.0
        scaler.scale((weight * factor).sum()).backward()
        if step == 4:
            scaler.unscale_(target)
        scaler.step(target)
        scaler.update()
        if step not in (0, 1, 3):  # 0 and 3 are skipped; 1 is the first real step
            seen.append(weight.detach().clone().numpy())
    assert scaler.get_scale() == 2.0  # halved twice
    assert (optimizer.averager.count, optimizer.averager.step) == (3, 4)
    assert bits(optimizer.averager.averages()[0]) == contract_mean(seen).tobytes()
    assert not hasattr(inner, "found_inf")


@pytest.mark.parametrize("stop", [1, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumes_bit_for_bit(stop: int, dtype: Any) -> None:
    def make(seed: int) -> tuple[Any, Any]:
        weight = nn.Parameter(torch.linspace(-1, 1, 64).mul(seed).to(dtype))
        return weight, SWA(torch.optim.Adam([weight], lr=0.01), 2, 2, decay=0.75)

    def step(weight: Any, optimizer: Any, index: int) -> None:
        weight.grad = torch.cos(weight.detach() * index)
        optimizer.step()

    weight, optimizer = make(1)
    resumed_weight, resumed = make(2)
    for index in range(10):
        if index == stop:
            file = io.BytesIO()
            torch.save({"weight": weight.detach(), "optimizer": optimizer.state_dict()}, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            resumed_weight.data.copy_(saved["weight"])
            resumed.load_state_dict(saved["optimizer"])
        step(weight, optimizer, index)
        if index >= stop:
            step(resumed_weight, resumed, index)
    assert bits(resumed_weight) == bits(weight)
    assert all_bits(resumed.averager.averages()) == all_bits(optimizer.averager.averages())
    assert resumed.averager.count == optimizer.averager.count == 4


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_averages_on_its_own(copied: Any) -> None:
    net = make_net()
    optimizer = SWA(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), 0, 1)
    train_step(net, optimizer, 0)
    other_net, other = copied((net, optimizer))
    train_step(net, optimizer, 1)
    assert (other.averager.count, optimizer.averager.count) == (1, 2)
    train_step(other_net, other, 1)
    assert all_bits(other.averager.averages()) == all_bits(optimizer.averager.averages())


def test_parameters_are_added_before_the_first_snapshot_only() -> None:
    first, second, third = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    inner = torch.optim.SGD([first], lr=1.0)
    optimizer = SWA(inner, 1, 1)
    for parameter in (first, second, third):
        parameter.grad = torch.ones(2)
    optimizer.step()
    optimizer.add_param_group({"params": [second], "lr": 2.0})
    inner.add_param_group({"params": [third]})
    optimizer.step()
    optimizer.step()
    assert [a.tolist() for a in optimizer.averager.averages()] == [[-2.5] * 2, [-3] * 2, [-1.5] * 2]
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(RuntimeError, match=r"before the first snapshot only.*after 2 snapshots"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    after = optimizer.state_dict()
    assert len(after["param_groups"]) == 3
    assert all_bits(averages_in(after)) == all_bits(averages_in(before))


def test_a_state_whose_averages_cannot_be_copied_changes_nothing() -> None:
    model = torch.nn.Linear(3, 3)
    optimizer = SWA(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), average_period=1)

    def train() -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()

    train()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.05
    train()
    before = copy.deepcopy(optimizer.state_dict())
    live = optimizer.averager._snapshots.averages(0)[0]
    saved["state"][0]["swa_average"] = live.t()  # shares its memory with the average
    with pytest.raises(ValueError, match="overlap"):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert str(after) == str(before)
    assert after["param_groups"][0]["lr"] == 0.05


def test_state_and_the_plain_optimizer() -> None:
    net = make_net()
    optimizer = SWA(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), 0, 1)
    train_step(net, optimizer, 0)
    state = optimizer.state_dict()
    plain = torch.optim.SGD(make_net().parameters(), lr=0.3, momentum=0.9)
    plain.load_state_dict(optimizer.optimizer.state_dict())
    assert plain.param_groups[0]["lr"] == 0.1
    with pytest.raises(KeyError, match=r"must hold 'swa_average'.*into \.optimizer"):
        optimizer.load_state_dict(plain.state_dict())

    broken = copy.deepcopy(state)
    broken["state"][0]["swa_average"] = torch.zeros(9)
    broken["param_groups"][0]["lr"] = 7.0
    before = all_bits(optimizer.averager.averages())
    with pytest.raises(ValueError, match="parameter '0' has shape"):
        optimizer.load_state_dict(broken)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert all_bits(optimizer.averager.averages()) == before


def test_bad_arguments() -> None:
    inner = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer.*float"):
        SWA(0.1)
    with pytest.raises(ValueError, match="start_averaging must be >= 0"):
        SWA(inner, -1)
    with pytest.raises(ValueError, match="average_period must be >= 1"):
        SWA(inner, 0, 0)
    with pytest.raises(ValueError, match='at must be "step" or "next_step"'):
        SWA(inner, at="end")
    unstepped = SWA(inner)
    with (
        pytest.warns(UserWarning, match=r"has seen no step.*likely cause"),
        pytest.raises(RuntimeError, match="at least one snapshot"),
    ):
        unstepped.assign_average_vars()
    assert len(inner._optimizer_step_post_hooks) == 1  # that of the one that was made
    unstepped.detach()
    assert isinstance(SWA(inner).averager, WeightAverager)
    assert repr(SWA(inner, 3, 4)).startswith("SWA(start_averaging=3, average_period=4, optimizer=")


def test_nonfinite_snapshots_can_be_skipped() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = SWA(torch.optim.SGD([weight], lr=1.0), 0, 1, nonfinite="skip")
    for gradient in (1.0, float("nan")):
        weight.grad = torch.full((2,), gradient)
        optimizer.step()
    assert optimizer.averager.skipped == 1
    assert np.isfinite(optimizer.averager.averages()[0].numpy()).all()


def test_only_one_averager_follows_an_optimizer_through_swa() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SWA(torch.optim.SGD([weight], lr=1.0), 0, 1)
    with pytest.raises(TypeError, match=r"use copy\.deepcopy"):
        copy.copy(optimizer)
    with pytest.raises(TypeError, match="must not be wrapped by SWA already"):
        SWA(optimizer)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert (optimizer.averager.count, optimizer.averager.step) == (1, 1)


def test_a_group_without_values_is_not_added() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SWA(torch.optim.SGD([weight], lr=1.0), 0, 1)
    with pytest.raises(ValueError, match="meta device"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.empty(2, device="meta"))]})
    assert len(optimizer.param_groups) == 1
    weight.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.averager.count == len(averages_in(optimizer.state_dict())) == 1


def test_a_removed_group_is_called_so() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = SWA(torch.optim.SGD([{"params": [w]} for w in weights], lr=1.0), 0, 1)
    optimizer.step()
    del optimizer.param_groups[1]
    with pytest.raises(RuntimeError, match=r"removed before.*1 tensors for 2 averages, after 1 s"):
        optimizer.step()


def test_a_closure_that_is_false_is_called() -> None:
    class Empty(list[int]):
        calls = 0

        def __call__(self) -> float:
            self.calls += 1
            return 1.0

    closure = Empty()
    optimizer = SWA(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0))
    assert optimizer.step(closure) == 1.0
    assert closure.calls == 1
