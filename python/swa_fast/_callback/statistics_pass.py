"""A pass of `fit` over its data that changes moving statistics and nothing else.

It runs the model's own train step, so that whatever the user wrote there runs too, but in a train
function of its own in which no optimizer changes a weight. A learning rate of zero would not do:
decoupled weight decay, momentum and an optimizer's own averages move weights all the same.
"""

from __future__ import annotations

from typing import Any

from .backend import Backend
from .batch_norm import Recorder
from .optimizers import optimizers_of


class StatisticsPass:
    """Puts a recording train function in the place of the model's own.

    Args:
        backend: the Keras of `model`.
        model: a compiled model, inside `fit`.
        layers: the batch-normalization layers to record; frozen ones stay as they are.

    Attributes:
        recorder: what was measured.
    """

    def __init__(self, backend: Backend, model: Any, layers: list[Any]) -> None:
        self.recorder = Recorder(layers, backend.stand_in)
        self._backend = backend
        self._model = model
        self._replaced: list[tuple[Any, str, Any]] = []
        self._function: Any = None
        self._single_step: Any = None

    def install(self) -> None:
        """Installs the train function; on an error the model is as it was."""
        try:
            self.recorder.install()
            for optimizer in optimizers_of(self._backend, self._model):
                for name, nothing in self._backend.update_methods.items():
                    if hasattr(optimizer, name):
                        self._replace(optimizer, name, _bound(nothing, optimizer))
            train_step = self._model.train_step

            def recorded_step(*arguments: Any) -> Any:
                self.recorder.begin_batch()
                return train_step(*arguments)

            self._replace(self._model, "train_step", recorded_step)
            self._function = self._model.train_function
            self._single_step = self._backend.single_step_function(self._model)
            self._model.train_function = self.run
        except BaseException:
            self.remove()
            raise

    def run(self, *arguments: Any) -> Any:
        """Stands in for the model's train function: runs and records as many batches."""
        before = self.recorder.batches
        with self._backend.one_step_at_a_time(self._model) as steps:
            result = self._backend.record_statistics(
                self.recorder, self._single_step, arguments, steps
            )
        assert self.recorder.batches > before
        return result

    def remove(self) -> None:
        """Gives model, optimizers and layers back what was replaced; harmless the second time."""
        self.recorder.remove()
        for owner, name, previous in reversed(self._replaced):
            if previous is None:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = previous
        self._replaced.clear()
        if self._function is not None:
            self._model.train_function = self._function
            self._function = None

    def _replace(self, owner: Any, name: str, function: Any) -> None:
        # Straight into the instance: Keras tracks what is set as an attribute.
        self._replaced.append((owner, name, vars(owner).get(name)))
        vars(owner)[name] = function


def _bound(function: Any, owner: Any) -> Any:
    return lambda *args, **kwargs: function(owner, *args, **kwargs)
