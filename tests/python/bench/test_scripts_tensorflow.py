"""The scripts about TensorFlow and Keras in benchmarks/, run briefly on a tiny model."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras_snapshots
import tensorflow_snapshots
from bench_tools import TINY, as_float64
from budgets import Finding
from swa_fast.bench import workloads
from swa_fast.bench.timing import Ratio


@pytest.fixture
def tensorflow_backend() -> None:
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another backend")


def measured(finding: Finding) -> float:
    (verdict,) = finding.verdicts
    return float(verdict.measured.split("x")[0])


def test_both_tensorflow_snapshots_are_the_mean(made: workloads.Arena) -> None:
    """One after the other, in each way to run them, as they share their averages."""
    snapshots, averages = tensorflow_snapshots.build(made)
    expected = [as_float64(array) for array in made.averages]
    assert list(snapshots) == ["eager", "tf.function", "jit_compile=True"]
    for ours, theirs in snapshots.values():
        for take in (ours, theirs, ours):
            take()
            for index, (value, average) in enumerate(zip(made.values, averages, strict=True)):
                expected[index] = (expected[index] * 9 + as_float64(value)) / 10
                np.testing.assert_allclose(
                    as_float64(average), expected[index], rtol=1e-5, atol=1e-6
                )


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("mobilenet_v3_large", [">= 8.00x", ">= 1.30x", ">= 0.95x"]),
        ("bert_base", [">= 3.00x", ">= 1.30x", ">= 0.95x"]),
    ],
)
@pytest.mark.parametrize("met", [False, True])
def test_tensorflow_budgets(model: str, targets: list[str], met: bool) -> None:
    ratios = {"eager": 8.0, "tf.function": 1.3, "jit_compile=True": 0.95}
    verdicts = []
    for mode, reached in ratios.items():
        ratio = reached if met else 0.9
        workload = workloads.load()[model]
        verdicts.append(tensorflow_snapshots.judge(workload, mode, Ratio(ratio, ratio, ratio)))
    assert [verdict.target for verdict in verdicts] == targets
    assert [verdict.met for verdict in verdicts] == [met] * 3
    assert {verdict.subject for verdict in verdicts} == {model}


def test_snapshots_in_tensorflow_run() -> None:
    findings = list(tensorflow_snapshots.measure(TINY, 1e-3))
    assert [finding.verdicts[0].what for finding in findings] == [
        *(
            f"TF snapshot, {mode}, against TFA's expression"
            for mode in ("eager", "tf.function", "jit_compile=True")
        ),
        "TF snapshot, eager, fused=True against XLA",
    ]
    assert all(measured(finding) > 0 for finding in findings)


@pytest.mark.usefixtures("tensorflow_backend")
def test_snapshots_in_keras_run() -> None:
    (finding,) = keras_snapshots.measure(TINY, 1e-3)
    assert measured(finding) > 0
    assert finding.comparison is not None
    assert list(finding.comparison.seconds) == [keras_snapshots.OURS, keras_snapshots.THEIRS]


@pytest.mark.usefixtures("tensorflow_backend")
def test_steps_of_fit_run() -> None:
    import keras_steps

    (finding,) = keras_steps.measure(None, 1e-3)
    assert measured(finding) > 0


@pytest.mark.usefixtures("tensorflow_backend")
def test_epochs_of_fit_run() -> None:
    pytest.importorskip("sklearn")
    import keras_epochs

    (finding,) = keras_epochs.measure(None, 1e-3)
    assert "6 epochs" in finding.title
    assert measured(finding) > 0
