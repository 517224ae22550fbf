"""TensorFlow Addons' averaging API, for the optimizers and callbacks of either Keras.

Each class is mixed into one of that Keras, which has its name and what else is its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from .._checks import check_integer
from .members import AveragingOptimizer
from .optimizer_arguments import check_moving_average, check_nonfinite, check_variables
from .rules import Mean


class MeanOptimizer(AveragingOptimizer):
    """`SWA` of either Keras: its arguments and its config."""

    def __init__(
        self,
        optimizer: Any,
        start_averaging: int = 0,
        average_period: int = 10,
        name: str = "SWA",
        sequential_update: bool = True,
        *,
        nonfinite: str = "propagate",
        fused: bool = False,
        **kwargs: Any,
    ) -> None:
        """Wraps `optimizer`.

        Args:
            optimizer: as for `AveragedOptimizerWrapper`.
            start_averaging: first step that takes a snapshot, >= 0.
            average_period: steps from one snapshot to the next, >= 1.
            name: name of the optimizer.
            sequential_update: whether to average strictly after the step; both settings give the
                same numbers here.
            nonfinite: "skip" leaves out each snapshot in which a value is NaN or infinite, and
                counts them in `skipped`; "propagate" averages what there is.
            fused: whether to keep the averages in private memory, which is faster where steps are
                eager, and to refuse steps that are not (TensorFlow; see docs/tensorflow.md).
                Whatever reads an average then gets a copy.
            **kwargs: settings of the inner optimizer: `clipnorm`, `clipvalue`, `global_clipnorm`,
                `learning_rate` (or `lr`) and `decay`, as for `AveragedOptimizerWrapper`.

        Raises:
            TypeError: an argument is of the wrong type, or unknown.
            ValueError: `start_averaging` or `average_period` is too small, the inner optimizer's
                name is unknown or a keyword argument contradicts it.
        """
        start = check_integer("start_averaging", start_averaging, at_least=0)
        period = check_integer("average_period", average_period, at_least=1)
        skips = check_nonfinite(nonfinite)
        super().__init__(optimizer, sequential_update, name, **kwargs)
        self._rule = Mean(start, period)
        self._average_by(self._rule, skips, fused)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal optimizer, without its state."""
        return {
            **super().get_config(),
            "start_averaging": self._rule.start,
            "average_period": self._rule.period,
            "sequential_update": self._sequential_update,
            **({"nonfinite": "skip"} if self._keeper.skips else {}),
            **({"fused": True} if self._fused else {}),
        }


