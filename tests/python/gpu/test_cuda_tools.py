"""How the tests on a GPU compare tensors: needs none."""

from __future__ import annotations

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
from cuda_tools import assert_same_bits  # noqa: E402


def floats(*bits: int) -> Any:
    """Numbers of float32, by their bits."""
    return torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)


def test_the_nan_of_a_gpu_is_the_nan_of_a_cpu() -> None:
    assert_same_bits([floats(0x7FFFFFFF, 0x3F800000)], [floats(0xFFC00000, 0x3F800000)])


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        pytest.param(floats(0x80000000), floats(0), id="minus zero"),
        pytest.param(floats(0x7FFFFFFF), floats(0x7F800000), id="NaN for infinity"),
        pytest.param(floats(1), floats(0), id="a subnormal lost"),
        pytest.param(torch.tensor([1, 2]), torch.tensor([1, 3]), id="integers"),
        pytest.param(torch.tensor([True]), torch.tensor([False]), id="booleans"),
        pytest.param(torch.tensor([1]), torch.tensor([True]), id="types"),
        pytest.param(torch.zeros(2), torch.zeros(3), id="sizes"),
    ],
)
def test_everything_else_is_compared_by_its_bits(got: Any, expected: Any) -> None:
    assert_same_bits([expected], [expected])
    with pytest.raises(AssertionError):
        assert_same_bits([got], [expected])
