"""swa_fast.timm.ModelEmaV3 beside timm's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import peers

torch = pytest.importorskip("torch")

from dropin_models import model, same, train  # noqa: E402
from swa_fast.timm import ModelEmaV3  # noqa: E402

SETTINGS: list[dict[str, Any]] = [
    {"decay": 0.9},
    {"decay": 0.9, "exclude_buffers": True},
    {"decay": 0.9, "update_after_step": 3},
    {"decay": 0.95, "use_warmup": True, "update_after_step": 2},
    {"decay": 0.8, "use_warmup": True, "warmup_gamma": 3.0, "warmup_power": 1.0, "min_decay": 0.4},
    {"decay": 0.9, "foreach": False},
    {"decay": 0.9, "dtype": torch.float64},
]


@pytest.mark.parametrize("with_step", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_same_run(settings: dict[str, Any], with_step: bool) -> None:
    trained = model()
    theirs = peers.timm_ema()(trained, **settings)
    ours = ModelEmaV3(trained, **settings)
    for step in range(1, 12):
        train(trained, step)
        theirs.update(trained, step if with_step else None)
        ours.update(trained, step if with_step else None)
        if step in (3, 11):  # the module is made after update 3, and updated from there
            same(ours.state_dict(), theirs.state_dict())
    images = torch.randn(2, 3, 8, 8).to(settings.get("dtype"))
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exclude_buffers", [False, True])
def test_set(exclude_buffers: bool) -> None:
    trained = model()
    ours = ModelEmaV3(trained, exclude_buffers=exclude_buffers)
    train(trained, 1)
    ours.set(trained)
    same(dict(ours.module.state_dict()), dict(trained.state_dict()))


def test_state_dicts_load_in_both_directions() -> None:
    trained = model()
    theirs, ours = peers.timm_ema()(trained, 0.5), ModelEmaV3(trained, 0.5)
    for step in range(3):
        train(trained, step)
        ours.update(trained)
    theirs.load_state_dict(ours.state_dict())
    same(ours.state_dict(), theirs.state_dict())
    other = ModelEmaV3(model(1), 0.5)
    other.load_state_dict(theirs.state_dict())
    train(trained, 4)
    for each in (ours, theirs, other):
        each.update(trained)
    same(ours.state_dict(), theirs.state_dict())
    same(other.state_dict(), theirs.state_dict())


def test_the_module_is_no_second_copy() -> None:
    trained = model()
    ours = ModelEmaV3(trained, 0.5)
    assert not list(ours.parameters())
    shown = ours.module
    assert shown is ours.module
    assert not shown.training
    memory = {average.data_ptr() for average in ours.averager.averages()}
    named = dict(shown.named_parameters()) | dict(shown.named_buffers())
    assert {named[name].data_ptr() for name in ours.averager.names} == memory
    train(trained, 1)
    before = shown.head.weight.clone()
    ours.update(trained)
    torch.testing.assert_close(shown.head.weight, (before + trained.head.weight) / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: Any) -> None:
    """The averages are timm's float32 ones; the module has the model's dtype."""
    trained = model(dtype=dtype)
    theirs = peers.timm_ema()(trained, 0.999, dtype=torch.float32)
    ours = ModelEmaV3(trained, 0.999)
    for step in range(5):
        train(trained, step)
        theirs.update(trained)
        ours.update(trained)
    same(ours.state_dict(), theirs.state_dict())
    assert ours.module.head.weight.dtype == dtype
    rounded = theirs.module.head.weight.to(dtype)
    assert torch.equal(ours.module.head.weight, rounded)
    again = ModelEmaV3(model(1, dtype), 0.999)
    again.load_state_dict(ours.state_dict())
    same(again.state_dict(), ours.state_dict())


def test_tied_parameters_are_averaged_once() -> None:
    trained = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    trained[1].weight = trained[0].weight
    ours = ModelEmaV3(trained, 0.5)
    before = trained[0].weight.detach().clone()
    with torch.no_grad():
        trained[0].weight.add_(1)
    ours.update(trained)
    torch.testing.assert_close(ours.module[0].weight, before + 0.5)
    assert ours.module[1].weight is ours.module[0].weight


@pytest.mark.parametrize("of", ["ema", "module"])
def test_conversion(of: str) -> None:
    trained = model()
    ours = ModelEmaV3(trained, 0.5)
    shown = ours.module
    (ours if of == "ema" else shown).to(torch.float64)
    before = shown.head.weight.clone()
    assert before.dtype == torch.float64
    train(trained, 1)
    ours.update(trained)
    expected = (before + trained.head.weight) / 2
    torch.testing.assert_close(ours.module.head.weight, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"decay": 1.5}, "decay must be between 0 and 1. Received: 1.5"),
        ({"decay": "a"}, "decay must be a number. Received: 'a'"),
        ({"use_warmup": True, "warmup_gamma": 0}, "gamma must be > 0 and finite. Received: 0"),
        ({"use_warmup": True, "warmup_power": -1.0}, "power must be > 0 and finite"),
        ({"use_warmup": True, "min_decay": 0.99999}, "minimum must be between 0 and decay"),
    ],
)
def test_refused_arguments(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        ModelEmaV3(model(), **settings)


def test_refused_models_and_states() -> None:
    trained = model()
    ours = ModelEmaV3(trained, 0.5)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match="do not match the averages"):
        ours.update(torch.nn.Linear(2, 2))
    state = {**before, "module.head.weight": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r"'module.head.weight' has shape \(1,\)"):
        ours.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"missing .*'module.conv.weight'"):
        ours.load_state_dict({})
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module. Received: list"):
        ModelEmaV3([torch.zeros(1)])
    same(ours.state_dict(), before)
