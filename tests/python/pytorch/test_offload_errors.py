"""Averages kept in host memory: errors and interrupts in the background lose nothing."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from offload_tools import SlowCopier, make, make_with_a_snapshot, set_weights  # noqa: E402
from swa_fast.torch.offload import OffloadError  # noqa: E402


def broken(*_: Any, **__: Any) -> None:
    raise MemoryError("out of it")


def test_another_write_while_it_is_copied_is_an_error_of_the_next_call(copier: SlowCopier) -> None:
    model, averager = make_with_a_snapshot(copier)
    set_weights(model, 8.0)
    averager.update()
    set_weights(model, -100.0)
    copier.started[1].finish.set()
    with pytest.raises(OffloadError, match="value 0 was written while it was being copied"):
        averager.averages()
    # That snapshot is not in the averages and not counted; the next one is.
    assert averager.count == 1
    assert all((a == 4.0).all() for a in averager.averages())
    set_weights(model, 8.0)
    copier.automatic = True
    averager.update()
    assert all((a == 6.0).all() for a in averager.averages())
    assert averager.count == 2


def test_an_optimizer_does_not_hide_an_earlier_write(copier: SlowCopier) -> None:
    model, averager = make(copier)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    averager.update()
    set_weights(model, -100.0)
    optimizer.step()
    copier.started[0].finish.set()
    with pytest.raises(OffloadError, match="was written while"):
        averager.update()


def test_errors_in_the_background_are_raised_once_by_the_next_call(
    copier: SlowCopier, monkeypatch: pytest.MonkeyPatch
) -> None:
    copier.automatic = True
    _, averager = make_with_a_snapshot(copier)
    with monkeypatch.context() as patch:
        patch.setattr("swa_fast._core.Prepared.run", broken)
        assert averager.update()
        with pytest.raises(OffloadError, match="in the background: MemoryError: out of it") as info:
            averager.update()
    assert isinstance(info.value.__cause__, MemoryError)
    assert averager.count == 1
    assert averager.step == 2
    assert all((a == 4.0).all() for a in averager.averages())


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to a thread")
def test_an_interrupted_wait_loses_nothing(copier: SlowCopier) -> None:
    model, averager = make_with_a_snapshot(copier)
    set_weights(model, 8.0)
    averager.update()
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            averager.averages()
    finally:
        timer.join()
        signal.signal(signal.SIGINT, kept)
    averager._snapshots.offload.hold_back_writers()  # still in flight: writers wait for it
    assert copier.started[1].held_back == 1
    set_weights(model, 100.0)
    assert all((a == 6.0).all() for a in averager.averages())
    assert averager.count == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, pickle.dumps])
def test_a_copy_after_a_failed_update_tells_and_counts_right(
    copier: SlowCopier, monkeypatch: pytest.MonkeyPatch, copied: Any
) -> None:
    copier.automatic = True
    model, averager = make_with_a_snapshot(copier)
    with monkeypatch.context() as patch:
        patch.setattr("swa_fast._core.Prepared.run", broken)
        averager.update()
        with pytest.raises(OffloadError, match="out of it"):
            copied(averager)
    assert averager.count == 1
    copied(averager)
    set_weights(model, 8.0)
    averager.update()
    assert all((a == 6.0).all() for a in averager.averages())


def test_a_mismatch_is_found_at_once(copier: SlowCopier) -> None:
    model, averager = make(copier)
    model.bias = torch.nn.Parameter(torch.zeros(7))
    with pytest.raises(ValueError, match="'bias' has shape"):
        averager.update()
    assert not copier.started