class ExponentialOptimizer(AveragingOptimizer):
    """`MovingAverage` of either Keras: its arguments, its config and `shadow_copy`."""

    def __init__(
        self,
        optimizer: Any,
        average_decay: float = 0.99,
        num_updates: Any = None,
        start_step: int = 0,
        dynamic_decay: bool = False,
        name: str = "MovingAverage",
        *,
        nonfinite: str = "propagate",
        fused: bool = False,
        **kwargs: Any,
    ) -> None:
        """Wraps `optimizer`.

        Args:
            optimizer: as for `AveragedOptimizerWrapper`.
            average_decay: share of the old average that each step keeps, from 0 to 1.
            num_updates: None, or an int n >= 0 (or a variable that holds one now), for which the
                decay is at most (1 + n) / (10 + n).
            start_step: first step that keeps anything, >= 0: before it, the averages are the
                variables.
            dynamic_decay: whether the decay of step s is at most (1 + s) / (10 + s), where s counts
                from `start_step`.
            name: name of the optimizer.
            nonfinite: "skip" leaves out each step in which a value is NaN or infinite, and counts
                them in `skipped`; "propagate" averages what there is.
            fused: whether to keep the averages in private memory, which is faster where steps are
                eager, and to refuse steps that are not (TensorFlow; see docs/tensorflow.md).
                Whatever reads an average then gets a copy.
            **kwargs: settings of the inner optimizer: `clipnorm`, `clipvalue`, `global_clipnorm`,
                `learning_rate` (or `lr`) and `decay`, as for `AveragedOptimizerWrapper`;
                `sequential_update`, which changes nothing.

        Raises:
            TypeError: an argument is of the wrong type, or unknown.
            ValueError: one is out of range, the inner optimizer's name is unknown or a keyword
                argument contradicts it.
        """
        arguments = check_moving_average(average_decay, num_updates, start_step, dynamic_decay)
        skips = check_nonfinite(nonfinite)
        sequential_update = kwargs.pop("sequential_update", True)
        super().__init__(optimizer, sequential_update, name, **kwargs)
        self._average_decay, self._num_updates, self._rule = arguments
        self._average_by(self._rule, skips, fused)

    def shadow_copy(self, model_weights: Sequence[Any]) -> None:
        """Makes averages of variables, the only ones that `swap_weights()` exchanges from now on.

        An average begins as its variable; one that is there already stays as it is.

        Args:
            model_weights: variables. An optimizer that is not built yet is built with them.

        Raises:
            TypeError: something is not a variable, or it is a model.
            ValueError: the optimizer was built, and not with one of the variables.
        """
        variables = check_variables(model_weights, "shadow_copy", takes_model=False)
        self._require_built_with(variables, "shadow_copy: model_weights")
        self._keeper.choose_swapped(variables, "shadow_copy")

    @property
    def has_shadow_copy(self) -> bool:
        """Whether there are averages, because the optimizer was built or `shadow_copy` called."""
        return self._keeper.taken is not None

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal optimizer, without its state."""
        return {
            **super().get_config(),
            "average_decay": self._average_decay,
            "num_updates": self._num_updates,
            "start_step": self._rule.start,
            "dynamic_decay": self._rule.dynamic,
            **({"nonfinite": "skip"} if self._keeper.skips else {}),
            **({"fused": True} if self._fused else {}),
        }


_ModelCheckpoint: Any = object  # each Keras mixes its own in


class CheckpointOfAverages(_ModelCheckpoint):  # type: ignore[misc]
    """A `ModelCheckpoint` that saves the averages of the model's optimizer as the weights.

    The optimizer is any of `swa_fast`'s that average, or a LossScaleOptimizer around one. What is
    monitored is what `fit` measured, that is the model with its own weights. A save before the
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
        >>> checkpoint = AverageModelCheckpoint(
        ...     False, "averages.weights.h5", save_weights_only=True
        ... )
    """

    model: Any

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
        averaging_optimizer(model.optimizer)

    def _save_model(self, *args: Any, **kwargs: Any) -> Any:
        def save() -> Any:
            return super(CheckpointOfAverages, self)._save_model(*args, **kwargs)

        optimizer = averaging_optimizer(self.model.optimizer)
        return save_averages(optimizer, self.model, self.update_weights, save)


def check_update_weights(update_weights: Any) -> bool:
    """Returns the argument if it is a bool; raises TypeError if not."""
    if not isinstance(update_weights, bool):
        hint = "; the file comes second" if isinstance(update_weights, (str, os.PathLike)) else ""
        raise TypeError(f"update_weights must be True or False. Received: {update_weights!r}{hint}")
    return update_weights


def check_filepath(filepath: Any) -> Any:
    """Returns the argument if it names a file; raises TypeError if not."""
    if not isinstance(filepath, (str, os.PathLike)):
        raise TypeError(f"filepath must be a str or a path. Received: {filepath!r}")
    return filepath


def averaging_optimizer(optimizer: Any) -> Any:
    """Returns the optimizer that keeps averages, inside any number of LossScaleOptimizers.

    Args:
        optimizer: that of a model.

    Raises:
        TypeError: there is none.
    """
    found = optimizer
    while not isinstance(found, AveragingOptimizer) and hasattr(found, "inner_optimizer"):
        found = found.inner_optimizer
    if not isinstance(found, AveragingOptimizer):
        # The first sentence is that of TensorFlow Addons, which misses a space.
        raise TypeError(
            "AverageModelCheckpoint is only used when trainingwith MovingAverage or "
            "StochasticAverage: the model's optimizer must be a SWA, a MovingAverage or another "
            f"AveragedOptimizerWrapper of swa_fast. Received: {type(optimizer).__name__}"
        )
    return found


def save_averages(optimizer: Any, model: Any, update_weights: bool, save: Callable[[], Any]) -> Any:
    """Returns what `save` returned, called while the model holds the averages.

    Args:
        optimizer: the one that keeps them.
        model: the model.
        update_weights: whether the model keeps them afterwards; else it has its own weights back.
        save: saves the model.
    """
    if update_weights:
        optimizer.assign_average_vars(model.trainable_variables)
        return save()
    with optimizer.applied(model.trainable_variables):
        return save()
