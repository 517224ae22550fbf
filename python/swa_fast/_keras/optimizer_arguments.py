"""What users hand to a wrapping optimizer: checks, and the settings of the optimizer inside."""

from __future__ import annotations

import inspect
import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .._checks import check_decay, check_integer
from .rules import ExponentialMean

CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
"""Settings of which an optimizer has at most one."""

_ALLOWED = (*CLIPPING, "learning_rate", "lr", "decay")
_NONFINITE = ("propagate", "skip")


def check_wrapper_arguments(
    optimizer: Any, kinds: tuple[Any, ...], wanted: str, sequential_update: Any, name: Any
) -> None:
    """Raises TypeError unless these can be a wrapper's arguments.

    Args:
        optimizer: the optimizer to wrap.
        kinds: the classes that it may have.
        wanted: the same in words.
        sequential_update: a bool.
        name: a str.
    """
    if not isinstance(optimizer, kinds):
        kind = type(optimizer)
        received = "None" if optimizer is None else f"{optimizer!r} of type {_full_name(kind)}"
        if isinstance(optimizer, type):
            received = f"the class {optimizer.__name__}; make one of it, {optimizer.__name__}(...)"
        raise TypeError(f"optimizer must be {wanted} or the name of one. Received: {received}")
    if not isinstance(sequential_update, bool):
        raise TypeError(f"sequential_update must be a bool. Received: {sequential_update!r}")
    if not isinstance(name, str):
        raise TypeError(f"name must be a str. Received: {name!r}")


def check_nonfinite(nonfinite: Any) -> bool:
    """Returns whether snapshots that are not finite are to be skipped; raises ValueError."""
    if nonfinite not in _NONFINITE:
        raise ValueError(f"nonfinite must be one of {_NONFINITE}. Received: {nonfinite!r}")
    return bool(nonfinite == "skip")


def check_fused(fused: Any) -> bool:
    """Returns the argument if it is a bool; raises TypeError if not."""
    if not isinstance(fused, bool):
        raise TypeError(f"fused must be True or False. Received: {fused!r}")
    return fused


def check_moving_average(
    average_decay: Any, num_updates: Any, start_step: Any, dynamic_decay: Any
) -> tuple[float, int | None, ExponentialMean]:
    """Returns (average_decay, num_updates, rule) from the arguments of `MovingAverage`.

    Args:
        average_decay: a number from 0 to 1, or whatever has a float.
        num_updates: None, an int >= 0 or a variable that holds one now.
        start_step: an int >= 0.
        dynamic_decay: a bool.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: one is out of range.
    """
    decay = check_decay("average_decay", average_decay)
    if hasattr(num_updates, "assign"):
        num_updates = np.asarray(num_updates)[()]
    most = np.float32(decay)
    if num_updates is not None:
        num_updates = check_integer("num_updates", num_updates, at_least=0)
        updates = np.float32(num_updates)
        most = min(most, (1 + updates) / (10 + updates))
    if not isinstance(dynamic_decay, bool):
        raise TypeError(f"dynamic_decay must be a bool. Received: {dynamic_decay!r}")
    start = check_integer("start_step", start_step, at_least=0)
    return decay, num_updates, ExponentialMean(float(most), start, dynamic_decay)


def check_settings(inner: Any, kwargs: Mapping[str, Any], wrapper: type) -> dict[str, Any]:
    """Returns the settings to make on the inner optimizer; nothing is set here.

    Args:
        inner: the optimizer that makes the steps.
        wrapper: the class of the wrapper, for the error.
        kwargs: keyword arguments that a user gave to the wrapper; None stands for not given.

    Returns:
        The given ones, `lr` under the name `learning_rate`.

    Raises:
        TypeError: an argument is unknown or not a number.
        ValueError: one is negative, or contradicts another one or what the inner optimizer has.
    """
    settings = {}
    for key, value in kwargs.items():
        if key not in _ALLOWED:
            raise TypeError(
                f"{wrapper.__name__} has no argument {key!r}. It takes "
                f"{', '.join(_own_arguments(wrapper))}, and for the inner optimizer "
                f"{', '.join(_ALLOWED)}; set anything else on the inner optimizer"
            )
        if value is None or (key in ("learning_rate", "lr") and callable(value)):
            pass
        elif isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{key} must be a number. Received: {value!r}")
        elif not float(value) >= 0:  # NaN is not
            raise ValueError(f"{key} must be >= 0. Received: {value!r}")
        if value is not None:
            settings[key] = value if callable(value) else float(value)
    if "lr" in settings:
        if "learning_rate" in settings:
            raise ValueError(
                "lr is another name of learning_rate: give one of them. Received: "
                f"lr={settings['lr']}, learning_rate={settings['learning_rate']}"
            )
        settings["learning_rate"] = settings.pop("lr")
    clipping = [key for key in CLIPPING if key in settings]
    already = [key for key in CLIPPING if getattr(inner, key, None) is not None]
    if clipping and len({*clipping, *already}) > 1:
        raise ValueError(
            "only one of clipnorm, clipvalue and global_clipnorm can be set. Received: "
            f"{', '.join(clipping)}; the inner optimizer has {', '.join(already) or 'none'}"
        )
    rate = settings["learning_rate"] if "learning_rate" in settings else _rate_of(inner)
    if settings.get("decay") and callable(rate):
        raise ValueError(
            f"decay is for a learning rate that is a number. Received: decay={settings['decay']}, "
            f"and the learning rate is a {type(rate).__name__}"
        )
    return settings


