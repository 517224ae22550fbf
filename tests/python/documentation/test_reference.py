"""The API reference has every public name, and the site has every page."""

from __future__ import annotations

import importlib
import re

import pytest

from documentation.blocks import ROOT

REFERENCE = ROOT / "docs" / "api"
MODULES = {
    "swa_fast": "numpy",
    "swa_fast.decays": "numpy",
    "swa_fast.plots": "numpy",
    "swa_fast.checkpoints": "numpy",
    "swa_fast.checkpoints.coefficients": "numpy",
    "swa_fast.torch": "torch",
    "swa_fast.timm": "torch",
    "swa_fast.diffusers": "torch",
    "swa_fast.ema_pytorch": "torch",
    "swa_fast.transformers": "transformers",
    "swa_fast.lightning": "lightning",
    "swa_fast.keras": "keras",
    "swa_fast.keras.optimizers": "keras",
    "swa_fast.keras.callbacks": "keras",
    "swa_fast.tf_keras": "tf_keras",
    "swa_fast.tf_keras.optimizers": "tf_keras",
    "swa_fast.tf_keras.callbacks": "tf_keras",
    "swa_fast.tensorflow": "tensorflow",
}
"""Public modules, and what they need."""

DOCUMENTED = {
    name
    for page in REFERENCE.glob("*.md")
    for name in re.findall(
        r"^\.\. (?:auto\w+|py:data):: (swa_fast[\w.]*)$", page.read_text("utf-8"), re.M
    )
}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    pytest.importorskip(MODULES[module])
    public = {f"{module}.{name}" for name in importlib.import_module(module).__all__}
    missing = public - DOCUMENTED
    assert not missing, f"docs/api has no {sorted(missing)}"


def test_the_reference_has_no_name_that_is_not_public() -> None:
    for name in DOCUMENTED - set(MODULES):
        module, _, attribute = name.rpartition(".")
        pytest.importorskip(MODULES[module])
        assert attribute in importlib.import_module(module).__all__, name


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_docstrings(module: str) -> None:
    pytest.importorskip(MODULES[module])
    found = importlib.import_module(module)
    assert found.__doc__
    for name in set(found.__all__) - {"__version__"}:
        doc = getattr(found, name).__doc__ or ""
        assert len(doc.split()) > 5, f"{module}.{name}"
