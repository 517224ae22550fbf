"""WeightAverager.save and write_snapshot: safetensors files with metadata; distance, decays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import swa_fast  # noqa: E402
from dropin_models import model, train  # noqa: E402
from swa_fast import Average, _core, decays  # noqa: E402
from swa_fast.torch import WeightAverager  # noqa: E402

POWERS = {
    "0.05": Average(decay=decays.power(sigma_rel=0.05)),
    "wide / 0.1": Average(decay=decays.power(sigma_rel=0.1)),
    "mean": Average(),
    "late": Average(start=100),
}


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads a safetensors file by the format's description."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    kinds = {"F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16, "I64": torch.int64}
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        flat = torch.frombuffer(bytearray(data[begin:end]), dtype=kinds[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, metadata


def trained_averager(**settings: Any) -> Any:
    trained = model()
    averager = WeightAverager(trained, **settings)
    for step in range(3):
        train(trained, step)
        averager.update()
    return averager


def test_save(tmp_path: Path) -> None:
    averager = trained_averager(decay=0.9, use_buffers=True)
    averager.save(tmp_path / "average.safetensors")
    tensors, metadata = read(tmp_path / "average.safetensors")
    expected = dict(zip(averager.names, averager.averages(), strict=True))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert (metadata["step"], metadata["count"]) == ("3", "3")
    assert Average.from_dict(json.loads(metadata["average"])) == Average(decay=0.9)
    assert [path.name for path in tmp_path.iterdir()] == ["average.safetensors"]


def test_the_library_reads_it(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    averager = trained_averager(use_buffers=True)
    averager.save(tmp_path / "average.safetensors")
    tensors = library.load_file(tmp_path / "average.safetensors")
    for name, average in zip(averager.names, averager.averages(), strict=True):
        assert torch.equal(tensors[name], average)


@pytest.mark.parametrize("background", [True, False])
def test_write_snapshot(tmp_path: Path, background: bool) -> None:
    trained = model()
    averager = WeightAverager(trained, averages=POWERS)
    for step in range(3):
        train(trained, step)
        averager.update()
    folder = tmp_path / "snapshots"
    files = averager.write_snapshot(folder, background)
    expected = {name: [average.clone() for average in averager.averages(name)] for name in POWERS}
    train(trained, 9)
    averager.update()  # changes nothing of what is being written
    averager.wait_for_snapshots()
    assert sorted(folder.iterdir()) == sorted(files)
    assert [path.name for path in files] == [
        "step-000000003-0.05.safetensors",
        "step-000000003-wide___0.1.safetensors",
        "step-000000003-mean.safetensors",
    ]
    for path, (name, width) in zip(
        files, [("0.05", "0.05"), ("wide / 0.1", "0.1"), ("mean", None)], strict=True
    ):
        tensors, metadata = read(path)
        assert metadata.get("sigma_rel") == width
        assert metadata["step"] == "3"
        pairs = zip(averager.names, expected[name], strict=True)
        assert all(torch.equal(tensors[key], average) for key, average in pairs)


def test_a_write_that_fails(tmp_path: Path) -> None:
    """The next call raises it, and nothing partial is left."""
    averager = trained_averager()
    folder = tmp_path / "snapshots"
    name = "step-000000003-average.safetensors"
    (folder / name / "in the way").mkdir(parents=True)
    averager.write_snapshot(folder)
    with pytest.raises(OSError, match=r"step-000000003"):
        averager.wait_for_snapshots()
    assert [path.name for path in folder.iterdir()] == [name]
    averager.wait_for_snapshots()


def test_refused(tmp_path: Path) -> None:
    averager = WeightAverager(model())
    for call in (averager.write_snapshot, averager.save):
        with pytest.raises(RuntimeError, match="needs at least one snapshot"):
            call(tmp_path / "x")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no dtype"):
        WeightAverager([torch.zeros(1, dtype=torch.complex128)], initial=True).save(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_distance_and_decays() -> None:
    weight, other = torch.tensor([3.0, 4.0]), torch.tensor([2], dtype=torch.int64)
    averager = WeightAverager([("w", weight), ("n", other)], decay=0.75)
    assert averager.decays == {"": 0.0}
    with pytest.raises(RuntimeError, match="needs at least one snapshot"):
        averager.distance()
    averager.update()
    assert averager.distance() == {"w": 0.0}
    weight.mul_(2)
    assert averager.distance() == {"w": 0.5}
    assert averager.decays == {"": 0.75}
    assert WeightAverager([weight], initial=True).decays == {"": 0.5}


def test_copy_only_and_lerp_to() -> None:
    first, second = torch.tensor([1.0]), torch.tensor([1.0])
    averager = WeightAverager([first, second], decay=0.5, initial=True)
    averager.copy_only(["1"])
    first.fill_(3.0), second.fill_(3.0)
    averager.update()
    assert [average.item() for average in averager.averages()] == [2.0, 3.0]
    with pytest.raises(ValueError, match=r"Received: \['2'\]"):
        averager.copy_only(["2"])
    averager.copy_only([])
    first.fill_(4.0), second.fill_(5.0)
    averager.update()
    assert [average.item() for average in averager.averages()] == [3.0, 4.0]
    averager.lerp_to(0.25)
    assert [first.item(), second.item()] == [3.25, 4.25]
    with pytest.raises(ValueError, match="decay must be between 0 and 1"):
        averager.lerp_to(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
def test_the_distance_of_each_average(dtype: Any) -> None:
    net = torch.nn.Module()
    torch.manual_seed(0)
    for name, shape in (("long", (3001, 7)), ("one", (1,)), ("empty", (0,)), ("zero", (5,))):
        setattr(net, name, torch.nn.Parameter(torch.randn(shape).to(dtype)))
    net.columns = torch.nn.Parameter(torch.randn(40, 6).to(dtype)[:, ::2])
    net.register_buffer("count", torch.zeros((), dtype=torch.int64))
    averager = WeightAverager(net, use_buffers=True)
    averager.update()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5).add_(0.25)
        net.zero.zero_()
    found = averager.distance()
    assert list(found) == ["long", "one", "zero", "columns"]
    averages = dict(zip(averager.names, averager.averages(), strict=True))
    for name, distance in found.items():
        wide = torch.complex128 if dtype.is_complex else torch.float64
        value, average = getattr(net, name).detach().to(wide), averages[name].to(wide)
        expected = (average - value).norm() / value.norm()
        assert distance == pytest.approx(float(expected), rel=1e-12) or name == "zero"
    assert found["zero"] == float("inf")


def test_distances_have_the_same_bits_on_every_number_of_threads() -> None:
    averages, values = [torch.randn(1_000_003)], [torch.randn(1_000_003)]
    found = set()
    kept = swa_fast.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            swa_fast.set_num_threads(threads)
            found.add(tuple(_core.squared_distances(averages, values)))
    finally:
        swa_fast.set_num_threads(kept)
    assert len(found) == 1
    with pytest.raises(ValueError, match=r"averages\[0\] has shape \(2,\), values\[0\] has shape"):
        _core.squared_distances([torch.ones(2)], [torch.ones(3)])
