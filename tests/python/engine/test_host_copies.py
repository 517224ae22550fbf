"""Copies of tensors to host memory, and versions, by native code: here of tensors on the CPU."""

from __future__ import annotations

import gc
import resource
import sys
import weakref
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from swa_fast import _core  # noqa: E402
from swa_fast.torch.module_tree import lists_plainly  # noqa: E402


def places_for(values: list[Any]) -> list[Any]:
    return [torch.zeros_like(value.detach(), requires_grad=False) for value in values]


def make_values() -> list[Any]:
    return [
        torch.nn.Parameter(torch.randn(5, 3)),
        torch.arange(7),
        torch.randn(2, 3, 4, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last),
        torch.zeros(0),
        torch.tensor(2.5, dtype=torch.float64),
        torch.randn(3, dtype=torch.complex64),
        torch.tensor([True, False]),
    ]


def test_every_start_copies_the_values_as_they_are() -> None:
    values = make_values()
    places = places_for(values)
    copies = _core.HostCopies(values, places)
    for number in (3, 4):
        with torch.no_grad():
            for value in values:
                value.fill_(number)
        assert copies.start(values) == []
        copies.hold_back_writers()
        copies.wait()
        assert all(torch.equal(p, v) for p, v in zip(places, values, strict=True))
    others = [value.detach().clone() for value in values]
    others[0].fill_(9)
    assert copies.start(others) == []  # elsewhere, but alike
    assert (places[0] == 9).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values[:-1],
        lambda values: [*values[:-1], values[-1].to(torch.int8)],
        lambda values: [values[0].t().contiguous().t(), *values[1:]],
        lambda values: [torch.randn(3, 5), *values[1:]],
        lambda values: [values[0].to("meta"), *values[1:]],
    ],
    ids=["number", "dtype", "layout", "shape", "device"],
)
def test_other_values_are_not_started(change: Any) -> None:
    values = make_values()
    places = places_for(values)
    copies = _core.HostCopies(values, places)
    before = [place.clone() for place in places]
    assert copies.start(change(values)) is None
    assert all(torch.equal(a, b) for a, b in zip(places, before, strict=True))
    assert copies.start(None) is None  # none are watched


def test_values_of_a_module_are_found_by_themselves() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    values = [*net.parameters(), *net.buffers()]
    places = places_for(values)
    copies = _core.HostCopies(values, places)
    assert copies.watch_values(net, values, True, lists_plainly)
    assert copies.start() == []
    assert all(torch.equal(p, v) for p, v in zip(places, values, strict=True))
    net[0].weight = torch.nn.Parameter(torch.ones(3, 2))
    assert copies.start() is None
    gone = weakref.ref(net)
    net.copies = copies  # a cycle, which the collector finds
    del net, copies, values
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("place", "error", "match"),
    [
        (lambda: torch.zeros(4), ValueError, r"values\[0\] and staging\[0\] must have one dtype"),
        (lambda: torch.zeros(6, dtype=torch.int32), ValueError, "one dtype and one shape"),
        (lambda: torch.zeros(12)[::2], BufferError, r"values\[0\] must be dense"),
    ],
)
def test_places_that_do_not_fit_are_refused(place: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        _core.HostCopies([torch.zeros(6)], [place()])
    with pytest.raises(ValueError, match=r"as many places as values\. Received: 1 for 2"):
        _core.HostCopies([torch.zeros(6)] * 2, [torch.zeros(6)])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_memory_is_held_until_the_copies_were_waited_for() -> None:
    # Large enough for the allocator to give it back to the system at once.
    value = torch.nn.Parameter(torch.ones(50_000_000))
    copies = _core.HostCopies([value], places_for([value]))
    copies.start([value])
    held = memory_in_use()
    value.data = torch.zeros(1)  # would free what the copies read
    del value
    assert memory_in_use() > held - 50_000_000
    copies.wait()
    assert memory_in_use() < held - 100_000_000


def memory_in_use() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_versions_tell_the_first_tensor_that_was_written() -> None:
    tensors = [torch.nn.Parameter(torch.zeros(3)) for _ in range(4)]
    versions = _core.Versions(tensors)
    assert versions.first_changed() == -1
    with torch.no_grad():
        tensors[2].add_(1)
        tensors[3].add_(1)
    assert versions.first_changed() == 2
    assert _core.Versions(tensors).first_changed() == -1
    assert _core.Versions(()).first_changed() == -1
    with pytest.raises(TypeError):
        _core.Versions(3)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        _core.Versions([object()])
