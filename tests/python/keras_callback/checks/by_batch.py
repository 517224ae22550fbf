"""`EMA` and `Averages`: every schedule against float64, and what becomes of an average."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from swa_fast import Average, decays

from . import check
from .environment import Array, Environment, array, assert_same_bits, raises, weights

SCHEDULES = {
    "mean": Average(),
    "late": Average(start=3, period=2),
    "constant": Average(0.75),
    "warmup": Average(decays.warmup(0.99)),
    "ratio": Average(decays.ratio(0.9), start=1),
    "ramp": Average(decays.ramp(0.9, 4)),
    "half_life": Average(decays.half_life(3), period=2),
    "power": Average(decays.power(sigma_rel=0.1)),
    "after": Average(decays.after(4, decays.constant(0.5))),
    "initial": Average(decays.ratio(0.9), initial=True),
    "wide": Average(0.75, dtype="float64"),
}


def oracle(average: Average, before: list[Array], taken: list[list[Array]]) -> list[Array]:
    """The average in float64 of the weights after each batch."""
    held = [value.astype(np.float64) for value in before]
    count, last = int(average.initial), 0
    for update, values in enumerate(taken, 1):
        if average.due(update):
            weight = average.weight(count, update, update - last)
            share = 1 / (weight + 1) if isinstance(weight, int) else weight
            share = 1.0 if count == 0 else share
            held = [
                h + (v.astype(np.float64) - h) * share for h, v in zip(held, values, strict=True)
            ]
            count, last = count + 1, update
    return held


def recording(env: Environment) -> Any:
    """A callback that keeps the floating-point weights after each batch."""

    def on_train_batch_end(this: Any, batch: int, logs: Any = None) -> None:
        this.taken.append(weights(this.model))

    callback = env.callback(on_train_batch_end=on_train_batch_end)
    callback.taken = []
    return callback


def _close(got: list[Array], want: list[Array], rtol: float = 2e-6) -> None:
    assert len(got) == len(want)
    for left, right in zip(got, want, strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=rtol)


@check()
def every_schedule_against_float64(env: Environment) -> None:
    model, record = env.bn_model(nested=False), recording(env)
    before = weights(model)
    averages = env.callbacks.Averages(SCHEDULES)
    env.fit(model, record, averages, epochs=3)
    assert_same_bits(weights(model), record.taken[-1])  # its own weights
    assert averages.counts == {name: a.count(9) for name, a in SCHEDULES.items()}
    for name, average in SCHEDULES.items():
        want = oracle(average, before, record.taken)
        got = averages.weights(name)
        assert {value.dtype for value in got} == {np.dtype("f8" if name == "wide" else "f4")}
        _close(got, want, 1e-12 if name == "wide" else 2e-6)


@check()
def the_ema_is_left_in_the_model_or_not(env: Environment) -> None:
    model, record = env.dense_model(), recording(env)
    env.fit(model, record, env.callbacks.EMA(0.5, start_step=2, period=3), epochs=2)
    _close(weights(model), oracle(Average(0.5, 2, 3), record.taken[0], record.taken))
    model, record = env.dense_model(), recording(env)
    ema = env.callbacks.EMA(0.9, True, warmup_power=0.75, apply_at_end=False)
    env.fit(model, record, ema, epochs=2)
    assert ema.count == 6
    assert_same_bits(weights(model), record.taken[-1])
    schedule = Average(decays.warmup(0.9, 1.0, 0.75))
    want = oracle(schedule, record.taken[0], record.taken)
    _close(ema.weights(), want)
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "ema.weights.h5")
        with ema.applied():
            _close(weights(model), want)
            model.save_weights(path)
        assert_same_bits(weights(model), record.taken[-1])
        model.load_weights(path)
        assert_same_bits(weights(model), ema.weights())


@check()
def an_exception_leaves_the_ema(env: Environment) -> None:
    def fail(this: Any, batch: int, logs: Any = None) -> None:
        if len(record.taken) == 4:
            raise KeyboardInterrupt("now")

    model, record = env.dense_model(), recording(env)
    with raises(KeyboardInterrupt, "now"):
        env.fit(model, record, env.callbacks.EMA(0.5), env.callback(on_train_batch_end=fail))
    _close(weights(model), oracle(Average(0.5), record.taken[0], record.taken))
    assert "evaluate" not in vars(model)


@check()
def a_chosen_average_is_validated_and_saved(env: Environment) -> None:
    """The best file holds the weights that had the best value, bit for bit."""
    model, record = env.dense_model(env.keras.optimizers.SGD(0.3)), recording(env)
    seen: list[list[Array]] = []
    probe = env.callback(on_test_begin=lambda this, logs=None: seen.append(weights(this.model)))
    averages = env.callbacks.Averages(
        {"mean": Average(), "ema": Average(0.8)}, validate_with_average="ema", apply_at_end="mean"
    )
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "best.weights.h5")
        last = str(Path(directory) / "last.weights.h5")
        kind = env.keras.callbacks.ModelCheckpoint
        best = kind(path, "val_loss", save_best_only=True, save_weights_only=True)
        plain = kind(last, "loss", save_best_only=False, save_weights_only=True)
        data = {"validation_data": (env.x, env.y)}
        history = env.fit(model, best, record, averages, probe, plain, epochs=6, **data).history
        for epoch, values in enumerate(seen):
            taken = record.taken[: 3 * (epoch + 1)]
            _close(values, oracle(Average(0.8), taken[0], taken))
        _close(weights(model), oracle(Average(), record.taken[0], record.taken))
        model.load_weights(path)
        assert_same_bits(weights(model), seen[int(np.argmin(history["val_loss"]))])
        got = float(np.ravel(model.evaluate(env.x, env.y, verbose=0))[0])
        assert abs(got - min(history["val_loss"])) < 1e-5
        model.load_weights(last)
        assert_same_bits(weights(model), record.taken[-1])


@check()
def what_swa_validated_is_what_is_saved(env: Environment) -> None:
    """With statistics of its own for each validation, from `bn_data`."""
    model = env.bn_model(env.keras.optimizers.SGD(0.3), nested=False)
    swa = env.SWA(2, bn_data=env.x, validate_with_average=True)
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "best.weights.h5")
        kind = env.keras.callbacks.ModelCheckpoint
        best = kind(path, "val_loss", save_best_only=True, save_weights_only=True)
        data = {"validation_data": (env.x, env.y)}
        history = env.fit(model, swa, best, epochs=5, **data).history
        model.load_weights(path)
    got = float(np.ravel(model.evaluate(env.x, env.y, verbose=0))[0])
    assert abs(got - min(history["val_loss"])) < 1e-5
    assert "on_epoch_end" not in vars(best)


@check()
def a_resumed_fit_equals_one_that_never_stopped(env: Environment) -> None:
    described = {name: SCHEDULES[name] for name in ("late", "half_life", "initial")}
    whole = env.callbacks.Averages(described)
    model = env.dense_model()
    env.fit(model, whole, epochs=4)
    model = env.dense_model()
    first, second = (env.callbacks.Averages(described) for _ in range(2))
    env.fit(model, first, epochs=2)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "state.npz"
        first.save_state(path)
        second.load_state(path)
        with raises(ValueError, "state"):
            env.callbacks.Averages({"late": Average()}).load_state(path)
        with raises(ValueError, "is not a state"):
            env.SWA(2).load_state(path)
    env.fit(model, second, epochs=4, initial_epoch=2)
    assert second.counts == whole.counts
    for name in described:
        assert_same_bits(second.weights(name), whole.weights(name))


@check("tensorflow", "tf_keras")
def with_a_backup_beside_that_of_keras(env: Environment) -> None:
    whole = env.dense_model()
    env.fit(whole, env.callbacks.EMA(0.7), epochs=4)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ema.npz"

        def fail(this: Any, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise RuntimeError("power cut")

        def callbacks() -> Any:
            backup = env.keras.callbacks.BackupAndRestore(str(Path(directory) / "keras"))
            return env.callbacks.EMA(0.7, backup_path=path), backup

        failing = env.callback(on_epoch_begin=fail)
        with raises(RuntimeError, "power cut"):
            env.fit(env.dense_model(), *callbacks(), failing, epochs=4)
        assert path.exists()
        model = env.dense_model()
        env.fit(model, *callbacks(), epochs=4)
        assert_same_bits(weights(model), weights(whole))
        assert not path.exists()


@check("tensorflow", "tf_keras")
def executions_of_several_steps(env: Environment) -> None:
    """Snapshots that are due within one are taken at its end; the last is shorter."""
    model, record = env.dense_model(steps_per_execution=2), recording(env)
    averages = env.callbacks.Averages({"each": Average(0.5), "second": Average(period=2)})
    env.fit(model, record, averages, epochs=2)  # 3 batches in an epoch: executions of 2 and 1
    ends = [record.taken[index] for index in (0, 0, 1, 2, 2, 3)]
    assert averages.counts == {"each": 6, "second": 3}
    _close(averages.weights("each"), oracle(Average(0.5), ends[0], ends))
    _close(averages.weights("second"), oracle(Average(period=2), ends[0], ends))


@check()
def bad_arguments(env: Environment) -> None:
    kinds = env.callbacks
    for kind, make, text in (
        (TypeError, lambda: kinds.Averages({}), "averages must be a dict"),
        (TypeError, lambda: kinds.Averages({"a": 0.5}), "averages must be a dict"),
        (ValueError, lambda: kinds.Averages({"a": Average()}, apply_at_end="b"), "['a']"),
        (ValueError, lambda: kinds.Averages({"a": Average()}, nonfinite="drop"), "nonfinite"),
        (ValueError, lambda: kinds.EMA(1.5), "decay must be between 0 and 1. Received: 1.5"),
        (TypeError, lambda: kinds.EMA(None), "decay must be a number or a schedule"),
        (ValueError, lambda: kinds.EMA(decays.ratio(0.9), True), "decay must be a number"),
        (ValueError, lambda: kinds.EMA(start_step=-1), "start_step must be >= 0"),
        (ValueError, lambda: kinds.EMA(period=0), "period must be >= 1"),
        (TypeError, lambda: kinds.EMA(apply_at_end="yes"), "apply_at_end must be True or False"),
        (KeyError, lambda: kinds.EMA().weights("b"), "there is no average 'b'"),
        (RuntimeError, lambda: kinds.EMA().weights(), "has no snapshot yet"),
    ):
        with raises(kind, text):
            make()
    model = env.dense_model()
    before = weights(model)
    with raises(ValueError, "only one SWA callback"):
        env.fit(model, kinds.EMA(), env.SWA(2))
    assert_same_bits(weights(model), before)
    env.fit(model, kinds.EMA(apply_at_end=False), env.SWA(2), epochs=3)
    assert int(array(model.optimizer.iterations)) == 9
