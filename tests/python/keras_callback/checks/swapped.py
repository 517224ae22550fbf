"""While the averages are in the model's place: no checkpoint, and every way out gives it back."""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import TENSORFLOW, check
from .environment import Environment, assert_same_bits, raises, running_mean, weights


def _ways_to_save(env: Any, model: Any, directory: str) -> dict[str, Callable[[], Any]]:
    """What a user may call to save `model`, each into a file or directory of its own."""
    save_model = env.keras.models.save_model
    ways: dict[str, Callable[[str], Any]] = {
        "save_weights.weights.h5": lambda path: model.save_weights(path),
        "save.keras": lambda path: model.save(path),
        "save_model.keras": lambda path: save_model(model, path),
        "save_model.h5": lambda path: save_model(model, path),
    }
    if env.target in TENSORFLOW:
        import tensorflow as tf

        if not env.legacy:
            ways["export"] = lambda path: model.export(path)
        ways["checkpoint"] = lambda path: tf.train.Checkpoint(model=model).save(path)
        ways["saved_model"] = lambda path: tf.saved_model.save(model, path)
    if env.target == "torch":
        import torch

        ways["torch.pt"] = lambda path: torch.save(model.state_dict(), path)
    return {
        name: functools.partial(save, str(Path(directory) / name)) for name, save in ways.items()
    }


@check()
def a_checkpoint_is_impossible(env: Environment) -> None:
    with tempfile.TemporaryDirectory() as directory:
        tried: list[str] = []

        def save(this: Any, logs: Any = None) -> None:
            for name, way in _ways_to_save(env, this.model, directory).items():
                with raises(RuntimeError, "validate_with_average"):
                    way()
                tried.append(name)

        model, recorder = env.dense_model(), env.recorder()
        path = str(Path(directory) / "kept.weights.h5")
        checkpoint = env.keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
        swa = env.SWA(3, validate_with_average=True)
        probe = env.callback(on_test_end=lambda this, logs=None: save(this) if recorded() else None)

        def recorded() -> bool:
            return len(recorder.weights) == 2  # in the third epoch

        env.fit(model, swa, probe, checkpoint, recorder, epochs=4, validation_data=(env.x, env.y))
        assert len(tried) >= 4
        # Keras opens some files before it asks the model: what it leaves there is no model.
        for left in (file for file in Path(directory).iterdir() if file.name != "kept.weights.h5"):
            assert left.name in tried
            with raises(Exception, ""):
                env.keras.models.load_model(str(left))
            with raises(Exception, ""):
                env.dense_model().load_weights(str(left))
        other = env.dense_model()
        other.load_weights(path)
        assert_same_bits(weights(other), recorder.weights[-1])
        for name, way in _ways_to_save(env, model, directory).items():
            if name in ("save_weights.weights.h5", "save.keras", "checkpoint", "torch.pt"):
                way()  # possible again


@check()
def an_error_gives_the_weights_back(env: Environment) -> None:
    swapped = importlib.import_module("swa_fast._keras.session").swapped
    model = env.dense_model()
    before = weights(model)
    averages = [np.full_like(value, 7) for value in before]
    backend = env.runtime.current()
    with raises(KeyboardInterrupt, ""), swapped(backend, model, averages):
        assert_same_bits(weights(model), averages)
        raise KeyboardInterrupt
    assert_same_bits(weights(model), before)
    assert "save" not in vars(model)


@check()
def an_interrupted_validation_leaves_the_averages(env: Environment) -> None:
    """Not the weights that the end of the validation gives back."""
    for kind in (KeyboardInterrupt, SystemExit) if env.target == "torch" else (SystemExit,):
        model, recorder = env.dense_model(), env.recorder()
        after: list[Any] = []

        def fail(this: Any, logs: Any = None, recorder: Any = recorder, kind: Any = kind) -> None:
            if len(recorder.weights) == 2:
                raise kind

        trained = env.callback(
            on_train_batch_end=lambda this, batch, logs=None, after=after: after.append(
                weights(this.model)
            )
        )
        swa = env.SWA(2, validate_with_average=True)
        callbacks = (swa, env.callback(on_test_begin=fail), trained, recorder)
        with raises(kind, ""):
            env.fit(model, *callbacks, epochs=5, validation_data=(env.x, env.y))
        assert swa.get_state()["count"] == 2
        assert_same_bits(weights(model), running_mean([recorder.weights[1], after[-1]]))
        assert "save" not in vars(model)
