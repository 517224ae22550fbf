# ruff: noqa: B023 - each hook runs only in the turn of the loop that made it
"""Training that ends before its last epoch: early stopping, interruptions, errors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from . import check
from .environment import Environment, array, assert_same_bits, raises, running_mean, weights


def _assert_averaged(env: Any, model: Any, snapshots: Any) -> None:
    index = {id(variable): i for i, variable in enumerate(model.weights)}
    means = running_mean(snapshots)
    expected = [means[index[id(variable)]] for variable in model.trainable_variables]
    assert_same_bits(env.trainable(model), expected)


def _assert_clean(env: Any, model: Any) -> None:
    """Nothing of ours is left on the model, its layers or its optimizer."""
    assert "evaluate" not in vars(model)
    assert "train_step" not in vars(model)
    assert "swa_fast" not in getattr(model.train_function, "__module__", "")
    for name in ("apply", "apply_gradients", "stateless_apply"):
        assert "lambda" not in repr(vars(model.optimizer).get(name))
    for layer in env.bn_layers(model):
        assert layer.momentum == 0.99
        assert "_recorded" not in getattr(layer.call, "__qualname__", "")


@check()
def early_stopping_before_and_after_us(env: Environment) -> None:
    model = env.bn_model()
    for first in (True, False):
        recorder = env.recorder()
        stopping = env.keras.callbacks.EarlyStopping("loss", patience=0, min_delta=1e9)
        stop_late = env.callback(
            on_epoch_end=lambda this, epoch, logs=None: setattr(
                this.model, "stop_training", epoch >= 3
            )
        )
        stopping.start_from_epoch = 99  # the next callback decides when
        swa = env.SWA(2, "constant", swa_lr=0.01)
        order = (stopping, stop_late, swa) if first else (swa, stopping, stop_late)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            env.fit(env.anew(model), recorder, *order, epochs=50)
        assert len(recorder.weights) == 4
        _assert_averaged(env, model, recorder.weights[1:4])
        env.assert_exact_statistics(model)
        _assert_clean(env, model)


@check("tensorflow", "tf_keras")
def real_early_stopping(env: Environment) -> None:
    model, recorder = env.bn_model(), env.recorder()
    stopping = env.keras.callbacks.EarlyStopping("loss", patience=3, min_delta=1e9)
    env.fit(model, recorder, env.SWA(2), stopping, epochs=50)
    assert len(recorder.weights) == 4
    _assert_averaged(env, model, recorder.weights[1:4])
    env.assert_exact_statistics(model)


@check()
def stopped_without_batch_norm(env: Environment) -> None:
    model, recorder = env.dense_model(), env.recorder()
    stop = env.callback(
        on_epoch_end=lambda this, epoch, logs=None: setattr(this.model, "stop_training", epoch == 2)
    )
    env.fit(model, recorder, env.SWA(2), stop, epochs=9)
    assert_same_bits(weights(model), running_mean(recorder.weights[1:3]))


@check()
def interrupted_anywhere(env: Environment) -> None:
    """An exception from any place inside `fit` leaves the averages, and goes on to the caller."""
    last = [0]

    def interrupt(at_epoch: Any) -> Any:
        def hook(this: Any, number: Any, logs: Any = None) -> None:
            if last[0] == at_epoch:
                raise KeyboardInterrupt("now")

        return hook

    def note(this: Any, epoch: Any, logs: Any = None) -> None:
        last[0] = epoch

    model = env.bn_model()
    for hook in ("on_train_batch_end", "on_epoch_end", "on_test_begin", "on_train_batch_begin"):
        last[0], recorder = 0, env.recorder()
        noting = env.callback(on_epoch_begin=note)
        breaking = env.callback(**{hook: interrupt(3)})
        arguments = {"validation_data": (env.x, env.y)} if "test" in hook else {}
        with raises(KeyboardInterrupt, "now"):
            model = env.anew(model)
            env.fit(model, recorder, noting, env.SWA(2), breaking, epochs=9, **arguments)
        ended = 4 if hook == "on_epoch_end" else 3
        _assert_averaged(env, model, recorder.weights[1:ended])
        env.assert_exact_statistics(model)
        _assert_clean(env, model)
        env.fit(model, epochs=1)  # and the model still trains


@check()
def interrupted_by_the_data(env: Environment) -> None:
    """An error of the user's data set: no second pass is possible, the averages are there."""
    model, recorder = env.bn_model(), env.recorder()
    base: Any = env.keras.utils.Sequence if env.legacy else env.keras.utils.PyDataset

    class Data(base):
        broken = False

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            if self.broken:
                raise RuntimeError("the disk is gone")
            return env.x[index * 8 : index * 8 + 8], env.y[index * 8 : index * 8 + 8]

    data = Data()
    noting = env.callback(
        on_epoch_end=lambda this, epoch, logs=None: setattr(data, "broken", epoch >= 2)
    )
    failed = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(data, epochs=9, verbose=0, callbacks=[recorder, env.SWA(2), noting])
        except Exception as error:
            failed = str(error)
    assert failed is not None
    assert "the disk is gone" in failed
    _assert_averaged(env, model, recorder.weights[1:])
    assert any("averages" in str(w.message) for w in caught)