def _own_arguments(wrapper: Any) -> list[str]:
    parameters = list(inspect.signature(wrapper.__init__).parameters.values())[1:]
    return [each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]


def _full_name(kind: type) -> str:
    place = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return place + kind.__qualname__


def _rate_of(inner: Any) -> Any:
    """Returns the learning rate as it was given: a callable where `learning_rate` calls it."""
    given = getattr(inner, "_hyper", {}).get("learning_rate")  # a legacy optimizer of legacy Keras
    return getattr(inner, "_learning_rate", None) if given is None else given


def apply_settings(inner: Any, settings: Mapping[str, Any], schedules: Any) -> None:
    """Makes the settings that `check_settings` returned on the optimizer that makes the steps.

    Args:
        inner: that optimizer.
        settings: the settings.
        schedules: the module of the Keras's learning rate schedules.
    """
    for key in CLIPPING:
        if key in settings:
            setattr(inner, key, settings[key])
    if "learning_rate" in settings:
        inner.learning_rate = settings["learning_rate"]
    if settings.get("decay"):
        inner.learning_rate = schedules.InverseTimeDecay(
            float(np.asarray(inner.learning_rate)),
            decay_steps=1,
            decay_rate=settings["decay"],
        )


def refuse_second_scaler(owner: str, built: bool) -> None:
    """Warns that a LossScaleOptimizer around `owner` takes the place of the one inside of it.

    Raises:
        ValueError: `owner` is built, and nothing can be taken out of it.
    """
    if built:
        raise ValueError(
            f"{owner} was built around a LossScaleOptimizer, and cannot be wrapped in another "
            "one: gradients would be scaled twice"
        )
    warnings.warn(
        f"{owner} is being wrapped in a LossScaleOptimizer and holds one already: the outer one "
        "takes over, and the inner one is dropped",
        stacklevel=3,
    )


def check_pairs(grads_and_vars: Iterable[Any], *, takes_none: bool = False) -> list[Any]:
    """Returns (gradient, variable) pairs as a list.

    Args:
        grads_and_vars: the pairs.
        takes_none: whether there need not be a pair.

    Raises:
        TypeError: a pair is malformed.
        ValueError: no variable has a gradient.
    """
    title = "apply_gradients: grads_and_vars"
    if not isinstance(grads_and_vars, Iterable):
        raise TypeError(
            f"{title} must be (gradient, variable) pairs, as from zip(gradients, variables). "
            f"Received: {grads_and_vars!r}"
        )
    pairs = list(grads_and_vars)
    for index, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"{title} must hold (gradient, variable) pairs. Received at index {index}: {pair!r}"
            )
        if not hasattr(pair[1], "assign"):
            hint = "; the gradient comes first" if hasattr(pair[0], "assign") else ""
            raise TypeError(
                f"{title}[{index}] must end in a variable. Received: {type(pair[1]).__name__}{hint}"
            )
    if all(gradient is None for gradient, _ in pairs) and not (takes_none and not pairs):
        raise ValueError(  # the first words are those of both Kerases
            "No gradients provided for any variable by apply_gradients' grads_and_vars. Received "
            f"{len(pairs)} pairs, for {[variable.name for _, variable in pairs][:10]}"
        )
    return pairs


ARGUMENTS = {"applied": "model_or_variables", "shadow_copy": "model_weights"}
"""Name of the argument that holds variables, by the method; elsewhere it is var_list."""


def check_variables(
    var_list: Any, member: str, *, takes_model: bool = True, argument: str | None = None
) -> list[Any]:
    """Returns variables as a list; those of a model if one is given.

    Legacy Keras lists the tables of its preprocessing layers among a model's variables: objects
    that hold tensors and are no variables. They are left out.

    Args:
        var_list: variables, or a model.
        member: the method that the user called, for the error.
        takes_model: whether a model stands for its variables here.
        argument: the argument that they were given as; None for that of `ARGUMENTS`.

    Raises:
        TypeError: one of `var_list` is not a variable, or it is a model where none is taken.
        ValueError: it is a model that has no variables yet.
    """
    if not takes_model:
        refuse_model(var_list, member, argument)
    elif _is_model(var_list):
        var_list = _variables_of(var_list, member)
    wrong = _what_is_no_list(var_list)
    if wrong is not None:
        wanted = "a list of variables or a model" if takes_model else "a list of variables"
        raise TypeError(f"{_title(member, argument)} must be {wanted}. Received: {wrong}")
    checked = []
    for index, variable in enumerate(var_list):
        if hasattr(variable, "assign"):
            checked.append(variable)
        elif not (hasattr(variable, "get_tensors") and hasattr(variable, "set_weights")):
            raise TypeError(
                f"{_title(member, argument)} must hold variables. Received at index {index}: "
                f"{type(variable).__name__}"
            )
    return checked


