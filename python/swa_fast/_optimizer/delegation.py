"""Settings that belong to the inner optimizer and are read and set through the wrapper."""

from __future__ import annotations

from typing import Any

from .framework import Framework


def inner_setting(name: str) -> Any:
    """Returns a property of the wrapper that is the inner optimizer's attribute `name`."""

    def get(self: Any) -> Any:
        inner = self.__dict__.get("_optimizer")
        return None if inner is None else getattr(self._framework.innermost(inner), name)

    def set_(self: Any, value: Any) -> None:
        inner = self.__dict__.get("_optimizer")
        # Keras's own constructor sets its defaults before there is an inner optimizer.
        if inner is not None:
            setattr(self._framework.innermost(inner), name, value)

    return property(get, set_, doc=f"The inner optimizer's `{name}`.")


class InnerSettings:
    """Members of a wrapping optimizer that only pass on to `self._optimizer`."""

    _framework: Framework
    _optimizer: Any

    clipnorm = inner_setting("clipnorm")
    clipvalue = inner_setting("clipvalue")
    global_clipnorm = inner_setting("global_clipnorm")
    learning_rate = inner_setting("learning_rate")
    lr = inner_setting("learning_rate")

    @property
    def inner_optimizer(self) -> Any:
        """The optimizer that was wrapped."""
        return self._optimizer

    @property
    def iterations(self) -> Any:
        """Steps that the inner optimizer completed."""
        override = self.__dict__.get("_steps_override")
        return self.__dict__["_optimizer"].iterations if override is None else override

    @iterations.setter
    def iterations(self, value: Any) -> None:
        self._set_iterations(value)

    def _set_iterations(self, value: Any) -> None:
        """Replaces the inner optimizer's counter, or says what to use instead."""
        raise NotImplementedError
