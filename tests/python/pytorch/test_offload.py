"""Averages kept in host memory: what is waited for, by whom, and what goes wrong loudly.

The copies are made by the copier of `offload_tools`.
"""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
from torch.optim.optimizer import _global_optimizer_pre_hooks  # noqa: E402

from offload_tools import SlowCopier, make, make_with_a_snapshot, set_weights  # noqa: E402
from swa_fast.torch import WeightAverager  # noqa: E402
from swa_fast.torch.offload import CudaCopier, Offload, OffloadError  # noqa: E402


def test_update_returns_before_the_copies_are_made_and_reads_wait(copier: SlowCopier) -> None:
    model, averager = make(copier)
    set_weights(model, 4.0)
    before = [x.clone() for x in averager._snapshots.averages(0)]
    assert averager.update()
    assert averager.count == 1
    assert not copier.started[0].done.is_set()
    assert all(
        torch.equal(a, b) for a, b in zip(averager._snapshots.averages(0), before, strict=True)
    )
    reading = threading.Timer(0.2, copier.started[0].finish.set)
    reading.start()
    assert all((a == 4.0).all() for a in averager.averages())
    assert copier.started[0].done.is_set()


@pytest.mark.parametrize("decay", [None, 0.75])
def test_many_updates_have_the_bits_of_the_plain_averager(
    copier: SlowCopier, decay: float | None
) -> None:
    copier.automatic = True
    model, averager = make(copier, decay=decay, period=2, start=1)
    plain = WeightAverager(model, decay=decay, period=2, start=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert averager.update() == plain.update()
    assert averager.count == plain.count == 10
    for a, b in zip(averager.averages(), plain.averages(), strict=True):
        assert torch.equal(a, b)
    assert copier.staged == 2  # pinned memory is taken once


def test_half_precision_is_folded_into_float32(copier: SlowCopier) -> None:
    copier.automatic = True
    model = torch.nn.Linear(3, 2, dtype=torch.bfloat16)
    averager = WeightAverager(model, device="cpu")
    averager._snapshots.offload = Offload(copier)
    for number in (1.0, 2.0, 6.0):
        set_weights(model, number)
        averager.update()
        averager.averages()
    assert [a.dtype for a in averager.averages()] == [torch.float32] * 2
    assert all((a == 3.0).all() for a in averager.averages())


def test_an_optimizer_waits_for_what_it_is_about_to_write(copier: SlowCopier) -> None:
    model, averager = make(copier)
    set_weights(model, 4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.ones(1, 3)).sum().backward()
    averager.update()
    optimizer.step()
    assert copier.started[0].held_back == 1
    assert all((a == 4.0).all() for a in averager.averages())
    assert (model.bias != 4.0).all()
    optimizer.step()  # nothing is in flight any more
    assert copier.started[0].held_back == 1


@pytest.mark.parametrize(
    "read",
    [
        lambda averager: averager.state_dict()["averages"]["weight"],
        lambda averager: averager.copy_to() or averager._snapshots.source.module.weight,
        lambda averager: averager.swap() or averager._snapshots.source.module.weight,
        lambda averager: averager.to("cpu")._snapshots.averages(0)[0],
        lambda averager: copy.deepcopy(averager)._snapshots.averages(0)[0],
    ],
    ids=["state_dict", "copy_to", "swap", "to", "deepcopy"],
)
def test_every_read_waits(copier: SlowCopier, read: Any) -> None:
    model, averager = make_with_a_snapshot(copier)
    set_weights(model, 8.0)
    averager.update()
    threading.Timer(0.1, copier.started[1].finish.set).start()
    assert (read(averager) == 6.0).all()


def test_it_can_be_thrown_away_in_flight(copier: SlowCopier) -> None:
    model, averager = make(copier)
    averager.update()
    hook = averager._snapshots.offload._hook.id
    assert hook in _global_optimizer_pre_hooks
    gone = weakref.ref(averager._snapshots.offload)
    copies = copier.started[0]
    del averager
    copies.finish.set()
    assert copies.done.wait(60)
    for _ in range(100):
        gc.collect()
        if gone() is None:
            break
        threading.Event().wait(0.02)
    assert gone() is None
    assert hook not in _global_optimizer_pre_hooks
    assert model is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_hang(copier: SlowCopier) -> None:
    model, averager = make(copier)
    averager.update()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            averager.averages()
        except OffloadError as error:
            code = 0 if "forked while the update was in flight" in str(error) else 2
        copier.automatic = True
        set_weights(model, 2.0)
        averager.update()
        os._exit(code if (averager.averages()[0] == 2.0).all() else 3)
    _, status = os.waitpid(child, 0)
    copier.started[0].finish.set()
    assert os.waitstatus_to_exitcode(status) == 0
    averager.averages()


def test_the_process_exits_with_an_update_in_flight() -> None:
    code = """
import threading, torch
from swa_fast.torch import WeightAverager, snapshots
from swa_fast.torch.offload import Offload
class Copies:
    pending = ()
    def hold_back_writers(self): pass
    def wait(self):
        threading.Event().wait(0.5)
        print("copied", flush=True)
class Copier:
    def stage(self, values): return [torch.zeros_like(value.detach()) for value in values]
    def watch(self, record): pass
    def start(self, staging, values): return Copies()
snapshots.offloads = lambda device, values: True
averager = WeightAverager(torch.nn.Linear(300, 300), device="cpu")
averager._snapshots.offload = Offload(Copier())
averager.update()
print("end", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["end", "copied"]
    assert done.stderr == ""


def test_the_cuda_copier_serves_values_on_the_cpu_at_once() -> None:
    values = [torch.arange(6.0).reshape(2, 3).t(), torch.tensor(5)]
    copier = CudaCopier()
    staging = copier.stage(values)
    copies = copier.start(staging, values)
    assert copies is not None
    assert not copies.pending
    assert staging[0].stride() == values[0].stride()
    assert all(torch.equal(s, v) for s, v in zip(staging, values, strict=True))
    copies.hold_back_writers()
    copies.wait()


def test_averages_on_the_cpu_of_parameters_on_the_cpu_stay_plain() -> None:
    averager = WeightAverager(torch.nn.Linear(3, 2), device="cpu")
    averager.update()
    assert averager._snapshots.offload._executor is None


def test_detach_takes_the_hook_away_until_the_next_update(copier: SlowCopier) -> None:
    copier.automatic = True
    before = len(_global_optimizer_pre_hooks)
    model, averager = make(copier)
    averager.detach()  # nothing to take away yet
    set_weights(model, 2.0)
    averager.update()
    assert len(_global_optimizer_pre_hooks) == before + 1
    averager.detach()
    assert len(_global_optimizer_pre_hooks) == before
    assert averager.averages()[0].unique().tolist() == [2.0]
    averager.update()
    assert len(_global_optimizer_pre_hooks) == before + 1
    assert averager.count == 2
    averager.detach()


def test_an_averager_is_freed_at_once_after_an_update_in_the_background(
    copier: SlowCopier,
) -> None:
    copier.automatic = True
    before = len(_global_optimizer_pre_hooks)
    _, averager = make(copier)
    averager.update()
    copier.started[0].done.wait(60)
    averager._snapshots.offload._pool().submit(int).result(60)  # the update before it has returned
    alive = weakref.ref(averager)
    gc.disable()
    try:
        del averager
        assert alive() is None
    finally:
        gc.enable()
    assert len(_global_optimizer_pre_hooks) == before


def test_the_copies_lie_in_one_block_and_start_where_native_code_likes_them() -> None:
    values = [torch.zeros(3, dtype=torch.bfloat16), torch.zeros(2, 2), torch.zeros(0)]
    staging = CudaCopier().stage(values)
    assert len({place.untyped_storage().data_ptr() for place in staging}) == 1
    assert [place.storage_offset() * place.element_size() for place in staging[:2]] == [0, 64]
    assert [place.dtype for place in staging] == [value.dtype for value in values]


def test_values_that_cannot_be_read_as_they_are_become_dense_first() -> None:
    rows = torch.arange(12.0).reshape(3, 4)
    values = [
        rows[:, ::2],
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.zeros(2).expand(3, 2),
        rows.t(),
    ]
    copier = CudaCopier()
    staging = copier.stage(values)
    copier.watch(lambda _: pytest.fail("native code cannot find these by itself"))
    for number in (1, 5):
        rows += number
        assert copier.start(staging, values) is not None
        assert all(torch.equal(s, v) for s, v in zip(staging, values, strict=True))
    assert copier.start(staging, values[:2]) is None


def test_where_memory_is_short_nothing_is_counted_and_the_next_update_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swa_fast.torch.snapshots.offloads", lambda *_: True)
    model = torch.nn.Linear(3, 2)
    averager = WeightAverager(model, device="cpu")
    set_weights(model, 4.0)
    empty = torch.empty

    def refuse(*arguments: Any, **options: Any) -> Any:
        if options.get("dtype") == torch.uint8:
            raise RuntimeError("CUDA error: out of memory")
        return empty(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", refuse)
        with pytest.raises(RuntimeError, match="need 128 bytes of host memory for the copies, whi"):
            averager.update()
    assert (averager.count, averager.step) == (0, 0)
    averager.update()
    assert all((a == 4.0).all() for a in averager.averages())
    assert averager.count == 1


def test_the_values_of_a_module_are_not_listed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swa_fast.torch.snapshots.offloads", lambda *_: True)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    averager, plain = WeightAverager(model, device="cpu"), WeightAverager(model)
    generator = torch.Generator().manual_seed(3)

    def step() -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        plain.update()
        averager.update()

    step()
    with monkeypatch.context() as patch:
        patch.setattr(averager._snapshots, "values_of", lambda *_: pytest.fail("listed"))
        step()
        step()
    # Another parameter in its place is found, whatever is watched.
    model[1].weight = torch.nn.Parameter(torch.full((2, 2), 3.0))
    step()
    step()
    for a, b in zip(averager.averages(), plain.averages(), strict=True):
        assert torch.equal(a, b)


def test_copies_are_waited_for_if_the_update_cannot_start(
    copier: SlowCopier, monkeypatch: pytest.MonkeyPatch
) -> None:
    copier.automatic = True
    _, averager = make_with_a_snapshot(copier)

    def refuse(_: Any) -> Any:
        raise RuntimeError("cannot start a thread")

    with monkeypatch.context() as patch:
        patch.setattr(Offload, "_pool", refuse)
        with pytest.raises(RuntimeError, match="cannot start a thread"):
            averager.update()
    assert copier.started[1].done.is_set()
    assert (averager.count, averager.step) == (1, 1)
