"""The checks of arguments that everything shares."""

from __future__ import annotations

import numpy as np
import pytest

from swa_fast._checks import check_integer


def test_check_integer() -> None:
    assert check_integer("average_period", np.int32(3), 1) == 3
    with pytest.raises(ValueError, match=r"average_period must be >= 1\. Received: 0"):
        check_integer("average_period", 0, 1)
    for bad in (1.5, "1", None, True):
        with pytest.raises(TypeError, match=r"average_period must be an int\. Received: "):
            check_integer("average_period", bad, 1)
