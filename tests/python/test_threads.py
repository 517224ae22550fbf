"""Threads, forks and the settings that govern them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import sysconfig
import threading
from typing import Any

import numpy as np
import pytest

import swa_fast
from build_marks import needs_openmp
from reference import assert_same_bits, running_mean

LARGE = 3_000_000  # elements: far above the size at which a call goes parallel


def run_python(code: str, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    rng = np.random.default_rng(0)
    sizes = [1, 70_001, 0, 5, LARGE // 2, 33]
    start = [rng.standard_normal(n).astype(np.float32) for n in sizes]
    values = [rng.standard_normal(n).astype(np.float16) for n in sizes]
    expected = [running_mean(a, v, 3) for a, v in zip(start, values, strict=True)]
    for threads in (1, 2, 3, 7, 16):
        swa_fast.set_num_threads(threads)
        averages = [a.copy() for a in start]
        swa_fast.running_mean_(averages, values, 3)
        for actual, want in zip(averages, expected, strict=True):
            assert_same_bits(actual, want, f"with {threads} threads")
    swa_fast.set_num_threads(None)


@needs_openmp
def test_set_num_threads() -> None:
    default = swa_fast.get_num_threads()
    try:
        swa_fast.set_num_threads(3)
        assert swa_fast.get_num_threads() == 3
        swa_fast.set_num_threads(np.int64(2))
        assert swa_fast.get_num_threads() == 2
    finally:
        swa_fast.set_num_threads(None)
    assert swa_fast.get_num_threads() == default
    for bad in (0, -1, 4097, 10**30):
        with pytest.raises(ValueError, match=f"n must be between 1 and 4096.*Received: {bad}"):
            swa_fast.set_num_threads(bad)
    for wrong in (1.5, "2", True):
        with pytest.raises(TypeError, match="n must be an int"):
            swa_fast.set_num_threads(wrong)  # type: ignore[arg-type]


@needs_openmp
def test_environment() -> None:
    code = "import swa_fast; print(swa_fast.get_num_threads())"
    assert run_python(code, OMP_NUM_THREADS="3") == "3"
    assert run_python(code, OMP_NUM_THREADS="8", OMP_THREAD_LIMIT="2") == "2"
    assert 1 <= int(run_python(code)) <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        pinned = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);" + code
        assert run_python(pinned) == "1"


@pytest.mark.skipif(swa_fast.build_info()["openmp"] != "none", reason="built with OpenMP")
def test_without_openmp_there_is_one_thread() -> None:
    swa_fast.set_num_threads(4)
    assert swa_fast.get_num_threads() == 1
    swa_fast.set_num_threads(None)


def test_two_threads_at_once_on_disjoint_lists() -> None:
    def work(seed: int, results: dict[int, bool]) -> None:
        rng = np.random.default_rng(seed)
        averages = [np.zeros(n, np.float32) for n in (1, 1000, 200_000)]
        expected = [a.copy() for a in averages]
        for count in range(30):
            values = [rng.standard_normal(a.size).astype(np.float32) for a in averages]
            expected = [running_mean(a, v, count) for a, v in zip(expected, values, strict=True)]
            swa_fast.running_mean_(averages, values, count)
        results[seed] = all((a == e).all() for a, e in zip(averages, expected, strict=True))

    results: dict[int, bool] = {}
    threads = [threading.Thread(target=work, args=(seed, results)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(6), True)


def test_a_list_may_change_while_a_call_reads_it() -> None:
    count, size = 50, 64
    shared = [np.full(size, -1, np.float32) for _ in range(count)]
    stop = threading.Event()

    def change() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            shared[turn % (count - 1)] = np.full(size, turn, np.float32)  # the old one dies
            shared.append(shared.pop())

    thread = threading.Thread(target=change)
    thread.start()
    refused = []
    try:
        for _ in range(2000):
            taken = [np.zeros(size, np.float32) for _ in range(count)]
            try:
                swa_fast.copy_(taken, shared)
            except ValueError as error:
                refused.append(str(error))  # its last item was away
                assert not any(array.any() for array in taken)
            else:
                assert all(array[0] != 0 and (array == array[0]).all() for array in taken)
    finally:
        stop.set()
        thread.join()
    assert len(refused) < 2000
    assert all("the lists must be equally long" in message for message in refused)


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has an interpreter lock"
)
def test_importing_does_not_bring_the_interpreter_lock_back() -> None:
    assert run_python("import sys, swa_fast; print(sys._is_gil_enabled())") == "False"


def test_the_interpreter_is_unlocked_while_working() -> None:
    """Another thread runs Python code during one long call."""
    averages, values = [np.zeros(LARGE * 8)], [np.ones(LARGE * 8)]
    swa_fast.set_num_threads(1)
    progress: list[int] = []
    started = threading.Event()
    stop = threading.Event()

    def count() -> None:
        started.set()
        n = 0
        while not stop.is_set():
            n += 1
        progress.append(n)

    # The call takes less than the switch interval, so the counter advances only if the call itself
    # gives up the lock. (To get it back, it waits one interval.)
    interval = sys.getswitchinterval()
    thread = threading.Thread(target=count)
    thread.start()
    started.wait()
    sys.setswitchinterval(3)
    try:
        swa_fast.running_mean_(averages, values, 1)
        stop.set()
    finally:
        sys.setswitchinterval(interval)
        swa_fast.set_num_threads(None)
        stop.set()
    thread.join()
    assert progress[0] > 100


def _in_child(queue: Any) -> None:
    average = np.zeros(LARGE, np.float32)
    swa_fast.running_mean_([average], [np.ones(LARGE, np.float32)], 0)
    swa_fast.running_mean_([average], [np.full(LARGE, 3, np.float32)], 1)
    queue.put((swa_fast.get_num_threads(), bool((average == 2).all())))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
def test_a_forked_child_does_not_hang() -> None:
    swa_fast.set_num_threads(2)
    parent = np.zeros(LARGE, np.float32)
    swa_fast.running_mean_([parent], [np.ones(LARGE, np.float32)], 0)  # the pool exists now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,), daemon=True)
    child.start()
    try:
        assert queue.get(timeout=60) == (1, True)
    finally:
        child.kill()
        swa_fast.set_num_threads(None)
    # The parent is as parallel as before.
    swa_fast.running_mean_([parent], [np.full(LARGE, 3, np.float32)], 1)
    assert (parent == 2).all()


def test_torch_settings_are_shared_or_harmless() -> None:
    pytest.importorskip("torch")
    code = """
import numpy as np, torch, swa_fast
torch.set_num_threads(1)
a = np.zeros(3_000_000, np.float32)
swa_fast.running_mean_([a], [torch.ones(3_000_000)], 0)
torch.set_num_threads(2)
torch.ones(3_000_000).add_(1)
swa_fast.running_mean_([a], [torch.full((3_000_000,), 3.0)], 1)
print((a == 2).all())
"""
    assert run_python(code) == "True"
