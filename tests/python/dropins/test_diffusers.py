"""swa_fast.diffusers.EMAModel beside diffusers' own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

import peers

torch = pytest.importorskip("torch")

from dropin_models import model, train  # noqa: E402
from swa_fast.diffusers import EMAModel  # noqa: E402

SETTINGS: list[dict[str, Any]] = [
    {"decay": 0.9},
    {"decay": 0.9, "foreach": True},
    {"decay": 0.9, "update_after_step": 3, "min_decay": 0.3},
    {"decay": 0.95, "use_ema_warmup": True, "update_after_step": 2},
    {"decay": 0.8, "use_ema_warmup": True, "inv_gamma": 3.0, "power": 1.0, "min_decay": 0.4},
]


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    tensors = ours.pop("shadow_params"), theirs.pop("shadow_params")
    assert ours == theirs
    torch.testing.assert_close(*tensors, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS)
def test_same_run(settings: dict[str, Any]) -> None:
    """Parameters are frozen and thawed, and the list is another one in the middle."""
    trained = model()
    theirs = peers.diffusers_ema()(trained.parameters(), **settings)
    ours = EMAModel(trained.parameters(), **settings)
    for step in range(1, 12):
        if step == 8:
            trained = copy.deepcopy(trained)
        trained.head.weight.requires_grad_(step not in (4, 5))
        train(trained, step)
        theirs.step(trained.parameters())
        ours.step(trained.parameters())
        assert ours.cur_decay_value == theirs.cur_decay_value
        same(ours.state_dict(), theirs.state_dict())


def test_store_copy_to_restore() -> None:
    trained = model()
    theirs, ours = peers.diffusers_ema()(trained.parameters()), EMAModel(trained.parameters())
    train(trained, 1)
    before = [parameter.detach().clone() for parameter in trained.parameters()]
    ours.store(trained.parameters())
    ours.copy_to(trained.parameters())
    torch.testing.assert_close(list(trained.parameters()), theirs.shadow_params)
    ours.restore(trained.parameters())
    assert all(map(torch.equal, trained.parameters(), before))
    with pytest.raises(RuntimeError, match="needs parameters that store"):
        ours.restore(trained.parameters())


def test_state_dicts_load_in_both_directions() -> None:
    trained = model()
    settings: dict[str, Any] = {"decay": 0.7, "use_ema_warmup": True, "power": 1.0}
    ours = EMAModel(trained.parameters(), **settings)
    theirs = peers.diffusers_ema()(model(1).parameters())
    other = EMAModel(model(1).parameters())
    for step in range(4):
        train(trained, step)
        ours.step(trained.parameters())
    theirs.load_state_dict(ours.state_dict())
    other.load_state_dict(theirs.state_dict())
    train(trained, 5)
    for each in (ours, theirs, other):
        each.step(trained.parameters())
    same(ours.state_dict(), theirs.state_dict())
    theirs.step(trained.parameters())
    other.step(trained.parameters())
    same(other.state_dict(), theirs.state_dict())


def test_half_precision() -> None:
    """The averages are in float32, as diffusers' are when it is told so."""
    trained = model(dtype=torch.bfloat16)
    theirs = peers.diffusers_ema()(trained.parameters(), decay=0.999, update_after_step=-1)
    theirs.to(dtype=torch.float32)
    ours = EMAModel(trained.parameters(), decay=0.999)
    for step in range(5):
        train(trained, step)
        # Their arithmetic is in bfloat16 for a bfloat16 parameter without this.
        values = [parameter.detach().float().requires_grad_() for parameter in trained.parameters()]
        theirs.optimization_step = ours.optimization_step
        theirs.update_after_step = 0
        theirs.step(values)
        ours.step(trained.parameters())
    torch.testing.assert_close(ours.shadow_params, theirs.shadow_params, rtol=2e-6, atol=1e-6)
    ours.copy_to(trained.parameters())
    for parameter, average in zip(trained.parameters(), ours.shadow_params, strict=True):
        assert torch.equal(parameter, average.to(torch.bfloat16))


def test_a_parameter_listed_twice() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    theirs = peers.diffusers_ema()([weight, weight], decay=0.5)
    ours = EMAModel([weight, weight], decay=0.5)
    for step in range(1, 5):
        torch.nn.init.constant_(weight, step)
        theirs.step([weight, weight])
        ours.step([weight, weight])
    torch.testing.assert_close(ours.shadow_params, theirs.shadow_params)
    ours.copy_to([weight, weight])
    assert torch.equal(weight, ours.shadow_params[1])


