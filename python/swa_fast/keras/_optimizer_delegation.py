"""Settings that belong to the inner optimizer and are read and set through the wrapper."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from .._optimizer.delegation import InnerSettings, inner_setting


class Delegation(InnerSettings):
    """Members that a Keras 3 optimizer has beside those of every wrapper."""

    name: str
    built: bool
    _optimizer: Any

    weight_decay = inner_setting("weight_decay")
    use_ema = inner_setting("use_ema")
    ema_momentum = inner_setting("ema_momentum")
    ema_overwrite_frequency = inner_setting("ema_overwrite_frequency")
    gradient_accumulation_steps = inner_setting("gradient_accumulation_steps")

    @property
    def loss_scale_factor(self) -> Any:
        """The inner optimizer's loss scale, the initial one if it changes, or None."""
        inner = self.__dict__.get("_optimizer")
        if isinstance(inner, keras.optimizers.LossScaleOptimizer):
            # Not None, or else Keras would skip setting it to None, which is the sign of an outer
            # LossScaleOptimizer.
            return inner.initial_scale
        return None if inner is None else inner.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: Any) -> None:
        inner = self.__dict__.get("_optimizer")
        if inner is None:
            return
        if value is None and isinstance(inner, keras.optimizers.LossScaleOptimizer):
            # A LossScaleOptimizer put around this one does exactly this, and would scale the
            # gradients a second time (`model.compile` does it under "mixed_float16").
            warnings.warn(
                f"{self.name} is being wrapped in a LossScaleOptimizer and holds one already: the "
                "outer one takes over, and the inner one is dropped",
                stacklevel=2,
            )
            if self.built:
                raise ValueError(
                    f"{self.name} was built around a LossScaleOptimizer, and cannot be wrapped in "
                    "another one: gradients would be scaled twice"
                )
            self._optimizer = self._framework.innermost(inner)
            inner = self._optimizer
        inner.loss_scale_factor = value

    def _set_iterations(self, value: Any) -> None:
        raise AttributeError(
            "iterations is a variable of the inner optimizer: use optimizer.iterations.assign(n)"
        )

    def scale_loss(self, loss: Any) -> Any:
        """Scales the loss as the inner optimizer does."""
        return self._optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Ends training as the inner optimizer does; the averages stay where they are."""
        self._optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Excludes variables from the inner optimizer's weight decay."""
        self._framework.innermost(self._optimizer).exclude_from_weight_decay(var_list, var_names)
