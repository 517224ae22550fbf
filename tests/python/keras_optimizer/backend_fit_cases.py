"""Every Keras backend: `fit`, loss scaling, gradient accumulation; run by test_processes.py."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from backend_models import X, build_model, check_averages, fit, numpy_of
from optimizer_oracles import due_steps
from swa_fast.keras import update_bn
from swa_fast.keras.optimizers import SWA, AveragedOptimizerWrapper

INNER: dict[str, Any] = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.5),
    "nadam": lambda: keras.optimizers.Nadam(0.02),
    "adamw": lambda: keras.optimizers.AdamW(0.02, weight_decay=0.1),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.02), initial_scale=8.0
    ),
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("eagerly", [False, True])
def test_fit(inner: str, eagerly: bool) -> None:
    model = build_model()
    swa = SWA(INNER[inner](), 3, 2)
    model.compile(swa, "mse", run_eagerly=eagerly)
    taken = fit(model)
    check_averages(model, swa, [taken[step] for step in due_steps(16, 3, 2)])
    assert int(swa.iterations) == 16
    before = [numpy_of(v) for v in model.non_trainable_variables]
    averages = [numpy_of(swa.get_slot(v, "average")) for v in model.trainable_variables]
    swa.assign_average_vars(model.variables)
    for each, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(numpy_of(each), average)
    for each, value in zip(model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(numpy_of(each), value)


def test_same_weights_as_without_averaging() -> None:
    plain, averaged = build_model(), build_model()
    plain.compile(keras.optimizers.Adam(0.02), "mse")
    averaged.compile(SWA(keras.optimizers.Adam(0.02), 0, 1), "mse")
    for one, other in zip(fit(plain), fit(averaged), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_subclass_with_its_own_average_op_counts_snapshots_in_a_compiled_step() -> None:
    class Extended(SWA):
        def average_op(self, var: Any, average_var: Any) -> Any:
            return super().average_op(var, average_var)

    model = build_model()
    swa = Extended(keras.optimizers.SGD(0.02), 3, 5)
    model.compile(swa, "mse")
    taken = fit(model)
    due = due_steps(16, 3, 5)
    check_averages(model, swa, [taken[step] for step in due])
    assert swa.snapshots == len(due) == 3


def test_wrapped_in_a_loss_scale_optimizer() -> None:
    model = build_model()
    swa = SWA(keras.optimizers.SGD(0.02), 1, 2)
    model.compile(keras.optimizers.LossScaleOptimizer(swa, initial_scale=8.0), "mse")
    taken = fit(model)
    check_averages(model, swa, [taken[step] for step in due_steps(16, 1, 2)])


@pytest.mark.parametrize("nesting", ["inside", "outside"])
def test_step_skipped_for_infinite_gradients_takes_no_snapshot(nesting: str) -> None:
    model = build_model()
    scaler = keras.optimizers.LossScaleOptimizer
    inner = keras.optimizers.SGD(0.02)
    if nesting == "inside":
        swa = optimizer = SWA(scaler(inner, initial_scale=2.0**127), 0, 1)
    else:
        swa = SWA(inner, 0, 1)
        optimizer = scaler(swa, initial_scale=2.0**127)
    model.compile(optimizer, "mse")
    start = [numpy_of(v) for v in model.trainable_variables]
    taken = fit(model)
    changed: list[list[Any]] = []
    for before, after in zip([start, *taken], taken, strict=False):
        if any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
            changed.append(after)
    assert 2 <= len(changed) < len(taken)
    assert int(swa.iterations) == len(changed)
    check_averages(model, swa, changed)


def test_gradient_accumulation_counts_real_steps() -> None:
    model = build_model()
    swa = SWA(keras.optimizers.SGD(0.05, gradient_accumulation_steps=2), 1, 2)
    model.compile(swa, "mse")
    real = fit(model)[1::2]
    assert int(swa.iterations) == 8
    check_averages(model, swa, [real[step] for step in due_steps(8, 1, 2)])


def test_subclass_average_op_in_fit() -> None:
    class Last(AveragedOptimizerWrapper):
        def average_op(self, var: Any, average_var: Any) -> Any:
            return average_var.assign(keras.ops.convert_to_tensor(var) * 2)

    model = build_model()
    model.compile(Last(keras.optimizers.SGD(0.05)), "mse")
    last = fit(model)[-1]
    for each, value in zip(model.trainable_variables, last, strict=True):
        average = numpy_of(model.optimizer.get_slot(each, "average"))
        np.testing.assert_array_equal(average, 2 * value)


@pytest.mark.parametrize("eagerly", [False, True])
def test_batch_norm_of_the_averages(eagerly: bool) -> None:
    """What a user does at the end of a training, and that training can go on after it."""
    model = build_model()
    model.compile(SWA(keras.optimizers.SGD(0.05), 3, 2), "mse", run_eagerly=eagerly)
    fit(model)
    model.optimizer.assign_average_vars(model.variables)
    trained = [numpy_of(v) for v in model.trainable_variables]
    update_bn(model, X, batch_size=16)
    dense, norm = model.layers[0], model.layers[1]
    kernel, bias = numpy_of(dense.kernel).astype(np.float64), numpy_of(dense.bias)
    hidden = [np.maximum(X[i : i + 16] @ kernel + bias, 0) for i in range(0, 64, 16)]
    for moving, batches in (
        (norm.moving_mean, [each.mean(0) for each in hidden]),
        (norm.moving_variance, [each.var(0) for each in hidden]),
    ):
        np.testing.assert_allclose(numpy_of(moving), np.mean(batches, 0), rtol=1e-4, atol=1e-6)
    for each, before in zip(model.trainable_variables, trained, strict=True):
        np.testing.assert_array_equal(numpy_of(each), before)
    fit(model)
    assert int(model.optimizer.iterations) == 32
