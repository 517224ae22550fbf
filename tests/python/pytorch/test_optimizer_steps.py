"""Which calls of an optimizer SWA takes for steps, and which optimizers it refuses to follow."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast import Average
from swa_fast.torch import SWA
from torch_reference import bits, contract_mean


@pytest.fixture(autouse=True)
def every_warning_is_seen() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def weight_of(*values: float) -> Any:
    return nn.Parameter(torch.tensor(values or (1.0, 2.0)))


def step(weight: Any, optimizer: Any, gradient: float = 1.0) -> None:
    weight.grad = torch.full_like(weight, gradient)
    optimizer.step()


def zero_step(optimizer: Any, rate: Any = 0.0, gradient: float = 0.0) -> None:
    """A step as torch makes it to fill an optimizer's state."""
    group = optimizer.param_groups[0]
    before, group["lr"] = group["lr"], rate
    for parameter in group["params"]:
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step(closure=None)
    group["lr"] = before


@pytest.mark.parametrize("at", ["step", "next_step"])
@pytest.mark.parametrize("rate", [0.0, torch.tensor(0.0)])
def test_a_step_that_fills_the_state_is_none(rate: Any, at: str) -> None:
    weight = weight_of()
    optimizer = SWA(torch.optim.Adam([weight], lr=0.1), 0, 1, at=at)
    zero_step(optimizer, rate)
    step(weight, optimizer)
    first = weight.detach().clone()
    zero_step(optimizer, rate)
    with torch.no_grad():
        weight.add_(1)
    step(weight, optimizer)
    expected = first if at == "step" else first + 1
    optimizer.averager.averages()
    assert (optimizer.averager.count, optimizer.averager.step) == (2, 2)
    mean = contract_mean([expected.numpy(), weight.detach().numpy()])
    assert bits(optimizer.averager.averages()[0]) == mean.tobytes()


@pytest.mark.parametrize(("rate", "gradient"), [(0.0, 1e-30), (0.1, 0.0), (0.0, float("nan"))])
def test_a_rate_of_zero_or_a_gradient_of_zero_alone_is_a_step(rate: float, gradient: float) -> None:
    weight = weight_of()
    optimizer = SWA(torch.optim.SGD([weight], lr=0.1), 0, 1)
    zero_step(optimizer, rate, gradient)
    assert optimizer.averager.step == 1


class TwoSteps(torch.optim.SGD):
    """Steps as sharpness-aware minimization does, outside step()."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.1)

    def first_step(self) -> None: ...
    def second_step(self) -> None:
        self.base_optimizer.step()


class Around(torch.optim.Optimizer):
    """A wrapper that does not call Optimizer.__init__."""

    def __init__(self, inner: Any, hooks: bool) -> None:
        if hooks:
            for kind in ("pre", "post"):
                setattr(self, f"_optimizer_step_{kind}_hooks", OrderedDict())
        self.inner, self.param_groups = inner, inner.param_groups
        self.state, self.defaults = inner.state, inner.defaults

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def test_an_optimizer_that_steps_by_other_methods_is_refused() -> None:
    weight = weight_of()
    optimizer = TwoSteps([weight])
    with pytest.raises(TypeError, match=r"first_step\(\).*sam\.base_optimizer = SWA\("):
        SWA(optimizer)
    optimizer.base_optimizer = SWA(optimizer.base_optimizer, 0, 1)  # what the message says
    for _ in range(3):
        weight.grad = torch.ones(2)
        optimizer.first_step()
        optimizer.second_step()
    assert optimizer.base_optimizer.averager.count == 3


@pytest.mark.parametrize("hooks", [True, False])
def test_an_optimizer_whose_step_calls_no_hooks_is_refused(hooks: bool) -> None:
    weight = weight_of()
    inner = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(TypeError, match=r"Around, which does not call it; .*Around\(SWA\(\.\.\.\)"):
        SWA(Around(inner, hooks))
    followed = SWA(inner, 0, 1)  # what the message says
    around = Around(followed, hooks)
    for _ in range(3):
        step(weight, around)
    assert followed.averager.count == 3


def test_parameters_that_backward_steps_are_refused() -> None:
    weight = weight_of()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight._in_backward_optimizers = [optimizer]
    with pytest.raises(TypeError, match=r"WeightAverager\(model\).*after backward\(\)"):
        SWA(optimizer)


def test_one_optimizer_for_each_parameter_stepped_by_backward() -> None:
    weights = [weight_of(), weight_of()]
    optimizers = [SWA(torch.optim.SGD([weight], lr=0.1), 0, 1) for weight in weights]
    for weight, optimizer in zip(weights, optimizers, strict=True):
        weight.register_post_accumulate_grad_hook(lambda _, optimizer=optimizer: optimizer.step())
    for _ in range(3):
        sum(weight.sum() for weight in weights).backward()
    assert [optimizer.averager.count for optimizer in optimizers] == [3, 3]


class Twice(torch.optim.SGD):
    """Its step calls that of its base class, so that torch calls the hooks twice."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("at", ["step", "next_step"])
