"""Legacy Keras: `fit`, loss scaling and mixed precision; run by test_processes.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from legacy_models import KINDS, LEGACY, NEW, SCALER, X, Y, build_model, check_averages, fit
from optimizer_oracles import due_steps
from swa_fast.tf_keras.optimizers import SWA

INNER: dict[str, Any] = {
    "legacy_momentum": lambda: LEGACY.SGD(0.05, momentum=0.5),
    "legacy_nadam": lambda: LEGACY.Nadam(0.02),
    "new_nadam": lambda: NEW.Nadam(0.02),
    "new_adamw": lambda: NEW.AdamW(0.02, weight_decay=0.1),
    "legacy_loss_scale": lambda: SCALER(LEGACY.SGD(0.02), initial_scale=8.0),
    "new_loss_scale": lambda: SCALER(NEW.SGD(0.02), initial_scale=8.0),
}
FIT: dict[str, Any] = {
    "graph": {},
    "xla": {"jit_compile": True},
    "eager": {"run_eagerly": True},
}


# How a step is compiled does not depend on the optimizer inside, but on whether it may be skipped.
COMPILED = [(inner, "graph") for inner in INNER] + [
    (inner, how) for how in ("xla", "eager") for inner in ("legacy_momentum", "new_loss_scale")
]


@pytest.mark.parametrize(("inner", "how"), COMPILED)
def test_fit(inner: str, how: str) -> None:
    model = build_model()
    swa = SWA(INNER[inner](), 3, 2)
    model.compile(swa, "mse", **FIT[how])
    taken = fit(model)
    check_averages(model, swa, [taken[step] for step in due_steps(16, 3, 2)])
    assert int(swa.iterations) == 16
    averages = [swa.get_slot(v, "average").numpy() for v in model.trainable_variables]
    moving = [v.numpy() for v in model.non_trainable_variables]
    swa.assign_average_vars(model.variables)
    for each, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(each.numpy(), average)
    for each, value in zip(model.non_trainable_variables, moving, strict=True):
        np.testing.assert_array_equal(each.numpy(), value)


def test_steps_per_execution() -> None:
    plain, grouped = build_model(), build_model()
    for model, steps in ((plain, 1), (grouped, 4)):
        model.compile(SWA(LEGACY.SGD(0.05), 1, 3), "mse", steps_per_execution=steps)
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    for a, b in zip(plain.trainable_variables, grouped.trainable_variables, strict=True):
        one = plain.optimizer.get_slot(a, "average").numpy()
        other = grouped.optimizer.get_slot(b, "average").numpy()
        np.testing.assert_array_equal(one, other)
        assert np.any(one)


@KINDS
@pytest.mark.parametrize("nesting", ["inside", "outside"])
def test_step_skipped_for_infinite_gradients_takes_no_snapshot(nesting: str, kind: Any) -> None:
    model = build_model()
    inner = kind.SGD(0.02)
    if nesting == "inside":
        swa = optimizer = SWA(SCALER(inner, initial_scale=2.0**127), 0, 1)
    else:
        swa = SWA(inner, 0, 1)
        optimizer = SCALER(swa, initial_scale=2.0**127)
    model.compile(optimizer, "mse")
    taken, made = fit_and_see_which_steps_were_made(model)
    assert 2 <= sum(made) < len(made)
    check_averages(model, swa, [each for each, real in zip(taken, made, strict=True) if real])


@KINDS
@pytest.mark.parametrize("scale", [1.0, 2.0**127])
def test_step_skipped_at_the_smallest_scale_made_at_the_largest(scale: float, kind: Any) -> None:
    variable = tf.Variable([1.0])
    scaler = SCALER(kind.SGD(0.5), initial_scale=scale, dynamic_growth_steps=1)
    optimizer = SWA(scaler, 0, 1)
    for gradient, value, snapshots in ((np.inf, 1.0, 0), (1.0, 0.5, 1), (1.0, 0.0, 2)):
        if scale == 1.0 or gradient == 1.0:  # a skip would lower the largest scale
            optimizer.apply_gradients([(tf.constant([gradient]), variable)])
            assert variable.numpy() == [value]
            assert optimizer.snapshots == snapshots


def fit_and_see_which_steps_were_made(model: Any) -> tuple[list[list[Any]], list[bool]]:
    start = [v.numpy() for v in model.trainable_variables]
    taken = fit(model)
    made = [
        any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        for before, after in zip([start, *taken], taken, strict=False)
    ]
    return taken, made


@KINDS
def test_mixed_precision_policy(kind: Any) -> None:
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = build_model()
        swa = SWA(kind.SGD(0.02), 0, 2)
        model.compile(swa, "mse")
        assert isinstance(model.optimizer, SCALER)
        taken, made = fit_and_see_which_steps_were_made(model)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    # Legacy Keras counts the skipped steps: a snapshot that falls on one is not taken.
    due = [step for step in due_steps(16, 0, 2) if made[step]]
    check_averages(model, swa, [taken[step] for step in due])
    for each in model.trainable_variables:
        assert swa.get_slot(each, "average").dtype == tf.float32
