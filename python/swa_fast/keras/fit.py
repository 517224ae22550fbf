"""A running `fit` of Keras 3."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import keras

from .._keras.fit import RunningFit
from .._keras.runtime import Runtime
from .._keras.statistics import Recorder


class KerasFit(RunningFit):
    """`fit` on TensorFlow, and what the other backends have in common with it."""

    container: type = keras.callbacks.CallbackList
    model_methods = ("train_function", "evaluate", "reset_metrics", "_get_metrics_result_or_logs")
    updates: ClassVar[dict[str, Callable[..., Any]]] = {
        "apply": lambda optimizer, *args, **kwargs: None,
        "apply_gradients": lambda optimizer, *args, **kwargs: optimizer.iterations,
        "stateless_apply": lambda optimizer, state, gradients, weights: (weights, state),
    }

    def __init__(self, runtime: Runtime, model: Any) -> None:
        """Learns what TensorFlow raises at the end of the data."""
        super().__init__(runtime, model)
        if runtime.name == "tensorflow":
            import tensorflow as tf

            self.end_of_data = (StopIteration, tf.errors.OutOfRangeError)

    def steps_per_execution(self) -> int:
        """Returns the number that `compile` was given."""
        return int(self.model.steps_per_execution)

    def runs_in_full(self) -> bool:
        """Keras 3 rounds a `steps_per_epoch` up to whole executions, if the data has so many."""
        names = self.names()
        if not names.get("steps_per_epoch") or "epoch_iterator" not in names:
            return False
        batches = names["epoch_iterator"].data_adapter.num_batches
        return batches is None or batches > names["steps_per_epoch"]

    def run_epoch(self) -> bool:
        """Starts the epoch iterator anew."""
        names = self.names()
        if "epoch_iterator" not in names:
            return False
        epoch_iterator = names["epoch_iterator"]
        # A generator cannot start anew: it goes on, as in the next epoch. What its iterator has
        # fetched ahead would be lost with it.
        if "Generator" not in type(epoch_iterator.data_adapter).__name__:
            epoch_iterator.reset()
        with epoch_iterator.catch_stop_iteration():
            for *_, iterator in epoch_iterator:
                self._run_execution(iterator)
        return True

    def _run_execution(self, iterator: Any) -> None:
        self.model.train_function(iterator)

    def _watch_data(self, names: dict[str, Any]) -> None:
        if "epoch_iterator" in names:
            self._watch_context(names["epoch_iterator"], "catch_stop_iteration")
            self._watch_iteration(names["epoch_iterator"])

    def _single_step_function(self) -> Callable[..., Any]:
        model = self.model
        function = model.train_function
        try:
            with self._one_step_at_a_time():
                model.make_train_function(force=True)
            made: Callable[..., Any] = model.train_function
        finally:
            model.train_function = function
        return made

    @contextlib.contextmanager
    def _one_step_at_a_time(self) -> Iterator[int]:
        """Keras reads the number when a function is made or traced."""
        steps = self.steps_per_execution()
        self.model.steps_per_execution = 1
        try:
            yield steps
        finally:
            self.model.steps_per_execution = steps


class TorchFit(KerasFit):
    """`fit` on PyTorch."""

    def _single_step_function(self) -> Callable[..., Any]:
        """Leaves torch.compile out: the pass runs once, and the layers' hooks are plain Python."""
        compiled = self.model.jit_compile
        self.model.jit_compile = False
        try:
            return super()._single_step_function()
        finally:
            self.model.jit_compile = compiled


class JaxFit(KerasFit):
    """`fit` on JAX, whose train function passes the state through."""

    def _run_execution(self, iterator: Any) -> None:
        """Gives the function the variables' values, which it consumes, and takes its own."""
        model = self.model
        kinds = ("trainable", "non_trainable", "optimizer", "metrics")
        names = [f"{kind}_variables" for kind in kinds]
        state = model._get_jax_state(**dict.fromkeys(names, True))
        _, state = model.train_function(state, iterator)
        model._jax_state = dict(zip(names, state, strict=True))
        model._jax_state_synced = False
        model.jax_state_sync()

    def _record(
        self, recorder: Recorder, step: Callable[..., Any], arguments: tuple[Any, ...], steps: int
    ) -> Any:
        """Reads and writes the statistics in the state instead of the variables."""
        keys = [id(variable) for variable in self.model.non_trainable_variables]
        state, iterator = arguments
        logs = None
        for done in range(steps):
            try:
                logs, state = step(state, iterator)
            except StopIteration:
                if done == 0:
                    raise
                break
            values = dict(zip(keys, state[1], strict=True))
            recorder.collect(lambda variable, values=values: values[id(variable)])  # type: ignore[misc]
        means = {id(variable): (variable, mean) for variable, mean in recorder.means()}
        non_trainable = [
            keras.ops.convert_to_tensor(means[key][1], dtype=means[key][0].dtype)
            if key in means
            else value
            for key, value in zip(keys, state[1], strict=True)
        ]
        return logs, (state[0], non_trainable, *state[2:])


def running(runtime: Runtime, model: Any) -> RunningFit:
    """Returns the `fit` of `model` that is running on the backend of this process."""
    kinds = {"torch": TorchFit, "jax": JaxFit}
    return kinds.get(runtime.name, KerasFit)(runtime, model)
