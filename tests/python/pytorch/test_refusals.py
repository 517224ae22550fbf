"""What torch would find only while it writes is refused first, by name, and nothing is written."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from swa_fast.torch import AveragedModel, WeightAverager, pairs, sorting


class Views(nn.Module):
    """A packed weight, and a part of it that is a parameter or buffer too."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(1))
        self.register_buffer("packed", torch.zeros(2, 4))
        self.register_buffer("part", part(self.packed))


@pytest.mark.parametrize(
    "part",
    [lambda w: w[:1], lambda w: w[:, ::2], lambda w: w.t()[1:3]],
    ids=["row", "every other column", "columns"],
)
def test_overlapping_tensors_are_refused_before_anything_is_written(part: Any) -> None:
    packed, first = torch.zeros(2, 4), torch.zeros(1)
    averager = WeightAverager([("first", first), ("qkv", packed), ("q", part(packed))])
    averager.update()
    packed.fill_(8.0)
    first.fill_(8.0)
    for call in (averager.swap, averager.copy_to, averager.applied().__enter__):
        with pytest.raises(ValueError, match=r"\[1\] and \w+\[2\] overlap in memory"):
            call()
        assert packed.unique().tolist() == first.tolist() == [8.0]
    assert averager.averages()[0].tolist() == [0.0]

    model = Views(part)
    averaged = AveragedModel(model, use_buffers=True)
    for tensor in (model.first.data, model.packed):
        tensor.fill_(8.0)
    with pytest.raises(ValueError, match=r"averages\[1\] and averages\[2\] overlap"):
        averaged.update_parameters(model)
    assert averaged.module.first.item() == 0.0


def test_columns_of_one_storage_share_no_element_and_are_served() -> None:
    packed = torch.zeros(3, 8)
    params = [packed[:, ::2], packed[:, 1:4:2], packed[:, 5::2]]
    averager = WeightAverager(params)
    for value in (1.0, 3.0):
        for index, param in enumerate(params):
            param.fill_(value + index)
        averager.update()
    before = packed.clone()
    with averager.applied():
        assert [p.unique().tolist() for p in params] == [[2.0], [3.0], [4.0]]
    assert torch.equal(packed, before)


def test_a_written_value_of_another_pair_and_an_own_one() -> None:
    base = torch.arange(8.0).reshape(2, 4)
    one, other = base[:, ::2], torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"averages\[0\] and values\[1\] overlap"):
        pairs.running_mean_([one, other], [torch.ones(2, 2), one], 1)
    with pytest.raises(ValueError, match=r"overlap in memory"):
        pairs.running_mean_([one], [base[:, 1:3]], 1)  # its own, moved by one
    with pytest.raises(ValueError, match=r"copies\[0\]\[0\] and values\[0\] overlap"):
        pairs.running_mean_([other], [base[:, 2:]], 1, copies=([one], [torch.ones(2, 2)]))
    pairs.running_mean_([one], [one], 1)
    pairs.copy_([one], [one])
    pairs.swap_([one], [one])
    assert torch.equal(base, torch.arange(8.0).reshape(2, 4))


def test_a_tensor_that_overlaps_itself_is_not_written() -> None:
    plain, base = torch.zeros(2), torch.arange(5.0)
    averager = WeightAverager([plain, base.as_strided((4, 2), (1, 1))])
    averager.update()
    plain.fill_(6.0)
    for call in (averager.copy_to, averager.swap):
        with pytest.raises(ValueError, match=r"\[1\] is expanded or overlaps itself"):
            call()
    assert plain.tolist() == [6.0, 6.0]
    assert averager.averages()[0].tolist() == [0.0, 0.0]


def _two_weights(value: float) -> Any:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for parameter in model.parameters():
        parameter.data.fill_(value)
    return model


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: torch.empty(1, 1, device="meta"), "parameter '1.weight' is on the meta device"),
        (lambda: torch.ones(1, 1).to_sparse(), "parameter '1.weight' has layout torch.sparse_coo"),
        (lambda: torch.ones(1, 1) * 1j, None),
    ],
    ids=["meta", "sparse", "complex"],
)
def test_values_that_cannot_be_read_are_refused_by_name(bad: Any, message: str | None) -> None:
    model = _two_weights(0.0)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    averagers = [WeightAverager(model), WeightAverager(model, device="cpu")]
    for averager in averagers:
        averager.update()
    model[0].weight.data.fill_(8.0)
    model[1].weight = nn.Parameter(bad())
    error = TypeError if message is None else ValueError
    message = message or "complex tensors pair with complex tensors only"
    updates: list[Any] = [lambda: averaged.update_parameters(model)]
    for update in updates + [a.update for a in averagers]:
        with pytest.raises(error, match=message):
            update()
    assert [p.item() for p in averaged.parameters()] == [0.0, 0.0]
    assert int(averaged.n_averaged) == 1
    for averager in averagers:
        assert [a.item() for a in averager.averages()] == [0.0, 0.0]
        assert averager.count == 1
    if error is ValueError:
        with pytest.raises(ValueError, match=message):
            WeightAverager(model)


