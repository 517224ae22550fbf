"""Keras 3 as the shared code of the SWA optimizers sees it, on every backend."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import keras

from .._optimizer.framework import Framework
from ._optimizer_assign import assign_averages, taken_now
from ._optimizer_backends import make_averager, update_if, updated_mean
from ._optimizer_steps import read


def _deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> Any:
    return keras.saving.deserialize_keras_object(
        copy.deepcopy(dict(config)), custom_objects=custom_objects
    )


FRAMEWORK = Framework(
    keras=keras,
    ops=keras.ops,
    kinds=(keras.optimizers.Optimizer,),
    wanted="a keras.optimizers.Optimizer",
    by_name=keras.optimizers.get,
    scaler=keras.optimizers.LossScaleOptimizer,
    read=read,
    to_numpy=keras.ops.convert_to_numpy,
    deserialize=_deserialize,
    taken_now=taken_now,
    assign_averages=assign_averages,
    update_if=update_if,
    make_averager=make_averager,
    mean=updated_mean,
)
