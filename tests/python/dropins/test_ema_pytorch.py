"""swa_fast.ema_pytorch.EMA beside ema-pytorch's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import peers

torch = pytest.importorskip("torch")

from dropin_models import model, same, train  # noqa: E402
from swa_fast.ema_pytorch import EMA  # noqa: E402

EARLY: dict[str, Any] = {"update_after_step": 2, "update_every": 1}
SETTINGS: list[dict[str, Any]] = [
    {},
    {**EARLY, "beta": 0.7},
    {"update_after_step": 3, "update_every": 4, "beta": 0.9},
    {**EARLY, "inv_gamma": 3.0, "power": 1.0, "min_value": 0.4},
    {**EARLY, "beta": 1.0},
    {**EARLY, "ignore_names": {"head.weight", "norm.running_mean"}},
    {**EARLY, "ignore_startswith_names": {"conv", "norm"}},
    {**EARLY, "param_or_buffer_names_no_ema": {"head.bias", "scale"}},
    {**EARLY, "use_foreach": True, "include_online_model": False},
    {**EARLY, "update_model_with_ema_every": 5},
    {**EARLY, "update_model_with_ema_every": 5, "update_model_with_ema_beta": 0.75},
    {**EARLY, "lazy_init_ema": True},
]


def without_integers(state: dict[str, Any]) -> dict[str, Any]:
    """Without the buffers that ema-pytorch leaves alone."""
    return {name: value for name, value in state.items() if "num_batches" not in name}


@pytest.mark.parametrize("settings", SETTINGS)
def test_same_run(settings: dict[str, Any]) -> None:
    trained, twin = model(), model()
    theirs = peers.ema_pytorch().EMA(twin, **settings)
    ours = EMA(trained, **settings)
    for step in range(14):
        train(trained, step)
        train(twin, step)
        theirs.update()
        ours.update()
        assert ours.get_current_decay() == pytest.approx(theirs.get_current_decay(), rel=1e-6)
        if step in (0, 3, 13):
            same(without_integers(ours.state_dict()), without_integers(theirs.state_dict()))
    images = torch.randn(2, 3, 8, 8)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.forward_eval(images), ours(images))


def test_integers_are_copied() -> None:
    trained = model()
    ours = EMA(trained, update_after_step=0, update_every=1)
    for step in range(3):
        train(trained, step)
        ours.update()
    assert ours.ema_model.norm.num_batches_tracked == 3


@pytest.mark.parametrize("include_online_model", [True, False])
def test_state_dicts_load_in_both_directions(include_online_model: bool) -> None:
    settings = {**EARLY, "beta": 0.8, "include_online_model": include_online_model}
    trained = model()
    ours = EMA(trained, **settings)
    for step in range(6):
        train(trained, step)
        ours.update()
    twins = [model(1), model(2)]
    theirs, other = peers.ema_pytorch().EMA(twins[0], **settings), EMA(twins[1], **settings)
    theirs.load_state_dict(ours.state_dict())
    other.load_state_dict(theirs.state_dict())
    for twin in twins:
        twin.load_state_dict(trained.state_dict())
    for each in (trained, *twins):
        train(each, 7)
    for each in (ours, theirs, other):
        each.update()
    same(without_integers(ours.state_dict()), without_integers(theirs.state_dict()))
    same(other.state_dict(), ours.state_dict())


def test_the_averages_are_shown_in_the_module_that_is_given() -> None:
    trained, given = model(), model(1)
    ours = EMA(trained, given, **EARLY)
    assert ours.ema_model is given
    assert not torch.equal(given.head.weight, trained.head.weight)
    theirs = peers.ema_pytorch().EMA(trained, model(1), **EARLY)
    for step in range(5):
        train(trained, step)
        ours.update()
        theirs.update()
    same(without_integers(ours.state_dict()), without_integers(theirs.state_dict()))
    assert EMA(trained, model).ema_model is not trained


def test_half_precision() -> None:
    trained = model(dtype=torch.bfloat16)
    theirs = peers.ema_pytorch().EMA(
        trained, model().float(), coerce_dtype=True, beta=0.999, **EARLY
    )
    ours = EMA(trained, beta=0.999, **EARLY)
    for step in range(8):
        train(trained, step)
        theirs.update()
        ours.update()
    state = without_integers(theirs.state_dict())
    same(without_integers(ours.state_dict()), state)
    shown = ours.ema_model.head.weight
    assert torch.equal(shown, state["ema_model.head.weight"].to(torch.bfloat16))


def test_hooks_and_methods() -> None:
    trained = model()
    ours = EMA(trained, forward_method_names=("extra_repr",), **EARLY)
    assert ours.extra_repr() == trained.extra_repr()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    ours.add_to_optimizer_post_step_hook(optimizer)
    optimizer.step()
    assert ours.step == 1
    train(trained, 1)
    ours.copy_params_from_ema_to_model()
    assert torch.equal(trained.head.weight, ours.ema_model.head.weight)


def test_conversion() -> None:
    trained = model()
    ours = EMA(trained, **EARLY).to(torch.float64)
    assert trained.head.weight.dtype == torch.float64
    train(trained, 1)
    ours.update()
    expected = trained.head.weight
    torch.testing.assert_close(ours.ema_model.head.weight.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beta": 2}, "beta must be between 0 and 1. Received: 2"),
        ({"update_every": 0}, "update_every must be"),
        ({"power": 0}, "power must be > 0"),
        ({"min_value": 1.0}, "minimum must be between 0 and decay"),
    ],
)
def test_refused_arguments(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        EMA(model(), **settings)


def test_refused_models_and_states() -> None:
    trained = model()
    ours = EMA(trained, **EARLY)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module. Received: dict"):
        EMA({"a": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="missing"):
        ours.load_state_dict({})
    with pytest.raises(ValueError, match="must have the model's names"):
        EMA(trained, torch.nn.Linear(1, 1))
    trained.head = torch.nn.Linear(9, 9)
    with pytest.raises(ValueError, match=r"head\.weight"):
        ours.update()
    assert ours.step == 0
    same(
        {n: v for n, v in ours.state_dict().items() if "online" not in n},
        {n: v for n, v in before.items() if "online" not in n},
    )
