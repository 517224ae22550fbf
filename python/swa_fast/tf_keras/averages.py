"""Averages in legacy Keras's variables: TensorFlow's, in eager code, in graphs and on replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from .._keras.averages import Averager, Pair
from .._keras.rules import Rule
from ..tensorflow.assign import assign_averages, exchange, number
from ..tensorflow.averager import TensorFlowAverager


class LegacyAverages:
    """`swa_fast._keras.averages.Averages`."""

    ops = tf

    def read(self, value: Any) -> Any:
        """See `Averages`."""
        return value.read_value() if hasattr(value, "read_value") else tf.convert_to_tensor(value)

    def to_numpy(self, variable: Any) -> Any:
        """See `Averages`."""
        return np.array(variable.numpy())

    def number(self, count: Any) -> int | None:
        """See `Averages`."""
        return number(count)

    def mixed(self, rule: Rule, average: Any, value: Any, coefficient: Any) -> Any:
        """See `Averages`."""
        return rule.mixed(tf, average, value, coefficient)

    def averager(
        self,
        pairs: Sequence[Pair],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None,
    ) -> Averager:
        """See `Averages`."""
        return TensorFlowAverager(pairs, taken, skipped, rule, average_op)

    def assign_averages(self, pairs: Sequence[Pair], taken: Any, nothing_yet: str) -> Any:
        """See `Averages`."""
        return assign_averages(pairs, taken, nothing_yet)

    def keep(self, variable: Any) -> Any:
        """See `Averages`."""
        return tf.identity(variable.read_value())

    def restore(self, variable: Any, kept: Any) -> None:
        """See `Averages`."""
        variable.assign(kept)

    def exchange(self, pair: Pair, average: Any) -> None:
        """See `Averages`."""
        exchange(pair, average)


AVERAGES = LegacyAverages()
