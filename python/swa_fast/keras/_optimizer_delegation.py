"""Settings that belong to the inner optimizer and are read and set through the wrapper."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from .._wrapper_settings import CLIPPING
from ._optimizer_steps import innermost


def _inner_setting(name: str) -> Any:
    def get(self: Any) -> Any:
        inner = self.__dict__.get("_optimizer")
        return None if inner is None else getattr(innermost(inner), name)

    def set_(self: Any, value: Any) -> None:
        inner = self.__dict__.get("_optimizer")
        # Keras's own constructor sets its defaults before there is an inner optimizer.
        if inner is not None:
            setattr(innermost(inner), name, value)

    return property(get, set_, doc=f"The inner optimizer's `{name}`.")


class Delegation:
    """Members of a wrapping optimizer that only pass on to `self._optimizer`."""

    name: str
    built: bool
    _optimizer: Any

    clipnorm = _inner_setting("clipnorm")
    clipvalue = _inner_setting("clipvalue")
    global_clipnorm = _inner_setting("global_clipnorm")
    weight_decay = _inner_setting("weight_decay")
    use_ema = _inner_setting("use_ema")
    ema_momentum = _inner_setting("ema_momentum")
    ema_overwrite_frequency = _inner_setting("ema_overwrite_frequency")
    gradient_accumulation_steps = _inner_setting("gradient_accumulation_steps")

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
            self._optimizer = innermost(inner)
            inner = self._optimizer
        inner.loss_scale_factor = value

    @property
    def iterations(self) -> Any:
        """Steps that the inner optimizer completed; accumulated or skipped ones do not count."""
        override = self.__dict__.get("_steps_override")
        if override is not None:
            return override
        return self.__dict__["_optimizer"].iterations

    @iterations.setter
    def iterations(self, value: Any) -> None:
        raise AttributeError(
            "iterations is a variable of the inner optimizer: use optimizer.iterations.assign(n)"
        )

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate: a variable, or what its schedule says now."""
        return self._optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self._optimizer.learning_rate = value

    @property
    def lr(self) -> Any:
        """The same as `learning_rate`."""
        return self.learning_rate

    @lr.setter
    def lr(self, value: Any) -> None:
        self.learning_rate = value

    @property
    def inner_optimizer(self) -> Any:
        """The optimizer that was wrapped."""
        return self._optimizer

    def scale_loss(self, loss: Any) -> Any:
        """Scales the loss as the inner optimizer does."""
        return self._optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Ends training as the inner optimizer does; the averages stay where they are."""
        self._optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Excludes variables from the inner optimizer's weight decay."""
        innermost(self._optimizer).exclude_from_weight_decay(var_list, var_names)

    def apply_settings(self, settings: Mapping[str, Any]) -> None:
        """Makes the settings that `check_settings` returned on the inner optimizer."""
        inner = innermost(self._optimizer)
        for key in CLIPPING:
            if key in settings:
                setattr(inner, key, settings[key])
        if "learning_rate" in settings:
            rate = settings["learning_rate"]
            inner.learning_rate = rate if callable(rate) else float(rate)
        if settings.get("decay"):
            inner.learning_rate = keras.optimizers.schedules.InverseTimeDecay(
                float(keras.ops.convert_to_numpy(inner.learning_rate)),
                decay_steps=1,
                decay_rate=float(settings["decay"]),
            )
