"""torch tensors in the functional calls: what is taken, what is refused, what autograd notices."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import swa_fast
from reference import BFLOAT16, assert_same_bits, hard_values, running_mean

torch = pytest.importorskip("torch")

TORCH_DTYPES = {"float64": "float64", "float32": "float32", "float16": "float16"}


def to_torch(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


@pytest.mark.parametrize("average", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", ["float64", "float32", "float16", "bfloat16"])
def test_every_pair_of_dtypes(average: str, value: str) -> None:
    rng = np.random.default_rng(0)
    names = {"bfloat16": BFLOAT16}
    a = hard_values(rng, names.get(average, np.dtype(average)), 999)
    v = hard_values(rng, names.get(value, np.dtype(value)), 999)
    expected = running_mean(a, v, 6)
    swa_fast.running_mean_([to_torch(a)], [to_torch(v)], 6)
    assert_same_bits(a, expected)


def test_parameters_and_numpy_averages_mix() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4))
    averages = [np.zeros(tuple(p.shape), np.float32) for p in model.parameters()]
    swa_fast.running_mean_(averages, model.parameters(), 0)
    for a, p in zip(averages, model.parameters(), strict=True):
        assert (a == p.detach().numpy()).all()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(2)
    swa_fast.running_mean_(averages, list(model.parameters()), 1)
    swa_fast.swap_(list(model.parameters()), averages)
    for a, p in zip(averages, model.parameters(), strict=True):
        np.testing.assert_allclose(a - p.detach().numpy(), 1, rtol=1e-6)


def test_integer_and_bool_buffers_are_copied() -> None:
    dst = [
        torch.zeros(3, dtype=torch.int64),
        torch.tensor(False),
        torch.zeros(2, dtype=torch.uint8),
    ]
    src = [torch.arange(3), torch.tensor(True), torch.tensor([7, 9], dtype=torch.uint8)]
    swa_fast.copy_(dst, src)
    assert [t.tolist() for t in dst] == [[0, 1, 2], True, [7, 9]]


def test_channels_last() -> None:
    a = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    v = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    expected = a + (v - a) * 0.5
    swa_fast.running_mean_([a], [v], 1)
    assert torch.equal(a, expected)
    with pytest.raises(BufferError, match=r"values\[0\] has strides \(60, 20, 5, 1\)"):
        swa_fast.running_mean_([a], [v.contiguous()], 1)


def test_views_are_refused_unless_dense() -> None:
    base = torch.zeros(6, 6)
    with pytest.raises(BufferError, match=r"averages\[0\] is not contiguous"):
        swa_fast.running_mean_([base[:, :3]], [torch.zeros(6, 3)], 0)
    with pytest.raises(BufferError, match=r"values\[0\] is not contiguous"):
        swa_fast.running_mean_([base], [torch.zeros(1, 6).expand(6, 6)], 0)
    swa_fast.running_mean_([base[2:4]], [torch.ones(2, 6)], 0)
    assert base.sum() == 12


@pytest.mark.parametrize("size", [(), (1,), (4,)])
def test_lazy_conjugates_and_negatives(size: tuple[int, ...]) -> None:
    plain = torch.ones(size, dtype=torch.complex64)
    for call in (swa_fast.copy_, swa_fast.swap_):
        call([plain], [torch.zeros_like(plain)])
        with pytest.raises(BufferError, match=r"\[0\] is a lazy conjugate .*resolve_conj"):
            call([torch.zeros_like(plain)], [plain.conj()])
        with pytest.raises(BufferError, match=r"\[0\] is a lazy conjugate"):
            call([plain.conj()], [torch.zeros_like(plain)])
    real = torch.ones(size)
    swa_fast.running_mean_([real], [torch.zeros(size)], 1)
    negative = torch._neg_view(real)
    for _ in range(2):  # what was refused once is refused again
        with pytest.raises(BufferError, match=r"values\[0\] is a lazy negative .*resolve_neg"):
            swa_fast.running_mean_([torch.zeros(size)], [negative], 1)
    swa_fast.running_mean_([torch.zeros(size)], [negative.resolve_neg()], 1)


def test_a_lazy_tensor_is_seen_where_a_plain_one_was_freed() -> None:
    """Plain tensors are remembered as such; their memory may next hold a lazy one."""
    other = torch.zeros(3)
    for _ in range(200):
        swa_fast.copy_([other], [torch.ones(3)])
        base = torch.ones(3)
        with pytest.raises(BufferError, match="lazy negative"):
            swa_fast.copy_([other], [torch._neg_view(base)])
        del base


def test_lazy_tensors_are_found_among_many_that_come_again_and_die() -> None:
    """What is remembered of plain tensors: their order, which ones died, and gaps closed."""
    kept = [torch.ones(2) for _ in range(50)]
    targets = [torch.zeros(2) for _ in kept]
    for round_ in range(1500):  # 75,000 tensors: more than are remembered
        fresh = [torch.ones(2) for _ in range(50)]
        swa_fast.copy_(targets, fresh)
        swa_fast.copy_(targets, kept[::-1] if round_ % 2 else kept)
        if round_ % 100 == 0:
            at = round_ // 100
            lazy = [*fresh[:at], torch._neg_view(fresh[at]), *kept[at + 1 :]]
            with pytest.raises(BufferError, match=rf"src\[{at}\] is a lazy negative"):
                swa_fast.copy_(targets, lazy)
            kept[at] = torch.ones(2)
    assert all(bool((target == 1).all()) for target in targets)


def test_remembered_tensors_are_let_go() -> None:
    tensor = torch.ones(3)
    swa_fast.copy_([torch.zeros(3)], [tensor])
    death = weakref.ref(tensor)
    cycle: list[Any] = [tensor]
    cycle.append(cycle)
    del tensor, cycle
    gc.collect()
    assert death() is None


def test_fake_and_wrapped_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(3)
    with pytest.raises(TypeError, match=r"values\[0\] is a .*FakeTensor, a torch.Tensor subclass"):
        swa_fast.running_mean_([torch.zeros(3)], [fake], 0)

    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner: Any) -> Any:
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        @classmethod
        def __torch_dispatch__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"averages\[0\] is a .*Wrapper, a torch.Tensor subclass"):
        swa_fast.running_mean_([Wrapper(torch.zeros(3))], [torch.zeros(3)], 0)


def test_a_harmless_subclass_works() -> None:
    class Named(torch.Tensor):
        pass

    a, v = torch.zeros(3).as_subclass(Named), torch.ones(3, requires_grad=True)
    swa_fast.running_mean_([a], [torch.nn.Parameter(v.as_subclass(Named))], 0)
    assert a.tolist() == [1, 1, 1]
    with pytest.raises(BufferError, match="lazy negative"):
        swa_fast.running_mean_([a], [torch._neg_view(torch.ones(3)).as_subclass(Named)], 0)


def test_tensors_without_memory() -> None:
    for nothing in (torch.empty(3, device="meta"), torch.nn.UninitializedParameter()):
        with pytest.raises((BufferError, ValueError), match=r"values\[0\]"):
            swa_fast.running_mean_([torch.zeros(3)], [nothing], 0)
    freed = torch.zeros(3)
    freed.untyped_storage().resize_(0)
    with pytest.raises(BufferError, match=r"values\[0\]"):
        swa_fast.running_mean_([torch.zeros(3)], [freed], 0)


def test_sparse_and_quantized_tensors() -> None:
    sparse = torch.eye(3).to_sparse()
    with pytest.raises((BufferError, TypeError), match=r"values\[0\]"):
        swa_fast.running_mean_([torch.zeros(3, 3)], [sparse], 0)
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises((BufferError, TypeError), match=r"values\[0\]"):
        swa_fast.running_mean_([torch.zeros(3)], [quantized], 0)


def test_tensors_of_function_transforms() -> None:
    def inside(x: Any) -> Any:
        with pytest.raises(BufferError, match=r"values\[0\] .*cannot be exported"):
            swa_fast.running_mean_([np.zeros(3, np.float32)], [x], 0)
        return x * 2

    torch.func.vmap(inside)(torch.ones(2, 3))
    torch.func.grad(lambda x: inside(x).sum())(torch.ones(3))


def test_autograd_notices_the_write() -> None:
    for call in (
        lambda t: swa_fast.running_mean_([t], [torch.ones(3)], 1),
        lambda t: swa_fast.copy_([np.zeros(3, np.float32), t], [torch.ones(3), torch.ones(3)]),
        lambda t: swa_fast.swap_([torch.ones(3)], [t]),
    ):
        weight = torch.ones(3, requires_grad=True)
        saved = torch.full((3,), 2.0)
        loss = (weight * saved).sum()
        version = saved._version
        call(saved)
        assert saved._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_what_is_only_read_keeps_its_version() -> None:
    a, v = torch.zeros(3), torch.ones(3)
    swa_fast.running_mean_([a], [v], 1)
    swa_fast.lerp_([v], [a], 0.0)
    assert v._version == 0
    with pytest.raises(ValueError, match="shape"):
        swa_fast.copy_([v], [torch.ones(4)])
    assert v._version == 0


def test_inference_tensors() -> None:
    with torch.inference_mode():
        a = torch.zeros(3)
        swa_fast.running_mean_([a], [torch.ones(3)], 0)
    swa_fast.running_mean_([a], [torch.full((3,), 3.0)], 1)
    assert a.tolist() == [2, 2, 2]


def test_a_list_emptied_by_another_thread_keeps_its_tensors() -> None:
    """The call holds its own references while the interpreter is unlocked."""
    import threading

    for _ in range(20):
        averages = [torch.zeros(200_000) for _ in range(8)]
        kept = list(averages)
        values = [torch.ones(200_000) for _ in range(8)]
        thread = threading.Thread(target=lambda a=averages, v=values: (a.clear(), v.clear()))
        thread.start()
        try:
            swa_fast.running_mean_(averages, values, 0)
        except ValueError as error:  # emptied between the two lists
            assert "must be equally long" in str(error)  # noqa: PT017
            kept = []
        thread.join()
        assert len({bool((t == 1).all()) for t in kept}) <= 1
