"""combine_: weighted sums of several lists, in float64, rounded once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import swa_fast
from reference import round_to

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def contract(sources: list[Any], weights: list[float], dtype: Any) -> Any:
    """The sum in float64, in the order of the sources, beginning with the first product."""
    with np.errstate(all="ignore"):
        total = np.float64(weights[0]) * sources[0].astype(np.float64)
        for weight, source in zip(weights[1:], sources[1:], strict=True):
            total = total + np.float64(weight) * source.astype(np.float64)
        # ml_dtypes rounds twice on the way from float64, by way of float32.
        return round_to(np.dtype(dtype), total)


def random(shape: Any, dtype: Any, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("output", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_the_bits_of_the_float64_expression(output: Any, count: int) -> None:
    shapes: list[Any] = [(), (1,), (3, 5), (2047,), (2048,), (2049,), (0, 4), (70_001,)]
    lists = [
        [random(shape, DTYPES[(k + i) % 4], 10 * k + i) for i, shape in enumerate(shapes)]
        for k in range(count)
    ]
    weights = list(np.random.default_rng(count).standard_normal(count))
    outputs = [np.full(shape, np.nan, output) for shape in shapes]
    swa_fast.combine_(outputs, lists, weights)
    for i, got in enumerate(outputs):
        expected = contract([source[i] for source in lists], weights, output)
        assert got.tobytes() == expected.tobytes(), shapes[i]


@given(
    data=st.data(),
    count=st.integers(1, 6),
    size=st.integers(0, 130),
    output=st.sampled_from(DTYPES),
)
@settings(max_examples=60, deadline=None)
def test_any_values_and_coefficients(data: Any, count: int, size: int, output: Any) -> None:
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES), min_size=count, max_size=count))
    numbers = st.floats(-1e4, 1e4, width=32)
    weights = data.draw(st.lists(numbers, min_size=count, max_size=count))
    sources = [
        np.array(data.draw(st.lists(numbers, min_size=size, max_size=size)), np.float64).astype(d)
        for d in dtypes
    ]
    got = np.empty(size, output)
    swa_fast.combine_([got], [[source] for source in sources], weights)
    expected = contract(sources, weights, output)
    nan = np.isnan(expected.astype(np.float64))
    assert (np.isnan(got.astype(np.float64)) == nan).all()
    assert got[~nan].tobytes() == expected[~nan].tobytes()


def test_the_number_of_threads_makes_no_difference() -> None:
    sources = [[random((3_000_001,), np.float32, seed)] for seed in range(3)]
    results = []
    try:
        for threads in (1, 2, 3, 7):
            swa_fast.set_num_threads(threads)
            out = [np.empty(3_000_001, ml_dtypes.bfloat16)]
            swa_fast.combine_(out, sources, [0.2, 0.5, 0.3])
            results.append(out[0].tobytes())
    finally:
        swa_fast.set_num_threads(None)
    assert len(set(results)) == 1


def test_a_negative_zero_and_complex_numbers() -> None:
    out = [np.ones(1, np.float32)]
    swa_fast.combine_(out, [[np.array([-0.0], np.float32)]], [1.0])
    assert np.signbit(out[0][0])
    z = np.array([1 + 2j, -3j], np.complex64)
    mean = [np.zeros(2, np.complex64)]
    swa_fast.combine_(mean, [[z], [np.array([3 - 2j, 1], np.complex128)]], [0.5, 0.5])
    assert mean[0].tolist() == [2 + 0j, 0.5 - 1.5j]


def test_an_output_may_be_one_of_its_own_sources() -> None:
    a, b = random((5000,), np.float32, 1), random((5000,), np.float32, 2)
    expected = contract([a, b], [0.25, 0.75], np.float32)
    swa_fast.combine_([b], [[a], [b]], [0.25, 0.75])
    assert b.tobytes() == expected.tobytes()


def test_torch_is_told_of_the_write() -> None:
    torch = pytest.importorskip("torch")
    out = torch.zeros(3)
    swa_fast.combine_([out], [[torch.ones(3)], [torch.full((3,), 3.0)]], [0.5, 0.5])
    assert out.tolist() == [2.0] * 3
    assert out._version == 1


base = np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], [], []), ValueError, "sources must hold at least one list"),
        (([base], [[base[:4]]], [1.0]), ValueError, r"outputs\[0\] has shape \(8,\), sources\[0\]"),
        (([base], [[base], []], [1, 1]), ValueError, r"outputs has 1 tensors, sources\[1\] has 0"),
        (([base], [[base]], [1, 2]), ValueError, "sources has 1 lists, weights has 2 numbers"),
        (([base], [[base]], [float("nan")]), ValueError, r"weights\[0\] must be a finite number"),
        (([base], [[base]], ["x"]), TypeError, r"weights\[0\] must be a number. Received: str"),
        (([base], [[base]], 3), TypeError, "weights must be a list of numbers. Received: int"),
        (([base], 3, [1.0]), TypeError, "sources must be a list of lists"),
        (([base], [base], [1.0]), TypeError, r"sources\[0\] must be a list of tensors"),
        (([base[:4]], [[base[2:6]]], [1]), ValueError, r"outputs\[0\] and sources\[0\]\[0\] over"),
        (([base[:4], base[4:]], [[base[4:], base[4:]]], [1]), ValueError, "overlap in memory"),
        (([np.zeros(8, int)], [[base]], [1]), TypeError, r"outputs\[0\] has dtype int64: only"),
        (([base], [[np.zeros(8, int)]], [1]), TypeError, r"sources\[0\]\[0\] has dtype int64"),
        (([base], [[np.zeros(8, complex)]], [1]), TypeError, "complex tensors pair with complex"),
        (([np.zeros(16)[::2]], [[base]], [1]), BufferError, r"outputs\[0\] is not contiguous"),
    ],
)
def test_what_is_refused_changes_nothing(arguments: Any, error: Any, message: str) -> None:
    base[:] = np.arange(8)
    with pytest.raises(error, match=message):
        swa_fast.combine_(*arguments)
    assert base.tolist() == list(range(8))


def test_a_read_only_output_is_refused() -> None:
    out = np.zeros(8, np.float32)
    out.flags.writeable = False
    with pytest.raises(BufferError, match=r"outputs\[0\] is read-only"):
        swa_fast.combine_([out], [[base]], [1.0])
