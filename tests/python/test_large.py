"""More than 2^31 elements in one tensor: opt in with ``pytest -m large`` (10 GB of memory)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import swa_fast

pytestmark = pytest.mark.large

ELEMENTS = 2**31 + 7


def test_running_mean_and_swap_reach_the_last_element() -> None:
    average = np.zeros(ELEMENTS, ml_dtypes.bfloat16)
    value = np.full(ELEMENTS, 2, ml_dtypes.bfloat16)
    marks = [0, 1, 2**31 - 1, 2**31, ELEMENTS - 1]
    for i, mark in enumerate(marks):
        value[mark] = 4 + 2 * i
    swa_fast.running_mean_([average], [value], 1)
    assert [float(average[m]) for m in marks] == [2 + i for i in range(len(marks))]
    others = average.view(np.uint16) != np.array(1, ml_dtypes.bfloat16).view(np.uint16)
    assert int(others.sum()) == len(marks)
    swa_fast.swap_([average], [value])
    assert [float(average[m]) for m in marks] == [4 + 2 * i for i in range(len(marks))]
    assert float(average[12345]) == 2
