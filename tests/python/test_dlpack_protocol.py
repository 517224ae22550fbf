"""Producers that speak DLPack from Python: well, badly, and from other devices."""

from __future__ import annotations

import array
import ctypes
import gc
from typing import Any

import numpy as np
import pytest

import swa_fast

CPU, CUDA, METAL = 1, 2, 8
FLOAT, BFLOAT = 2, 4


class Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("dtype", DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER))


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class Producer:
    """Four floats behind a capsule whose every field a test can spoil."""

    def __init__(self, versioned: bool = True, **spoiled: Any) -> None:
        self.memory = np.arange(1.0, 5.0, dtype=np.float32)
        self.shape = (ctypes.c_int64 * 1)(*spoiled.pop("shape", (4,)))
        self.strides = (ctypes.c_int64 * 1)(*spoiled.pop("strides", (1,)))
        self.deleted = 0
        self.calls: list[dict[str, Any]] = []
        self.device: tuple[int, int] = spoiled.pop("device", (CPU, 0))
        tensor = Tensor(
            spoiled.pop("data", self.memory.ctypes.data),
            Device(*self.device),
            spoiled.pop("ndim", 1),
            DataType(*spoiled.pop("dtype", (FLOAT, 32, 1))),
            self.shape,
            self.strides,
            spoiled.pop("byte_offset", 0),
        )
        self._deleter = DELETER(self._delete)
        if versioned:
            flags = spoiled.pop("flags", 0)
            major = spoiled.pop("major", 1)
            self.managed: Any = Versioned(major, 0, None, self._deleter, flags, tensor)
            self.name = b"dltensor_versioned"
        else:
            self.managed = Managed(tensor, None, self._deleter)
            self.name = b"dltensor"
        self.name = spoiled.pop("name", self.name)
        assert not spoiled, spoiled

    def _delete(self, _: Any) -> None:
        self.deleted += 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **kwargs: Any) -> Any:
        self.calls.append(kwargs)
        return new_capsule(ctypes.addressof(self.managed), self.name, None)


class OldProducer(Producer):
    def __init__(self, **spoiled: Any) -> None:
        super().__init__(versioned=False, **spoiled)

    def __dlpack__(self, stream: Any = None) -> Any:  # type: ignore[override]
        return super().__dlpack__(stream=stream)


@pytest.mark.parametrize("producer_type", [Producer, OldProducer])
def test_both_protocols_in_both_roles(producer_type: type[Producer]) -> None:
    average, value = producer_type(), np.full(4, 3.0, np.float32)
    swa_fast.running_mean_([average], [value], 1)
    assert average.memory.tolist() == [2.0, 2.5, 3.0, 3.5]
    assert average.deleted == 1
    destination = np.zeros(4, np.float32)
    source = producer_type()
    swa_fast.copy_([destination], [source])
    assert destination.tolist() == [1, 2, 3, 4]
    assert source.deleted == 1
    if producer_type is Producer:
        assert source.calls == [{"max_version": (1, 1)}]


@pytest.mark.parametrize("device", [("cpu", 0), (1, None), (1, 2**40), (1,), 1, None])
def test_a_device_that_is_none(device: Any) -> None:
    source, destination = Producer(), np.zeros(4, np.float32)
    source.device = device
    with pytest.raises(BufferError, match=r"src\[0\].*(must return two ints|cannot be exported)"):
        swa_fast.copy_([destination], [source])
    assert not destination.any()


