"""What goes beyond keras-swa: bn_data, averaging by batch, decay, validation of the averages."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from . import TENSORFLOW, check
from .environment import (
    Environment,
    array,
    assert_close,
    assert_same_bits,
    raises,
    running_mean,
    weights,
)


def _batch_recorder(env: Any) -> Any:
    def on_train_batch_end(this: Any, batch: Any, logs: Any = None) -> None:
        this.weights.append(weights(this.model))

    callback = env.callback(on_train_batch_end=on_train_batch_end)
    callback.weights = []
    return callback


@check()
def bn_data_needs_no_epoch(env: Environment) -> None:
    model, recorder = env.bn_model(), env.recorder()
    env.fit(model, recorder, env.SWA(2, batch_size=8, bn_data=env.x), epochs=4)
    index = {id(v): i for i, v in enumerate(model.weights)}
    means = running_mean(recorder.weights[1:4])  # the last epoch trained, too
    assert np.any(recorder.weights[3][0] != recorder.weights[2][0])
    assert_same_bits(env.trainable(model), [means[index[id(v)]] for v in model.trainable_variables])
    env.assert_exact_statistics(model)


@check()
def bn_data_of_every_kind(env: Environment) -> None:
    pairs = list(zip(env.batches(), [env.y[i : i + 8] for i in range(0, 22, 8)], strict=True))
    base: Any = env.keras.utils.Sequence if env.legacy else env.keras.utils.PyDataset

    class Data(base):
        def __len__(self) -> int:
            return len(pairs)

        def __getitem__(self, index: Any) -> Any:
            return pairs[index]

    kinds = [(env.x, env.y), iter(pairs), Data()]
    if env.target in TENSORFLOW:
        import tensorflow as tf

        kinds.append(tf.data.Dataset.from_tensor_slices((env.x, env.y)).batch(8))
    if env.target == "torch":
        import torch

        data = torch.utils.data.TensorDataset(torch.tensor(env.x), torch.tensor(env.y))
        kinds.append(torch.utils.data.DataLoader(data, batch_size=8))
    model = env.bn_model()
    for kind in kinds:
        env.fit(env.anew(model), env.SWA(2, batch_size=8, bn_data=kind), epochs=3)
        env.assert_exact_statistics(model)


@check(*TENSORFLOW)
def endless_bn_data_is_refused_at_the_beginning(env: Environment) -> None:
    import tensorflow as tf

    model = env.bn_model()
    before = weights(model)
    endless = tf.data.Dataset.from_tensor_slices(env.x).batch(8).repeat()
    with raises(ValueError, "endless"):
        env.fit(model, env.SWA(2, bn_data=endless), epochs=3)
    assert_same_bits(weights(model), before)


@check()
def averaging_by_batch(env: Environment) -> None:
    # 3 batches an epoch. (start_step, every_n_steps) and the batches averaged, of 12.
    model = env.dense_model()
    for start, every, taken in (
        (4, 3, [4, 7, 10]),
        (None, 2, [3, 5, 7, 9, 11]),
        (11, None, [11]),
    ):
        recorder = _batch_recorder(env)
        swa = env.SWA(2, start_step=start, every_n_steps=every)
        env.fit(env.anew(model), recorder, swa, epochs=4)
        assert len(recorder.weights) == 12
        assert_same_bits(weights(model), running_mean([recorder.weights[i] for i in taken]))
        assert swa.get_state()["count"] == len(taken)


@check("tensorflow", "jax", "tf_keras")
def averaging_by_batch_in_executions_of_several_steps(env: Environment) -> None:
    """A snapshot that is due inside an execution is taken at its end, once."""
    model, recorder = env.dense_model(steps_per_execution=2), _batch_recorder(env)
    swa = env.SWA(2, start_step=4, every_n_steps=3)
    env.fit(model, recorder, swa, epochs=4)  # executions of batches 0-1, 2 | 3-4, 5 | 6-7, 8 | ...
    assert len(recorder.weights) == 8
    assert_same_bits(weights(model), running_mean([recorder.weights[i] for i in (2, 4, 6)]))
    assert swa.get_state()["steps"] == 12


@check()
def exponential_average(env: Environment) -> None:
    model, recorder = env.dense_model(), env.recorder()
    env.fit(model, recorder, env.SWA(2, decay=0.75), epochs=5)
    expected = recorder.weights[1]
    for snapshot in recorder.weights[2:]:
        expected = [a + (v - a) * np.float32(0.25) for a, v in zip(expected, snapshot, strict=True)]
    assert_same_bits(weights(model), expected)
    exact = [w.astype(np.float64) for w in recorder.weights[1]]
    for snapshot in recorder.weights[2:]:
        exact = [0.75 * a + 0.25 * v for a, v in zip(exact, snapshot, strict=True)]
    assert_close(weights(model), exact)


@check()
def validation_of_the_averages(env: Environment) -> None:
    model, plain, recorder = env.dense_model(), env.recorder(), env.recorder()
    plain_history = env.fit(model, plain, epochs=4, validation_data=(env.x, env.y)).history
    env.anew(model)
    seen: list[list[np.ndarray]] = []
    kept: list[Any] = []
    probe = env.callback(
        on_test_begin=lambda this, logs=None: seen.append(weights(this.model)),
        on_test_end=lambda this, logs=None: (
            kept.append(this.model.trainable_variables[0].numpy())
            if env.target in TENSORFLOW
            else None
        ),
    )
    swa = env.SWA(3, validate_with_average=True)
    history = env.fit(model, recorder, swa, probe, epochs=4, validation_data=(env.x, env.y)).history
    # Training went on as if nobody had looked.
    for got, want in zip(recorder.weights, plain.weights, strict=True):
        assert_same_bits(got, want)
    # The epoch's own snapshot is in the average that is validated.
    assert_same_bits(seen[0], plain.weights[0])
    assert_same_bits(seen[2], running_mean(plain.weights[2:3]))
    assert_same_bits(seen[3], running_mean(plain.weights[2:4]))
    losses, plain_losses = history["val_loss"], plain_history["val_loss"]
    np.testing.assert_allclose(losses[:3], plain_losses[:3], rtol=1e-5)
    model.set_weights(running_mean(plain.weights[2:4]))
    np.testing.assert_allclose(losses[3], model.evaluate(env.x, env.y, verbose=0), rtol=1e-5)
    assert abs(losses[3] - plain_losses[3]) > 1e-7
    if kept:  # what a user read during validation was not written to afterwards
        assert_same_bits([kept[2], kept[3]], [seen[2][0], seen[3][0]])


@check("tensorflow", "torch")
def validation_with_statistics_from_bn_data(env: Environment) -> None:
    model = env.bn_model()
    checked: list[int] = []

    def on_test_begin(this: Any, logs: Any = None) -> None:
        if swa.get_state()["count"]:
            env.assert_exact_statistics(this.model)
            checked.append(1)

    swa = env.SWA(2, batch_size=8, bn_data=env.x, validate_with_average=True)
    probe = env.callback(on_test_begin=on_test_begin)
    plain, recorder, other = env.recorder(), env.recorder(), env.bn_model()
    env.fit(model, swa, probe, recorder, epochs=4, validation_data=(env.x, env.y))
    env.fit(other, plain, epochs=4)
    assert len(checked) == 3
    for got, want in zip(recorder.weights, plain.weights, strict=True):
        assert_same_bits(got, want)


@check()
def validation_by_default_sees_the_weights(env: Environment) -> None:
    model, recorder = env.dense_model(), env.recorder()
    seen: list[list[np.ndarray]] = []
    probe = env.callback(on_test_begin=lambda this, logs=None: seen.append(weights(this.model)))
    env.fit(model, recorder, env.SWA(2), probe, epochs=4, validation_data=(env.x, env.y))
    for got, want in zip(seen, recorder.weights, strict=True):
        assert_same_bits(got, want)


@check()
def no_memory_is_shared_with_the_model(env: Environment) -> None:
    """Writing to the private averages must not reach a variable, nor the other way round."""
    model = env.dense_model()
    swa = env.SWA(2)
    env.fit(model, swa, epochs=4)
    after = weights(model)
    twins = [array(variable) for variable in model.weights]
    private = [np.asarray(average) for average in swa._session.held._tensors("average")]
    for average in private:
        average.fill(7.0)
    assert_same_bits(weights(model), after)
    state = swa.get_state()
    for average in state["averages"]:
        average.fill(8.0)
    assert all(np.all(average == 7.0) for average in private)
    env.fit(model, epochs=1)
    assert all(np.all(average == 7.0) for average in private)
    assert_same_bits(twins, after)


@check(*TENSORFLOW)
def tensors_a_user_kept_stay(env: Environment) -> None:
    import tensorflow as tf

    model = env.dense_model()
    kept: list[tuple[Any, Any]] = []

    def keep(this: Any, epoch: Any, logs: Any = None) -> None:
        variable = this.model.trainable_variables[0]
        value = variable.value if hasattr(variable, "path") else variable
        tensor = tf.convert_to_tensor(value)
        kept.append((tensor, tensor.numpy().copy()))

    twin = tf.Variable(array(model.trainable_variables[0]))
    swa = env.SWA(2, validate_with_average=True)
    env.fit(model, env.callback(on_epoch_end=keep), swa, epochs=5, validation_data=(env.x, env.y))
    twin.assign(array(model.trainable_variables[0]))
    held = twin.numpy().copy()
    env.fit(model, swa, epochs=4)
    for tensor, value in kept:
        assert tensor.numpy().tobytes() == value.tobytes()
    assert twin.numpy().tobytes() == held.tobytes()


@check("tensorflow")
def warnings_are_only_ours_to_give(env: Environment) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        env.fit(env.bn_model(), env.SWA(2), epochs=4)
