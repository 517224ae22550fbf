# ruff: noqa: B023 - each hook runs only in the turn of the loop that made it
"""A run that was interrupted and resumed equals one that was not, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import check, killed
from .environment import Environment, array, assert_same_bits, raises, weights


def _swa(env: Any, schedule: Any = "cyclic", **arguments: Any) -> Any:
    period = {"swa_freq": 2} if schedule == "cyclic" else {}
    return env.SWA(2, schedule, swa_lr=0.01, **period, **arguments)


def _optimizer(env: Any) -> Any:
    return env.keras.optimizers.SGD(0.1, momentum=0.9)


@check()
def from_state_in_memory_and_in_a_file(env: Environment) -> None:
    cases: list[dict[str, Any]] = [{"every_n_steps": 2}, {"schedule": "cyclic"}, {"decay": 0.9}]
    model = env.bn_model(_optimizer(env))
    for arguments in cases if env.target in ("torch", "tensorflow") else cases[:1]:
        env.fit(env.anew(model), _swa(env, **arguments), epochs=8)
        whole = weights(model)

        env.anew(model)
        states: list[Any] = []
        optimizer_state: list[Any] = []

        def on_epoch_end(this: Any, epoch: Any, logs: Any = None) -> None:
            if epoch == 4:
                states.append(first.get_state())
                first.save_state(path)
                states.append(weights(this.model))
                optimizer_state.append([array(v) for v in _variables(this.model.optimizer)])
                raise KeyboardInterrupt

        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "deep" / "state.npz"
            first = _swa(env, **arguments)
            with raises(KeyboardInterrupt, ""):
                env.fit(model, first, env.callback(on_epoch_end=on_epoch_end), epochs=8)
            second = _swa(env, **arguments)
            if "every_n_steps" in arguments:
                second.load_state(path)
            else:
                second.set_state(states[0])
        model.set_weights(states[1])
        for variable, value in zip(_variables(model.optimizer), optimizer_state[0], strict=True):
            variable.assign(value)
        env.fit(model, second, epochs=8, initial_epoch=5)
        assert_same_bits(weights(model), whole)


def _variables(optimizer: Any) -> Any:
    variables = optimizer.variables
    return variables() if callable(variables) else variables


@check("tensorflow", "torch", "tf_keras")
def with_backup_and_restore(env: Environment) -> None:
    first = env.bn_model(_optimizer(env))
    env.fit(first, _swa(env, "constant"), epochs=8)
    whole = weights(first)
    for interrupted_at in (1, 5):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "swa.npz"

            def interrupt(this: Any, epoch: Any, logs: Any = None) -> None:
                if epoch == interrupted_at:
                    raise RuntimeError("power cut")

            def callbacks() -> Any:
                backup = env.keras.callbacks.BackupAndRestore(str(Path(directory) / "keras"))
                return _swa(env, "constant", backup_path=path), backup

            failing = env.callback(on_epoch_begin=interrupt)
            with raises(RuntimeError, "power cut"):
                env.fit(env.anew(first), *callbacks(), failing, epochs=8)
            assert path.exists()
            model = env.bn_model(_optimizer(env))  # as a new process would
            swa, backup = callbacks()
            env.fit(model, backup, swa, epochs=8)  # in the other order
            assert_same_bits(weights(model), whole)
            assert swa.get_state()["count"] == 6
            assert not path.exists()
            assert not Path(f"{path}.previous").exists()


@check()
def a_killed_process_goes_on_in_the_next(env: Environment) -> None:
    """Killed inside a training epoch, or inside the batch-normalization epoch."""
    whole = killed.model(env)
    env.fit(whole, killed.callback(env), epochs=8)
    for last in (5, 7) if env.target == "torch" else (5,):
        with tempfile.TemporaryDirectory() as name:
            run = subprocess.run(
                [sys.executable, killed.__file__, env.target, name, str(last)],
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert run.returncode == -signal.SIGKILL, run.stderr[-3000:]
            model, recorder = killed.model(env), env.recorder()
            swa, backup = killed.callbacks(env, Path(name))
            env.fit(model, recorder, backup, swa, epochs=8)
            assert len(recorder.weights) == 8 - last
            assert_same_bits(weights(model), weights(whole))
            assert swa.get_state()["count"] == 3
            assert list(Path(name).glob("swa*")) == []


@check("tensorflow")
def a_run_killed_between_the_two_backups(env: Environment) -> None:
    """Ours was written and Keras's was not: the state before it is still there."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "swa.npz"
        model = env.dense_model()
        kept: list[list[Any]] = []

        def on_epoch_end(this: Any, epoch: Any, logs: Any = None) -> None:
            kept.append(weights(this.model))
            if epoch == 4:
                raise RuntimeError("killed")

        with raises(RuntimeError, "killed"):
            callback = env.callback(on_epoch_end=on_epoch_end)
            env.fit(model, env.SWA(2, backup_path=path), callback, epochs=8)
        swa = env.SWA(2, backup_path=path)
        model.set_weights(kept[3])
        env.fit(model, swa, epochs=6, initial_epoch=4)
        assert swa.get_state()["count"] == 5
        swa.save_state(path)
        with raises(ValueError, "backup_path must hold the state of epoch 3"):
            env.fit(model, env.SWA(2, backup_path=path), epochs=6, initial_epoch=3)


@check("tensorflow")
def bad_states(env: Environment) -> None:
    swa = env.SWA(2)
    with raises(TypeError, "state must be a dict"):
        swa.set_state([1])
    with raises(ValueError, "state must have the keys"):
        swa.set_state({"averages": []})
    with raises(ValueError, "if and only if count > 0"):
        swa.set_state({**swa.get_state(), "count": 2})
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "state.npz"
        with raises(FileNotFoundError, "state.npz"):
            swa.load_state(path)
        path.write_bytes(b"not a state")
        with raises(ValueError, "is not a state that swa_fast saved"):
            swa.load_state(path)
    model = env.dense_model()
    trained = env.SWA(2)
    env.fit(model, trained, epochs=3)
    before = weights(model)
    other = env.bn_model()
    swa.set_state(trained.get_state())
    with raises(ValueError, "the state must be of a model with the same weights"):
        env.fit(other, swa, epochs=3)
    assert_same_bits(weights(model), before)
