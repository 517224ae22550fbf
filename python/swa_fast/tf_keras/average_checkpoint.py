"""`tfa.callbacks.AverageModelCheckpoint` for legacy Keras."""

from __future__ import annotations

from typing import Any

from .._keras.average_checkpoint import (
    averaging_optimizer,
    check_filepath,
    check_update_weights,
    save_averages,
)
from .optimizer_wrapper import AveragedOptimizerWrapper  # before Keras: it says what to install

import tf_keras  # isort: skip


class AverageModelCheckpoint(tf_keras.callbacks.ModelCheckpoint):  # type: ignore[misc]
    """A `ModelCheckpoint` that saves the averages of the model's optimizer as the weights.

    The optimizer is any of `swa_fast.tf_keras.optimizers`, or a LossScaleOptimizer around one. What
    is monitored is what `fit` measured, that is the model with its own weights. A save before the
    first snapshot warns, and saves the weights as they are.

    Args:
        update_weights: whether the model keeps the averages after a save; if not, it gets its own
            weights back, to the bit.
        filepath: as for `ModelCheckpoint`, and so are all other arguments.
        monitor: see there.
        verbose: see there.
        save_best_only: see there.
        save_weights_only: see there.
        mode: see there.
        save_freq: see there.
        **kwargs: see there.

    Raises:
        TypeError: `update_weights` is not a bool, or `filepath` not a path; later, from
            `set_model`: the model's optimizer keeps no averages.

    Example:
        >>> from swa_fast.tf_keras.callbacks import AverageModelCheckpoint
        >>> checkpoint = AverageModelCheckpoint(False, "averages.weights.h5",
        ...                                     save_weights_only=True)
    """

    def __init__(
        self,
        update_weights: bool,
        filepath: str,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: Any = "epoch",
        **kwargs: Any,
    ) -> None:
        """See the class."""
        self.update_weights = check_update_weights(update_weights)
        super().__init__(
            check_filepath(filepath),
            monitor=monitor,
            verbose=verbose,
            save_best_only=save_best_only,
            save_weights_only=save_weights_only,
            mode=mode,
            save_freq=save_freq,
            **kwargs,
        )

    def set_model(self, model: Any) -> None:
        """Takes the model, and refuses one whose optimizer keeps no averages."""
        super().set_model(model)
        averaging_optimizer(model.optimizer, AveragedOptimizerWrapper)

    def _save_model(self, *args: Any, **kwargs: Any) -> Any:
        def save() -> Any:
            return super(AverageModelCheckpoint, self)._save_model(*args, **kwargs)

        optimizer = averaging_optimizer(self.model.optimizer, AveragedOptimizerWrapper)
        return save_averages(optimizer, self.model, self.update_weights, save)
