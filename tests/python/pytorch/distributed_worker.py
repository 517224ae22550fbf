"""What test_distributed.py runs in each process: ``torchrun distributed_worker.py COMMAND ...``."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

from swa_fast.torch import SWA, AveragedModel, WeightAverager
from torch_reference import all_bits, bits, contract_mean


def make_net() -> Any:
    """Layers whose first dimensions (5, 3, 1) do not divide by two: uneven and empty shards."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Linear(3, 1))


def shard(net: Any) -> Any:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (net[0], net[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def train(net: Any, steps: int, averager: Any, seed: int = 0) -> list[list[Any]]:
    """Trains on this rank's data and returns the whole parameters after each step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    generator = torch.Generator().manual_seed(seed + dist.get_rank())
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 4, generator=generator)).pow(2).mean().backward()
        optimizer.step()
        averager.update()
        seen.append([whole(p).clone().numpy() for p in net.parameters()])
    return seen


def whole(tensor: Any) -> Any:
    return tensor.detach().full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach()


def means(seen: list[list[Any]]) -> list[bytes]:
    count = len(seen[0])
    return [contract_mean([step[i] for step in seen]).tobytes() for i in range(count)]


def same_everywhere(blobs: list[bytes]) -> bool:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, blobs)
    return all(other == blobs for other in gathered)


def check_ddp() -> None:
    net = nn.parallel.DistributedDataParallel(make_net())
    averager = WeightAverager(net)
    model = AveragedModel(net.module)
    assert averager.names == WeightAverager(make_net()).names
    seen = train(net, 5, averager)
    model.update_parameters(net)
    assert all_bits(averager.averages()) == means(seen)
    assert same_everywhere(all_bits(averager.averages()))
    assert same_everywhere(all_bits(model.parameters()))
    print("ddp ok", flush=True)


def check_fsdp2() -> None:
    net = shard(make_net())
    averager = WeightAverager(net)
    held = [average.to_local().numel() for average in averager.averages()]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, held)
    assert gathered[0] != gathered[1]  # uneven
    assert [sum(parts) for parts in zip(*gathered, strict=True)] == [20, 5, 15, 3, 3, 1]
    seen = train(net, 5, averager)
    assert all_bits(map(whole, averager.averages())) == means(seen)
    assert same_everywhere(all_bits(map(whole, averager.averages())))
    print("fsdp2 ok", flush=True)


def check_swap() -> None:
    net, data = shard(make_net()), torch.ones(2, 4)
    averager = WeightAverager(net)
    seen = train(net, 4, averager)
    plain = make_net()
    with torch.no_grad():
        before = net(data)  # leaves the root's parameters whole, where a swap must not stop
        for parameter, mean in zip(plain.parameters(), means(seen), strict=True):
            parameter.copy_(
                torch.frombuffer(bytearray(mean), dtype=torch.float32).view(parameter.shape)
            )
        with averager.applied():
            assert torch.allclose(net(data), plain(data), atol=1e-6)
            assert not torch.allclose(net(data), before, atol=1e-6)
        assert bits(net(data)) == bits(before)
        averager.copy_to()
        assert torch.allclose(net(data), plain(data), atol=1e-6)
    print("swap ok", flush=True)


def check_half() -> None:
    """bfloat16 shards have float32 averages, and swap exactly."""
    net = shard(make_net().bfloat16())
    averager = WeightAverager(net)
    seen = []
    for step in range(5):
        for parameter in net.parameters():
            parameter.detach().to_local().mul_(1.0 + 0.1 * step)
        averager.update()
        seen.append([whole(p).float().numpy() for p in net.parameters()])
    assert all_bits(map(whole, averager.averages())) == means(seen)
    before = all_bits(map(whole, net.parameters()))
    with averager.applied():
        shown = [whole(average).bfloat16() for average in averager.averages()]
        assert all_bits(map(whole, net.parameters())) == all_bits(shown)
    assert all_bits(map(whole, net.parameters())) == before
    print("half ok", flush=True)


def check_skip() -> None:
    """A NaN in one rank's shard leaves the snapshot out on every rank."""
    net = shard(make_net())
    averager = WeightAverager(net, nonfinite="skip")
    assert averager.update()
    if dist.get_rank() == 1:
        next(net.parameters()).detach().to_local().fill_(float("nan"))
    assert not averager.update()
    assert (averager.count, averager.skipped) == (1, 1)
    print("skip ok", flush=True)


def check_optimizer() -> None:
    net = shard(make_net())
    optimizer = SWA(torch.optim.AdamW(net.parameters(), lr=0.1), 1, 2)
    seen = []
    for step in range(4):
        optimizer.zero_grad()
        net(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        if step in (1, 3):
            seen.append([whole(p).clone().numpy() for p in net.parameters()])
    optimizer.assign_average_vars()
    assert all_bits(map(whole, net.parameters())) == means(seen)
    print("optimizer ok", flush=True)


def check_checkpoint() -> None:
    """torch's functions for an optimizer's state, with SWA, on shards and on copies."""
    for wrap in (shard, nn.parallel.DistributedDataParallel):
        for options in (
            StateDictOptions(),
            StateDictOptions(flatten_optimizer_state_dict=True),
            StateDictOptions(full_state_dict=True),
        ):
            net = wrap(make_net())
            optimizer = SWA(torch.optim.AdamW(net.parameters(), lr=0.1), 0, 2)
            get_state_dict(net, optimizer)
            seen = []
            for step in range(5):
                optimizer.zero_grad()
                net(torch.ones(2, 4) * step).sum().backward()
                optimizer.step()
                if step % 2 == 0:
                    seen.append([whole(p).clone().numpy() for p in net.parameters()])
            weights, state = copy.deepcopy(get_state_dict(net, optimizer, options=options))
            other = wrap(make_net())
            resumed = SWA(torch.optim.AdamW(other.parameters(), lr=0.3), 0, 2)
            set_state_dict(
                other, resumed, model_state_dict=weights, optim_state_dict=state, options=options
            )
            assert (resumed.averager.count, resumed.averager.step) == (3, 5)
            assert all_bits(map(whole, resumed.averager.averages())) == means(seen)
    print("checkpoint ok", flush=True)


def save(path: str) -> None:
    net = shard(make_net())
    averager = WeightAverager(net)
    train(net, 3, averager)
    dcp.save({"net": net.state_dict(), "averager": averager.state_dict()}, checkpoint_id=path)
    wholes = [whole(average) for average in averager.averages()]
    if dist.get_rank() == 0:
        torch.save((wholes, averager.count), path + ".expected")
    dist.barrier()
    print("save ok", flush=True)


def load(path: str, path_again: str) -> None:
    """Loads into this number of ranks, compares, and saves again for the next."""
    net = shard(make_net())
    averager = WeightAverager(net)
    state = {"net": net.state_dict(), "averager": averager.state_dict()}
    dcp.load(state, checkpoint_id=path)
    net.load_state_dict(state["net"])
    averager.load_state_dict(state["averager"])
    wholes, count = torch.load(path + ".expected", weights_only=True)
    assert averager.count == averager.step == count == 3
    assert all_bits(map(whole, averager.averages())) == all_bits(wholes)
    value = [whole(p) for p in net.parameters()]
    averager.update()
    after = [w + (v - w) * torch.tensor(0.25) for w, v in zip(wholes, value, strict=True)]
    assert all_bits(map(whole, averager.averages())) == all_bits(after)
    again = [
        distribute_tensor(tensor, average.device_mesh, average.placements)
        for tensor, average in zip(wholes, averager.averages(), strict=True)
    ]
    averages = dict(zip(averager.names, again, strict=True))
    averager.load_state_dict({**state["averager"], "averages": averages})
    assert averager.count == count
    saved = {"net": net.state_dict(), "averager": averager.state_dict()}
    dcp.save(saved, checkpoint_id=path_again)
    if dist.get_rank() == 0:
        torch.save((wholes, count), path_again + ".expected")
    dist.barrier()
    print("load ok", flush=True)


def train_and_save(path: str) -> None:
    for check in (
        check_ddp,
        check_fsdp2,
        check_half,
        check_skip,
        check_swap,
        check_optimizer,
        check_checkpoint,
    ):
        check()
    save(path)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    try:
        commands: dict[str, Any] = {"train": train_and_save, "load": load}
        commands[sys.argv[1]](*sys.argv[2:])
    finally:
        dist.destroy_process_group()
