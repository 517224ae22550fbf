"""What can be checked before the first batch of a `fit`."""

from __future__ import annotations

import warnings
from typing import Any

from .arguments import Arguments
from .backend import Backend
from .data import input_batches, serves_once


def check_epochs(asked: Arguments, epochs: int) -> None:
    """Raises ValueError if training ends before averaging begins."""
    if asked.start_epoch >= epochs:
        raise ValueError(
            '"swa_start" attribute must be lower than "epochs". '
            f"Received: start_epoch={asked.start_epoch}, epochs={epochs}"
        )


def check_data(data: Any, batch_size: int | None, validates: bool) -> None:
    """Checks `bn_data`, if there is any.

    Raises:
        TypeError: it is neither arrays nor iterable.
        ValueError: it is a dataset that never ends, or cannot serve every validation and has to.
    """
    if data is None:
        return
    if validates and serves_once(data):
        raise ValueError(
            "with validate_with_average bn_data must serve every validation. Received: "
            f"{type(data).__name__}, which can be read once; give arrays or a dataset"
        )
    input_batches(data, batch_size or 32)


def check_length(backend: Backend, model: Any, asked: Arguments, steps: int | None) -> None:
    """Raises ValueError if batches must be counted and Keras cannot say how many ran.

    Keras 3 says after each execution that all of its batches ran, the last one's too.
    """
    counts = asked.schedule == "cyclic" or asked.every_n_steps is not None
    together = backend.steps_per_execution(model)
    if counts and steps is None and together > 1:
        raise ValueError(
            "'cyclic' and averaging by batch must know the number of batches in an epoch if "
            "several run in one execution. Received: data of unknown length with "
            f"steps_per_execution={together}; give steps_per_epoch"
        )


def warn_of_later_callbacks(callback: Any, callbacks: Any) -> None:
    """Warns of callbacks that overwrite the averages when training ends.

    Args:
        callback: that averages.
        callbacks: Keras's list of all, None if it was not found.
    """
    found = list(getattr(callbacks, "callbacks", ()))
    place = next((index for index, other in enumerate(found) if other is callback), len(found))
    for later in found[place + 1 :]:
        if getattr(later, "restore_best_weights", False) is True:
            warnings.warn(
                f"{type(later).__name__} with restore_best_weights=True comes after SWA in "
                "callbacks: when training ends it puts the weights of one epoch in the place of "
                "the averages. Put SWA after it",
                UserWarning,
                stacklevel=3,
            )
