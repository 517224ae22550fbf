"""Does the installed swa_fast work, beside the packages given, imported in the order given?

usage: python functional.py PACKAGE...      each of: swa_fast torch tensorflow

Needs NumPy and the packages named. The bits are compared with NumPy's, the threads, forks and
OpenMP runtimes of the process looked at. Ends with status 1 and a traceback at the first fault.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from itertools import product
from typing import Any

import numpy as np

LARGE = 1_500_000  # elements: enough for a call to use several threads


def require(condition: bool, what: str) -> None:
    """An assertion that -O does not remove."""
    if not condition:
        raise AssertionError(what)


def same_bits(a: Any, b: Any) -> bool:
    """Equal arrays, to the bit."""
    return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


def mean(average: Any, value: Any, count: int) -> Any:
    """The contract, in NumPy."""
    compute = np.result_type(average, value, np.float32).type
    a, v = average.astype(compute), value.astype(compute)
    return (a + (v - a) * (compute(1) / compute(count + 1))).astype(average.dtype)


def check_arithmetic(swa_fast: Any) -> None:
    """running_mean_, lerp_, swap_ and copy_ on every pair of NumPy's floating types."""
    rng = np.random.default_rng(0)
    types = (np.float64, np.float32, np.float16)
    for average_type, value_type in product(types, types):
        sizes = (0, 1, 33, 70_001, LARGE)
        averages = [rng.standard_normal(n).astype(average_type) for n in sizes]
        values = [rng.standard_normal(n).astype(value_type) for n in sizes]
        for count in (1, 6):
            expected = [mean(a, v, count) for a, v in zip(averages, values, strict=True)]
            swa_fast.running_mean_(averages, values, count)
            require(
                all(map(same_bits, averages, expected)),
                f"running_mean_ of {average_type.__name__} and {value_type.__name__}: other bits",
            )
        swa_fast.lerp_(averages, values, 0.5)
        expected = [mean(a, v, 1) for a, v in zip(expected, values, strict=True)]
        require(all(map(same_bits, averages, expected)), "lerp_: other bits")
        swa_fast.running_mean_(averages, values, 0)
        expected = [v.astype(average_type) for v in values]
        require(all(map(same_bits, averages, expected)), "count 0 is not a copy")
    a, b = rng.standard_normal(LARGE), rng.standard_normal(LARGE)
    was_a, was_b = a.copy(), b.copy()
    swa_fast.swap_([a], [b])
    require(same_bits(a, was_b) and same_bits(b, was_a), "swap_: other bits")
    swa_fast.copy_([a], [b])
    require(same_bits(a, b), "copy_: other bits")


def check_errors(swa_fast: Any) -> None:
    """A call that is refused names the pair and writes nothing."""
    averages = [np.zeros(4), np.zeros((2, 3))]
    try:
        swa_fast.running_mean_(averages, [np.ones(4), np.ones((3, 2))], 0)
    except ValueError as error:
        require("averages[1]" in str(error), f"the error does not name the pair: {error}")
    else:
        raise AssertionError("unequal shapes were taken")
    require(not averages[0].any(), "a refused call wrote")
    averages[0].flags.writeable = False
    try:
        swa_fast.running_mean_(averages[:1], [np.ones(4)], 0)
    except (BufferError, ValueError):
        return
    raise AssertionError("a read-only average was taken")


