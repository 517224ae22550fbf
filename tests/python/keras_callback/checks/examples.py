"""keras-swa's two README examples, on Keras 3 and on legacy Keras, and ours on the digits."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np

from . import TENSORFLOW, check
from .environment import Environment, array, printed, raises

EXAMPLES = Path(__file__).resolve().parents[4] / "examples"
README = Path(__file__).resolve().parents[1] / "keras_swa_readme"
"""keras-swa's own two scripts, with only the lines changed that their docstrings name."""


def _source(name: str, legacy: bool) -> str:
    """The example's lines, for legacy Keras with nothing but its import lines changed."""
    text = (README / f"{name}.py").read_text()
    if legacy:
        text = re.sub("^from (tensorflow[.])?keras[.]", r"from tf_keras.", text, flags=re.M)
        text = text.replace("from swa_fast.keras.", "from swa_fast.tf_keras.")
    return text


def _run(source: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the names an example leaves, and the lines a terminal would show."""
    names: dict[str, Any] = {"__name__": "__main__"}
    text = printed(lambda: exec(compile(source, "example", "exec"), names))
    return names, text.replace("\x08", "\r").split("\n")


@check(*TENSORFLOW)
def the_constant_example(env: Environment) -> None:
    names, lines = _run(_source("constant", env.legacy))
    rates, losses = (names["model"].history.history[key] for key in ("lr", "loss"))
    assert names["model"].__class__ is env.keras.Sequential
    np.testing.assert_allclose(rates[:38], 0.1, rtol=1e-6)
    assert np.all(np.diff(rates[37:68]) < 0)
    np.testing.assert_allclose(rates[67:], 0.01, rtol=1e-6)
    assert len(rates) == len(losses) == 100
    assert losses[-1] < 0.6 < losses[0]  # guessing: log 3 = 1.1
    assert names["swa"].get_state()["count"] == 26
    evaluated = names["model"].evaluate(names["X"], names["y"], verbose=0)
    assert evaluated < 0.6
    _assert_order(lines, ["Epoch 74/100", "Epoch 00075: starting stochastic weight averaging"])
    _assert_order(lines, ["Epoch 00075: starting stochastic weight averaging", "Epoch 75/100"])
    last = "Epoch 00101: final model weights set to stochastic weight average"
    _assert_order(lines, ["Epoch 100/100", last])


@check(*TENSORFLOW)
def the_cyclic_example(env: Environment) -> None:
    names, lines = _run(_source("cyclic", env.legacy))
    model = names["model"]
    rates = model.history.history["lr"]
    assert len(rates) == 100 * 32
    assert rates[74 * 32 + 3 * 32 - 1] == 0.001
    assert max(rates[74 * 32 :]) < 0.003
    assert rates[-32:] == [0] * 32
    assert names["swa"].get_state()["count"] == 8  # epochs 77, 80, ..., 98
    layer = model.layers[1]
    kernel, bias = (array(value).astype(np.float64) for value in model.layers[0].get_weights())
    hidden = np.maximum(names["X"] @ kernel + bias, 0)
    # The mean over the last epoch's batches of 32 and one of 8; shuffled, so not to the last bit.
    np.testing.assert_allclose(array(layer.moving_mean), hidden.mean(0), rtol=0.2, atol=0.02)
    assert layer.momentum == 0.99
    assert model.evaluate(names["X"], names["y"], verbose=0) < 0.6
    _assert_order(
        lines,
        [
            "Model uses batch normalization. SWA will require last epoch "
            "to be a forward pass and will run with no learning rate",
            "Epoch 1/100",
            "Epoch 74/100",
            "Epoch 00075: starting stochastic weight averaging",
            "Epoch 75/100",
            "Epoch 99/100",
            "Epoch 00100: final model weights set to stochastic weight average",
            "Epoch 00100: reinitializing batch normalization layers",
            "Epoch 00100: running forward pass to adjust batch normalization",
            "Epoch 100/100",
        ],
    )


def _assert_order(lines: list[str], expected: list[str]) -> None:
    positions = [lines.index(line) for line in expected]
    assert positions == sorted(positions), positions


_AS_WRITTEN = ("SGD(learning_rate=0.1)", "SGD(lr=0.1)")
"""In the first example keras-swa wrote the second of these."""


@check("tensorflow")
def the_one_line_that_keras_3_refuses(env: Environment) -> None:
    """It does so in the same script without any callback."""
    source = _source("constant", False).replace(*_AS_WRITTEN)
    body = source[source.index("from sklearn") :]
    peerless = "\n".join(line for line in body.split("\n") if "swa" not in line)
    assert "SWA" not in peerless
    for script in (source, peerless):
        with raises(ValueError, "Argument(s) not recognized: {'lr': 0.1}"):
            _run(script)


@check("tf_keras")
def the_one_line_that_legacy_keras_takes_for_another(env: Environment) -> None:
    """It runs as written, at the rate that this SGD makes of it: its default, with a warning."""
    rate = float(array(env.keras.optimizers.SGD(lr=0.1).learning_rate))
    np.testing.assert_allclose(rate, 0.01, rtol=1e-6)
    source = _source("constant", True).replace(*_AS_WRITTEN).replace("epochs = 100", "epochs = 77")
    source = source.replace("n_samples=1000", "n_samples=96")  # it is of the rates alone
    names, _ = _run(source)
    np.testing.assert_allclose(names["model"].history.history["lr"], [rate] * 77, rtol=1e-6)
    names, _ = _run(source.replace("optimizers import", "optimizers.legacy import"))
    np.testing.assert_allclose(names["model"].history.history["lr"][:38], 0.1, rtol=1e-6)


@check("tensorflow")
def the_digits_example(env: Environment) -> None:
    main = runpy.run_path(str(EXAMPLES / "digits_keras_callback.py"))["main"]
    found: list[Any] = []
    printed(lambda: found.append(main(seeds=1, epochs=6)))
    assert all(0.5 < accuracy <= 1 for pair in found[0] for accuracy in pair)
