"""The safety contract: every error is named, and leaves every byte as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import swa_fast

Call = Callable[[Any, Any], None]
CALLS: dict[str, tuple[Call, str, str]] = {
    "running_mean_": (lambda a, b: swa_fast.running_mean_(a, b, 3), "averages", "values"),
    "running_mean_ copying": (lambda a, b: swa_fast.running_mean_(a, b, 0), "averages", "values"),
    "lerp_": (lambda a, b: swa_fast.lerp_(a, b, 0.5), "averages", "values"),
    "lerp_ writing nothing": (lambda a, b: swa_fast.lerp_(a, b, 0.0), "averages", "values"),
    "swap_": (swa_fast.swap_, "a", "b"),
    "copy_": (swa_fast.copy_, "dst", "src"),
}
EVERY_CALL = pytest.mark.parametrize("call", list(CALLS))


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape) + 1


def refuse(call: str, dst: Any, src: Any, error: type[Exception], *words: str) -> None:
    """The call raises `error` with all `words`, and no array changes, not even those before it."""
    function, dst_name, src_name = CALLS[call]
    first, other = f32(5), -f32(5)
    dst_list = [first, *dst] if isinstance(dst, list) else dst
    src_list = [other, *src] if isinstance(src, list) else src
    arrays = [x for x in [*_items(dst_list), *_items(src_list)] if isinstance(x, np.ndarray)]
    before = [x.tobytes() for x in arrays]
    with pytest.raises(error) as caught:
        function(dst_list, src_list)
    for word in words:
        word = word.replace("DST", dst_name).replace("SRC", src_name)
        assert word in str(caught.value), str(caught.value)
    assert [x.tobytes() for x in arrays] == before


def _items(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]


@EVERY_CALL
def test_lengths(call: str) -> None:
    refuse(call, [f32(2)], [], ValueError, "DST has 2 tensors, SRC has 1")


@EVERY_CALL
@pytest.mark.parametrize(
    ("left", "right"), [((2, 3), (3, 2)), ((6,), (2, 3)), ((), (1,)), ((0, 3), (3, 0))]
)
def test_shapes(call: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    refuse(
        call,
        [f32(*left)],
        [f32(*right)],
        ValueError,
        f"DST[1] has shape {left}, SRC[1]",
        str(right),
    )


@EVERY_CALL
def test_a_bare_tensor_is_not_a_list(call: str) -> None:
    for single in (f32(3), np.float32(3), memoryview(bytearray(4))):
        refuse(call, single, [f32(3)], TypeError, "DST must be a list of tensors", "[DST]")
    refuse(call, [], f32(5), TypeError, "SRC must be a list of tensors", "ndarray", "[SRC]")


@EVERY_CALL
@pytest.mark.parametrize("bad", [3, None, "weights", b"weights", {1, 2}])
def test_what_is_no_list(call: str, bad: Any) -> None:
    refuse(call, bad, [f32(3)], TypeError, "DST must be a list of tensors. Received: ")


@EVERY_CALL
def test_a_dict_gets_a_hint(call: str) -> None:
    refuse(call, {"w": f32(3)}, [f32(3)], TypeError, "list(d.values())")


@EVERY_CALL
@pytest.mark.parametrize("item", [3.0, None, "w", object(), [1.0, 2.0]])
def test_items_that_are_no_tensors(call: str, item: Any) -> None:
    refuse(
        call,
        [f32(2), item],
        [f32(2), f32(1)],
        TypeError,
        "DST[2] must be a tensor",
        type(item).__name__,
    )


@pytest.mark.parametrize(
    "call", ["running_mean_", "running_mean_ copying", "lerp_", "lerp_ writing nothing"]
)
@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint16, np.bool_])
def test_integers_are_never_averaged(call: str, dtype: Any) -> None:
    ints = np.ones(4, dtype)
    refuse(call, [ints], [f32(4)], TypeError, "averages[1] has dtype", "only floating-point")
    refuse(call, [f32(4)], [ints], TypeError, "values[1] has dtype", "only floating-point")


def test_dtypes_that_cannot_be_converted() -> None:
    message = "dst[1] has dtype float32, src[1] has dtype int32"
    refuse("copy_", [f32(4)], [np.ones(4, np.int32)], TypeError, message)
    refuse(
        "copy_", [np.ones(4, np.int64)], [np.ones(4, np.int32)], TypeError, "dst[1] has dtype int64"
    )
    refuse(
        "swap_", [f32(4)], [np.ones(4)], TypeError, "a[1] has dtype float32, b[1] has dtype float64"
    )
    for call in ("copy_", "running_mean_", "lerp_"):
        complex_src = [np.ones(4, np.complex64)]
        refuse(
            call, [f32(4)], complex_src, TypeError, "complex64", "complex tensors pair with complex"
        )


@EVERY_CALL
@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, ">f4"),
        np.zeros(3, np.longdouble),
        np.zeros(3, "datetime64[s]"),
        np.zeros(3, [("x", "f4")]),
        np.array([None, 1, 2], dtype=object),
        np.array(["a", "b", "c"]),
    ],
    ids=lambda a: str(a.dtype),
)
def test_element_types_without_meaning_here(call: str, array: Any) -> None:
    refuse(call, [array], [array.copy()], (TypeError, BufferError), "DST[1]")  # type: ignore[arg-type]


@EVERY_CALL
def test_read_only_destinations(call: str) -> None:
    frozen = f32(4)
    frozen.flags.writeable = False
    refuse(call, [frozen], [f32(4)], BufferError, "DST[1] is read-only")
    refuse(call, [memoryview(b"abcd")], [np.ones(4, np.uint8)], (BufferError, TypeError), "DST[1]")  # type: ignore[arg-type]


def test_read_only_sources_are_fine_unless_swapped() -> None:
    frozen = f32(4)
    frozen.flags.writeable = False
    a = np.zeros(4, np.float32)
    swa_fast.running_mean_([a], [frozen], 0)
    assert (a == frozen).all()
    refuse("swap_", [f32(4)], [frozen], BufferError, "b[1] is read-only")


@EVERY_CALL
def test_layouts_that_are_not_dense(call: str) -> None:
    base = f32(8, 8)
    repeated = np.lib.stride_tricks.as_strided(f32(8), (8, 8), (0, 4), writeable=True)
    for view in (base[:, ::2], base[::2], base[::-1], repeated):
        other = np.zeros(view.shape, np.float32)
        refuse(call, [other], [view], BufferError, "SRC[1] is not contiguous: shape", "strides")
    refuse(call, [base[:, :4]], [f32(8, 4)], BufferError, "DST[1] is not contiguous", "(8, 1)")


@EVERY_CALL
def test_layouts_that_differ(call: str) -> None:
    c_order, fortran = f32(3, 4), np.asfortranarray(f32(3, 4))
    refuse(
        call,
        [c_order],
        [fortran],
        BufferError,
        "DST[1] has strides (4, 1), SRC[1] has strides (1, 3)",
    )


def test_dense_layouts_that_agree() -> None:
    rng = np.random.default_rng(0)
    for axes in [(1, 0, 2), (2, 1, 0), (0, 2, 1)]:
        a = rng.standard_normal((3, 4, 5)).transpose(axes)
        v = rng.standard_normal((3, 4, 5)).transpose(axes)
        expected = a + (v - a) * 0.5
        swa_fast.running_mean_([a], [v], 1)
        assert (a == expected).all()
    # A stride along an axis of one element is never taken, so it cannot matter.
    odd = np.lib.stride_tricks.as_strided(np.zeros(4), (1, 4), (7 * 8, 8))
    swa_fast.copy_([odd], [np.arange(4.0).reshape(1, 4)])
    assert odd.tolist() == [[0, 1, 2, 3]]


def test_strides_that_are_no_whole_number_of_elements() -> None:
    records = np.zeros(4, [("flag", "u1"), ("x", "<f4")])
    refuse("running_mean_", [records["x"]], [f32(4)], BufferError, "averages[1]", "whole number")


def test_unaligned_memory() -> None:
    raw = np.zeros(33, np.uint8)
    odd = raw[1:33].view(np.float32)
    for call in ("running_mean_", "lerp_"):
        refuse(call, [odd], [f32(8)], BufferError, "DST[1] is not aligned to its element size")
        refuse(call, [f32(8)], [odd], BufferError, "SRC[1] is not aligned to its element size")
    refuse("copy_", [np.zeros(8)], [odd], BufferError, "src[1] is not aligned")
    swa_fast.copy_([odd], [f32(8)])  # moving bytes needs no alignment
    assert (odd == f32(8)).all()


@pytest.mark.parametrize("empty", [(0,), (3, 0), (0, 2, 5)])
def test_empty_and_zero_dimensional_tensors(empty: tuple[int, ...]) -> None:
    a = [np.zeros(empty, np.float32), np.array(1.0), np.zeros((1, 1, 1))]
    v = [np.zeros(empty, np.float16), np.array(3.0), np.ones((1, 1, 1))]
    swa_fast.running_mean_(a, v, 1)
    assert a[1] == 2.0
    assert a[2] == 0.5
    swa_fast.running_mean_([], [], 5)
    swa_fast.swap_([np.zeros(empty)], [np.zeros(empty)])
    # Empty tensors are held to the rules too.
    refuse("running_mean_", [np.zeros(0, np.int32)], [np.zeros(0)], TypeError, "averages[1]")


@EVERY_CALL
def test_masked_arrays(call: str) -> None:
    masked = np.ma.array(f32(3), mask=[False, True, False])
    refuse(call, [masked], [f32(3)], TypeError, "[1] is a numpy.ma", "MaskedArray, whose mask")
    refuse(call, [f32(3)], [masked], TypeError, "[1] is a numpy.ma", "MaskedArray, whose mask")
    function, _, _ = CALLS[call]
    function([masked.data], [masked.filled()])  # what the message says


@EVERY_CALL
def test_overlaps(call: str) -> None:
    base = f32(20)
    refuse(call, [base[:8]], [base[4:12]], ValueError, "DST[1]", "SRC[1]", "overlap in memory")
    refuse(call, [base[:8], base[7:15]], [f32(8), f32(8)], ValueError, "DST[1]", "DST[2]")
    refuse(call, [base[:8], base[:8]], [f32(8), f32(8)], ValueError, "DST[1]", "DST[2]")
    refuse(call, [base[:8], f32(8)], [f32(8), base[:8]], ValueError, "DST[1]", "SRC[2]")


def test_overlaps_between_types_of_one_width() -> None:
    raw = np.arange(8, dtype=np.uint16)
    refuse("copy_", [raw[:4].view(np.float16)], [raw[1:5].view(np.float16)], ValueError, "overlap")
    wide = np.zeros(4)
    refuse("running_mean_", [wide.view(np.float32)[:4]], [wide], ValueError, "overlap")


def test_sources_may_overlap_each_other_and_their_own_destination() -> None:
    base = f32(8)
    a = [np.zeros(4, np.float32), np.zeros(4, np.float32)]
    swa_fast.copy_(a, [base[:4], base[2:6]])
    assert a[1].tolist() == base[2:6].tolist()
    swa_fast.copy_([base], [base])
    swa_fast.swap_([base], [base])
    assert (base == f32(8)).all()
    with pytest.raises(ValueError, match=r"b\[0\] and b\[1\] overlap"):
        swa_fast.swap_(a, [base[:4], base[2:6]])


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 9)), max_size=7),
    st.sampled_from(["copy_", "swap_"]),
)
def test_overlap_agrees_with_looking_at_every_byte(
    pairs: list[tuple[int, int, int]], call: str
) -> None:
    memory = np.arange(80, dtype=np.uint8)
    a = [memory[d : d + n] for d, _, n in pairs]
    b = [memory[s : s + n] for _, s, n in pairs]

    def collides(i: int, x: range, j: int, y: range, same_pair_ok: bool) -> bool:
        if same_pair_ok and i == j and x == y:
            return False
        return bool(set(x) & set(y))

    spans_a = [range(d, d + n) for d, _, n in pairs]
    spans_b = [range(s, s + n) for _, s, n in pairs]
    n = len(pairs)
    bad = any(collides(i, spans_a[i], j, spans_a[j], False) for i in range(n) for j in range(i))
    bad |= any(collides(i, spans_a[i], j, spans_b[j], True) for i in range(n) for j in range(n))
    if call == "swap_":
        bad |= any(
            collides(i, spans_b[i], j, spans_b[j], False) for i in range(n) for j in range(i)
        )
    before = memory.tobytes()
    if bad:
        with pytest.raises(ValueError, match="overlap"):
            getattr(swa_fast, call)(a, b)
        assert memory.tobytes() == before
    else:
        getattr(swa_fast, call)(a, b)


def test_an_iterable_that_raises_half_way() -> None:
    a = f32(3)

    def broken() -> Iterator[np.ndarray[Any, Any]]:
        yield f32(3)
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        swa_fast.copy_([a, f32(3)], broken())
    assert (a == f32(3)).all()


def test_tuples_generators_and_views_are_lists_enough() -> None:
    a = {"w": np.zeros(3)}
    swa_fast.running_mean_(a.values(), (x for x in [np.ones(3)]), 0)
    swa_fast.running_mean_(tuple(a.values()), iter([np.full(3, 3.0)]), 1)
    assert (a["w"] == 2.0).all()


def test_returns_none() -> None:
    a, b = [f32(2)], [f32(2)]
    assert swa_fast.running_mean_(a, b, 1) is None  # type: ignore[func-returns-value]
    assert swa_fast.lerp_(a, b, 0.5) is None  # type: ignore[func-returns-value]
    assert swa_fast.swap_(a, b) is None  # type: ignore[func-returns-value]
    assert swa_fast.copy_(a, b) is None  # type: ignore[func-returns-value]