def test_a_step_that_calls_its_base_class_takes_one_snapshot(at: str) -> None:
    torch.optim.SGD([weight_of()], lr=0.1)  # from here on torch calls hooks in SGD.step too
    weight = weight_of()
    optimizer = SWA(Twice([weight], lr=0.1), 0, 1, at=at)
    with pytest.raises(RuntimeError, match="no closure"):
        optimizer.step(failing_closure)
    for _ in range(3):
        step(weight, optimizer)
    optimizer.averager.averages()
    assert (optimizer.averager.step, optimizer.averager.count) == (3, 3)


def failing_closure() -> Any:
    raise RuntimeError("no closure")


def test_lbfgs_takes_one_snapshot_for_all_its_closures() -> None:
    weight = weight_of(4.0)
    calls: list[None] = []
    optimizer = SWA(torch.optim.LBFGS([weight], lr=0.1, max_iter=8), 0, 1)

    def closure() -> Any:
        calls.append(None)
        optimizer.zero_grad()
        loss = (weight - 1).pow(4).sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    assert len(calls) > 4
    assert optimizer.averager.count == 2


def test_gradients_that_are_cleared_again_and_again_without_a_step() -> None:
    weight = weight_of()
    base = torch.optim.SGD([weight], lr=0.1)
    optimizer = SWA(base, 0, 1)
    reloaded = copy.deepcopy(base)
    for _ in range(2):
        optimizer.zero_grad()
        step(weight, reloaded)
    with pytest.warns(UserWarning, match=r"zero_grad\(\) was called 3 times.*likely cause"):
        optimizer.zero_grad()
    for _ in range(4):
        step(weight, reloaded)
        optimizer.zero_grad()  # said once
    with pytest.warns(UserWarning, match="has seen no step of its optimizer"):
        optimizer.averager.averages()


def test_steps_that_grad_scaler_skips_first_are_not_missed() -> None:
    weight = weight_of()
    optimizer = SWA(torch.optim.SGD([weight], lr=0.1), 0, 1)
    for _ in range(6):
        optimizer.zero_grad()
        weight.grad = torch.full((2,), float("inf"))
    step(weight, optimizer)
    for _ in range(6):
        optimizer.zero_grad()
    assert optimizer.averager.count == 1


def test_a_second_swa_takes_the_place_of_the_first() -> None:
    weight = weight_of()
    base = torch.optim.SGD([weight], lr=0.1)
    first = SWA(base, 0, 1)
    step(weight, first)
    with pytest.warns(UserWarning, match="followed by another SWA, which is detached now"):
        second = SWA(base, 0, 1)
    step(weight, first)
    assert (first.averager.count, second.averager.count) == (1, 1)
    assert len(base._optimizer_step_post_hooks) == len(base._optimizer_step_pre_hooks) == 1
    second.detach()
    second.detach()  # again: nothing happens
    step(weight, second)
    assert second.averager.count == 1
    assert not base._optimizer_step_post_hooks
    assert not base._optimizer_step_pre_hooks
    assert not any("swa" in key for key in base.param_groups[0])
    third = SWA(base, 0, 1)  # no warning: nobody follows it
    step(weight, base)
    assert third.averager.count == 1