def refuse_model(var_list: Any, member: str, argument: str | None = None) -> None:
    """Raises TypeError if `var_list` is a model, where the method `member` takes variables."""
    if _is_model(var_list):
        raise TypeError(
            f"{_title(member, argument)} must be a list of variables. Received: the model "
            f"{type(var_list).__name__}; pass model.trainable_variables"
        )


def _title(member: str, argument: str | None) -> str:
    return f"{member}: {argument or ARGUMENTS.get(member, 'var_list')}"


def _is_model(value: Any) -> bool:
    # Of the class, because legacy Keras raises for a model without variables.
    return hasattr(type(value), "trainable_variables")


def _variables_of(model: Any, member: str) -> list[Any]:
    try:
        variables = list(model.variables)
    except ValueError:  # legacy Keras, of a model that was not built
        variables = []
    if not variables:
        raise ValueError(
            f"{member}: the model {type(model).__name__} has no variables yet: build it, or call "
            "it on data, first"
        )
    return variables


def _what_is_no_list(var_list: Any) -> str | None:
    """Says what was given in the place of a list of variables; None if it may be one."""
    if hasattr(var_list, "assign"):
        return f"one variable, {var_list.name!r}; put it in a list"
    if isinstance(var_list, Mapping):
        return "a dict; pass list(d.values())"
    if isinstance(var_list, str) or not isinstance(var_list, Iterable):
        return repr(var_list)
    return None


def check_variable(var: Any, member: str) -> None:
    """Raises AttributeError, naming the method that the user called, unless `var` is a variable.

    TensorFlow's checkpoints ask for slots of all they know, and expect this error.
    """
    if not hasattr(var, "assign"):
        raise AttributeError(f"{member}: var must be a variable. Received: {var!r}")


def check_loss(loss: Any, var_list: Any, tape: Any) -> None:
    """Raises unless these can be arguments of `minimize`.

    Raises:
        TypeError: `var_list` is a model.
        ValueError: `loss` is a tensor and there is no tape, or `var_list` is None.
    """
    if not callable(loss) and tape is None:
        raise ValueError(
            "minimize: loss must be a callable, or a tensor and the tape that recorded it. "
            f"Received: {type(loss).__name__} and no tape"
        )
    if var_list is None:
        raise ValueError(
            "minimize: var_list must be a list of variables or a callable. Received: None"
        )
    refuse_model(var_list, "minimize")  # which is callable, too


def check_weights(weights: Any) -> list[Any]:
    """Returns the argument of `set_weights` as a list; raises TypeError if it cannot be one."""
    if not isinstance(weights, Iterable) or isinstance(weights, str):
        raise TypeError(
            "set_weights: weights must be a list of arrays, as get_weights returns. "
            f"Received: {type(weights).__name__}"
        )
    return list(weights)


def check_config(config: Any) -> dict[str, Any]:
    """Returns the argument of `from_config` as a dict; raises ValueError if it cannot be one."""
    if not isinstance(config, Mapping) or "optimizer" not in config:
        raise ValueError(
            "from_config needs the config that get_config returned, with the key 'optimizer'. "
            f"Received: {config!r}"
        )
    return dict(config)


def not_built_with(called: str, owner: str, variable: Any) -> ValueError:
    """Returns the error for a step on a variable of another model.

    Args:
        called: the method and where in which of its arguments the variable is.
        owner: name of the optimizer.
        variable: the variable.
    """
    return ValueError(
        f"{called}: {owner} was not built with the variable {variable.name!r}. It can only be "
        "called for the variables it was built with; make a new optimizer for others"
    )


def check_values(variables: Sequence[Any], values: Sequence[Any], title: str, owner: str) -> None:
    """Raises ValueError unless there is one value of the right shape for each variable."""
    if len(values) != len(variables):
        raise ValueError(
            f"{title} must hold one array for each variable of {owner}. Received {len(values)} "
            f"arrays, but the optimizer was expecting {len(variables)}"
        )
    for index, (variable, value) in enumerate(zip(variables, values, strict=True)):
        if tuple(np.shape(value)) != tuple(variable.shape):
            raise ValueError(
                f"{title}[{index}] must have shape {tuple(variable.shape)}, that of "
                f"{variable.name!r}. Received shape: {tuple(np.shape(value))}"
            )
