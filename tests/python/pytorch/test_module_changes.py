"""What happens to a model between two updates: the averages follow it, or refuse it by name."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast import _core
from swa_fast.torch import AveragedModel, WeightAverager
from torch_reference import all_bits, contract_mean, make_net, perturb


def _replace(net: Any) -> None:
    net[4].weight = nn.Parameter(torch.randn(3, 16))


def _set_data(net: Any) -> None:
    net[0].weight.data = torch.randn(4, 1, 3, 3)


def _swap_storages(net: Any) -> None:
    net[0].weight.data, net[0].bias.data = net[0].weight.data.clone(), net[0].bias.data.clone()


def _put_again(net: Any) -> None:
    first = net[0]
    del net[0]  # rebinds _modules
    net.insert(0, first)


def _reregister(net: Any) -> None:
    weight = net[4].weight
    del net[4].weight
    net[4].weight = weight  # behind the bias now


def _new_module(net: Any) -> None:
    net[4] = nn.Linear(16, 3)


def _swap_tensors(net: Any) -> None:
    torch.utils.swap_tensors(net[4].weight, nn.Parameter(torch.randn(3, 16)))


def _apply_in_place(net: Any) -> None:
    net.double().float()


def _apply_by_swapping(net: Any) -> None:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        net.double().float()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def _new_dict(net: Any) -> None:
    net[4].__dict__ = dict(net[4].__dict__)


def _new_parameters_dict(net: Any) -> None:
    net[4]._parameters = dict(net[4]._parameters)


def _channels_last(net: Any) -> None:
    net[0].weight.data = net[0].weight.data.to(memory_format=torch.channels_last)


CHANGES = [
    _replace,
    _set_data,
    _swap_storages,
    _put_again,
    _reregister,
    _new_module,
    _swap_tensors,
    _apply_in_place,
    _apply_by_swapping,
    _new_dict,
    _new_parameters_dict,
    _channels_last,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", ["averager", "with buffers", "model"])
def test_each_average_goes_on_with_its_parameter(kind: str, change: Callable[[Any], None]) -> None:
    net = make_net()
    generator = torch.Generator().manual_seed(5)
    averager: Any = AveragedModel(net)
    if kind != "model":
        averager = WeightAverager(net, use_buffers=kind == "with buffers")
    seen: dict[str, list[Any]] = {name: [] for name, _ in net.named_parameters()}
    for step in range(6):
        if step in (2, 4):
            change(net)
        perturb(net, generator)
        for name, parameter in net.named_parameters():
            seen[name].append(parameter.detach().clone().numpy())
        averager.update() if kind != "model" else averager.update_parameters(net)
    if kind == "model":
        averages = dict(averager.module.named_parameters())
    else:
        averages = dict(zip(averager.names, averager.averages(), strict=True))
        assert averager.count == 6
    for name, values in seen.items():
        got = averages[name].detach().contiguous()
        assert all_bits([got]) == [contract_mean(values).tobytes()], name


def test_the_walk_is_native_but_for_the_update_after_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = make_net()
    averager, averaged = WeightAverager(net), AveragedModel(net)
    results: list[bool] = []
    run = _core.Prepared.run

    def noted(self: Any, *args: Any) -> bool:
        results.append(run(self, *args))
        return results[-1]

    monkeypatch.setattr(_core.Prepared, "run", noted)
    for update in (averager.update, lambda: averaged.update_parameters(net)):
        results.clear()
        update()
        update()
        assert results == [True, True]
        net[4].weight = nn.Parameter(torch.randn(3, 16))
        results.clear()
        update()
        assert False in results  # the record no longer holds
        results.clear()
        update()
        assert results == [True]


def test_a_wrapped_module_keeps_its_averages_under_its_new_name() -> None:
    net = nn.Module()
    net.a, net.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    averager = WeightAverager(net)

    def fill(a: Any, b: Any) -> None:
        a.weight.data.fill_(a_value)
        b.weight.data.fill_(10 * a_value)

    a_value = 1.0
    fill(net.a, net.b)
    averager.update()
    wrapped = nn.Sequential(net.a)
    net.a = wrapped
    a_value = 3.0
    fill(wrapped[0], net.b)
    averager.update()
    got = {name: tensor[0, 0].item() for name, tensor in averager.state_dict()["averages"].items()}
    assert got == {"a.0.weight": 2.0, "b.weight": 20.0}
    with averager.applied():
        assert (wrapped[0].weight == 2.0).all()
        assert (net.b.weight == 20.0).all()


def test_a_tensor_that_moved_is_not_taken_for_the_one_whose_name_it_has() -> None:
    net = nn.Module()
    net.a, net.b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.full((2,), 10.0))
    averager = WeightAverager(net)
    averager.update()
    net.a, net.b = net.b, net.a  # each keeps its average, under the other's name
    net.a.data.fill_(30.0)
    net.b.data.fill_(3.0)
    averager.update()
    got = dict(zip(averager.names, averager.averages(), strict=True))
    assert (got["a"] == 20.0).all()
    assert (got["b"] == 2.0).all()


def test_what_has_no_average_is_refused_by_name() -> None:
    net = nn.Module()
    net.a, net.b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    averager = WeightAverager(net)
    averager.update()
    kept = net.b
    for change, message in (
        (
            lambda: setattr(net, "c", nn.Parameter(torch.ones(2))),
            "3 tensors for 2.*parameter 'c' has",
        ),
        (lambda: delattr(net, "b"), r"2 ten.* \(parameter 'b' is missing, parameter 'c' h"),
    ):
        change()
        with pytest.raises(ValueError, match=message):
            averager.update()
    del net.c
    with pytest.raises(ValueError, match=r"1 tensors for 2 averages \(parameter 'b' is missing\)"):
        averager.update()
    net.b = kept
    assert averager.update()
    assert (averager.count, averager.step) == (2, 2)


def test_an_untied_weight_has_no_average_of_its_own() -> None:
    net = nn.Module()
    net.embed, net.head = nn.Embedding(4, 2), nn.Linear(2, 4, bias=False)
    net.head.weight = net.embed.weight
    averager = WeightAverager(net)
    averager.update()
    net.head.weight = nn.Parameter(net.head.weight.detach().clone())
    with pytest.raises(ValueError, match=r"'head\.weight' has no average"):
        averager.update()
    # Either name of a tied weight is its name: a new one in both places takes its average.
    net.embed.weight = net.head.weight
    assert averager.update()
    del net.embed
    net.other = nn.Linear(1, 1)
    del net.other
    assert averager.update()
    assert averager.names == ["head.weight"]


def test_a_tree_of_its_own_kind_is_read_by_its_own_methods() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.shown = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

        def named_parameters(self, *args: Any, **options: Any) -> Any:
            yield "shown", self.shown

    class Slots(dict):  # type: ignore[type-arg]
        """Not a plain dict."""

    net = nn.Sequential(Listed(), nn.Linear(1, 1))
    net[1]._parameters = Slots(net[1]._parameters)
    for module in (net[0], net[1]):
        averager = WeightAverager(module)
        for value in (1.0, 3.0):
            for parameter in module.parameters():
                parameter.data.fill_(value)
            averager.update()
        assert all((a == 2.0).all() for a in averager.averages())
    assert WeightAverager(net[0]).names == ["shown"]


def test_lazy_and_parametrized_modules() -> None:
    net = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 3))
    net(torch.ones(1, 2))
    averager = WeightAverager(net)
    averager.update()
    nn.utils.parametrizations.weight_norm(net[1])
    with pytest.raises(ValueError, match=r"1\.weight' is missing, .*original0' has no average"):
        averager.update()
    nn.utils.parametrize.remove_parametrizations(net[1], "weight")
    assert averager.update()  # a new parameter under the old name


def test_functional_call_under_way_shows_the_model_its_tensors() -> None:
    net = nn.Linear(2, 2, bias=False)
    averager = WeightAverager(net)
    averager.update()

    class Updating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self) -> None:
            averager.update()

    other = {"net.weight": torch.full((2, 2), 8.0)}
    before = net.weight.detach().clone()
    torch.func.functional_call(Updating(), other, ())
    assert torch.equal(averager.averages()[0], before + (8.0 - before) * 0.5)
    averager.update()
    assert averager.count == 3


def test_a_freed_storage_is_refused_and_the_average_stays() -> None:
    net = make_net()
    averager, averaged = WeightAverager(net), AveragedModel(net)
    averager.update()
    averaged.update_parameters(net)
    before = all_bits(averager.averages()), all_bits(averaged.parameters())
    storage = net[4].weight.untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)
    for update in (averager.update, lambda: averaged.update_parameters(net)):
        with pytest.raises((BufferError, ValueError, RuntimeError), match=r"4\.weight|no memory"):
            update()
    assert (all_bits(averager.averages()), all_bits(averaged.parameters())) == before
    storage.resize_(size)
    with torch.no_grad():
        net[4].weight.fill_(1.0)
    assert averager.update()


def test_a_model_that_holds_its_averager_is_collected() -> None:
    net = make_net()
    net.averager = WeightAverager(net)
    net.__dict__["averaged"] = AveragedModel(net)  # a module below would be averaged too
    for _ in range(2):
        net.averager.update()
        net.averaged.update_parameters(net)
    gone = [weakref.ref(net), weakref.ref(net[0].weight), weakref.ref(net.averager)]
    del net
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3


def test_entries_replaced_by_a_thread_during_updates() -> None:
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(20)))
    averager = WeightAverager(net)
    done = threading.Event()

    def replace() -> None:
        step = 0
        while not done.is_set():
            net[step % 20].weight = nn.Parameter(torch.full((8, 8), 2.0))
            step += 1

    for parameter in net.parameters():
        parameter.data.fill_(2.0)
    averager.update()
    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(300):
            averager.update()
    finally:
        done.set()
        thread.join()
    assert averager.count == 301
    assert all((a == 2.0).all() for a in averager.averages())


def test_tensors_are_left_as_torch_wants_them() -> None:
    """No weak reference stays on a tensor that was averaged: swap_tensors refuses those."""
    one, other = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
    averager = WeightAverager([one])
    averager.update()
    assert weakref.getweakrefs(one) == []
    torch.utils.swap_tensors(one, other)
    assert averager.update()
    assert averager.averages()[0].tolist() == [0.5] * 3


def test_a_thousand_preparations_leave_nothing_behind() -> None:
    net = make_net()
    averager, averaged = WeightAverager(net), AveragedModel(net)

    def replace_and_update(times: int) -> None:
        for _ in range(times):
            net[4].weight = nn.Parameter(torch.ones(3, 16))
            averager.update()
            averaged.update_parameters(net)

    replace_and_update(50)
    gc.collect()
    tensors = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
    prepared = sum(isinstance(thing, _core.Prepared) for thing in gc.get_objects())
    replace_and_update(1000)
    gc.collect()
    assert sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()) <= tensors
    assert sum(isinstance(thing, _core.Prepared) for thing in gc.get_objects()) == prepared
