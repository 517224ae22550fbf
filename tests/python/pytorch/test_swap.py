"""swap() and applied(): exact both ways, without memory, and always back."""

from __future__ import annotations

import copy
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast import _core
from swa_fast.torch import WeightAverager, pairs
from torch_reference import all_bits, make_net, snapshots


def hard_params(dtype: Any) -> list[Any]:
    """Parameters with every kind of value: NaN payloads, signed zeros, subnormals, extremes."""
    info = torch.finfo(dtype)
    special = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), info.max, info.tiny / 4]
    generator = torch.Generator().manual_seed(0)
    random_bits = torch.randint(-(2**15), 2**15, (4096,), generator=generator).to(torch.int16)
    return [
        torch.tensor(special, dtype=dtype),
        random_bits.view(dtype).reshape(2, -1).clone(),
        torch.empty(0, dtype=dtype),
    ]


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize(
    ("dtype", "of_averages"),
    [
        (torch.float32, None),
        (torch.float64, None),
        (torch.bfloat16, None),
        (torch.float16, None),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float64),
    ],
)
def test_the_round_trip_is_exact(dtype: Any, of_averages: Any, device: Any) -> None:
    params = hard_params(dtype)
    averager = WeightAverager(params, dtype=of_averages, device=device)
    for _ in range(3):
        averager.update()
        for param in params:
            param.copy_(param.flip(-1))
    before = all_bits(params), all_bits(averager.averages())
    shown = [average.to(dtype, copy=True) for average in averager.averages()]
    for _ in range(2):
        averager.swap()
        for param, expected in zip(params, shown, strict=True):
            torch.testing.assert_close(param, expected, rtol=0, atol=0, equal_nan=True)
        assert all_bits(averager.averages()) == before[1]
        averager.swap()
        assert (all_bits(params), all_bits(averager.averages())) == before


def test_a_model_of_several_dtypes_swaps_as_one() -> None:
    net = make_net()
    net[4].to(torch.bfloat16)
    averager = WeightAverager(net, use_buffers=True)
    for _ in snapshots(net, 4):
        averager.update()
    live = [*net.parameters(), *net.buffers()]
    before = all_bits(live), all_bits(averager.averages())
    with averager.applied():
        assert all_bits(averager.averages()) == before[1]
        assert all_bits(live) != before[0]
    assert (all_bits(live), all_bits(averager.averages())) == before


def test_applied_evaluates_with_the_averages() -> None:
    net = nn.Linear(1, 1, bias=False)
    averager = WeightAverager(net)
    for value in (1.0, 2.0, 6.0):
        net.weight.data.fill_(value)
        averager.update()
    with averager.applied(), torch.inference_mode():
        assert net(torch.ones(1, 1)).item() == 3.0
    assert net(torch.ones(1, 1)).item() == 6.0


def test_applied_swaps_back_on_an_exception() -> None:
    net = make_net()
    averager = WeightAverager(net)
    for _ in snapshots(net, 2):
        averager.update()
    before = all_bits(net.parameters())

    def interrupted() -> None:
        with averager.applied():
            assert all_bits(net.parameters()) != before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all_bits(net.parameters()) == before
    with averager.applied():  # swapped back by hand inside: not swapped again
        averager.swap()
    assert all_bits(net.parameters()) == before


def test_applied_is_refused_before_the_first_snapshot_and_nested() -> None:
    net = make_net()
    averager = WeightAverager(net, start=2)
    averager.update()
    before = all_bits(net.parameters())
    for refused in (averager.swap, averager.copy_to, averager.applied().__enter__):
        with pytest.raises(RuntimeError, match=r"at least one snapshot.*none in 1 call.*start=2"):
            refused()
    for _ in snapshots(net, 2):
        averager.update()
    before = all_bits(net.parameters())
    with averager.applied():
        calls: tuple[Any, ...] = (
            averager.update,
            averager.copy_to,
            averager.applied().__enter__,
            lambda: averager.to("cpu"),
            lambda: averager.load_state_dict({}),
        )
        for call in calls:
            with pytest.raises(RuntimeError, match="is refused while the averages are swapped"):
                call()
    assert all_bits(net.parameters()) == before
    assert averager.step == 3


def test_a_failed_swap_changes_nothing() -> None:
    net = make_net()
    net[0].to(torch.bfloat16)
    averager = WeightAverager(net)
    averager.update()
    kept = net[4]
    before = all_bits(net.parameters()), all_bits(averager.averages())
    net[4] = nn.Linear(16, 4)
    with pytest.raises(ValueError, match=r"'4\.weight' has shape"):
        averager.swap()
    net[4] = kept
    assert (all_bits(net.parameters()), all_bits(averager.averages())) == before

    averager.swap()
    net[0].to(torch.float32)
    with pytest.raises(RuntimeError, match="changed their dtype"):
        averager.swap()
    net[0].to(torch.bfloat16)  # exact: the values are bfloat16 values
    averager.swap()
    assert (all_bits(net.parameters()), all_bits(averager.averages())) == before


