"""The arithmetic contract: the bits of the NumPy expression, everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import swa_fast
from reference import (
    BFLOAT16,
    STORAGE_DTYPES,
    Array,
    assert_same_bits,
    hard_values,
    lerp,
    round_to,
    running_mean,
)

PAIRS = list(product(STORAGE_DTYPES, STORAGE_DTYPES))


@pytest.mark.parametrize(("average", "value"), PAIRS, ids=lambda d: d.name)
@pytest.mark.parametrize("count", [0, 1, 2, 9, 254, 100_000, 2**24, 2**40])
def test_running_mean_has_the_bits_of_numpy(
    average: np.dtype[Any], value: np.dtype[Any], count: int
) -> None:
    rng = np.random.default_rng(count)
    averages = [hard_values(rng, average, n) for n in (1, 17, 1000, 4099)]
    values = [hard_values(rng, value, n) for n in (1, 17, 1000, 4099)]
    expected = [running_mean(a, v, count) for a, v in zip(averages, values, strict=True)]
    swa_fast.running_mean_(averages, values, count)
    for actual, want in zip(averages, expected, strict=True):
        assert_same_bits(actual, want)


@pytest.mark.parametrize(("average", "value"), PAIRS, ids=lambda d: d.name)
@pytest.mark.parametrize("weight", [0.1, 0.5, 1e-3, 1 - 1e-3, 1e-300])
def test_lerp_has_the_bits_of_numpy(
    average: np.dtype[Any], value: np.dtype[Any], weight: float
) -> None:
    rng = np.random.default_rng(7)
    a, v = hard_values(rng, average, 3001), hard_values(rng, value, 3001)
    expected = lerp(a, v, weight)
    swa_fast.lerp_([a], [v], weight)
    assert_same_bits(a, expected)


@pytest.mark.parametrize(("dst", "src"), PAIRS, ids=lambda d: d.name)
def test_copy_rounds_once(dst: np.dtype[Any], src: np.dtype[Any]) -> None:
    rng = np.random.default_rng(3)
    s = hard_values(rng, src, 5000)
    d = np.zeros(5000, dst)
    swa_fast.copy_([d], [s])
    assert_same_bits(d, round_to(dst, s))


@pytest.mark.parametrize("narrow", [np.dtype(np.float16), BFLOAT16], ids=lambda d: d.name)
def test_a_double_beside_a_tie_is_not_rounded_twice(narrow: np.dtype[Any]) -> None:
    digits = {np.dtype(np.float16): 11, BFLOAT16: 8}[narrow]
    tie = 1.0 + 2.0**-digits  # half way between 1 and the next number of the narrow type
    above = tie + 2.0**-45  # float32 cannot tell it from the tie, which would go to even: 1
    d = np.zeros(2, narrow)
    swa_fast.copy_([d], [np.array([tie, above])])
    assert d.astype(np.float64).tolist() == [1.0, 1.0 + 2.0 ** (1 - digits)]


def test_count_zero_copies_whatever_the_average_held() -> None:
    rng = np.random.default_rng(0)
    v = hard_values(rng, np.dtype(np.float32), 100)
    v[0] = np.frombuffer(np.uint32(0x7FA00001).tobytes(), np.float32)[0]  # a signalling NaN
    a = np.full(100, np.nan, np.float32)
    swa_fast.running_mean_([a], [v], 0)
    assert a.tobytes() == v.tobytes()


def test_weight_one_copies_and_weight_zero_writes_nothing() -> None:
    a = np.array([np.nan, np.inf, 1e30], np.float32)
    v = np.array([np.inf, -1.0, 1.0], np.float32)
    before = a.tobytes()
    swa_fast.lerp_([a], [v], 0.0)
    assert a.tobytes() == before
    swa_fast.lerp_([a], [v], 1.0)
    assert a.tobytes() == v.tobytes()


def test_a_value_that_is_its_own_average() -> None:
    a = hard_values(np.random.default_rng(1), np.dtype(np.float32), 777)
    expected = running_mean(a, a.copy(), 4)
    swa_fast.running_mean_([a], [a], 4)
    assert_same_bits(a, expected)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_numbers_are_pairs_of_floats(dtype: type) -> None:
    rng = np.random.default_rng(5)
    part = np.float32 if dtype is np.complex64 else np.float64
    a, v = (rng.standard_normal((9, 2)).astype(part) for _ in range(2))
    expected = running_mean(a, v, 2)
    complex_average: Array = a.copy().view(dtype)
    swa_fast.running_mean_([complex_average], [v.view(dtype)], 2)
    assert_same_bits(complex_average.view(part), expected)
    wide = np.zeros((9, 1), np.complex128)
    swa_fast.copy_([wide], [v.view(dtype)])
    assert (wide == v.view(dtype)).all()


@pytest.mark.parametrize(
    "dtype", ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "c8", "c16", "f2", "f4", "f8"]
)
def test_swap_and_copy_keep_every_bit_of_every_type(dtype: str) -> None:
    rng = np.random.default_rng(2)

    def random_bytes(n: int) -> np.ndarray[Any, Any]:
        if dtype == "bool":
            return rng.integers(0, 2, n).astype(bool)
        return np.frombuffer(rng.bytes(n * np.dtype(dtype).itemsize), dtype).copy()

    a = [random_bytes(n) for n in (1, 3, 1000)]
    b = [random_bytes(n) for n in (1, 3, 1000)]
    a_bytes, b_bytes = [x.tobytes() for x in a], [x.tobytes() for x in b]
    swa_fast.swap_(a, b)
    assert [x.tobytes() for x in a] == b_bytes
    assert [x.tobytes() for x in b] == a_bytes
    swa_fast.copy_(a, b)
    assert [x.tobytes() for x in a] == a_bytes


def test_bfloat16_values_averaged_in_float32_do_not_stall() -> None:
    """The mean moves from 1 to 2: a bfloat16 average stops following, a float32 one arrives.

    The tolerance is what float32 storage allows: each update rounds by up to half a unit in the
    last place, and 10,000 of these are not independent (measured: 4e-5).
    """
    rng = np.random.default_rng(11)
    narrow, wide = np.zeros(64, BFLOAT16), np.zeros(64, np.float32)
    total = np.zeros(64)
    for count in range(10_000):
        level = 1.0 if count < 2_000 else 2.0
        value = (level + 0.01 * rng.standard_normal(64)).astype(BFLOAT16)
        total += value.astype(np.float64)
        swa_fast.running_mean_([narrow, wide], [value, value], count)
    np.testing.assert_allclose(wide, total / 10_000, rtol=1e-4)
    assert (np.abs(narrow.astype(np.float64) - total / 10_000) > 0.1).all()


@st.composite
def _lists(draw: st.DrawFn) -> tuple[list[Any], list[Any], int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    averages: list[Array] = []
    values: list[Array] = []
    for _ in range(draw(st.integers(0, 12))):
        shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
        if draw(st.integers(0, 9)) == 0:
            shape = (draw(st.integers(0, 200_000)),)
        size = int(np.prod(shape, dtype=np.int64))
        for made in (averages, values):
            dtype = draw(st.sampled_from(STORAGE_DTYPES))
            made.append(hard_values(rng, dtype, size).reshape(shape))
    return averages, values, draw(st.integers(0, 2**30))


@settings(deadline=None, max_examples=80)
@given(_lists(), st.integers(1, 5))
def test_random_lists(lists: tuple[list[Any], list[Any], int], threads: int) -> None:
    averages, values, count = lists
    expected = [running_mean(a, v, count) for a, v in zip(averages, values, strict=True)]
    untouched = [v.tobytes() for v in values]
    swa_fast.set_num_threads(threads)
    try:
        swa_fast.running_mean_(averages, values, count)
    finally:
        swa_fast.set_num_threads(None)
    for i, (actual, want) in enumerate(zip(averages, expected, strict=True)):
        assert_same_bits(actual, want, f"averages[{i}]")
    assert [v.tobytes() for v in values] == untouched


@pytest.mark.parametrize("isa", swa_fast.build_info()["isas"])
def test_every_instruction_set_has_the_same_bits(isa: str) -> None:
    """Runs this file's NumPy comparisons with the instruction set forced."""
    script = "import swa_fast, sys; sys.exit(swa_fast.build_info()['isa'] != sys.argv[1])"
    environment = {**os.environ, "SWA_FAST_ISA": isa}
    subprocess.run([sys.executable, "-c", script, isa], env=environment, check=True)
    tests = "running_mean_has or lerp_has or copy_rounds or swap_and_copy"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", tests]
    done = subprocess.run(
        [*command, str(Path(__file__))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unknown_instruction_set_is_an_error_at_import() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import swa_fast"],
        env={**os.environ, "SWA_FAST_ISA": "mmx"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "SWA_FAST_ISA must name an instruction set" in done.stderr
    assert "baseline" in done.stderr
    assert "Received: mmx" in done.stderr


def test_subnormals_survive_a_caller_that_flushes_them() -> None:
    torch = pytest.importorskip("torch")
    a = np.full(1000, 1e-40, np.float32)
    v = np.full(1000, 3e-40, np.float32)
    expected = running_mean(a, v, 1)
    assert (expected > 0).all()
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        swa_fast.running_mean_([a], [v], 1)
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits(a, expected)