def check_threads(swa_fast: Any) -> None:
    """Several threads give the bits of one, and a forked child gives them too."""
    rng = np.random.default_rng(1)
    start = rng.standard_normal(LARGE).astype(np.float32)
    values = rng.standard_normal(LARGE).astype(np.float32)
    expected = mean(start, values, 2)

    def agrees() -> bool:
        average = start.copy()
        swa_fast.running_mean_([average], [values], 2)
        return same_bits(average, expected)

    for threads in (1, 2, 4):
        swa_fast.set_num_threads(threads)
        require(agrees(), f"other bits with {threads} threads")
    child = os.fork()
    if child == 0:
        os._exit(0 if agrees() else 1)
    for _ in range(6000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            require(status == 0, f"a forked child ended with status {status}")
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        raise AssertionError("a forked child hangs")
    require(agrees(), "other bits after a fork")
    swa_fast.set_num_threads(None)


def openmp_runtimes() -> list[str]:
    """The files of OpenMP runtimes that the process has mapped, by whatever name."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        files = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
    names = ("gomp", "iomp", "libomp")
    return sorted(f for f in files if any(name in f.split("/")[-1] for name in names))


def check_one_runtime(swa_fast: Any) -> str:
    """One OpenMP runtime for swa_fast and torch, whoever came first.

    Another package may have renamed a copy for itself, in a folder of its own: scikit-learn does,
    which TensorFlow's Keras imports where it is installed. Those are named, and not counted.
    """
    if swa_fast.build_info()["openmp"] == "none":
        require(sys.platform != "linux", "this build for Linux has no OpenMP")
        return "no OpenMP"
    every = openmp_runtimes()
    private = [f for f in every if f.split("/")[-2].endswith(".libs") and "swa_fast" not in f]
    shared = [f for f in every if f not in private]
    require(len(shared) == 1, f"not one OpenMP runtime in the process: {every}")
    return " beside ".join("/".join(f.split("/")[-3:]) for f in shared + private)


def check_torch(swa_fast: Any, torch: Any) -> None:
    """Tensors and parameters; torch's number of threads, which a shared runtime shares."""
    values = [torch.randn(n).to(torch.bfloat16) for n in (3, 70_001)]
    averages = [torch.zeros(v.shape) for v in values]
    version = averages[0]._version
    swa_fast.running_mean_(averages, values, 0)
    copied = all(torch.equal(a, v.float()) for a, v in zip(averages, values, strict=True))
    require(copied, "torch: other bits")
    require(averages[0]._version > version, "torch was not told of a write")
    shared = swa_fast.build_info()["openmp"] != "none"
    for threads in (1, 2):
        torch.set_num_threads(threads)
        require(torch.get_num_threads() == threads, "torch.set_num_threads does not work")
        if shared:
            require(
                swa_fast.get_num_threads() == threads,
                f"torch.set_num_threads({threads}), but {swa_fast.get_num_threads()} for swa_fast",
            )
        total = torch.ones(4 * LARGE).add_(1).sum().item()
        require(total == 8 * LARGE, f"torch computes wrongly with {threads} threads: {total}")


def check_tensorflow(swa_fast: Any, tf: Any) -> None:
    """Eager tensors as values."""
    rng = np.random.default_rng(2)
    values = [rng.standard_normal(n).astype(np.float32) for n in (3, 70_001)]
    averages = [np.zeros_like(v) for v in values]
    swa_fast.running_mean_(averages, [tf.constant(v) for v in values], 1)
    expected = [mean(np.zeros_like(v), v, 1) for v in values]
    require(all(map(same_bits, averages, expected)), "TensorFlow: other bits")
    require(
        float(tf.reduce_sum(tf.ones([1000, 10]) @ tf.ones([10, 10]))) == 1e5, "tf computes wrongly"
    )


def main(order: list[str]) -> None:
    """Imports, then checks."""
    modules = {name: importlib.import_module(name) for name in order}
    swa_fast = modules["swa_fast"]
    prefix = os.path.realpath(sys.prefix)
    where = os.path.realpath(str(swa_fast.__file__))
    require(where.startswith(prefix), f"swa_fast was imported from {where}, not from {prefix}")
    check_arithmetic(swa_fast)
    check_errors(swa_fast)
    if "torch" in modules:
        check_torch(swa_fast, modules["torch"])
    if "tensorflow" in modules:
        check_tensorflow(swa_fast, modules["tensorflow"])
    check_threads(swa_fast)
    runtime = check_one_runtime(swa_fast) if sys.platform == "linux" else ""
    info = swa_fast.build_info()
    print("ok,", ", ".join(filter(None, [info["isa"], runtime])))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
