# ruff: noqa: B023 - each function runs only in the turn of the loop that made it
"""States and backups that are not this fit's: of another run, of another model, damaged."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from . import check
from .environment import Environment, assert_same_bits, raises, weights


def _model(env: Any, rate: float) -> Any:
    return env.dense_model(env.keras.optimizers.SGD(rate))


@check("tensorflow", "torch", "tf_keras")
def a_backup_that_was_left_behind_has_no_say_in_a_fit_from_epoch_0(env: Environment) -> None:
    def fail(this: Any, epoch: int, logs: Any = None) -> None:
        if epoch == 2:
            raise RuntimeError("killed")

    for schedule, period in (("constant", 1), ("cyclic", 2)):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "swa.npz"

            def swa(lower: Any, backup_path: Any = path) -> Any:
                return env.SWA(3, schedule, lower, None, period, backup_path=backup_path)

            def leave() -> None:
                model = _model(env, 0.1)
                with raises(RuntimeError, "killed"):
                    env.fit(model, swa(0.05), env.callback(on_epoch_begin=fail))
                assert path.exists()

            expected = swa(0.001, None)
            env.fit(_model(env, 0.01), expected)
            leave()
            found = swa(0.001)
            env.fit(_model(env, 0.01), found)
            assert found.lr_record == expected.lr_record
            assert (found.swa_lr, found.swa_lr2) == (expected.swa_lr, expected.swa_lr2)
            if schedule == "cyclic":
                continue
            leave()
            model = _model(env, 0.01)
            before = weights(model)
            with raises(ValueError, '"swa_lr" must be lower than rate set in optimizer.'):
                env.fit(model, swa(0.05))
            assert_same_bits(weights(model), before)


@check()
def a_state_of_another_model_is_refused_before_the_first_batch(env: Environment) -> None:
    trained = env.SWA(2)
    env.fit(env.dense_model(), trained, epochs=3)
    steps: list[int] = []
    counting = env.callback(on_train_batch_begin=lambda this, batch, logs=None: steps.append(batch))
    keras, dense = env.keras, env.keras.layers.Dense
    wider = env.sequential(dense(4), dense(1))
    deeper = env.bn_model()
    for model, text in ((wider, "shape"), (deeper, "has averages of 4")):
        model.compile(keras.optimizers.SGD(0.1), "mse")
        before = weights(model)
        swa = env.SWA(2)
        swa.set_state(trained.get_state())
        with raises(ValueError, "the state must be of a model with the same weights"):
            env.fit(model, swa, counting, initial_epoch=3)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "swa.npz"
            trained.save_state(path)
            swa = env.SWA(2, backup_path=path, bn_data=env.x)
            with raises(ValueError, text):
                env.fit(model, swa, counting, initial_epoch=3)
        assert steps == []
        assert_same_bits(weights(model), before)


@check("tensorflow")
def damaged_files(env: Environment) -> None:
    swa = env.SWA(2)
    env.fit(env.dense_model(), swa, epochs=3)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "state.npz"
        swa.save_state(path)
        whole = path.read_bytes()
        array = Path(directory) / "array.npy"
        np.save(array, np.ones(3))
        damaged = [whole[: len(whole) // 2], whole[:100], b"", b"PK garbage", array.read_bytes()]
        for place in range(0, len(whole), 7):
            flipped = bytearray(whole)
            flipped[place] ^= 0xFF
            damaged.append(bytes(flipped))
        refused = 0
        for content in damaged:
            path.write_bytes(content)
            try:
                swa.load_state(path)
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017
                refused += 1
        assert refused > len(damaged) / 2  # a zip file has bytes that do not matter
        path.write_bytes(damaged[0])
        with raises(ValueError, str(path)):
            env.fit(env.dense_model(), env.SWA(2, backup_path=path), epochs=3)
