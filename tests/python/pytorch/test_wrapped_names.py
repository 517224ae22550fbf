"""Names of tensors do not depend on what is around the module, so that states fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from swa_fast.torch import AveragedModel, WeightAverager
from torch_reference import all_bits, make_net


class OrtLike(nn.Module):
    """Keeps the module as torch.compile does."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self._orig_mod = module


class DistributedDataParallel(nn.Module):
    """Apex's has the name of torch's, and keeps the module alike."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module


class Fabric(nn.Module):
    """Keeps the module as Lightning's Fabric does: twice."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self._forward_module = DistributedDataParallel(module)
        self._original_module = module


class Holder(nn.Module):
    """A model of the user's own, with a submodule called module."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module


WRAPPERS: dict[str, Any] = {
    "compile": lambda net: torch.compile(net, backend="eager"),
    "DataParallel": nn.DataParallel,
    "ORT": OrtLike,
    "apex": DistributedDataParallel,
    "Fabric": Fabric,
    "checkpoint": checkpoint_wrapper,
    "nested": lambda net: OrtLike(nn.DataParallel(checkpoint_wrapper(net))),
}


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("torch was built without distributed gloo")
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def check(wrap: Any) -> None:
    plain, inside = make_net(), make_net(1)
    names = WeightAverager(plain, use_buffers=True).names
    averager = WeightAverager(wrap(inside), use_buffers=True)
    assert averager.names == names
    averager.update()
    other = WeightAverager(plain, use_buffers=True)
    other.load_state_dict(averager.state_dict())
    averager.load_state_dict(other.state_dict())
    assert all_bits(other.averages()) == all_bits(averager.averages())
    averager.copy_to(plain)
    assert all_bits(plain.parameters()) == all_bits(averager.averages()[:6])
    averager.update(plain)
    model = AveragedModel(plain)
    model.update_parameters(wrap(inside))
    assert all_bits(model.module.parameters()) == all_bits(inside.parameters())

    # Around a part of the model, too.
    part = nn.Sequential(nn.Linear(2, 2), wrap(make_net()))
    whole = nn.Sequential(nn.Linear(2, 2), make_net())
    assert WeightAverager(part, use_buffers=True).names == (
        WeightAverager(whole, use_buffers=True).names
    )


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_state_of_one_wrapper_loads_into_the_other(kind: str) -> None:
    check(WRAPPERS[kind])


@pytest.mark.usefixtures("one_process")
def test_torchs_distributed_data_parallel() -> None:
    check(nn.parallel.DistributedDataParallel)


def test_a_submodule_that_is_called_module_keeps_its_name() -> None:
    assert WeightAverager(Holder(nn.Linear(1, 1))).names == ["module.weight", "module.bias"]


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_that_were_saved_with_a_wrapper_in_them(prefix: str) -> None:
    net = make_net()
    averager = WeightAverager(net)
    state = averager.state_dict()
    state["averages"] = {f"{prefix}{name}": value for name, value in state["averages"].items()}
    WeightAverager(make_net(1)).load_state_dict(state)
    wrapped = OrtLike(net)
    assert WeightAverager(wrapped.named_parameters()).names == averager.names
    other = WeightAverager([(f"module.{n}", t) for n, t in net.named_parameters()])
    other.load_state_dict(averager.state_dict())


@pytest.mark.parametrize("late", [False, True])
def test_the_buffer_that_differs_is_the_one_that_is_named(late: bool) -> None:
    net = nn.Module()
    net.register_buffer("bias", None if late else torch.zeros(2, 2))
    net.weight = nn.Parameter(torch.ones(3))
    net.register_buffer("scale", torch.ones(1))
    model, averager = AveragedModel(net), WeightAverager(net, use_buffers=True)
    alone = WeightAverager(net)
    net.bias = torch.zeros(5, 5)
    with pytest.raises(ValueError, match="buffer 'bias' has"):
        model.update_parameters(net)
    with pytest.raises(ValueError, match="buffer 'bias' has"):
        averager.update()
    assert alone.update()


def test_a_saved_buffer_is_called_one() -> None:
    net = make_net()
    averager = WeightAverager(net, use_buffers=True)
    state = averager.state_dict()
    name = averager.names[-1]
    state["averages"][name] = torch.zeros(7, 7)
    with pytest.raises(ValueError, match=f"the state of buffer '{name}' has"):
        averager.load_state_dict(state)


def test_one_buffer_in_the_place_of_another() -> None:
    net = nn.Module()
    net.weight = nn.Parameter(torch.ones(3))
    net.register_buffer("first", torch.ones(2))
    net.register_buffer("second", torch.ones(3))
    model = AveragedModel(net)
    del net.first
    net.register_buffer("third", torch.ones(4))
    with pytest.raises(ValueError, match=r"buffer 'first' is missing, buffer 'third' has no aver"):
        model.update_parameters(net)