def test_byte_offset() -> None:
    source = Producer(byte_offset=8, shape=(2,))
    destination = np.zeros(2, np.float32)
    swa_fast.copy_([destination], [source])
    assert destination.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("spoiled", "error", "words"),
    [
        ({"flags": 1}, BufferError, r"averages\[1\] is read-only"),
        ({"flags": 2}, BufferError, r"averages\[1\] is read-only"),
        ({"major": 2}, BufferError, r"averages\[1\] was exported as DLPack version 2"),
        ({"data": None}, BufferError, r"averages\[1\] has a shape of \(4,\) but no memory"),
        ({"dtype": (FLOAT, 32, 4)}, TypeError, r"averages\[1\] has elements of .* 4 lanes"),
        ({"dtype": (FLOAT, 4, 1)}, TypeError, r"averages\[1\] has elements of .* 4 bits"),
        ({"dtype": (3, 64, 1)}, TypeError, r"averages\[1\] has elements of DLPack type code 3"),
        ({"dtype": (10, 8, 1)}, TypeError, r"averages\[1\] has dtype DLPack type code 10"),
        ({"shape": (-4,)}, ValueError, r"averages\[1\] has a negative extent"),
        ({"shape": (2**62,)}, ValueError, r"averages\[1\] has more elements than memory"),
        ({"ndim": -1}, BufferError, r"averages\[1\] was exported without a valid shape"),
        ({"strides": (2,)}, BufferError, r"averages\[1\] is not contiguous"),
        ({"strides": (0,)}, BufferError, r"averages\[1\] is not contiguous"),
        ({"name": b"used_dltensor_versioned"}, BufferError, "a capsule that was consumed before"),
        ({"name": b"something"}, BufferError, "returned no DLPack capsule but a PyCapsule"),
        ({"device": (CUDA, 1)}, ValueError, r"averages\[1\] is on cuda:1, values\[1\] is on cpu"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_malformed_producers(spoiled: dict[str, Any], error: type[Exception], words: str) -> None:
    first, value = np.zeros(3, np.float32), np.ones(4, np.float32)
    bad = Producer(**spoiled)
    memory = bad.memory.tobytes()
    with pytest.raises(error, match=words):
        swa_fast.running_mean_([first, bad], [np.ones(3, np.float32), value], 1)
    assert (first == 0).all()
    assert bad.memory.tobytes() == memory
    # A capsule that was taken is given back, one that was not is left to its producer.
    taken = "name" not in spoiled and "device" not in spoiled
    assert bad.deleted == (1 if taken else 0)


def test_gpu_tensors_get_a_clear_error() -> None:
    cuda = swa_fast.build_info()["cuda"]
    cases = [((METAL, 0), r"averages\[0\] is on a device that swa_fast cannot reach .*type 8")]
    if not cuda["available"]:
        # Which of the two it is, and what to do.
        why = (
            "no NVIDIA driver|NVIDIA driver" if cuda["built"] else "no CUDA support .*SWA_FAST_CUDA"
        )
        cases.append(((CUDA, 0), rf"averages\[0\] is on cuda:0, and .*({why})"))
        cases.append(((CUDA, 0), r"move the tensors to the CPU"))
    for device, words in cases:
        average, value = Producer(device=device), Producer(device=device)
        before = average.memory.tobytes()
        with pytest.raises(RuntimeError, match=words):
            swa_fast.running_mean_([average], [value], 1)
        assert not average.calls  # not even exported
        assert average.memory.tobytes() == before


def test_a_gpu_counter_gets_a_clear_error_too() -> None:
    average, value = np.zeros(4, np.float32), np.ones(4, np.float32)
    cuda = swa_fast.build_info()["cuda"]
    if not cuda["available"]:
        counter: Any = Producer(device=(CUDA, 0))
        with pytest.raises(RuntimeError, match=r"count is on cuda:0, and .*(CUDA|NVIDIA)"):
            swa_fast.running_mean_([average], [value], counter)
    assert not average.any()
    # Anything else that is no integer is refused as before.
    no_counter: Any = Producer()
    with pytest.raises(TypeError, match="count must be an int"):
        swa_fast.running_mean_([average], [value], no_counter)


def test_pinned_memory_is_cpu_memory() -> None:
    pinned = Producer(device=(3, 0))
    swa_fast.running_mean_([np.zeros(4, np.float32)], [pinned], 0)
    swa_fast.copy_([pinned], [np.zeros(4, np.float32)])
    assert (pinned.memory == 0).all()


def test_an_export_that_raises() -> None:
    class Broken(Producer):
        def __dlpack__(self, **kwargs: Any) -> Any:
            raise RuntimeError("memory is elsewhere")

    with pytest.raises(
        BufferError, match=r"values\[0\] .*Broken.*: RuntimeError: memory is"
    ) as caught:
        swa_fast.running_mean_([np.zeros(4, np.float32)], [Broken()], 1)
    assert isinstance(caught.value.__cause__, RuntimeError)

    class Interrupted(Producer):
        def __dlpack__(self, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swa_fast.running_mean_([np.zeros(4, np.float32)], [Interrupted()], 1)

    class NoCapsule(Producer):
        def __dlpack__(self, **kwargs: Any) -> Any:
            return 7

    with pytest.raises(BufferError, match="returned no DLPack capsule but a int"):
        swa_fast.running_mean_([np.zeros(4, np.float32)], [NoCapsule()], 1)


def test_the_buffer_protocol_serves_what_has_nothing_better() -> None:
    numbers = array.array("f", [1, 2, 3, 4])
    average = bytearray(np.zeros(4, np.float32).tobytes())
    swa_fast.copy_([memoryview(average).cast("f")], [numbers])
    assert np.frombuffer(average, np.float32).tolist() == [1, 2, 3, 4]
    swa_fast.running_mean_([numbers], [np.full(4, 3, np.float32)], 1)
    assert numbers.tolist() == [2, 2.5, 3, 3.5]


def test_nothing_is_leaked() -> None:
    import sys

    producers = [Producer() for _ in range(3)]
    arrays = [np.zeros(4, np.float32) for _ in range(3)]
    before = [sys.getrefcount(x) for x in (*producers, *arrays)]
    for _ in range(100):
        swa_fast.running_mean_(arrays, producers, 1)
        with pytest.raises(ValueError, match="shape"):
            swa_fast.running_mean_([*arrays, np.zeros(3)], [*producers, np.zeros(2)], 1)
    gc.collect()
    assert [sys.getrefcount(x) for x in (*producers, *arrays)] == before
    assert [p.deleted for p in producers] == [200] * 3


def test_jax_arrays_are_sources_only() -> None:
    jax = pytest.importorskip("jax")
    values = jax.numpy.arange(4, dtype=jax.numpy.bfloat16)
    average = np.zeros(4, np.float32)
    swa_fast.running_mean_([average], [values], 0)
    assert average.tolist() == [0, 1, 2, 3]
    with pytest.raises(BufferError, match=r"averages\[0\] is read-only"):
        swa_fast.running_mean_([values], [average], 0)
    traced: list[str] = []

    def inside(x: Any) -> Any:
        try:
            swa_fast.running_mean_([average], [x], 0)
        except (BufferError, TypeError) as error:
            traced.append(str(error))
        return x

    jax.jit(inside)(values)
    assert traced
    assert "values[0]" in traced[0]


def test_tensorflow_tensors() -> None:
    tf = pytest.importorskip("tensorflow")
    values = tf.constant([1.0, 2.0, 3.0])
    average = np.zeros(3, np.float32)
    swa_fast.running_mean_([average], [values], 0)
    assert average.tolist() == [1, 2, 3]
    half = tf.constant([1.0, 2.0, 3.0], tf.bfloat16)
    swa_fast.running_mean_([average], [half], 1)
    assert average.tolist() == [1, 2, 3]
    private = tf.raw_ops.DeepCopy(x=values)
    swa_fast.running_mean_([private], [tf.constant([3.0, 4.0, 5.0])], 1)
    assert private.numpy().tolist() == [2, 3, 4]
    assert values.numpy().tolist() == [1, 2, 3]
    with pytest.raises(
        TypeError, match=r"values\[0\] must be a tensor .*ResourceVariable.*value\(\)"
    ):
        swa_fast.running_mean_([average], [tf.Variable([1.0, 2.0, 3.0])], 0)

    @tf.function
    def graph(x: Any) -> Any:
        with pytest.raises((TypeError, BufferError), match=r"values\[0\]"):
            swa_fast.running_mean_([average], [x], 0)
        return x

    graph(values)
