"""Keras 3 optimizers that average weights: the API of TensorFlow Addons' optimizers."""

from __future__ import annotations

from typing import Any

from .._checks import check_integer
from .._keras import members
from .._keras.optimizer_arguments import check_moving_average, check_nonfinite
from .._keras.rules import Mean
from .optimizer_wrapper import AveragedOptimizerWrapper  # before Keras: it says what to install

import keras  # isort: skip

__all__ = ["SWA", "AveragedOptimizerWrapper", "MovingAverage"]


@keras.saving.register_keras_serializable(package="swa_fast")
class SWA(AveragedOptimizerWrapper):
    """The mean of the weights that another optimizer passes through.

    With `start_averaging` = m and `average_period` = k, a snapshot of the variables is taken after
    steps m, m + k, m + 2k, ... (the first step is 0), and the average is the mean of the snapshots
    (Izmailov et al. 2018, arXiv 1803.05407). Training goes on as without it, until
    `assign_average_vars` puts the averages into the model.

    The arguments, members and numbers are those of `tfa.optimizers.SWA`; see docs/tensorflow.md for
    what is different, and `__init__` for the arguments. The inner optimizer is a
    `keras.optimizers.Optimizer` or the name of one.

    Example:
        >>> import keras
        >>> from swa_fast.keras.optimizers import SWA
        >>> optimizer = SWA(keras.optimizers.SGD(0.1), start_averaging=100, average_period=10)
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer, "mse")
    """

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


@keras.saving.register_keras_serializable(package="swa_fast")
class MovingAverage(AveragedOptimizerWrapper):
    """The exponential moving average of the weights that another optimizer passes through.

    After each step, `average -= (average - variable) * (1 - decay)`, from averages that begin as
    the variables. The arguments, members and numbers are those of `tfa.optimizers.MovingAverage`;
    see docs/tensorflow.md for what is different, and `__init__` for the arguments. The inner
    optimizer is a `keras.optimizers.Optimizer` or the name of one.

    Example:
        >>> import keras
        >>> from swa_fast.keras.optimizers import MovingAverage
        >>> optimizer = MovingAverage(keras.optimizers.SGD(0.1), average_decay=0.999)
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer, "mse")
    """

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

    shadow_copy = members.shadow_copy
    has_shadow_copy = property(members.has_shadow_copy)

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
