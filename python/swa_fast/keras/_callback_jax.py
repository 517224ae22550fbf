"""Keras 3 on JAX as the callback sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from swa_fast._callback.batch_norm import Recorder

from ._callback_backend import KerasBackend


class JaxBackend(KerasBackend):
    """Keras 3 on JAX, whose train function passes the state through."""

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Keeps the arrays, which never change."""
        return [variable.value for variable in variables]

    def read(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the arrays where they are on the CPU."""
        return [np.asarray(variable.value) for variable in variables]

    def record_statistics(
        self, recorder: Recorder, step: Callable[..., Any], arguments: tuple[Any, ...], steps: int
    ) -> Any:
        """Reads and writes the statistics in the state instead of the variables."""
        state, iterator = arguments
        logs = None
        for done in range(steps):
            try:
                logs, state = step(state, iterator)
            except StopIteration:
                if done == 0:
                    raise
                break
            values = dict(zip(self._keys, state[1], strict=True))
            recorder.collect(lambda variable, values=values: values[id(variable)])  # type: ignore[misc]
        means = {id(variable): (variable, mean) for variable, mean in recorder.means()}
        non_trainable = [
            keras.ops.convert_to_tensor(means[key][1], dtype=means[key][0].dtype)
            if key in means
            else value
            for key, value in zip(self._keys, state[1], strict=True)
        ]
        return logs, (state[0], non_trainable, *state[2:])

    def single_step_function(self, model: Any) -> Callable[..., Any]:
        """Notes the order of the state, too."""
        self._keys = [id(variable) for variable in model.non_trainable_variables]
        return super().single_step_function(model)

    def _run_execution(self, model: Any, iterator: Any) -> None:
        """Gives the function the variables' values, which it consumes, and takes its own."""
        kinds = ("trainable", "non_trainable", "optimizer", "metrics")
        names = [f"{kind}_variables" for kind in kinds]
        state = model._get_jax_state(**dict.fromkeys(names, True))
        _, state = model.train_function(state, iterator)
        model._jax_state = dict(zip(names, state, strict=True))
        model._jax_state_synced = False
        model.jax_state_sync()
