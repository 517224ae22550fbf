"""SWA's averages in the states that torch's own functions save and restore."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from swa_fast import Average
from swa_fast.torch import SWA
from torch_reference import all_bits, contract_mean

OPTIMIZERS = {
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.01),
    "SGD": lambda params: torch.optim.SGD(params, lr=0.01),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "one": {"average_period": 2},
    "several": {"averages": {"mean": Average(period=2), "ema.99": Average(decay=0.99)}},
}


def make(optimizer: str, schedule: str, seed: int = 0) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    net[0].bias.requires_grad_(False)  # torch's functions leave out the state of a frozen one
    groups = [{"params": net[1].parameters()}, {"params": net[0].parameters(), "lr": 0.02}]
    return net, SWA(OPTIMIZERS[optimizer](groups), **SCHEDULES[schedule])


def train(net: Any, optimizer: Any, steps: range) -> None:
    for index in steps:
        data = torch.randn(4, 3, generator=torch.Generator().manual_seed(index))
        optimizer.zero_grad()
        net(data).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()


def everything(net: Any, optimizer: Any) -> tuple[Any, ...]:
    averager = optimizer.averager
    names = averager.counts if "" not in averager.counts else [None]
    averages = [all_bits(averager.averages(name)) for name in names]
    return all_bits(net.parameters()), averages, averager.counts, averager.step


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("flat", "wrapped"),
    [(False, False), (True, False), (True, True)],
    ids=["nested", "flattened", "compiled"],
)
def test_a_checkpoint_by_torch_resumes_bit_for_bit(
    optimizer: str, schedule: str, flat: bool, wrapped: bool
) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    net, averaging = make(optimizer, schedule)
    saved_net = torch.compile(net, backend="eager") if wrapped else net
    train(net, averaging, range(5))
    weights, state = copy.deepcopy(get_state_dict(saved_net, averaging, options=options))
    other, resumed = make(optimizer, schedule, seed=1)
    set_state_dict(
        other, resumed, model_state_dict=weights, optim_state_dict=state, options=options
    )
    assert everything(other, resumed) == everything(net, averaging)
    train(net, averaging, range(5, 9))
    train(other, resumed, range(5, 9))
    assert everything(other, resumed) == everything(net, averaging)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_checkpoints_between_steps_change_nothing(optimizer: str) -> None:
    net, averaging = make(optimizer, "one")
    seen = []
    for index in range(6):
        get_state_dict(net, averaging)
        train(net, averaging, range(index, index + 1))
        if index % 2 == 0:
            seen.append([p.detach().clone().numpy() for p in (*net[1].parameters(), net[0].weight)])
    assert averaging.averager.step == 6
    expected = [contract_mean([one[i] for one in seen]).tobytes() for i in range(3)]
    assert all_bits(averaging.averager.averages()[:3]) == expected


def test_the_files_of_a_distributed_checkpoint_hold_the_averages(tmp_path: Path) -> None:
    net, averaging = make("AdamW", "one")
    train(net, averaging, range(5))
    dcp.save({"optimizer": get_optimizer_state_dict(net, averaging)}, checkpoint_id=tmp_path)
    other, resumed = make("AdamW", "one", seed=1)
    other.load_state_dict(net.state_dict())
    loaded = {"optimizer": get_optimizer_state_dict(other, resumed)}
    dcp.load(loaded, checkpoint_id=tmp_path)
    set_optimizer_state_dict(other, resumed, loaded["optimizer"])
    assert everything(other, resumed) == everything(net, averaging)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("torch was built without distributed gloo")
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["FSDP2", "DDP"])
@pytest.mark.parametrize(
    "options",
    [{}, {"flatten_optimizer_state_dict": True}, {"full_state_dict": True, "cpu_offload": True}],
    ids=["nested", "flattened", "full"],
)
@pytest.mark.usefixtures("one_process")
def test_checkpoints_of_wrapped_models(kind: str, options: dict[str, Any]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def wrapped(seed: int) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        net: Any = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        if kind == "DDP":
            net = nn.parallel.DistributedDataParallel(net)
        else:
            fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
        return net, SWA(torch.optim.AdamW(net.parameters(), lr=0.01), 0, 2)

    def state_of(net: Any, optimizer: Any) -> tuple[Any, ...]:
        whole = [
            average.full_tensor() if kind == "FSDP2" else average
            for average in optimizer.averager.averages()
        ]
        return all_bits(whole), optimizer.averager.counts, optimizer.averager.step

    net, averaging = wrapped(0)
    get_state_dict(net, averaging)  # fills the state of the optimizer
    assert averaging.averager.step == 0
    train(net, averaging, range(4))
    set_options = StateDictOptions(**options)
    weights, state = copy.deepcopy(get_state_dict(net, averaging, options=set_options))
    other, resumed = wrapped(1)
    set_state_dict(
        other, resumed, model_state_dict=weights, optim_state_dict=state, options=set_options
    )
    assert state_of(other, resumed) == state_of(net, averaging)
    train(net, averaging, range(4, 7))
    train(other, resumed, range(4, 7))
    assert state_of(other, resumed) == state_of(net, averaging)


def as_saved_by_0_1_0(optimizer: Any) -> dict[str, Any]:
    return {**optimizer.optimizer.state_dict(), "averager": optimizer.averager.state_dict()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_of_version_0_1_0_is_loaded(optimizer: str) -> None:
    net, averaging = make(optimizer, "one")
    train(net, averaging, range(5))
    file = io.BytesIO()
    torch.save(as_saved_by_0_1_0(averaging), file)
    file.seek(0)
    other, resumed = make(optimizer, "one", seed=1)
    other.load_state_dict(net.state_dict())
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(net, averaging, range(5, 8))
    train(other, resumed, range(5, 8))
    assert everything(other, resumed) == everything(net, averaging)


def test_the_wrapped_optimizers_own_state_holds_no_averages() -> None:
    net, averaging = make("momentum", "one")
    train(net, averaging, range(3))
    averaging.state_dict()
    own = averaging.optimizer.state_dict()
    assert all(list(entries) == ["momentum_buffer"] for entries in own["state"].values())


def test_writes_through_the_wrappers_state_reach_the_optimizer() -> None:
    net, averaging = make("momentum", "one")
    train(net, averaging, range(1))
    weight = net[1].weight
    averaging.state[weight]["momentum_buffer"] = torch.zeros(1, 4)
    assert averaging.optimizer.state[weight]["momentum_buffer"].sum() == 0
    assert torch.equal(averaging.state[weight]["swa_average"], averaging.averager.averages()[0])
    averaging.state[weight] = {"momentum_buffer": torch.ones(1, 4)}
    assert averaging.optimizer.state[weight]["momentum_buffer"].sum() == 4
    del averaging.state[weight]
    assert weight not in averaging.optimizer.state
    assert len(averaging.state) == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s["state"][0].pop("swa_average"), KeyError, "no 'swa_average' for parameter"),
        (lambda s: s["param_groups"][0]["params"].pop(), ValueError, "the 4 parameters.*: 3"),
        (lambda s: [g.pop("swa_step") for g in s["param_groups"]], KeyError, "no 'swa_step'"),
        (lambda s: s["param_groups"][0].update(swa_count=9), ValueError, "at most step"),
    ],
)
def test_a_broken_state_changes_nothing(change: Any, error: Any, message: str) -> None:
    net, averaging = make("momentum", "one")
    train(net, averaging, range(3))
    before = everything(net, averaging)
    state = copy.deepcopy(averaging.state_dict())
    state["param_groups"][0]["lr"] = 7.0
    change(state)
    with pytest.raises(error, match=message):
        averaging.load_state_dict(state)
    assert everything(net, averaging) == before
    assert averaging.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_from_within_applied_resumes_from_the_weights(dtype: Any) -> None:
    def new(seed: int) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        net = nn.Linear(3, 1).to(dtype)
        return net, SWA(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), 0, 1)

    def steps(net: Any, optimizer: Any) -> None:
        for index in range(3):
            for parameter in net.parameters():
                parameter.grad = torch.cos(parameter.detach() * index)
            optimizer.step()

    net, averaging = new(0)
    steps(net, averaging)
    with averaging.averager.applied():
        with pytest.warns(UserWarning, match="carries the weights too"):
            state = copy.deepcopy(averaging.state_dict())
        weights = copy.deepcopy(net.state_dict())
    other, resumed = new(1)
    steps(other, resumed)
    before = everything(other, resumed), str(resumed.optimizer.state_dict())
    with pytest.raises(ValueError, match="load the model first"):
        resumed.load_state_dict(state)
    assert (everything(other, resumed), str(resumed.optimizer.state_dict())) == before
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert everything(other, resumed) == everything(net, averaging)
    steps(net, averaging)
    steps(other, resumed)
    assert everything(other, resumed) == everything(net, averaging)


def test_the_mean_of_what_was_seen_after_a_resumed_run() -> None:
    net, averaging = make("SGD", "one")
    seen = []
    for index in range(4):
        train(net, averaging, range(index, index + 1))
        if index % 2 == 0:
            seen.append(net[1].weight.detach().clone().numpy())
        averaging.load_state_dict(copy.deepcopy(averaging.state_dict()))
    assert all_bits(averaging.averager.averages()[:1]) == [contract_mean(seen).tobytes()]
