"""Legacy Keras as the shared code of the SWA optimizers sees it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from .._mean import mean_expression
from .._optimizer.framework import Framework
from ..tensorflow._assign import assign_averages, taken_now
from ..tensorflow._averager import TensorFlowAverager, update_if


def _read(value: Any) -> Any:
    return value.read_value() if hasattr(value, "read_value") else tf.convert_to_tensor(value)


def _deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> Any:
    legacy = bool(config.get("config", {}).get("is_legacy_optimizer", False))
    return tf_keras.optimizers.deserialize(
        copy.deepcopy(dict(config)), custom_objects=custom_objects, use_legacy_optimizer=legacy
    )


def _make_averager(
    pairs: Sequence[tuple[Any, Any]], snapshots: Any, start: int, period: int
) -> TensorFlowAverager:
    values, averages = [value for value, _ in pairs], [average for _, average in pairs]
    return TensorFlowAverager(averages, values, snapshots, start, period)


FRAMEWORK = Framework(
    keras=tf_keras,
    ops=tf,
    kinds=(tf_keras.optimizers.Optimizer, tf_keras.optimizers.legacy.Optimizer),
    wanted="a tf_keras.optimizers.Optimizer, a tf_keras.optimizers.legacy.Optimizer",
    by_name=lambda name: tf_keras.optimizers.get(name, use_legacy_optimizer=True),
    scaler=tf_keras.mixed_precision.LossScaleOptimizer,
    read=_read,
    to_numpy=lambda variable: variable.numpy(),
    deserialize=_deserialize,
    taken_now=taken_now,
    assign_averages=assign_averages,
    update_if=update_if,
    make_averager=_make_averager,
    mean=lambda average, value, count: mean_expression(tf, average, value, count),
)