def test_an_swa_that_nobody_holds_is_gone_at_once_and_its_hooks_with_it() -> None:
    weight = weight_of()
    base = torch.optim.SGD([weight], lr=0.1)
    optimizer = SWA(base, 0, 1)
    step(weight, optimizer)
    optimizer.state_dict()
    alive, averager = weakref.ref(optimizer), weakref.ref(optimizer.averager)
    gc.collect()
    gc.disable()
    try:
        del optimizer
        assert alive() is None
        assert averager() is None
    finally:
        gc.enable()
    assert not base._optimizer_step_post_hooks
    step(weight, base)


def test_weights_that_the_loop_clips_are_averaged_clipped() -> None:
    weight = weight_of(0.5, -0.5)
    optimizer = SWA(torch.optim.SGD([weight], lr=1.0), 1, 2, at="next_step")
    seen = []
    for gradient in (0.3, -0.4, 0.7, -0.2):
        step(weight, optimizer, gradient)
        with torch.no_grad():
            weight.clamp_(-0.25, 0.25)
        seen.append(weight.detach().clone().numpy())
    held = optimizer.averager  # read through a reference that was taken before the last snapshot
    assert held.count == 1  # the second is still to be taken
    assert bits(held.averages()[0]) == contract_mean([seen[1], seen[3]]).tobytes()
    assert (held.count, held.step) == (2, 4)
    optimizer.assign_average_vars()
    assert bits(weight) == contract_mean([seen[1], seen[3]]).tobytes()


@pytest.mark.parametrize(
    "read",
    [
        lambda optimizer: optimizer.state_dict(),
        lambda optimizer: optimizer.averager.state_dict(),
        lambda optimizer: optimizer.detach(),
        lambda optimizer: optimizer.averager.applied().__enter__(),
        lambda optimizer: optimizer.averager.swap(),
    ],
)
def test_every_read_takes_the_snapshot_that_is_pending(read: Any) -> None:
    weight = weight_of()
    optimizer = SWA(torch.optim.SGD([weight], lr=1.0), 0, 1, at="next_step")
    step(weight, optimizer)
    with torch.no_grad():
        weight.zero_()
    read(optimizer)
    assert optimizer.averager.count == 1
    assert optimizer.averager.averages()[0].tolist() == [0.0, 0.0]


def test_a_look_at_the_state_takes_no_snapshot() -> None:
    weight = weight_of()
    optimizer = SWA(torch.optim.SGD([weight], lr=1.0, momentum=0.9), 0, 1, at="next_step")
    step(weight, optimizer)
    assert set(optimizer.state[weight]) == {"momentum_buffer", "swa_average"}
    optimizer.zero_grad()
    assert optimizer.averager.count == 0
    with torch.no_grad():
        weight.zero_()
    assert optimizer.averager.averages()[0].tolist() == [0.0, 0.0]


def test_a_pending_snapshot_survives_a_copy() -> None:
    weight = weight_of()
    optimizer = SWA(torch.optim.SGD([weight], lr=1.0), 0, 1, at="next_step")
    step(weight, optimizer)
    copied = copy.deepcopy(optimizer)
    assert copied.averager.averages()[0].tolist() == weight.tolist()
    assert (copied.averager.count, optimizer.averager.count) == (1, 0)


@pytest.mark.parametrize("at", ["step", "next_step"])
@pytest.mark.parametrize("several", [False, True])
def test_parameters_added_late_are_refused_before_the_step(at: str, several: bool) -> None:
    weight, late = weight_of(), weight_of(3.0)
    base = torch.optim.SGD([weight], lr=1.0)
    settings: Any = {"averages": {"mean": Average()}} if several else {"average_period": 1}
    optimizer = SWA(base, **settings, at=at)
    for _ in range(2):
        step(weight, optimizer)
    base.add_param_group({"params": [late]})  # behind the wrapper's back
    before = weight.tolist(), late.tolist()
    late.grad = torch.ones(1)
    with pytest.raises(
        RuntimeError, match=r"before the first snapshot only.*WeightAverager\(model"
    ):
        step(weight, optimizer)
    assert (weight.tolist(), late.tolist()) == before
    del base.param_groups[1]
    step(weight, optimizer)
    assert weight.tolist() != before[0]