def test_a_swap_is_seen_by_autograd() -> None:
    net = nn.Linear(3, 2)
    averager = WeightAverager(net)
    averager.update()
    loss = net.weight.pow(2).sum()
    with averager.applied():
        pass
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise AssertionError(key)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(("dtype", "bytes_per_element"), [(torch.float32, 0), (torch.bfloat16, 2)])
def test_peak_memory_of_a_swap(dtype: Any, bytes_per_element: int) -> None:
    elements = 1 << 24
    params = [torch.ones(elements, dtype=dtype)]
    averager = WeightAverager(params)
    averager.update()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    except OSError:
        pytest.skip("the kernel does not let the peak be reset")
    before = _status("VmRSS")
    with averager.applied():
        pass
    extra = _status("VmHWM") - before
    allowance = 4 << 20  # the interpreter's own, against 64 MiB of float32 parameters
    assert extra <= bytes_per_element * elements + allowance
    assert extra >= bytes_per_element * elements - allowance  # the measure sees an allocation


class Mixed(nn.Module):
    """One parameter that is exchanged, and two that show their averages rounded."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.wide = nn.Parameter(torch.full((2,), value))
        self.narrow = nn.Parameter(torch.full((2,), value, dtype=torch.bfloat16))
        self.other = nn.Parameter(torch.full((2,), value, dtype=torch.bfloat16))


@pytest.mark.parametrize("name", ["narrow", "wide"])
def test_a_failed_swap_back_changes_nothing_and_can_be_tried_again(name: str) -> None:
    model = Mixed(1.0)
    averager = WeightAverager(model)
    averager.update()
    for parameter in model.parameters():
        parameter.data.fill_(5.0)
    before = all_bits(model.parameters()), all_bits(averager.averages())
    averager.swap()
    swapped = all_bits(model.parameters())
    kept = getattr(model, name)
    setattr(model, name, nn.Parameter(kept.detach()[:1].expand(2)))  # cannot be written
    with pytest.raises(ValueError, match="is expanded"):
        averager.swap()
    setattr(model, name, kept)
    assert all_bits(model.parameters()) == swapped
    averager.swap()
    assert (all_bits(model.parameters()), all_bits(averager.averages())) == before


def _in_a_pause(
    averager: WeightAverager, calls: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """What ``calls``, made by another thread while a call of ``averager`` writes, are told."""
    told: list[str] = []
    started: list[threading.Thread] = []

    def others() -> None:
        for call in calls:
            try:
                call()
            except RuntimeError as error:
                told.append(str(error))

    def paused(native: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if not started:
                started.append(threading.Thread(target=others))
                started[0].start()
                started[0].join(60)
            return native(*args, **options)

        return call

    for name in ("swap_", "copy_"):
        monkeypatch.setattr(pairs, name, paused(getattr(pairs, name)))
    monkeypatch.setattr(_core.Prepared, "run", paused(_core.Prepared.run))
    return told


@pytest.mark.parametrize("method", ["update", "swap", "copy_to", "applied"])
def test_of_two_threads_one_is_refused(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.ones(2)
    averager = WeightAverager([weight])
    averager.update()
    weight.fill_(3.0)
    state = averager.state_dict()
    calls: tuple[Any, ...] = (
        averager.update,
        averager.swap,
        averager.copy_to,
        averager.applied().__enter__,
        lambda: averager.to("cpu"),
        lambda: averager.load_state_dict(state),
    )
    told = _in_a_pause(averager, calls, monkeypatch)
    if method == "applied":
        context = averager.applied()
        context.__enter__()
    else:
        getattr(averager, method)()
    assert len(told) == len(calls)
    assert all("refused while another call of the same averager is under way" in t for t in told)
    monkeypatch.undo()
    assert averager.count == (2 if method == "update" else 1)
    expected = {"update": (2.0, 3.0), "copy_to": (1.0, 1.0)}.get(method, (1.0, 1.0))
    assert averager.averages()[0].tolist() == [expected[0]] * 2
    assert weight.tolist() == [expected[1]] * 2
    copy.deepcopy(averager).averages()
    if method == "applied":
        context.__exit__(None, None, None)
        assert weight.tolist() == [3.0, 3.0]


def test_leaving_applied_waits_for_another_thread_and_swaps_back() -> None:
    weight = torch.ones(2)
    averager = WeightAverager([weight])
    averager.update()
    weight.fill_(3.0)
    with averager.applied():
        averager._turn.wait()
        threading.Timer(0.1, averager._turn.release).start()
    assert weight.tolist() == [3.0, 3.0]
    assert averager.update()
