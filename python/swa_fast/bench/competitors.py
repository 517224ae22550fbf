"""What is timed: the fused call and, framework by framework, what people write without it.

A framework is imported by the functions here alone, and by its name: types must not depend on what
the type checker has installed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import swa_fast

from .timing import Comparison, compare
from .workloads import Arena

PEERS = ("numpy", "torch", "tensorflow")
"""Packages to compare with."""

PRIME_BELOW = 2**26
"""Elements of a model (512 MiB of averages and values) below which a last-level cache may hold a
good part of them, and each call is primed: above, that would change nothing but the time."""

Update = Callable[[int], object]
"""Takes the count, makes one update and returns when it is done."""


@dataclass(frozen=True)
class Group:
    """Ways to average the same tensors.

    Attributes:
        updates: by label; the first calls swa_fast, and the others are compared with it.
        averages: what they update, in the order of the workload's shapes.
        prime: see `timing.compare`.
        load: copies the arena's numbers to where the tensors are, if that is elsewhere.
        store: copies the numbers back into the arena.
    """

    updates: dict[str, Update]
    averages: Sequence[Any]
    prime: bool
    load: Callable[[], object] = lambda: None
    store: Callable[[], object] = lambda: None

    def compare(self, seconds: float, lingering: Collection[str] = ()) -> Comparison:
        """Time the updates with some values in the averages already; see `timing.compare`."""
        calls = {label: functools.partial(update, 9) for label, update in self.updates.items()}
        return compare(calls, seconds, prime=self.prime, lingering=lingering)


def prepare(name: str, threads: int) -> str:
    """Import a framework, give it as many threads as swa_fast has, and return its version.

    In a process in which TensorFlow has run before, it keeps the threads that it has.
    """
    if name == "torch":
        # A torch with CUDA imports triton when it first needs it; behind TensorFlow 2.21 that
        # import ends the process. So it is made here, before TensorFlow comes.
        with contextlib.suppress(ImportError):
            importlib.import_module("triton._C.libtriton")
        importlib.import_module("torch").set_num_threads(threads)
    elif name == "tensorflow":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with quiet_stderr(), contextlib.suppress(RuntimeError):
            config: Any = importlib.import_module("tensorflow").config
            config.threading.set_intra_op_parallelism_threads(threads)
            config.threading.set_inter_op_parallelism_threads(threads)
            config.set_visible_devices([], "GPU")
    return str(importlib.import_module(name).__version__)


def numpy_group(arena: Arena, with_numpy: bool = True) -> Group:
    """Return the fused call on NumPy arrays and, if wanted, NumPy's own expression."""
    averages, values = arena.averages, arena.values

    def by_numpy(count: int) -> None:
        weight = np.float32(1 / (count + 1))
        for average, value in zip(averages, values, strict=True):
            average += (value - average) * weight

    updates: dict[str, Update] = {
        "swa_fast, NumPy arrays": lambda count: swa_fast.running_mean_(averages, values, count)
    }
    if with_numpy:
        updates["NumPy, a += (p - a) * w"] = by_numpy
    return Group(updates, averages, arena.workload.elements < PRIME_BELOW)


def tensorflow_group(arena: Arena) -> Group:
    """Return TF Addons' expression over all variables: in eager code, as a graph, by XLA.

    The variables are copies of what the arena holds now. TF Addons also selects between the new and
    the old average with `tf.where`, on whether a snapshot is due; leaving that out is in
    TensorFlow's favour.
    """
    tf: Any = importlib.import_module("tensorflow")
    with quiet_stderr(), tf.device("/CPU:0"):
        averages, values = ([tf.Variable(a) for a in x] for x in (arena.averages, arena.values))

    def snapshot(n: Any) -> None:
        for average, value in zip(averages, values, strict=True):
            average.assign((average * n + value) / (n + 1.0))

    smallest = min(averages, key=lambda average: int(tf.size(average)))

    def waiting(function: Callable[[Any], object]) -> Update:
        def run(count: int) -> None:
            with tf.device("/CPU:0"):
                function(tf.constant(float(count)))
            smallest.numpy()  # waits for the update, should it still be under way

        return run

    updates = {
        "TF Addons expression, eager": waiting(snapshot),
        "TF Addons expression, tf.function": waiting(tf.function(snapshot)),
        "TF Addons expression, XLA": waiting(tf.function(snapshot, jit_compile=True)),
    }
    return Group(updates, averages, arena.workload.elements < PRIME_BELOW)


def torch_groups(arena: Arena, device: str = "cpu") -> list[Group]:
    """Return the ways in torch: on lists of tensors, and on modules as a user has them.

    On the CPU the tensors are the arena's memory. On a GPU an update waits for the device.
    """
    torch: Any = importlib.import_module("torch")
    ours: Any = importlib.import_module("swa_fast.torch")
    theirs: Any = importlib.import_module("torch.optim.swa_utils")
    host = [torch.from_numpy(array) for array in (*arena.averages, *arena.values)]
    tensors = [tensor.to(device) for tensor in host]
    averages, values = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
    model, small = module_of(values), arena.workload.elements < PRIME_BELOW

    def copy(targets: list[Any], sources: list[Any]) -> None:
        for target, source in zip(targets, sources, strict=True):
            if target is not source:
                target.copy_(source)

    def group(updates: dict[str, Update]) -> Group:
        timed = {label: waiting(update) for label, update in updates.items()}
        load, store = (lambda: copy(tensors, host)), (lambda: copy(host, tensors))
        return Group(timed, averages, device == "cpu" and small, load, store)

    def waiting(update: Update) -> Update:
        def run(count: int) -> None:
            update(count)
            torch.cuda.synchronize()

        return run if device == "cuda" else update

    def of_model(make: Any, **options: Any) -> Update:
        averaged = make(model, **options)
        for parameter, average in zip(averaged.module.parameters(), averages, strict=True):
            parameter.data = average

        def update(count: int) -> None:
            averaged.n_averaged.fill_(count)
            averaged.update_parameters(model)

        return update

    lists: dict[str, Update] = {
        "swa_fast, torch tensors": lambda n: swa_fast.running_mean_(averages, values, n),
        "torch._foreach_lerp_": lambda n: torch._foreach_lerp_(averages, values, 1 / (n + 1)),
    }
    multi = theirs.get_swa_multi_avg_fn()
    modules = {
        "swa_fast.torch AveragedModel": of_model(ours.AveragedModel),
        "torch AveragedModel": of_model(theirs.AveragedModel),
        "torch AveragedModel, multi_avg_fn": of_model(theirs.AveragedModel, multi_avg_fn=multi),
    }
    return [group(lists), group(modules)]


def module_of(tensors: list[Any]) -> Any:
    """Return a torch module with these parameters, in submodules as a real model has them.

    A tensor of two dimensions or more (a convolution, a matrix) starts a submodule, and no
    submodule has more than two parameters (weight and bias, scale and shift).
    """
    nn: Any = importlib.import_module("torch.nn")
    root, parts = nn.Module(), list[list[Any]]()
    for tensor in tensors:
        if not parts or len(parts[-1]) == 2 or tensor.ndim > 1:
            parts.append([])
        parts[-1].append(nn.Parameter(tensor))
    for number, parameters in enumerate(parts):
        root.add_module(f"part{number}", nn.ParameterList(parameters))
    return root


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send what is written to file descriptor 2 to nowhere while the block runs.

    TensorFlow's C++ side logs there before any setting of its log level takes effect.
    """
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # a detached process has no standard error
        yield
        return
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