@check()
def every_way_out_of_fit(env: Environment) -> None:
    """SystemExit, and errors of the user's data, metric and loss code, as KeyboardInterrupt."""
    base: Any = env.keras.utils.Sequence if env.legacy else env.keras.utils.PyDataset

    class Data(base):
        """Raises once, and can be read again from then on."""

        where: str | None = None

        def __len__(self) -> int:
            return 3

        def _raise(self, where: str) -> None:
            if self.where == where:
                self.where = None
                raise OSError("the disk was away")

        def __getitem__(self, index: int) -> Any:
            if index == 1:
                self._raise("item")
            return env.x[index * 8 : index * 8 + 8], env.y[index * 8 : index * 8 + 8]

        def on_epoch_begin(self) -> None:
            self._raise("epoch_begin")

        def on_epoch_end(self) -> None:
            self._raise("epoch_end")

    class Metric(env.keras.metrics.MeanSquaredError):
        broken = False

        def reset_state(self) -> None:
            if Metric.broken:
                Metric.broken = False
                raise ArithmeticError("no number")
            super().reset_state()

    def leave(this: Any, number: int, logs: Any = None) -> None:
        if this.armed:
            this.armed = False
            raise SystemExit(3)

    ways = ["item", "exit in a batch", "exit in an epoch", "epoch_end", "metric"]
    ways += [] if env.legacy else ["epoch_begin"]
    model = env.bn_model()
    for way in ways:
        data, recorder = Data(), env.recorder()
        env.anew(model)
        leaving = env.callback(
            **{"on_train_batch_end" if "batch" in way else "on_epoch_end": leave}
        )
        leaving.armed = False

        def arm(this: Any, epoch: int, logs: Any = None) -> None:
            if epoch == 3:
                data.where, leaving.armed, Metric.broken = way, "exit" in way, way == "metric"

        arming = env.callback(on_epoch_begin=arm)
        if way == "metric":
            model.compile(model.optimizer, "mse", weighted_metrics=[Metric(name="metric")])
        expected = {"item": Exception, "epoch_end": Exception, "epoch_begin": Exception}.get(
            way, ArithmeticError if way == "metric" else SystemExit
        )
        model.fit(data, epochs=1, verbose=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                model.fit(
                    data,
                    epochs=9,
                    verbose=0,
                    shuffle=False,
                    callbacks=[recorder, arming, env.SWA(2), leaving],
                )
            except expected as error:
                found = str(error)
            else:
                raise AssertionError(f"nothing was raised: {way}")
        assert any(text in found for text in ("the disk was away", "no number", "3")), found
        assert 3 <= len(recorder.weights) <= 5  # TensorFlow may fetch an epoch's data ahead
        _assert_averaged(env, model, recorder.weights[1:])
        env.assert_exact_statistics(model, env.batches())
        _assert_clean(env, model)


@check()
def interrupted_in_the_statistics_epoch(env: Environment) -> None:
    epochs: list[int] = []

    def hook(this: Any, batch: Any, logs: Any = None) -> None:
        if len(epochs) == 4 and batch == 1:
            raise KeyboardInterrupt

    breaking = env.callback(
        on_epoch_begin=lambda this, epoch, logs=None: epochs.append(epoch), on_train_batch_end=hook
    )
    optimizer = env.keras.optimizers.AdamW(0.05, weight_decay=0.3)
    model, recorder = env.bn_model(optimizer), env.recorder()
    with raises(KeyboardInterrupt, ""):
        env.fit(model, recorder, env.SWA(2), breaking, epochs=4)
    _assert_averaged(env, model, recorder.weights[1:3])
    env.assert_exact_statistics(model, env.batches()[:2])
    _assert_clean(env, model)
    assert env.rate(model) > 0.04


@check("tensorflow", "tf_keras")
def interrupted_before_averaging(env: Environment) -> None:
    model = env.bn_model()
    seen: list[list[np.ndarray]] = []

    def hook(this: Any, batch: Any, logs: Any = None) -> None:
        seen.append(weights(this.model))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with raises(KeyboardInterrupt, ""):
        env.fit(model, env.SWA(3), env.callback(on_train_batch_end=hook), epochs=9)
    assert_same_bits(weights(model), seen[-1])


@check("tensorflow", "tf_keras")
def an_aborted_fit_leaves_no_watch_behind(env: Environment) -> None:
    """A later fit without the callback, that fails, must not find old averages in the model."""
    model = env.bn_model()

    def fail(this: Any, batch: Any, logs: Any = None) -> None:
        raise RuntimeError("no")

    failing = env.callback(on_epoch_begin=fail)
    for _ in range(2):
        with raises(RuntimeError, "no"):
            env.fit(model, env.SWA(2), failing, epochs=5)
    before = weights(model)
    with raises(RuntimeError, "no"):
        env.fit(model, env.callback(on_train_batch_begin=fail), epochs=2)
    assert_same_bits(weights(model), before)
    env.fit(model, epochs=1)
    assert int(array(model.optimizer.iterations)) == 3


@check("tensorflow", "tf_keras")
def stopped_before_the_first_cycle_ends(env: Environment) -> None:
    model, recorder = env.dense_model(), env.recorder()
    stop = env.callback(
        on_epoch_end=lambda this, epoch, logs=None: setattr(this.model, "stop_training", epoch == 2)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env.fit(model, recorder, env.SWA(2, "cyclic", swa_freq=4), stop, epochs=9)
    assert any("before any snapshot was taken" in str(w.message) for w in caught)
    assert_same_bits(weights(model), recorder.weights[-1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env.fit(model, env.SWA(2, "cyclic", swa_freq=4), epochs=4)
    assert any("no cycle ends before training does" in str(w.message) for w in caught)
