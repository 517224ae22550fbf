"""The backend that Keras 3 runs on in this process."""

from __future__ import annotations

import importlib

from ._callback_backend import KerasBackend, name_of_backend

_CLASSES = {"tensorflow": "TensorFlowBackend", "torch": "TorchBackend", "jax": "JaxBackend"}


def current() -> KerasBackend:
    """Returns the adapter of the backend that Keras runs on in this process."""
    name = name_of_backend()
    if name not in _CLASSES:
        raise ImportError(
            f"swa_fast.keras works on Keras's backends {sorted(_CLASSES)}. Received: {name!r}"
        )
    module = importlib.import_module(f"{__package__}._callback_{name}")
    backend: KerasBackend = getattr(module, _CLASSES[name])()
    return backend
