"""`update_bn` for any Keras: one pass over data outside `fit`."""

from __future__ import annotations

import itertools
from typing import Any

from .backend import Backend
from .batch_norm import Recorder, statistics
from .data import input_batches


def update_bn(
    backend: Backend,
    model: Any,
    data: Any,
    batch_size: int,
    steps: int | None,
    include_frozen: bool,
) -> None:
    """See `swa_fast.keras.update_bn`."""
    layers = backend.batch_norm_layers(model)
    if not include_frozen:
        layers = [layer for layer in layers if layer.trainable]
    batches = input_batches(data, batch_size, steps)
    if not layers:
        return
    first = next(batches, None)
    if first is None:
        raise ValueError(
            "data must have at least one batch to compute statistics from. Received: no batch "
            f"from {type(data).__name__}"
        )
    if not all(len(statistics(layer)) == 2 for layer in layers):
        backend.build(model, first)

    variables = backend.state_variables(model)
    before = backend.hold(variables)
    frozen = _unfreeze(layers)
    recorder = Recorder(layers, backend.stand_in)
    recorder.install()
    try:
        for batch in itertools.chain([first], batches):
            recorder.begin_eager_batch()
            backend.forward(model, batch)
            recorder.collect(backend.measured)
    finally:
        recorder.remove()
        for layer, flags in frozen:
            layer.trainable = False
            for variable, flag in flags:
                variable.trainable = flag
        backend.assign(variables, before)
    pairs = recorder.means()
    backend.assign([variable for variable, _ in pairs], [mean for _, mean in pairs])


def _unfreeze(layers: list[Any]) -> list[tuple[Any, list[tuple[Any, bool]]]]:
    """Makes frozen layers measure; returns each with its variables' own flags."""
    frozen = []
    for layer in layers:
        if not layer.trainable:
            flags = [
                (variable, variable.trainable)
                for variable in layer.weights
                if getattr(type(variable).trainable, "fset", None) is not None
            ]
            frozen.append((layer, flags))
            layer.trainable = True
    return frozen
