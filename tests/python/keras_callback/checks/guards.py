"""What a callback list or its data would quietly spoil: refused, or warned of, before training."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np

from . import check
from .environment import Environment, array, assert_same_bits, raises, weights


@check("tensorflow", "torch", "tf_keras")
def early_stopping_that_restores_weights_after_us(env: Environment) -> None:
    """It does so when training ends, early or not, and takes the averages away."""

    def fit(stopping_is_last: bool) -> tuple[Any, Any, list[str]]:
        stopping = env.keras.callbacks.EarlyStopping(
            "loss", mode="max", patience=2, restore_best_weights=True
        )
        model, swa = env.dense_model(), env.SWA(2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            env.fit(model, *((swa, stopping) if stopping_is_last else (stopping, swa)), epochs=9)
        texts = [str(warning.message) for warning in caught]
        return model, swa, [text for text in texts if "EarlyStopping" in text]

    model, swa, told = fit(False)
    assert told == []
    assert_same_bits(weights(model), swa.get_state()["averages"])
    model, swa, told = fit(True)
    assert not all(map(np.array_equal, weights(model), swa.get_state()["averages"]))
    assert len(told) == 1


@check()
def a_generator_as_bn_data_serves_once(env: Environment) -> None:
    model = env.bn_model()
    before = weights(model)
    swa = env.SWA(2, bn_data=iter(env.batches()), validate_with_average=True)
    with raises(ValueError, "bn_data must serve every validation"):
        env.fit(model, swa, validation_data=(env.x, env.y))
    assert_same_bits(weights(model), before)
    env.fit(model, env.SWA(2, bn_data=iter(env.batches())), epochs=3)
    env.assert_exact_statistics(model)


@check("tensorflow")
def executions_of_several_steps_and_data_of_unknown_length(env: Environment) -> None:
    """Keras 3 would count batches of the last execution that never ran; Keras 2 refuses."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((env.x[:20], env.y[:20])).batch(4)
    data = data.filter(lambda x, y: True)
    for arguments in ({"every_n_steps": 1}, {"lr_schedule": "cyclic", "swa_freq": 2}):
        model = env.dense_model(steps_per_execution=2)
        before = weights(model)
        with raises(ValueError, "Received: data of unknown length with steps_per_execution=2"):
            model.fit(data, epochs=4, verbose=0, callbacks=[env.SWA(2, **arguments)])
        assert_same_bits(weights(model), before)
        swa = env.SWA(2, **arguments)
        model.fit(data.repeat(), steps_per_epoch=5, epochs=4, verbose=0, callbacks=[swa])
        ran = int(array(model.optimizer.iterations))
        assert swa.get_state()["steps"] == ran == 24  # Keras 3 rounds steps_per_epoch up
        swa = env.SWA(2, **arguments)
        env.fit(model, swa, epochs=4, steps_per_epoch=3)  # all there is
        assert swa.get_state()["steps"] == int(array(model.optimizer.iterations)) - ran == 12
    model.fit(data, epochs=3, verbose=0, callbacks=[env.SWA(2)])


@check("tensorflow", "tf_keras")
def a_copied_callback_is_its_own(env: Environment) -> None:
    records, model = [], env.dense_model()
    for duplicate in (lambda swa: swa, copy.copy, copy.deepcopy):
        original = env.SWA(2, "cyclic", swa_freq=2, swa_lr=0.001)
        swa = duplicate(original)
        env.fit(env.anew(model), swa, epochs=3)
        records.append(swa.lr_record)
        assert swa is original or original.lr_record == []
    assert records[0] == records[1] == records[2]


@check()
def batch_hooks_of_a_subclass_run_too(env: Environment) -> None:
    class Watching(env.SWA):
        calls: Any

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.calls.append(("begin", batch))
            super().on_train_batch_begin(batch, logs)

        def on_batch_end(self, batch: int, logs: Any = None) -> None:  # Keras's older name
            self.calls.append(("end", batch))

    batches = range(len(env.batches()))
    expected = [(when, batch) for _ in range(3) for batch in batches for when in ("begin", "end")]
    model = env.dense_model()
    for arguments in ({"lr_schedule": "cyclic", "swa_freq": 2}, {"every_n_steps": 1}, {}):
        env.fit(env.anew(model), env.SWA(2, **arguments), epochs=3)
        expected_weights = weights(model)
        plain, watching = env.SWA(2, **arguments), Watching(2, **arguments)
        for duplicate in (watching, copy.copy(watching), pickle.loads(pickle.dumps(plain))):
            duplicate.calls = []
            env.fit(env.anew(model), duplicate, epochs=3)
            assert duplicate.calls == (expected if isinstance(duplicate, Watching) else [])
            assert_same_bits(weights(model), expected_weights)
