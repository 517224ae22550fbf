"""The snapshot rule against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swa_fast._schedule import check_integer, snapshot


@given(st.integers(0, 500), st.integers(0, 100), st.integers(1, 60))
def test_definition(step: int, start: int, period: int) -> None:
    n = max(0, (step - start) // period)
    due = step >= start and step == start + n * period
    assert snapshot(step, start, period)[0] == due
    if due:
        assert snapshot(step, start, period)[1] == n


def test_tensors() -> None:
    steps = np.arange(20)
    due, count = snapshot(steps, 5, 4)
    assert steps[due].tolist() == [5, 9, 13, 17]
    assert count[due].tolist() == [0, 1, 2, 3]


def test_check_integer() -> None:
    assert check_integer("average_period", np.int32(3), 1) == 3
    with pytest.raises(ValueError, match=r"average_period must be >= 1\. Received: 0"):
        check_integer("average_period", 0, 1)
    for bad in (1.5, "1", None, True):
        with pytest.raises(TypeError, match=r"average_period must be an int\. Received: "):
            check_integer("average_period", bad, 1)
