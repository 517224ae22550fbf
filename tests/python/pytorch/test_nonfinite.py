"""Snapshots that the device leaves out by itself: what the host does meanwhile.

The device's part is played by a pass that keeps counts in its memory, here on the CPU; the kernels
themselves are in tests/cpp/cuda_gate_test.cc and tests/python/gpu.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from swa_fast import Average, decays  # noqa: E402
from swa_fast.torch import SWA, WeightAverager, nonfinite, snapshots  # noqa: E402
from swa_fast.torch.mixed_pass import prepare_pass  # noqa: E402
from swa_fast.torch.nonfinite import can_be_gated  # noqa: E402

NAN, INFINITY = float("nan"), float("inf")
NUMBERS = [NAN, 1.0, 2.0, INFINITY, 5.0, 7.0, NAN, NAN, 8.0]
DESCRIBED = {
    "swa": Average(start=1, period=2),
    "ema": Average(decay=0.75),
    "mean": Average(),
    "begun": Average(decay=0.5, initial=True),
}


class Device:
    """What takes gated snapshots, and notes each time that the host asks for its counts."""

    def __init__(self) -> None:
        self.gated = 0
        self.plain = 0
        self.fails = False

    def prepare(self, *arguments: Any, **options: Any) -> Any:
        return GatedPass(self, prepare_pass(*arguments, **options))


class GatedPass:
    def __init__(self, device: Device, real: Any) -> None:
        self._device = device
        self._real = real
        self._values: Any = None

    def run(
        self, weights: Sequence[Any], values: Any = None, own_threads: int = 0, gate: Any = None
    ) -> bool:
        values = self._values if values is None else values
        if gate is None:
            self._device.plain += 1
            return bool(self._real.run(weights, values, own_threads))
        if self._device.fails:
            raise RuntimeError("launching the check kernel failed")
        self._device.gated += 1
        half = len(gate) // 2
        finite = all(bool(torch.isfinite(value).all()) for value in values)
        if not finite:
            weights_now = [None] * half
        else:
            counts = gate.tolist()[1:]
            pairs = zip(weights, counts, strict=False)
            weights_now = [
                count if isinstance(weight, int) or (count == 0 and weight is not None) else weight
                for weight, count in pairs
            ]
        if not self._real.run(weights_now, values):
            return False
        for index, weight in enumerate(weights):
            if weight is not None:
                gate[1 + index + (0 if finite else half)] += 1
        return True

    def watch_values(self, module: Any, values: Any, *_: Any) -> bool:
        self._values = values
        return True


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    monkeypatch.setattr(snapshots, "gate_device", lambda values: values[0].device)
    monkeypatch.setattr(snapshots, "prepare_pass", made.prepare)
    monkeypatch.setattr(snapshots, "is_prepared", lambda one: isinstance(one, GatedPass))
    return made


def set_all(model: Any, number: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.view(-1)[-1] = number


def pair(described: Any = DESCRIBED) -> tuple[Any, WeightAverager, WeightAverager]:
    """A model, its averager, and one of a list of the same parameters by which the host checks."""
    model = torch.nn.Linear(3, 2)
    gated = WeightAverager(model, described, nonfinite="skip")
    host = WeightAverager(list(model.parameters()), described, nonfinite="skip")
    host._snapshots._may_gate = False
    return model, gated, host


def same(gated: WeightAverager, host: WeightAverager) -> None:
    assert gated.counts == host.counts
    assert gated.skipped == host.skipped
    assert gated.step == host.step
    for name in DESCRIBED:
        for a, b in zip(gated.averages(name), host.averages(name), strict=True):
            assert torch.equal(a, b), name


def test_means_and_constant_decays_are_what_the_host_makes_of_them(device: Device) -> None:
    model, gated, host = pair()
    for number in NUMBERS:
        set_all(model, number)
        assert gated.update()  # queued, whatever the device makes of it
        host.update()
    assert device.gated == len(NUMBERS)
    same(gated, host)
    assert host.skipped == {"swa": 2, "ema": 4, "mean": 4, "begun": 4}
    for number in NUMBERS[:3]:  # and on from there
        set_all(model, number)
        gated.update()
        host.update()
    same(gated, host)


def test_the_counts_are_read_only_when_they_are_asked_for(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, gated, _ = pair()
    reads = []
    read = nonfinite.Gate.read

    def counted(gate: Any) -> Any:
        reads.append(1)
        return read(gate)

    monkeypatch.setattr(nonfinite.Gate, "read", counted)
    for number in NUMBERS:
        set_all(model, number)
        gated.update()
    assert gated.step == len(NUMBERS)
    assert not reads
    assert gated.counts["mean"] == 5
    assert gated.skipped["mean"] == 4
    assert len(reads) == 1
    gated.update()
    assert "'mean': 6" in repr(gated)
    assert len(reads) == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_and_a_state_have_the_devices_counts(device: Device, copied: Any) -> None:
    model, gated, host = pair()
    for number in NUMBERS:
        set_all(model, number)
        gated.update()
        host.update()
    same(copied(gated), host)
    state = gated.state_dict()
    assert state["counts"] == host.counts
    assert state["skipped"] == host.skipped
    other = WeightAverager(model, DESCRIBED, nonfinite="skip")
    set_all(model, NAN)
    other.update()
    other.load_state_dict(state)
    same(other, host)
    set_all(model, 3.0)
    other.update()
    host.update()
    same(other, host)


def test_where_the_device_cannot_the_host_checks(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, gated, host = pair()
    for index, number in enumerate(NUMBERS):
        set_all(model, number)
        with monkeypatch.context() as patch:
            if index % 3 == 1:  # the values are somewhere else for once
                patch.setattr(snapshots, "gate_device", lambda values: None)
            values = list(model.parameters()) if index % 3 == 1 else None
            assert gated.update(values) == (host.update() or index % 3 != 1)
    assert 0 < device.gated < len(NUMBERS)
    same(gated, host)


def test_other_values_are_taken_under_the_gate_too(device: Device) -> None:
    _, gated, host = pair()
    for number in NUMBERS:
        other = torch.nn.Linear(3, 2)
        set_all(other, number)
        gated.update(other)
        host.update(list(other.parameters()))
    assert device.gated == len(NUMBERS)
    same(gated, host)
    with pytest.raises(ValueError, match="has shape"):
        gated.update([torch.zeros(2), torch.zeros(2)])
    same(gated, host)


def test_reading_an_average_needs_a_snapshot_that_the_device_has_taken(device: Device) -> None:
    model = torch.nn.Linear(3, 2)
    averager = WeightAverager(model, nonfinite="skip")
    set_all(model, NAN)
    assert averager.update()
    with pytest.raises(RuntimeError, match="needs at least one snapshot"):
        averager.copy_to()
    assert (averager.count, averager.skipped) == (0, 1)


def test_after_an_error_of_cuda_the_host_goes_on_with_what_it_knows(device: Device) -> None:
    model, gated, host = pair()
    for averager in (gated, host):
        set_all(model, 4.0)
        averager.update()
    assert gated.counts == host.counts
    device.fails = True
    with pytest.raises(RuntimeError, match="launching the check kernel failed"):
        gated.update()
    device.fails = False
    same(gated, host)
    set_all(model, NAN)
    gated.update()
    host.update()
    same(gated, host)


def test_an_optimizer_does_not_ask_for_the_counts_at_every_step(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = SWA(torch.optim.SGD([weight], lr=1.0), 0, 1, nonfinite="skip")
    monkeypatch.setattr(nonfinite.Gate, "read", lambda _: pytest.fail("waited for the device"))
    for number in (0.5, NAN, 0.25):
        weight.grad = torch.full((3,), number)
        optimizer.step()
    assert device.gated == 3


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        (Average(), True),
        (Average(decay=0.0), True),
        (Average(decay=0.999, dtype="bfloat16", initial=True), True),
        (Average(decay=1.0), False),
        (Average(decay=decays.warmup(0.9)), False),
        (Average(decay=decays.half_life(3)), False),
    ],
)
def test_what_a_device_can_count(average: Average, expected: bool) -> None:
    assert can_be_gated([average]) is expected
    assert can_be_gated([average] * 65) is False


def test_on_the_cpu_the_host_checks_as_before() -> None:
    averager = WeightAverager([torch.ones(3)], nonfinite="skip")
    averager.update()
    assert averager._snapshots._gate is None
