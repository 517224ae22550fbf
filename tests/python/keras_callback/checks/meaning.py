"""The same meaning as keras-swa: rates, snapshots, messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from . import check
from .environment import (
    Environment,
    assert_close,
    assert_same_bits,
    printed,
    running_mean,
    weights,
)

GOLDEN = Path(__file__).resolve().parents[3] / "data" / "keras_swa_schedules.json"


@check()
def golden_rates_and_snapshots(env: Environment) -> None:
    for run in json.loads(GOLDEN.read_text())["runs"]:
        rates: list[float] = []

        def on_train_batch_end(this: Any, batch: Any, logs: Any = None, rates: Any = rates) -> None:
            rates.append(env.rate(this.model))

        model = env.dense_model(env.keras.optimizers.SGD(run["init_lr"]))
        recorder = env.recorder()
        swa = env.SWA(**run["args"])
        probe = env.callback(on_train_batch_end=on_train_batch_end)
        steps = run["steps_per_epoch"]
        history = env.fit(
            model, recorder, swa, probe, epochs=run["epochs"], batch_size=-(-len(env.x) // steps)
        )
        recorded = run["lr_record"]
        assert history.history.get("lr", []) == swa.lr_record
        np.testing.assert_allclose(swa.lr_record, recorded, rtol=1.2e-7)
        per_batch = recorded or [run["init_lr"]] * run["epochs"]
        if len(per_batch) == run["epochs"]:
            per_batch = [rate for rate in per_batch for _ in range(steps)]
        np.testing.assert_allclose(rates, per_batch, rtol=1.2e-7)

        averaged = run["epochs_averaged"]
        if run["args"]["lr_schedule"] == "cyclic":
            assert averaged == [2, 5, 8]  # where each cycle begins
            averaged = [4, 7]  # where each cycle ends: the defect that is gone
        snapshots = [recorder.weights[epoch] for epoch in averaged]
        assert swa.get_state()["count"] == len(snapshots)
        assert_same_bits(weights(model), running_mean(snapshots))
        exact = [np.mean(np.array(s, np.float64), 0) for s in zip(*snapshots, strict=True)]
        assert_close(weights(model), exact)


@check("tensorflow", "tf_keras")
def cyclic_snapshots_are_where_the_rate_is_lowest(env: Environment) -> None:
    model, recorder = env.dense_model(), env.recorder()
    swa = env.SWA(3, "cyclic", swa_lr=0.01, swa_lr2=0.05, swa_freq=2)
    counts: list[int] = []
    probe = env.callback(
        on_epoch_end=lambda this, epoch, logs=None: counts.append(swa.get_state()["count"])
    )
    env.fit(model, recorder, swa, probe, epochs=8)
    assert counts == [0, 0, 0, 1, 1, 2, 2, 3]
    taken = [recorder.rates[epoch] for epoch in (3, 5, 7)]
    np.testing.assert_allclose(taken, 0.01, rtol=1e-6)
    assert min(recorder.rates[2], recorder.rates[4], recorder.rates[6]) > 0.02


@check("tensorflow", "tf_keras")
def manual_with_a_frequency(env: Environment) -> None:
    model, recorder = env.dense_model(), env.recorder()
    env.fit(model, recorder, env.SWA(2, swa_freq=2), epochs=6)
    assert_same_bits(weights(model), running_mean([recorder.weights[i] for i in (1, 3, 5)]))


@check()
def automatic_rates(env: Environment) -> None:
    def fitted(**arguments: Any) -> Any:
        swa = env.SWA(2, "cyclic", swa_freq=2, **arguments)
        env.fit(env.dense_model(env.keras.optimizers.SGD(0.5)), swa, epochs=3)
        return swa.swa_lr, swa.swa_lr2

    np.testing.assert_allclose(fitted(), (0.05, 0.05 + 0.25 * 0.45), rtol=1e-7)
    np.testing.assert_allclose(fitted(swa_lr=0.02), (0.02, 0.02 + 0.25 * 0.48), rtol=1e-7)
    np.testing.assert_allclose(fitted(swa_lr=0.02, swa_lr2=None), (0.02, 0.2), rtol=1e-7)
    np.testing.assert_allclose(fitted(swa_lr=0.5, swa_lr2=0.7), (0.5, 0.7), rtol=1e-7)


@check("tensorflow", "tf_keras")
def a_second_fit_starts_anew(env: Environment) -> None:
    swa = env.SWA(2, "constant")
    model = env.dense_model(env.keras.optimizers.SGD(0.5))
    env.fit(model, swa, epochs=3)
    assert abs(swa.swa_lr - 0.05) < 1e-7
    model.optimizer.learning_rate = 0.2
    history = env.fit(model, swa, epochs=3)
    assert abs(swa.swa_lr - 0.02) < 1e-7  # "auto" again, not the number of the first fit
    assert len(history.history["lr"]) == 3
    assert swa.get_state()["count"] == 2


@check("tensorflow", "tf_keras")
def messages_do_not_garble_the_progress_bar(env: Environment) -> None:
    model = env.bn_model()
    text = printed(lambda: env.fit(model, env.SWA(2, "constant", verbose=1), epochs=4, verbose=1))
    # What a terminal shows: a carriage return or a row of backspaces starts the line again.
    lines = text.replace("\x08", "\r").split("\n")
    expected = [
        "Model uses batch normalization. SWA will require last epoch "
        "to be a forward pass and will run with no learning rate",
        "Epoch 00002: starting stochastic weight averaging",
        "Epoch 00004: final model weights set to stochastic weight average",
        "Epoch 00004: reinitializing batch normalization layers",
        "Epoch 00004: running forward pass to adjust batch normalization",
    ]
    positions = [lines.index(message) for message in expected]
    assert positions == sorted(positions)
    for number, message in ((2, expected[1]), (4, expected[2])):
        assert lines.index(message) < lines.index(f"Epoch {number}/4")
        assert lines.index(message) > lines.index(f"Epoch {number - 1}/4")


@check("tensorflow", "tf_keras")
def final_message_without_batch_norm(env: Environment) -> None:
    text = printed(lambda: env.fit(env.dense_model(), env.SWA(2, verbose=1), epochs=3))
    assert text == (
        "\nEpoch 00002: starting stochastic weight averaging\n"
        "\nEpoch 00004: final model weights set to stochastic weight average\n"
    )
    assert printed(lambda: env.fit(env.dense_model(), env.SWA(2), epochs=3)) == ""
