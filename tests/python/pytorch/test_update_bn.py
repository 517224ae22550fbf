"""update_bn against torch's own, and what torch's does not do."""

from __future__ import annotations

import collections
import warnings
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn
from torch.optim import swa_utils

from swa_fast.torch import update_bn
from torch_reference import all_bits, make_net


def batches(number: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 1, 4, 4, generator=generator) + i for i in range(number)]


@pytest.mark.parametrize("pack", [lambda x: x, lambda x: [x, 0], lambda x: (x, None, 1)])
def test_same_bits_as_torch(pack: Any) -> None:
    ours, theirs = make_net(), make_net()
    theirs.load_state_dict(ours.state_dict())
    ours.eval()
    theirs.eval()
    loader = [pack(batch) for batch in batches()]
    update_bn(loader, ours, device="cpu")
    swa_utils.update_bn(loader, theirs, device="cpu")
    assert all_bits(ours.buffers()) == all_bits(theirs.buffers())
    assert not any(module.training for module in ours.modules())
    assert ours[1].momentum == theirs[1].momentum == 0.1


Pair = namedtuple("Pair", ["image", "scale"])


@pytest.mark.parametrize(
    "pack", [lambda x: {"image": x, "scale": [x * 0 + 2, "id"]}, lambda x: Pair(x, (x * 0 + 2, 1))]
)
def test_forward_takes_batches_of_any_form(pack: Any) -> None:
    ours, theirs = make_net(), make_net()

    def forward(model: Any, batch: Any) -> None:
        image, scale = batch.values() if isinstance(batch, dict) else batch
        model(image * scale[0])

    update_bn((pack(batch) for batch in batches()), ours, device="cpu", forward=forward)
    swa_utils.update_bn([batch * 2 for batch in batches()], theirs)
    assert all_bits(ours.buffers()) == all_bits(theirs.buffers())


def test_an_empty_loader_is_refused_and_the_statistics_stay() -> None:
    net = make_net()
    net(batches()[0])
    before = all_bits(net.buffers())
    with pytest.raises(ValueError, match="loader must give at least one batch"):
        update_bn([], net)
    assert all_bits(net.buffers()) == before
    assert net[1].momentum == 0.1


def test_everything_is_put_back_when_the_loader_or_the_model_raises() -> None:
    net = nn.Sequential(make_net(), nn.BatchNorm1d(3, momentum=None))
    net(batches()[0])
    net.train()
    net[0][1].eval()  # a frozen layer stays frozen
    modes = [module.training for module in net.modules()]
    before = all_bits(net.buffers())

    def breaking() -> Iterator[Any]:
        yield batches()[0]
        raise OSError("disk gone")

    for loader, error in ((breaking(), OSError), ([batches()[0], torch.ones(2, 7)], RuntimeError)):
        with pytest.raises(error):
            update_bn(loader, net)
        assert [module.training for module in net.modules()] == modes
        assert all_bits(net.buffers()) == before
        assert (net[0][1].momentum, net[1].momentum) == (0.1, None)


def test_without_batch_norm_nothing_is_read() -> None:
    def never() -> Iterator[Any]:
        raise AssertionError("the loader was read")
        yield

    update_bn(never(), nn.Linear(2, 2))
    with pytest.raises(TypeError, match="forward must be callable"):
        update_bn([1], make_net(), forward="batch")  # type: ignore[arg-type]


class Attributes(collections.UserDict[str, Any]):
    """A batch that is read by attribute and knows how to move itself, as tokenizers return."""

    def __getattr__(self, key: str) -> Any:
        if key == "data" or key not in self.data:
            raise AttributeError(key)
        return self.data[key]

    def to(self, device: Any) -> Attributes:
        return Attributes({key: item.to(device) for key, item in self.items()})


class Duo(list[Any]):
    """A list that is not made from a list."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__([first, second])


class Couple(tuple[Any, ...]):
    """A tuple that is not made from a tuple."""

    def __new__(cls, first: Any, second: Any) -> Couple:
        return super().__new__(cls, (first, second))


@pytest.mark.parametrize(
    ("pack", "read"),
    [
        (lambda x: Attributes(x=x), lambda batch: batch.x),
        (lambda x: Duo(x, 1), lambda batch: batch[0]),
        (lambda x: Couple(x, 1), lambda batch: batch[0]),
        (lambda x: [Duo(x, 1)], lambda batch: batch[0][0]),
        (
            lambda x: nn.utils.rnn.pack_sequence([x]),
            lambda batch: nn.utils.rnn.pad_packed_sequence(batch)[0][:, 0],
        ),
    ],
    ids=["attributes", "list", "tuple", "nested", "packed"],
)
def test_containers_with_their_own_ways_are_moved(pack: Any, read: Any) -> None:
    layer = nn.BatchNorm1d(3)
    data = torch.arange(12.0).reshape(4, 3)
    batch = pack(data)
    seen = []

    def forward(model: Any, moved: Any) -> Any:
        seen.append(moved)
        return model(read(moved))

    update_bn([batch], nn.Sequential(layer), device="cpu", forward=forward)
    assert torch.equal(layer.running_mean, data.mean(0))
    if not isinstance(batch, tuple):
        assert type(seen[0]) is type(batch)


def test_a_packed_sequence_keeps_its_sizes_where_they_must_be() -> None:
    layer = nn.BatchNorm1d(1)
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 1), torch.ones(2, 1)])
    devices = []

    def forward(model: Any, batch: Any) -> Any:
        devices.append((batch.data.device.type, batch.batch_sizes.device.type))
        return model(packed.data)

    update_bn([packed], nn.Sequential(layer), device="meta", forward=forward)
    assert devices == [("meta", "cpu")]


class TwoHeads(nn.Module):
    """One head is not used, and one layer stays in evaluation mode whatever is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
        self.frozen, self.untracked = (
            nn.BatchNorm1d(2),
            nn.BatchNorm1d(2, track_running_stats=False),
        )

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, data: Any) -> Any:
        return self.untracked(self.frozen(self.used(data)))


def test_layers_that_no_batch_reaches_keep_their_statistics_and_are_named() -> None:
    net = TwoHeads()
    for layer in (net.used, net.unused, net.frozen):
        layer.running_mean.fill_(5.0)
        layer.running_var.fill_(0.25)
        layer.num_batches_tracked.fill_(7)
    batches = [torch.randn(8, 2) for _ in range(3)]
    with pytest.warns(UserWarning, match=r"reached 2 of 4 .*had: 'unused', 'frozen'$"):
        update_bn(batches, net)
    for layer in (net.unused, net.frozen):
        assert layer.running_mean.tolist() == [5.0, 5.0]
        assert layer.running_var.tolist() == [0.25, 0.25]
        assert layer.num_batches_tracked.item() == 7
        assert layer.momentum == 0.1
        assert not layer._forward_pre_hooks
    assert net.used.num_batches_tracked.item() == 3
    expected = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    torch.testing.assert_close(net.used.running_mean, expected)


def test_no_warning_where_every_layer_is_reached() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        update_bn([torch.randn(4, 2)], net)
