"""A remembered list of parameters is torch's own list, whatever is done to the module."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from swa_fast._parameter_listing import ParameterListing  # noqa: E402
from swa_fast.diffusers import EMAModel  # noqa: E402


def tree() -> Any:
    inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    made = nn.Sequential(inner, nn.ModuleDict({"a": nn.Linear(2, 2, bias=False)}), inner[0])
    made[1].register_parameter("none", None)
    return made


def replace_parameter(module: Any) -> None:
    module[0][0].weight = nn.Parameter(torch.ones(2, 2))


def replace_child(module: Any) -> None:
    module[0][0] = nn.Linear(2, 2)


def add_child(module: Any) -> None:
    module.append(nn.Linear(1, 1))


def take_child_away(module: Any) -> None:
    del module[1]["a"]


def add_parameter(module: Any) -> None:
    module[1].none = nn.Parameter(torch.ones(1))


def take_parameter_away(module: Any) -> None:
    module[0][0].bias = None


def reorder(module: Any) -> None:
    module[0]._parameters = {}
    module[0][0]._parameters = dict(reversed(module[0][0]._parameters.items()))


def exchange_two(module: Any) -> None:
    module[0][0].weight, module[1]["a"].weight = module[1]["a"].weight, module[0][0].weight


def parametrize(module: Any) -> None:
    nn.utils.parametrizations.weight_norm(module[0][0])


CHANGES: list[Callable[[Any], None]] = [
    replace_parameter,
    replace_child,
    add_child,
    take_child_away,
    add_parameter,
    take_parameter_away,
    reorder,
    exchange_two,
    parametrize,
]


def same(found: list[Any], module: Any) -> bool:
    expected = list(module.parameters())
    return len(found) == len(expected) and all(a is b for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(change: Callable[[Any], None]) -> None:
    listing, module = ParameterListing(), tree()
    assert same(listing.of(module.parameters()), module)
    assert same(listing.of(module.parameters()), module)
    change(module)
    assert same(listing.of(module.parameters()), module)
    assert same(listing.of(module.parameters()), module)


def test_other_iterables_are_listed() -> None:
    listing, module, other = ParameterListing(), tree(), tree()
    assert same(listing.of(module.parameters()), module)
    assert same(listing.of(other.parameters()), other)
    assert same(listing.of(module.parameters()), module)
    begun = module.parameters()
    next(begun)
    assert len(listing.of(begun)) == len(list(module.parameters())) - 1
    assert len(listing.of(module[0][0].parameters(recurse=False))) == 2
    assert listing.of(module.parameters(recurse=False)) == []
    assert same(listing.of(list(module.parameters())), module)
    assert same(listing.of(p for p in module.parameters()), module)
    used = module.parameters()
    listing.of(used)
    assert list(used) == []


def test_a_module_with_a_listing_of_its_own() -> None:
    class Own(nn.Linear):
        def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
            yield "weight", self.weight

    module = nn.Sequential(Own(2, 2), nn.Linear(2, 2))
    listing = ParameterListing()
    for _ in range(2):
        assert same(listing.of(module.parameters()), module)


def test_copies_remember_nothing() -> None:
    module = tree()
    ema = EMAModel(module.parameters(), decay=0.5)
    ema.step(module.parameters())
    for other in (copy.deepcopy(ema), pickle.loads(pickle.dumps(ema))):
        other.step(module.parameters())
        assert other.optimization_step == 2


def test_a_parameter_that_is_frozen_later_is_copied() -> None:
    module = tree()
    ema = EMAModel(module.parameters(), decay=0.5)
    for step in range(4):
        if step == 2:
            module[0][0].weight.requires_grad_(False)
        with torch.no_grad():
            module[0][0].weight.fill_(float(step))
        ema.step(module.parameters())
    assert torch.equal(ema.shadow_params[0], torch.full((2, 2), 3.0))
