"""Averages in arenas: one block of memory, and tensors that behave as if each had its own."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast.torch import WeightAverager
from torch_reference import all_bits, make_net, snapshots


def size_of(value: Any) -> int:
    file = io.BytesIO()
    torch.save(value, file)
    return len(file.getvalue())


def test_averages_of_one_dtype_lie_in_one_block_and_not_in_anothers() -> None:
    params = [torch.ones(3), torch.ones(5, dtype=torch.float64), torch.ones(2, 2), torch.arange(4)]
    one, other = WeightAverager(params), WeightAverager(params)
    storages = [a.untyped_storage().data_ptr() for a in one.averages()]
    assert storages[0] == storages[2]
    assert len(set(storages)) == 3
    assert not set(storages) & {a.untyped_storage().data_ptr() for a in other.averages()}
    assert all(a.data_ptr() % 64 == 0 for a in one.averages())


def test_an_update_raises_the_version_of_every_average() -> None:
    averager = WeightAverager(make_net())
    averages = averager.averages()
    weight = torch.ones(3, 16, requires_grad=True)
    product = weight * averages[4]  # saved for the backward pass
    before = [a._version for a in averages]
    averager.update()
    assert all(a._version > was for a, was in zip(averages, before, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_a_weight_of_zero_raises_no_version() -> None:
    averager = WeightAverager([torch.ones(3)], decay=1.0)
    averager.update()
    before = averager.averages()[0]._version
    averager.update()
    assert averager.averages()[0]._version == before


@pytest.mark.parametrize("change", ["resize", "free"])
def test_a_block_that_was_taken_away_is_refused(change: str) -> None:
    values = [torch.ones(1000), torch.ones(2000)]
    averager = WeightAverager(values)
    averager.update()
    block = averager.averages()[0]
    block.untyped_storage().resize_(0 if change == "free" else 1024)
    with pytest.raises((RuntimeError, ValueError, BufferError)):
        averager.update()
    assert averager.count == 1


def test_averages_outlive_the_tensor_that_stood_for_them() -> None:
    value = torch.ones(1000)
    averager = WeightAverager([value])
    averager.update()
    averager._snapshots.arenas[0].blocks[0].set_(torch.zeros(1))
    value.fill_(3.0)
    averager.update()
    assert (averager.averages()[0] == 2.0).all()


def test_one_tensor_of_a_saved_state_is_saved_alone() -> None:
    net = nn.Sequential(nn.Linear(300, 300), nn.Linear(10, 10))
    averager = WeightAverager(net)
    averager.update()
    state = averager.state_dict()
    whole = sum(p.numel() * 4 for p in net.parameters())
    assert size_of(state["averages"]["1.weight"]) < 2_000
    assert size_of(state) < whole + 5_000
    assert size_of(averager) < whole + 10_000 + size_of(net)
    # No copies: what is in the state is the average itself.
    state["averages"]["1.weight"].fill_(7.0)
    assert (averager.averages()[2] == 7.0).all()


def test_safetensors_takes_the_averages() -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    averager = WeightAverager(make_net())
    averager.update()
    averages = averager.state_dict()["averages"]
    loaded = safetensors.load(safetensors.save(averages))
    assert all_bits(loaded[name] for name in averages) == all_bits(averages.values())


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_a_copy_has_blocks_of_its_own(copied: Any) -> None:
    net = make_net()
    averager = WeightAverager(net, use_buffers=True)
    for _ in snapshots(net, 3):
        averager.update()
    other = copied(averager)
    before = all_bits(averager.averages())
    assert all_bits(other.averages()) == before
    assert not {a.data_ptr() for a in averager.averages()} & {
        a.data_ptr() for a in other.averages()
    }
    for average in other.averages():
        average.zero_()
    assert all_bits(averager.averages()) == before


def test_to_changes_device_and_dtype() -> None:
    net = make_net()
    averager = WeightAverager(net, use_buffers=True)
    for _ in snapshots(net, 3):
        averager.update()
    before = [a.clone() for a in averager.averages()]
    assert averager.to("cpu") is averager
    assert all_bits(averager.averages()) == all_bits(before)
    assert averager.to(dtype=torch.float64) is averager
    floats = [a for a in averager.averages() if a.is_floating_point()]
    assert {a.dtype for a in floats} == {torch.float64}
    assert averager.averages()[-1].dtype == torch.int64
    assert averager.update()
    assert averager.count == 4
    with pytest.raises(TypeError, match=r"dtype must be a floating-point torch\.dtype"):
        averager.to(dtype=torch.int32)


def test_empty_and_zero_dimensional_and_strided_tensors() -> None:
    values = [
        torch.empty(0),
        torch.tensor(2.0),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(4, 6).t(),
    ]
    averager = WeightAverager(values)
    averager.update()
    averages = averager.averages()
    assert [a.shape for a in averages] == [v.shape for v in values]
    assert [a.stride() for a in averages[2:]] == [v.stride() for v in values[2:]]
    assert all(torch.equal(a, v) for a, v in zip(averages, values, strict=True))