@pytest.mark.parametrize("served", [True, False])
def test_complex_and_real_do_not_mix(served: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not served:
        monkeypatch.setattr(sorting, "is_served", lambda device: False)
    for one, other in ((torch.zeros(2), torch.ones(2) * 1j), (torch.zeros(2) * 1j, torch.ones(2))):
        for call in (pairs.copy_, lambda a, v: pairs.running_mean_(a, v, 1)):
            with pytest.raises(TypeError, match="complex tensors pair with complex tensors only"):
                call([one], [other])
        assert not one.any()


@pytest.mark.parametrize("average", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
@pytest.mark.parametrize("value", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_formats_meet_in_float32_or_wider_in_any_layout(average: Any, value: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    start, values = (torch.randn(2, 64, 2, generator=generator) for _ in range(2))
    averages = start.to(average)[..., 0]
    values = values.to(value)[..., 0]
    wide = torch.float64 if torch.float64 in (average, value) else torch.float32
    a, v = averages.to(wide), values.to(wide)
    expected = (a + (v - a) * 0.25).to(average)
    pairs.lerp_([averages], [values], 0.25)
    # Equal but for torch's own order of operations in float32, that is, one rounding.
    torch.testing.assert_close(
        averages,
        expected,
        rtol=torch.finfo(average).eps * 1.01,
        atol=1e-6 if average == torch.float32 else 0,
    )


def test_a_negative_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _two_weights(1.0)
    averaged = AveragedModel(model)
    averaged.n_averaged.fill_(-1)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"count must be >= 0\. Received: -1"):
            averaged.update_parameters(model)
        monkeypatch.setattr(sorting, "is_served", lambda device: False)
    assert int(averaged.n_averaged) == -1


def test_half_precision_that_cannot_be_written_is_found_first() -> None:
    model = nn.Module()
    model.plain = nn.Parameter(torch.ones(2))
    model.register_buffer("wide", torch.ones(1, dtype=torch.bfloat16).expand(3))
    averaged = AveragedModel(model, use_buffers=True)
    model.plain.data.fill_(7.0)
    with pytest.raises(ValueError, match="half-precision tensor 0 is expanded"):
        averaged.update_parameters(model)
    assert averaged.module.plain.tolist() == [1.0, 1.0]
    assert int(averaged.n_averaged) == 0


def test_a_model_made_in_inference_mode_is_refused_outside_of_it() -> None:
    model = _two_weights(1.0)
    with torch.inference_mode():
        averaged = AveragedModel(model)
    model[0].weight.data.fill_(8.0)
    with pytest.raises(RuntimeError, match=r"n_averaged must be written inside torch\.inference"):
        averaged.update_parameters(model)
    assert averaged.module[0].weight.item() == 1.0
    with torch.inference_mode():
        averaged.update_parameters(model)
    assert averaged.module[0].weight.item() == 8.0


class OneOfTwo(nn.Module):
    def __init__(self, registered: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        if registered:
            self.other = nn.Parameter(torch.zeros(2))
        else:
            self.register_buffer("other", torch.zeros(2))


@pytest.mark.parametrize("first", [False, True])
def test_a_parameter_is_no_buffer(first: bool) -> None:
    averaged = AveragedModel(OneOfTwo(first))
    with pytest.raises(
        ValueError, match=r"the model does not match.*there are \d tensors for \d averages"
    ):
        averaged.update_parameters(OneOfTwo(not first))


@pytest.mark.parametrize("use_buffers", [False, True])
def test_a_parameter_that_is_a_buffer_too_is_averaged_once(use_buffers: bool) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("again", model.weight)
    averager = WeightAverager(model, use_buffers=use_buffers)
    averaged = AveragedModel(model, use_buffers=use_buffers)
    assert averager.names == ["weight", "bias"]
    for value in (1.0, 2.0, 6.0):
        model.weight.data.fill_(value)
        averager.update()
        averaged.update_parameters(model)
    assert averager.averages()[0].unique().tolist() == [3.0]
    assert averaged.module.weight.unique().tolist() == [3.0]
    with averager.applied():
        assert model.weight.unique().tolist() == [3.0]
    assert model.weight.unique().tolist() == [6.0]


def test_a_tensor_is_no_name() -> None:
    with pytest.raises(TypeError, match=r"\[0\] must be a tensor or a \(name, tensor\) pair"):
        WeightAverager([(torch.zeros(2), torch.ones(3))])
    assert WeightAverager((torch.zeros(2), torch.ones(3))).names == ["0", "1"]


def test_replaced_parameters_are_not_kept_alive() -> None:
    model = nn.Linear(2, 2)
    averager = WeightAverager(model)
    gone = weakref.ref(model.weight)
    model.weight = nn.Parameter(torch.ones(2, 2))
    gc.collect()
    assert gone() is None
    assert averager.update()
