"""Cases that need a process of their own: another backend, legacy Keras, two devices."""

from __future__ import annotations

import importlib.util

import pytest

from optimizer_oracles import check_run, run_pytest


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)}: not installed")


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("tensorflow", marks=needs("keras", "tensorflow")),
        pytest.param("torch", marks=needs("keras", "torch")),
        pytest.param("jax", marks=needs("keras", "jax")),
    ],
)
def test_backend(backend: str) -> None:
    check_run(run_pytest("backend_*_cases.py", {"KERAS_BACKEND": backend}), at_least=70)


@needs("tf_keras")
def test_legacy_keras() -> None:
    check_run(run_pytest("legacy_*_cases.py", {"TF_USE_LEGACY_KERAS": "1"}), at_least=145)


@needs("tf_keras")
def test_graph_of_tensorflow_1() -> None:
    check_run(run_pytest("graph_cases.py", {"TF_USE_LEGACY_KERAS": "1"}), at_least=4)


@needs("tensorflow")
@pytest.mark.parametrize("legacy", ["0", pytest.param("1", marks=needs("tf_keras"))])
def test_two_replicas(legacy: str) -> None:
    check_run(run_pytest("distribution_cases.py", {"TF_USE_LEGACY_KERAS": legacy}), at_least=10)
