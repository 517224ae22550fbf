"""What a careless call is answered: the whole sentence."""

# ruff: noqa: E501, the sentences are to be read whole

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast import Average, Averager, decays
from swa_fast import _core as typed_core
from swa_fast.torch import SWA, AveragedModel, get_ema_multi_avg_fn, update_bn
from swa_fast.torch import WeightAverager as TypedAverager

# What is called wrongly here is not to be found by the type checker.
swa_fast: Any = typed_core
WeightAverager: Any = TypedAverager

m = nn.Linear(2, 1)
n = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
w = WeightAverager(m)
w.update()
x, y = [np.ones(2, np.float32)], [np.ones(2, np.float32)]
opt = torch.optim.SGD(m.parameters(), lr=0.1)
single: Any = Average()
loader = [(torch.ones(4, 2),)]

CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: swa_fast.running_mean_(m, m, 1),
        TypeError,
        "averages must be a list of tensors. Received: a module, torch.nn.modules.linear.Linear; pass list(module.parameters())",
    ),
    (
        lambda: swa_fast.running_mean_(list(m.parameters()), m, 1),
        TypeError,
        "values must be a list of tensors. Received: a module, torch.nn.modules.linear.Linear; pass list(module.parameters())",
    ),
    (
        lambda: swa_fast.running_mean_(1, x, y),
        TypeError,
        "count must be an int. Received: a list; it comes after the lists of tensors",
    ),
    (
        lambda: swa_fast.running_mean_(m.state_dict(), m.state_dict(), 1),
        TypeError,
        "averages must be a list of tensors. Received: a dict; pass list(d.values())",
    ),
    (
        lambda: swa_fast.running_mean_(torch.ones(2), torch.ones(2), 1),
        TypeError,
        "averages must be a list of tensors. Received: a single torch.Tensor; put it in a list, [averages]",
    ),
    (
        lambda: swa_fast.running_mean_(
            list(n.state_dict().values()), [v.clone() for v in n.state_dict().values()], 1
        ),
        TypeError,
        "averages[6] has dtype int64: only floating-point tensors can be averaged (copy_ takes any type)",
    ),
    (
        lambda: swa_fast.running_mean_(x, y, 0.5),
        TypeError,
        "count must be an int. Received: float 0.5",
    ),
    (
        lambda: swa_fast.running_mean_(x, y, -1),
        ValueError,
        "count must be at least 0 and below 2**53. Received: -1",
    ),
    (
        lambda: swa_fast.lerp_(x, y, 1.5),
        ValueError,
        "weight must be between 0 and 1. Received: 1.5",
    ),
    (
        lambda: swa_fast.lerp_(x, y, "0.5"),
        TypeError,
        "weight must be a number. Received: str",
    ),
    (
        lambda: swa_fast.lerp_(0.5, x, y),
        TypeError,
        "weight must be a number. Received: list",
    ),
    (
        lambda: swa_fast.copy_(m, n),
        TypeError,
        "dst must be a list of tensors. Received: a module, torch.nn.modules.linear.Linear; pass list(module.parameters())",
    ),
    (
        lambda: swa_fast.swap_([np.ones(2)], [np.ones(3)]),
        ValueError,
        "a[0] has shape (2,), b[0] has shape (3,): the two must be equal",
    ),
    (
        lambda: WeightAverager(opt),
        TypeError,
        "params_or_module must be a module or a list of tensors. Received: SGD",
    ),
    (
        lambda: WeightAverager(nn.Linear),
        TypeError,
        "params_or_module must be a module or a list of tensors. Received: type",
    ),
    (
        lambda: WeightAverager([]),
        ValueError,
        "params_or_module must hold at least one tensor. Received: none",
    ),
    (
        lambda: WeightAverager(m, [Average()]),
        TypeError,
        "averages must be a dict with at least one {name: swa_fast.Average(...)}. Received: [Average(decay=None, start=0, period=1, dtype=None, initial=False)]",
    ),
    (
        lambda: WeightAverager(m, Average()),
        TypeError,
        "averages must be a dict with at least one {name: swa_fast.Average(...)}. Received: Average(decay=None, start=0, period=1, dtype=None, initial=False); give it a name, {'name': Average(...)}",
    ),
    (
        lambda: WeightAverager(m, 0.999),
        TypeError,
        "averages must be a dict with at least one {name: swa_fast.Average(...)}. Received: 0.999; for a decay write decay=0.999",
    ),
    (
        lambda: WeightAverager(m, decay=99),
        ValueError,
        "decay must be between 0 and 1. Received: 99.0",
    ),
    (
        lambda: WeightAverager(m, decay="0.9"),
        TypeError,
        "decay must be a number or a schedule (s, t, n) -> decay. Received: '0.9'",
    ),
    (
        lambda: w.update(list(n.parameters())),
        ValueError,
        "values must have a tensor for each of 2 averages. Received: 4",
    ),
    (
        lambda: w.update(n),
        ValueError,
        "the parameters do not match the averages: there are 4 tensors for 2 averages (parameter 'weight' is missing, parameter 'bias' is missing, parameter '0.weight' has no average, parameter '0.bias' has no average, parameter '1.weight' has no average)",
    ),
    (
        lambda: w.update(opt),
        TypeError,
        "values must be a module or a list of tensors. Received: SGD",
    ),
    (
        lambda: w.update(5),
        TypeError,
        "values must be a module or a list of tensors. Received: int",
    ),
    (
        lambda: w.copy_to(opt),
        TypeError,
        "params must be a module or a list of tensors. Received: SGD",
    ),
    (
        lambda: w.copy_to(loader),
        TypeError,
        "params[0] must be a tensor. Received: tuple",
    ),
    (
        lambda: w.applied(m).__enter__(),
        TypeError,
        "applied() puts averages into the parameters that the averager was made for, and takes the name of one of several. Received: Linear",
    ),
    (
        lambda: WeightAverager(m).applied().__enter__(),
        RuntimeError,
        "applied() needs at least one snapshot. Received: none in 0 calls of update() (start=0, period=1)",
    ),
    (
        lambda: w.load_state_dict(m.state_dict()),
        KeyError,
        "state_dict must hold 'averages'. Received: ['weight', 'bias']; that is a model's state, and an averager loads its own state_dict()",
    ),
    (
        lambda: w.update(w.averages()),
        ValueError,
        "values must be other tensors than the averages. Received: values[0] is the memory of an average",
    ),
    (
        lambda: w.copy_to(w.averages()),
        ValueError,
        "params must be other tensors than the averages. Received: params[0] is the memory of an average",
    ),
    (
        lambda: AveragedModel(list(m.parameters())),
        TypeError,
        "model must be a torch.nn.Module. Received: list; for a list of tensors see swa_fast.torch.WeightAverager",
    ),
    (
        lambda: AveragedModel(m).update_parameters(list(m.parameters())),
        TypeError,
        "model must be a torch.nn.Module. Received: list; for a list of tensors see swa_fast.torch.WeightAverager",
    ),
    (
        lambda: AveragedModel(m, 0.999),
        TypeError,
        "device must be a torch.device. Received: 0.999; for a decay write multi_avg_fn=swa_fast.torch.get_ema_multi_avg_fn(0.999)",
    ),
    (
        lambda: SWA(m),
        TypeError,
        "optimizer must be a torch.optim.Optimizer. Received: Linear",
    ),
    (
        lambda: SWA(m.parameters()),
        TypeError,
        "optimizer must be a torch.optim.Optimizer. Received: generator",
    ),
    (
        lambda: update_bn(n, loader),
        TypeError,
        "model must be a torch.nn.Module. Received: list; the loader comes first, update_bn(loader, model)",
    ),
    (
        lambda: update_bn(loader, w),
        TypeError,
        "model must be a torch.nn.Module. Received: WeightAverager; call update_bn(loader, model) inside `with averager.applied():`",
    ),
    (
        lambda: Averager(m, {"a": Average()}),
        TypeError,
        "values must be a list of tensors. Received: a module; see swa_fast.torch.WeightAverager for those",
    ),
    (
        lambda: Averager(x, single),
        TypeError,
        "averages must be a dict with at least one {name: swa_fast.Average(...)}. Received: Average(decay=None, start=0, period=1, dtype=None, initial=False); give it a name, {'name': Average(...)}",
    ),
    (
        lambda: Averager(x, {"a": Average()}).update(m),
        TypeError,
        "values must be a list of tensors. Received: a module; see swa_fast.torch.WeightAverager for those",
    ),
    (
        lambda: (lambda a: a.update(a["a"]))(Averager(x, {"a": Average()})),
        ValueError,
        "values must be other tensors than the averages. Received: values[0] is one of them",
    ),
    (
        lambda: get_ema_multi_avg_fn(1.5),
        ValueError,
        "decay must be between 0 and 1. Received: 1.5",
    ),
    (
        lambda: swa_fast.combine_(x, [y, y], [0.5]),
        ValueError,
        "sources has 2 lists, weights has 1 numbers: there must be one for each",
    ),
    (
        lambda: swa_fast.combine_(x, y, [0.5]),
        TypeError,
        "sources[0] must be a list of tensors. Received: a single numpy.ndarray; put it in a list, [sources[0]]",
    ),
    (
        lambda: decays.power(sigma_rel=0.5),
        ValueError,
        "sigma_rel must be > 0 and <= 1 / sqrt(12), which is 0.288675. Received: 0.5",
    ),
    (
        lambda: Average(start=-1),
        ValueError,
        "start must be >= 0. Received: -1",
    ),
    (
        lambda: swa_fast.running_mean_(n.state_dict(), n.state_dict(), 1),
        TypeError,
        "averages must be a list of tensors. Received: a dict; pass the tensors of one kind: [t for t in d.values() if t.is_floating_point()] to average, the others to copy_ ('1.num_batches_tracked' has dtype torch.int64)",
    ),
]


@pytest.mark.parametrize(("call", "error", "sentence"), CALLS)
def test_the_whole_sentence(call: Callable[[], Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert raised.value.args[0] == sentence
    assert w.count == 1
    assert (x[0] == 1).all()


def test_a_schedule_of_other_arguments_is_refused_at_once() -> None:
    wrong: Any = lambda: 0.9  # noqa: E731
    with pytest.raises(TypeError, match="which does not take three arguments"):
        Average(decay=wrong)
    assert Average(decay=lambda s, t, n: 0.9).weight(1, 2, 1) == pytest.approx(0.1)
