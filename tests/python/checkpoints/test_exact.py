"""Every format and dtype gives the bits of the NumPy float64 expression, rounded once."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_tools import (
    SAFETENSORS,
    random_model,
    read_safetensors,
    same_bytes,
    weighted_sum,
    write_safetensors,
)
from swa_fast.checkpoints import merge, stream
from swa_fast.checkpoints.tensors import boxes

FLOATS = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "C64"]


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(FLOATS),
    shape=st.lists(st.integers(0, 9), max_size=3),
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_any_shape_dtype_and_weights(
    dtype: str, shape: list[int], weights: list[float], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    models = [
        {"x": (generator.standard_normal(shape) * 3).astype(SAFETENSORS[dtype])} for _ in weights
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [
            write_safetensors(folder / f"{index}.safetensors", model)
            for index, model in enumerate(models)
        ]
        merge(paths, folder / "out.safetensors", weights=weights, normalize=True)
        found, _ = read_safetensors(folder / "out.safetensors")
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    assert same_bytes(found["x"], weighted_sum([model["x"] for model in models], shares))


@pytest.mark.parametrize("output", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F8_E4M3"])
def test_conversions_round_once(tmp_path: Path, dtype: str, output: str) -> None:
    models = [random_model(seed, SAFETENSORS[dtype]) for seed in range(3)]
    paths = [
        write_safetensors(tmp_path / f"{seed}.safetensors", model)
        for seed, model in enumerate(models)
    ]
    merge(paths, tmp_path / "out.safetensors", dtype=output)
    found, _ = read_safetensors(tmp_path / "out.safetensors")
    target = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[output]
    for name in ("layer.weight", "layer.bias"):
        arrays = [model[name] for model in models]
        assert same_bytes(found[name], weighted_sum(arrays, [1 / 3] * 3, SAFETENSORS[target]))
    assert same_bytes(found["steps"], models[-1]["steps"])


def test_chunks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    models: list[dict[str, Any]] = [
        {
            "a": generator.standard_normal(100_003).astype(np.float16),
            "b": np.array([1, 2], np.float32),
        }
        for _ in range(3)
    ]
    paths = [
        write_safetensors(tmp_path / f"{index}.safetensors", model)
        for index, model in enumerate(models)
    ]
    merge(paths, tmp_path / "whole.safetensors")
    monkeypatch.setattr(stream, "_CHUNK", 32768)
    for threads in (1, 2):
        merge(paths, tmp_path / "chunks.safetensors", threads=threads, overwrite=True)
        whole = (tmp_path / "whole.safetensors").read_bytes()
        assert (tmp_path / "chunks.safetensors").read_bytes() == whole


def test_data_at_odd_places_is_read(tmp_path: Path) -> None:
    models: list[dict[str, Any]] = [
        {"u": np.array([1], np.uint8), "x": np.array([seed, 2, 3], np.float32)} for seed in range(2)
    ]
    paths = [
        write_safetensors(tmp_path / f"{seed}.safetensors", model)
        for seed, model in enumerate(models)
    ]
    merge(paths, tmp_path / "out.safetensors")
    assert read_safetensors(tmp_path / "out.safetensors")[0]["x"].tolist() == [0.5, 2, 3]


@given(
    st.lists(st.integers(1, 5), max_size=4).flatmap(
        lambda shape: st.tuples(
            st.just(shape), *[st.integers(0, int(np.prod(shape, dtype=int)))] * 2
        )
    )
)
def test_boxes_follow_one_another(case: tuple[list[int], int, int]) -> None:
    shape, begin, end = case
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    parts = [np.asarray(array[box]).reshape(-1) for box in boxes(shape, begin, end)]
    joined = np.concatenate(parts) if parts else np.empty(0, int)
    assert joined.tolist() == list(range(begin, end))


def test_coefficient_zero_of_a_nan_is_allowed_only_where_asked(tmp_path: Path) -> None:
    one = write_safetensors(tmp_path / "a.safetensors", {"x": np.array([1, 2], np.float32)})
    two = write_safetensors(tmp_path / "b.safetensors", {"x": np.array([np.nan, 2], np.float32)})
    with pytest.raises(ValueError, match=r"'x' in .*b.safetensors has NaN"):
        merge([one, two], tmp_path / "out.safetensors", weights=[1, 0])
    merge([one, two], tmp_path / "out.safetensors", weights=[1, 0], allow_nonfinite=True)
    found = read_safetensors(tmp_path / "out.safetensors")[0]["x"]
    assert np.isnan(found[0])
    assert found[1] == 2