def test_shadow_params_can_be_set_and_moved() -> None:
    trained = model()
    ours = EMAModel(trained.parameters())
    given = [torch.randn_like(parameter) for parameter in trained.parameters()]
    ours.shadow_params = given
    assert all(map(torch.equal, ours.shadow_params, given))
    ours.to(dtype=torch.float64)
    assert ours.shadow_params[0].dtype == torch.float64
    ours.step(trained.parameters())
    assert torch.equal(ours.shadow_params[0], trained.conv.weight.double())


class Config(dict[str, Any]):
    """What a diffusers model's config is, as far as EMAModel needs it."""


class Saved(torch.nn.Linear):
    """A model with diffusers' way to save, which needs diffusers' dependencies for real ones."""

    def __init__(self, size: int = 2) -> None:
        super().__init__(size, size)
        self.config = Config(size=size)

    @classmethod
    def from_config(cls, config: Any, return_unused_kwargs: bool = False) -> Any:
        if isinstance(config, (str, Path)):
            config = torch.load(Path(config) / "model.pt")["config"]
        unused = {name: value for name, value in config.items() if name != "size"}
        made = cls(config["size"])
        return (made, unused) if return_unused_kwargs else made

    @classmethod
    def from_pretrained(cls, path: Any) -> Any:
        saved = torch.load(Path(path) / "model.pt")
        made = cls(saved["config"]["size"])
        made.load_state_dict(saved["state"])
        return made

    def register_to_config(self, **settings: Any) -> None:
        self.config.update(settings)

    def save_pretrained(self, path: Any) -> None:
        state = {"config": dict(self.config), "state": self.state_dict()}
        torch.save(state, Path(path) / "model.pt")


@pytest.mark.parametrize("ours_writes", [True, False])
def test_pretrained(tmp_path: Path, ours_writes: bool) -> None:
    trained = Saved(3)
    classes = [EMAModel, peers.diffusers_ema()]
    writer, reader = classes if ours_writes else reversed(classes)
    written = writer(trained.parameters(), decay=0.6, model_cls=Saved, model_config=trained.config)
    for step in range(4):
        train(trained, step)
        written.step(trained.parameters())
    written.save_pretrained(tmp_path)
    read = reader.from_pretrained(tmp_path, Saved)
    same(read.state_dict(), written.state_dict())
    with pytest.raises(ValueError, match="needs model_cls"):
        EMAModel(trained.parameters()).save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"decay": -0.1}, "decay must be between 0 and 1. Received: -0.1"),
        ({"update_after_step": -1}, "update_after_step must be"),
        ({"use_ema_warmup": True, "inv_gamma": 0.0}, "gamma must be > 0"),
        ({"max_values": 1}, "takes no argument 'max_values'"),
    ],
)
def test_refused_arguments(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        EMAModel(model().parameters(), **settings)


def test_refused_parameters_and_states() -> None:
    trained = model()
    ours = EMAModel(trained.parameters(), decay=0.5)
    before = copy.deepcopy(ours.state_dict())
    parameters = list(trained.parameters())
    with pytest.raises(ValueError, match="must have 6 tensors"):
        ours.step(parameters[:5])
    with pytest.raises(ValueError, match=r"parameters\[0\] has shape \(2,\)"):
        ours.step(parameters[::-1])
    with pytest.raises(ValueError, match=r"shadow_params\[0\] has shape"):
        ours.load_state_dict({"decay": 0.1, "shadow_params": parameters[::-1]})
    with pytest.raises(ValueError, match=r"state_dict must be that of an EMAModel.*'module.a'"):
        ours.load_state_dict({"module.a": torch.zeros(1)})
    with pytest.raises(TypeError, match="optimization_step must be"):
        ours.load_state_dict({"decay": 0.1, "optimization_step": "1"})
    same(ours.state_dict(), before)
    parameters = list(model().parameters())
    parameters[2].ds_id = 1
    with pytest.raises(ValueError, match="DeepSpeed ZeRO-3"):
        ours.step(parameters)


def test_deprecated_arguments_warn() -> None:
    trained = model()
    with pytest.warns(FutureWarning, match="max_value is deprecated, use decay"):
        assert EMAModel(trained.parameters(), max_value=0.5).decay == 0.5
    with pytest.warns(FutureWarning, match="a module as parameters"):
        assert EMAModel(trained).use_ema_warmup
