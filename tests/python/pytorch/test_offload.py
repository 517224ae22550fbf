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
    def stage(self, value): return torch.zeros_like(value.detach())
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
    staging = [copier.stage(value) for value in values]
    copies = copier.start(staging, values)
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
