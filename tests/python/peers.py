"""The averaging classes of other packages, to compare with.

    pip install --no-deps --group peers

The group is in pyproject.toml. Without their dependencies these packages cannot be imported whole,
so the files that hold the classes are loaded by themselves; they need torch alone. A test of a
package that is not installed is skipped, or fails where SWA_FAST_REQUIRE_PEERS is set, as in CI.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def timm_ema() -> Any:
    """timm's `ModelEmaV3`."""
    return _load(_folder("timm") / "utils" / "model_ema.py").ModelEmaV3


def diffusers_ema() -> Any:
    """diffusers' `EMAModel`."""
    folder = _folder("diffusers")
    neighbours = ("models", "pipelines", "schedulers", "utils", "utils.torch_utils")
    with _blank_modules("diffusers", *(f"diffusers.{name}" for name in neighbours)):
        return _load(folder / "training_utils.py").EMAModel


def ema_pytorch() -> Any:
    """The package `ema_pytorch`."""
    _folder("ema_pytorch")
    return importlib.import_module("ema_pytorch")


def torch_ema() -> Any:
    """The class of the package `torch_ema`."""
    _folder("torch_ema")
    return importlib.import_module("torch_ema").ExponentialMovingAverage


def _folder(package: str) -> Path:
    pytest.importorskip("torch")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        message = f"{package} is not installed: pip install --no-deps --group peers"
        if os.environ.get("SWA_FAST_REQUIRE_PEERS"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(spec.submodule_search_locations[0])


def _load(path: Path) -> ModuleType:
    name = f"{path.parent.name}.{path.stem}"  # in whose package its relative imports look
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Nothing:
    """In the place of a class or a function; what it returns is false."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __bool__(self) -> bool:
        return False


class _Blank(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


@contextmanager
def _blank_modules(*names: str) -> Iterator[None]:
    """Puts blank modules in the places of some, for a while."""
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update({name: _Blank(name) for name in names})
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)
