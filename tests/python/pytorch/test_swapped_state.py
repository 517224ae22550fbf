"""What else belongs to swapped-in averages: the buffers, a state that is saved, store/restore."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast import Average
from swa_fast.torch import WeightAverager, update_bn
from torch_reference import all_bits


def normalized_net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def averaged(net: Any, **settings: Any) -> tuple[WeightAverager, list[Any]]:
    """An averager after three steps, and the batches."""
    averager = WeightAverager(net, **settings)
    batches = list(torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(1)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for batch in batches:
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        optimizer.step()
        averager.update()
    return averager, batches


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_computed_on_the_averages_stay_there(use_buffers: bool, dtype: Any) -> None:
    net = normalized_net().to(dtype)
    averager = WeightAverager(net, use_buffers=use_buffers)
    batches = list(torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(1)).to(dtype))
    for batch in batches:
        with torch.no_grad():
            net(batch)
            net[0].weight.mul_(0.5)
        averager.update()
    before = all_bits([*net.parameters(), *net.buffers()]), all_bits(averager.averages())
    with averager.applied():
        update_bn(batches, net)
        expected = copy.deepcopy(net)  # a model that has the averages for its own
        update_bn(batches, expected)
        assert all_bits(net.buffers()) == all_bits(expected.buffers())
        assert all_bits(net.buffers()) != before[0][-3:]
    assert all_bits([*net.parameters(), *net.buffers()]) == before[0]
    assert all_bits(averager.averages()) == before[1]


def test_the_recipe_for_a_look_at_the_average_changes_no_training() -> None:
    def run(looks: bool) -> list[bytes]:
        net = normalized_net()
        averager, batches = averaged(net)
        for _ in range(3):
            if looks:
                with averager.applied():
                    update_bn(batches, net)
            net.train()
            net(batches[0])
        return all_bits([*net.parameters(), *net.buffers()])

    assert run(True) == run(False)


def test_buffers_that_are_replaced_while_swapped_are_left_alone() -> None:
    net = normalized_net()
    averager, _ = averaged(net)
    replaced = torch.full((4,), 9.0)
    mean = net[1].running_mean
    with averager.applied():
        net[1].running_var = replaced
        net[1].running_mean.add_(1)
        replaced.add_(1)
        net.register_buffer("cache", torch.ones(2))
    assert net[1].running_var is replaced
    assert replaced.tolist() == [10.0] * 4
    assert net[1].running_mean is mean
    assert net.cache.tolist() == [1.0, 1.0]


def test_buffers_that_cannot_be_written_need_not_be() -> None:
    net = nn.Linear(2, 2)
    net.register_buffer("positions", torch.arange(3.0).expand(4, 3))
    net.register_buffer("nothing", torch.empty(2, device="meta"))
    net.register_buffer("negative", torch.tensor([-0.0, float("nan")]))
    averager = WeightAverager(net)
    averager.update()
    before = all_bits([net.negative])
    with averager.applied():
        net.negative.zero_()
    assert all_bits([net.negative]) == before
    assert net.positions.tolist() == [[0.0, 1.0, 2.0]] * 4


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("use_buffers", [False, True])
def test_a_state_taken_while_swapped_holds_the_weights(
    dtype: Any, several: bool, use_buffers: bool
) -> None:
    settings: dict[str, Any] = {"use_buffers": use_buffers}
    shown = None
    if several:
        settings["averages"] = {"mean": Average(), "ema": Average(decay=0.9)}
        shown = "ema"
    net = normalized_net().to(dtype)
    averager = WeightAverager(net, **settings)
    for value in (1.0, 2.5, 4.0):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(value)
        averager.update()
    with averager.applied(shown), pytest.warns(UserWarning, match="carries the weights too"):
        saved = through_a_file({"net": net.state_dict(), "averager": averager.state_dict()})
    assert all(bool((w == 4.0).all()) for n, w in saved["averager"]["weights"].items() if "0" in n)

    other = normalized_net().to(dtype)
    resumed = WeightAverager(other, **settings)
    before = all_bits(other.parameters()), all_bits(resumed.averages(shown))
    with pytest.raises(ValueError, match=r"load the model first.*parameter '0\.weight'"):
        resumed.load_state_dict(saved["averager"])
    assert (all_bits(other.parameters()), all_bits(resumed.averages(shown))) == before
    other.load_state_dict(saved["net"])
    resumed.load_state_dict(saved["averager"])
    assert all_bits(other.parameters()) == all_bits(net.parameters())
    assert all_bits(resumed.averages(shown)) == all_bits(averager.averages(shown))
    assert resumed.counts == averager.counts


def test_store_copy_to_and_restore() -> None:
    net = normalized_net()
    averager, batches = averaged(net)
    with pytest.raises(RuntimeError, match=r"needs a store\(\) before it"):
        averager.restore()
    before = all_bits([*net.parameters(), *net.buffers()]), all_bits(averager.averages())
    averager.store()
    averager.copy_to()
    assert all_bits(net.parameters()) == before[1]
    update_bn(batches, net)
    averager.restore()
    assert (all_bits([*net.parameters(), *net.buffers()]), all_bits(averager.averages())) == before
    with pytest.raises(RuntimeError, match=r"needs a store\(\) before it"):
        averager.restore()
    averager.store()
    kept = net[2]
    net[2] = nn.Linear(5, 1)
    with pytest.raises(ValueError, match=r"'2\.weight' has shape"):
        averager.restore()
    net[2] = kept
    with averager.applied():
        for refused in (averager.store, averager.restore):
            with pytest.raises(RuntimeError, match="is refused while the averages are swapped"):
                refused()
    averager.restore()  # what was stored is still there
    assert all_bits(net.parameters()) == before[0][:6]
