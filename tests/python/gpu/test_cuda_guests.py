"""Memory of CuPy, of JAX and of Keras on torch, on a real GPU, through the averagers."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import swa_fast
from swa_fast import Average, Averager

torch: Any = pytest.importorskip("torch")
from cuda_tools import assert_same_bits  # noqa: E402

pytestmark = pytest.mark.gpu

DESCRIBED = {"mean": Average(), "ema": Average(decay=0.75), "rare": Average(start=1, period=2)}
SIZES = [1, 1000, 70_001]


def snapshots_of(count: int) -> list[list[Any]]:
    generator = np.random.default_rng(7)
    return [
        [generator.standard_normal(size).astype(np.float32) for size in SIZES] for _ in range(count)
    ]


def test_averages_of_cupy_arrays_have_the_bits_of_numpys(gpu: str) -> None:
    cupy = pytest.importorskip("cupy")
    here = [np.zeros(size, np.float32) for size in SIZES]
    there = [cupy.zeros(size, "float32") for size in SIZES]
    ours, theirs = Averager(here, DESCRIBED), Averager(there, DESCRIBED)
    stream = cupy.cuda.Stream(non_blocking=True)
    for number, snapshot in enumerate(snapshots_of(6)):
        with stream if number % 2 else cupy.cuda.Stream.null:
            for a, b, new in zip(here, there, snapshot, strict=True):
                a[:] = new
                b[:] = cupy.asarray(new)
            ours.update()
            theirs.update()
        cupy.cuda.Device().synchronize()
    for name in DESCRIBED:
        for a, b in zip(ours[name], theirs[name], strict=True):
            assert isinstance(b, cupy.ndarray)
            assert cupy.asnumpy(b).tobytes() == a.tobytes(), name


def test_new_jax_arrays_at_every_update(gpu: str) -> None:
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("this JAX has no GPU")
    averages = [torch.zeros(size, device=gpu) for size in SIZES]
    expected = [torch.zeros(size) for size in SIZES]
    prepared = None
    for count, snapshot in enumerate(snapshots_of(5)):
        values = [jax.numpy.asarray(value) * 2 for value in snapshot]  # queued by JAX
        if prepared is None:
            target: Any = ("averages", "average", 0, -1, averages, None, None, None)
            prepared = swa_fast._core.Prepared(values, [target])
        assert prepared.run([count], values)
        swa_fast.running_mean_(expected, [value * 2 for value in snapshot], count)
    assert_same_bits(averages, expected)


def test_cupy_averages_of_torch_values(gpu: str) -> None:
    cupy = pytest.importorskip("cupy")
    averages = [cupy.zeros(size, "float64") for size in SIZES]
    expected = [np.zeros(size) for size in SIZES]
    for count, snapshot in enumerate(snapshots_of(4)):
        values = [torch.from_numpy(value).to(gpu) for value in snapshot]
        swa_fast.running_mean_(averages, values, count)
        swa_fast.running_mean_(expected, snapshot, count)
    for a, b in zip(averages, expected, strict=True):
        assert cupy.asnumpy(a).tobytes() == b.tobytes()


KERAS = """
import keras, numpy as np, torch
from swa_fast.keras.optimizers import SWA

generator = np.random.default_rng(0)
x = generator.standard_normal((64, 6)).astype("float32")
y = x[:, :1] * 2 + 1
keras.utils.set_random_seed(5)
model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(1)])
swa = SWA(keras.optimizers.SGD(0.01), start_averaging=0, average_period=1)
model.compile(swa, "mse")
taken = []

class Record(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        taken.append([v.value.detach().cpu().double() for v in self.model.trainable_variables])

model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False, callbacks=[Record()])
for index, variable in enumerate(model.trainable_variables):
    assert variable.value.is_cuda
    average = swa.get_slot(variable, "average")
    average = getattr(average, "value", average)
    assert average.is_cuda
    mean = torch.stack([one[index] for one in taken]).mean(0)
    torch.testing.assert_close(average.detach().cpu().double(), mean, rtol=1e-5, atol=1e-6)
print("snapshots:", len(taken))
"""


def test_keras_on_torch(gpu: str) -> None:
    pytest.importorskip("keras")
    done = subprocess.run(
        [sys.executable, "-c", KERAS],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["snapshots:", "16"]
