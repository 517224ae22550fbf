"""What XLA makes of a step that takes no snapshot: the averages are not copied."""

from __future__ import annotations

import collections
import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf

from swa_fast.keras.optimizers import SWA, AveragedOptimizerWrapper

SHAPES = ((65, 3), (66, 3), (67, 3))


class Kept(AveragedOptimizerWrapper):
    """Averages by an operation of its own."""

    def average_op(self, var: Any, average_var: Any) -> Any:
        return average_var.assign(average_var * 0.5 + var * 0.5)


def copies(make: Any) -> collections.Counter[str]:
    """Counts the copies in the compiled step, by the shape of what is copied."""
    variables = [keras.Variable(np.ones(shape, np.float32)) for shape in SHAPES]
    optimizer = make(keras.optimizers.SGD(0.1, momentum=0.9))
    optimizer.build(variables)

    @tf.function(jit_compile=True)
    def step() -> None:
        gradients = [variable.value * 0.1 for variable in variables]
        optimizer.apply(gradients, variables)

    step()
    text = step.experimental_get_compiler_ir()(stage="optimized_hlo")
    return collections.Counter(re.findall(r"= f32\[(\d+,\d+)\]\S* copy\(", text))


@pytest.mark.parametrize("make", [SWA, Kept])
def test_a_compiled_step_copies_no_average(make: Any) -> None:
    bare = copies(lambda inner: inner)
    assert copies(make) - bare == collections.Counter()
