"""Careless calls of the optimizers and callbacks of either Keras, and the whole answers."""

# ruff: noqa: E501, the sentences are to be read whole

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from swa_fast import Average

Calls = dict[str, tuple[Callable[[], Any], type[Exception], str]]

_LIST = "a list of variables or a model"
_KEYWORDS = "clipnorm, clipvalue, global_clipnorm, learning_rate, lr, decay"
_SWA = "optimizer, start_averaging, average_period, name, sequential_update, nonfinite, fused"
_MOVING = "optimizer, average_decay, num_updates, start_step, dynamic_decay, name, nonfinite, fused"


class Careless:
    """The calls for one Keras, and the model and optimizers that they are made on."""

    def __init__(self, keras: Any, optimizers: Any, callbacks: Any, update_bn: Any) -> None:
        """Makes two models, and an optimizer that was built with the first."""
        self.keras, self.optimizers, self.callbacks = keras, optimizers, callbacks
        self.update_bn = update_bn
        self.model, self.other = self.make_model(), self.make_model()
        self.model.compile("sgd", "mse")
        self.swa = self.make(optimizers.SWA)
        self.moving = self.make(optimizers.MovingAverage)

    def make_model(self) -> Any:
        layers = self.keras.layers
        return self.keras.Sequential([layers.Input((3,)), layers.Dense(2, name="dense")])

    def make(self, kind: Any) -> Any:
        optimizer = kind(self.keras.optimizers.SGD(0.5))
        optimizer.build(self.model.trainable_variables)
        return optimizer

    def state(self) -> list[Any]:
        """Everything that a refused call must leave as it was."""
        return [*self.model.get_weights(), *self.swa.get_weights(), *self.moving.get_weights()]

    def constructors(self) -> Calls:
        keras, swa, moving = self.keras, self.optimizers.SWA, self.optimizers.MovingAverage
        legacy = keras.__name__ == "tf_keras"
        kinds = "a keras.optimizers.Optimizer"
        if legacy:
            kinds = "a tf_keras.optimizers.Optimizer, a tf_keras.optimizers.legacy.Optimizer"
        wanted = f"optimizer must be {kinds} or the name of one. Received: "
        sgd = keras.optimizers.SGD
        return {
            "no optimizer": (lambda: swa(None), TypeError, f"{wanted}None"),
            "a class": (
                lambda: swa(sgd),
                TypeError,
                f"{wanted}the class SGD; make one of it, SGD(...)",
            ),
            "a model": (
                lambda: swa(self.model),
                TypeError,
                f"{wanted}{self.model!r} of type {_full_name(self.model)}",
            ),
            "start of a float": (
                lambda: swa("sgd", 1.5),
                TypeError,
                "start_averaging must be an int. Received: 1.5 of type float",
            ),
            "negative start": (
                lambda: swa("sgd", -1),
                ValueError,
                "start_averaging must be >= 0. Received: -1",
            ),
            "period of 0": (
                lambda: swa("sgd", 0, 0),
                ValueError,
                "average_period must be >= 1. Received: 0",
            ),
            "unknown keyword": (
                lambda: swa("sgd", period=3),
                TypeError,
                f"SWA has no argument 'period'. It takes {_SWA}, and for the inner optimizer {_KEYWORDS}; set anything else on the inner optimizer",
            ),
            "unknown keyword of MovingAverage": (
                lambda: moving("sgd", start=3),
                TypeError,
                f"MovingAverage has no argument 'start'. It takes {_MOVING}, and for the inner optimizer {_KEYWORDS}; set anything else on the inner optimizer",
            ),
            "rate that is no number": (
                lambda: swa("sgd", lr=float("nan")),
                ValueError,
                "lr must be >= 0. Received: nan",
            ),
            "decay of the average by another name": (
                lambda: moving("sgd", decay=Average()),
                TypeError,
                "decay must be a number. Received: Average(decay=None, start=0, period=1, dtype=None, initial=False)",
            ),
            "decay above 1": (
                lambda: moving("sgd", 1.5),
                ValueError,
                "average_decay must be between 0 and 1. Received: 1.5",
            ),
            "schedule as decay": (
                lambda: moving("sgd", "0.9"),
                TypeError,
                "average_decay must be a number. Received: '0.9'",
            ),
            "choice": (
                lambda: swa("sgd", nonfinite="ignore"),
                ValueError,
                "nonfinite must be one of ('propagate', 'skip'). Received: 'ignore'",
            ),
            "config of something else": (
                lambda: swa.from_config({"name": "SWA"}),
                ValueError,
                "from_config needs the config that get_config returned, with the key 'optimizer'. Received: {'name': 'SWA'}",
            ),
        }

    def averages(self) -> Calls:
        swa, model, other = self.swa, self.model, self.other
        first = model.trainable_variables[0]
        unbuilt = self.optimizers.SWA("sgd")
        empty = self.keras.Sequential([self.keras.layers.Dense(1)])
        foreign = other.trainable_variables[0].name
        legacy = self.keras.__name__ == "tf_keras"
        inner, listed = ("SGD", "var_list") if legacy else ("MovingAverage", "variables")
        needs = (
            "needs an optimizer that was built: call SWA.build(variables), or take a step, first"
        )
        return {
            "assign nothing": (
                lambda: swa.assign_average_vars(),
                TypeError,
                "AveragingOptimizer.assign_average_vars() missing 1 required positional argument: 'var_list'",
            ),
            "assign None": (
                lambda: swa.assign_average_vars(None),
                TypeError,
                f"assign_average_vars: var_list must be {_LIST}. Received: None",
            ),
            "assign a number": (
                lambda: swa.assign_average_vars(3),
                TypeError,
                f"assign_average_vars: var_list must be {_LIST}. Received: 3",
            ),
            "assign one variable": (
                lambda: swa.assign_average_vars(first),
                TypeError,
                f"assign_average_vars: var_list must be {_LIST}. Received: one variable, {first.name!r}; put it in a list",
            ),
            "assign a name": (
                lambda: swa.assign_average_vars("dense"),
                TypeError,
                f"assign_average_vars: var_list must be {_LIST}. Received: 'dense'",
            ),
            "assign a dict": (
                lambda: swa.assign_average_vars({"kernel": first}),
                TypeError,
                f"assign_average_vars: var_list must be {_LIST}. Received: a dict; pass list(d.values())",
            ),
            "assign arrays": (
                lambda: swa.assign_average_vars(model.get_weights()),
                TypeError,
                "assign_average_vars: var_list must hold variables. Received at index 0: ndarray",
            ),
            "assign to another model": (
                lambda: swa.assign_average_vars(other),
                ValueError,
                f"assign_average_vars: SWA was not built with var_list[0], {foreign!r}, and has no average for it",
            ),
            "assign to a model without variables": (
                lambda: swa.assign_average_vars(empty),
                ValueError,
                "assign_average_vars: the model Sequential has no variables yet: build it, or call it on data, first",
            ),
            "assign before a build": (
                lambda: unbuilt.assign_average_vars(model),
                ValueError,
                f"assign_average_vars {needs}",
            ),
            "swap before a build": (
                lambda: unbuilt.swap_weights(),
                ValueError,
                f"swap_weights {needs}",
            ),
            "swap a number": (
                lambda: swa.swap_weights(2),
                TypeError,
                f"swap_weights: var_list must be {_LIST}. Received: 2",
            ),
            "apply None": (
                lambda: swa.applied(None).__enter__(),
                TypeError,
                f"applied: model_or_variables must be {_LIST}. Received: None",
            ),
            "apply to another model": (
                lambda: swa.applied(other).__enter__(),
                ValueError,
                f"applied: SWA was not built with model_or_variables[0], {foreign!r}, and has no average for it",
            ),
            "shadow copy of a model": (
                lambda: self.moving.shadow_copy(model),
                TypeError,
                "shadow_copy: model_weights must be a list of variables. Received: the model Sequential; pass model.trainable_variables",
            ),
            "shadow copy of another model's": (
                lambda: self.moving.shadow_copy(other.trainable_variables),
                ValueError,
                f"shadow_copy: model_weights[0]: {inner} was not built with the variable {foreign!r}. It can only be called for the variables it was built with; make a new optimizer for others",
            ),
            "build with a model": (
                lambda: unbuilt.build(model),
                TypeError,
                f"build: {listed} must be a list of variables. Received: the model Sequential; pass model.trainable_variables",
            ),
            "build with None": (
                lambda: unbuilt.build(None),
                TypeError,
                f"build: {listed} must be a list of variables. Received: None",
            ),
            "slot of a name": (
                lambda: swa.get_slot("kernel", "average"),
                AttributeError,
                "get_slot: var must be a variable. Received: 'kernel'",
            ),
            "weights of a model": (
                lambda: swa.set_weights(model),
                TypeError,
                "set_weights: weights must be a list of arrays, as get_weights returns. Received: Sequential",
            ),
            "weights of nothing": (
                lambda: swa.set_weights([]),
                ValueError,
                f"set_weights: weights must hold one array for each variable of SWA. Received 0 arrays, but the optimizer was expecting {len(swa.get_weights())}",
            ),
            "weights of None": (
                lambda: swa.set_weights(None),
                TypeError,
                "set_weights: weights must be a list of arrays, as get_weights returns. Received: NoneType",
            ),
        }

    def steps(self) -> Calls:
        swa, model, other = self.swa, self.model, self.other
        variables = model.trainable_variables
        foreign = other.trainable_variables[0]
        inner = "SGD" if self.keras.__name__ == "tf_keras" else "SWA"
        ones = [np.ones(tuple(variable.shape), np.float32) for variable in variables]
        return {
            "gradients of None": (
                lambda: swa.apply_gradients(None),
                TypeError,
                "apply_gradients: grads_and_vars must be (gradient, variable) pairs, as from zip(gradients, variables). Received: None",
            ),
            "gradients of a model": (
                lambda: swa.apply_gradients(model),
                TypeError,
                f"apply_gradients: grads_and_vars must be (gradient, variable) pairs, as from zip(gradients, variables). Received: {model!r}",
            ),
            "gradients alone": (
                lambda: swa.apply_gradients([1.0]),
                TypeError,
                "apply_gradients: grads_and_vars must hold (gradient, variable) pairs. Received at index 0: 1.0",
            ),
            "pairs the other way round": (
                lambda: swa.apply_gradients(zip(variables, ones, strict=True)),
                TypeError,
                "apply_gradients: grads_and_vars[0] must end in a variable. Received: ndarray; the gradient comes first",
            ),
            "no gradients": (
                lambda: swa.apply_gradients([(None, variable) for variable in variables]),
                ValueError,
                f"No gradients provided for any variable by apply_gradients' grads_and_vars. Received 2 pairs, for {[each.name for each in variables]}",
            ),
            "variable of another model": (
                lambda: swa.apply_gradients([(ones[0], variables[0]), (ones[0], foreign)]),
                ValueError,
                f"apply_gradients: grads_and_vars[1]: {inner} was not built with the variable {foreign.name!r}. It can only be called for the variables it was built with; make a new optimizer for others",
            ),
        }

    def losses(self) -> Calls:
        swa, variables = self.swa, self.model.trainable_variables
        return {
            "loss of a number": (
                lambda: swa.minimize(1.0, variables),
                ValueError,
                "minimize: loss must be a callable, or a tensor and the tape that recorded it. Received: float and no tape",
            ),
            "minimize over None": (
                lambda: swa.minimize(lambda: 1.0, None),
                ValueError,
                "minimize: var_list must be a list of variables or a callable. Received: None",
            ),
            "minimize over a model": (
                lambda: swa.minimize(lambda: 1.0, self.model),
                TypeError,
                "minimize: var_list must be a list of variables. Received: the model Sequential; pass model.trainable_variables",
            ),
        }

    def in_fit(self) -> Calls:
        there = self.callbacks
        model = f"update_bn(model, data): model must be a model of {self.keras.__name__}; the model comes first. Received: model=ndarray, data=Sequential"
        missing = "missing 1 required positional argument:"
        return {
            "callback without an epoch": (
                lambda: there.SWA(),
                TypeError,
                f"SWA.__init__() {missing} 'start_epoch'",
            ),
            "callback around an optimizer": (
                lambda: there.SWA("sgd"),
                TypeError,
                "start_epoch must be an int. Received: 'sgd' of type str",
            ),
            "keyword of another callback": (
                lambda: there.EMA(start_epoch=3),
                TypeError,
                "EMA.__init__() got an unexpected keyword argument 'start_epoch'",
            ),
            "averages without names": (
                lambda: there.Averages(),
                TypeError,
                f"Averages.__init__() {missing} 'averages'",
            ),
            "file of a number": (
                lambda: there.AverageModelCheckpoint(True, 3),
                TypeError,
                "filepath must be a str or a path. Received: 3",
            ),
            "file first": (
                lambda: there.AverageModelCheckpoint("averages.keras", True),
                TypeError,
                "update_weights must be True or False. Received: 'averages.keras'; the file comes second",
            ),
            "flag that is none": (
                lambda: there.SWA(2, validate_with_average="yes"),
                TypeError,
                "validate_with_average must be True or False. Received: 'yes'",
            ),
            "size that is none": (
                lambda: there.SWA(2, batch_size="32"),
                TypeError,
                "batch_size must be an int. Received: '32' of type str",
            ),
            "words that are none": (
                lambda: there.SWA(2, verbose="yes"),
                TypeError,
                "verbose must be an int. Received: 'yes' of type str",
            ),
            "backup of a number": (
                lambda: there.EMA(backup_path=3),
                TypeError,
                "backup_path must be None, a str or a path. Received: 3",
            ),
            "average of another name": (
                lambda: there.Averages({"slow": Average()}, apply_at_end="fast"),
                ValueError,
                "apply_at_end must be None or the name of an average, ['slow']. Received: 'fast'",
            ),
            "averages before a fit": (
                lambda: there.EMA().weights(),
                RuntimeError,
                "average 'ema' has no snapshot yet: train first",
            ),
            "statistics of nothing": (
                lambda: self.update_bn(self.model, None),
                TypeError,
                "update_bn: data must be arrays or an iterable of batches. Received: None",
            ),
            "statistics of a number": (
                lambda: self.model.fit(
                    np.ones((4, 3)), np.ones((4, 2)), verbose=0, callbacks=[there.EMA(bn_data=3)]
                ),
                TypeError,
                "bn_data must be arrays or an iterable of batches. Received: int",
            ),
            "data first": (lambda: self.update_bn(np.ones((4, 3)), self.model), TypeError, model),
        }


def _full_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
