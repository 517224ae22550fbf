"""The look for NaN and infinity in lists on the CPU."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import swa_fast
from swa_fast import _core

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.complex64, np.complex128]
SIZES = [0, 1, 3, 1000, 65_536, 65_537, 200_001]


@pytest.fixture(params=[1, 2, None], ids=["1 thread", "2 threads", "default"])
def threads(request: pytest.FixtureRequest) -> Any:
    swa_fast.set_num_threads(request.param)
    yield
    swa_fast.set_num_threads(None)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_one_bad_number_anywhere_is_found(threads: Any, dtype: Any) -> None:
    limits = ml_dtypes.finfo(dtype)
    tensors = [np.ones(size, dtype) for size in SIZES]
    for tensor in tensors:
        tensor[::7] = limits.max
        tensor[1::7] = -limits.max
        tensor[2::7] = limits.smallest_subnormal
        tensor[3::7] = 0
    assert _core.all_finite([*tensors, np.arange(5), np.array([True])])
    for tensor in tensors[1:]:
        for place in (0, tensor.size // 2, tensor.size - 1):
            before = tensor[place]
            for bad in (np.nan, np.inf, -np.inf):
                tensor[place] = complex(1, bad) if np.iscomplexobj(tensor) else bad
                assert not _core.all_finite(tensors), (tensor.size, place, bad)
            tensor[place] = before
    assert _core.all_finite(tensors)


def test_memory_that_begins_anywhere() -> None:
    memory = np.zeros(4 * 1001 + 16, np.uint8)
    for start in range(8):
        tensor = memory[start : start + 4004].view(np.float32)
        assert _core.all_finite([tensor])
        tensor[1000] = np.nan
        assert not _core.all_finite([tensor])
        tensor[1000] = 0


def test_what_it_refuses() -> None:
    with pytest.raises(BufferError, match=r"tensors\[1\] must be dense"):
        _core.all_finite([np.zeros(3), np.zeros(6)[::2]])
    with pytest.raises(TypeError, match="a list of tensors"):
        _core.all_finite(np.zeros(3))
    assert _core.all_finite([])
    assert _core.all_finite([np.asfortranarray(np.zeros((3, 4)))])
