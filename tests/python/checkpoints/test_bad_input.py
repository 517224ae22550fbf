"""What is refused: one sentence, exit status 2, nothing written, nothing left."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_tools import leftovers, random_model, write_safetensors
from swa_fast import cli
from swa_fast.checkpoints import CheckpointError, merge, stream
from swa_fast.checkpoints.files import InputFile


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [
        write_safetensors(tmp_path / f"step_{seed}.safetensors", random_model(seed))
        for seed in (1, 2)
    ]


def refused(paths: list[Path], output: Path, message: str, **options: object) -> None:
    before = output.read_bytes() if output.is_file() else None
    with pytest.raises(CheckpointError, match=message):
        merge(paths, output, **options)  # type: ignore[arg-type]
    assert (output.read_bytes() if output.is_file() else None) == before
    assert leftovers(output.parent) == []


CHANGES: list[tuple[str, Callable[[dict[str, np.ndarray]], object], str]] = [
    ("missing", lambda model: model.pop("layer.bias"), r"'layer.bias', and .*step_3.* has not"),
    (
        "more",
        lambda model: model.update(z=np.array([1], np.float32)),
        r"step_3.* has the tensor 'z'",
    ),
    (
        "shape",
        lambda model: model.update({"layer.bias": np.array([1], np.float32)}),
        r"\(1,\) in .*step_3",
    ),
    ("dtype", lambda model: model.update({"layer.bias": np.zeros(5)}), "float64 in .*step_3"),
]


@pytest.mark.parametrize(
    ("change", "message"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES]
)
def test_differing_models(
    pair: list[Path], tmp_path: Path, change: Callable[[object], object], message: str
) -> None:
    model = random_model(3)
    change(model)
    third = write_safetensors(tmp_path / "step_3.safetensors", model)
    refused([third, *pair], tmp_path / "out.safetensors", message)
    report = merge([third, *pair], tmp_path / "out.safetensors", common=True)
    assert report.skipped in (["layer.bias"], ["z"])


def test_options(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    refused(pair, out, "must have the sum 1", weights=[1, 1])
    refused(pair, out, "one number for each of the 2", weights=[1])
    refused(pair, out, "not both", weights=[0.5, 0.5], schedule="mean")
    refused(pair, out, "--allow-negative", weights=[1.5, -0.5])
    refused([Path(f"{pair[0]}:1"), pair[1]], out, "must have a weight, or none")
    refused([Path(f"{tmp_path}/none.pt:0.5"), pair[1]], out, "none.pt is not there, so it cannot")
    refused([tmp_path / "*.pt"], out, "no checkpoint matches")
    refused([], out, "at least one checkpoint")
    refused(pair, out, "must be one of same", dtype="int8")
    refused(pair, out, "regular expression", include="(")
    refused(pair, out, "no tensor .* is left", include="nothing")
    refused(pair, out, "must be like 512MiB", max_memory="much")
    refused(pair, out, "--max-memory leaves", max_memory=1000)
    refused(pair, out, "--threads must be", threads=0)
    refused(pair, out, "a format must be one of", format="onnx")
    refused(pair, tmp_path / "out.pt", "both must be of one format")
    with pytest.raises(CheckpointError, match="folder of the output is not there"):
        merge(pair, tmp_path / "no" / "out.safetensors")
    refused(pair, out, "--last must be", last=0)
    refused(pair, out, "differs between .*step_1.*step_2", strict_integers=True)


def test_outputs(pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    refused(pair, out, "exists: --overwrite")
    refused(pair, pair[1], "is the input", overwrite=True)
    folder = tmp_path / "model"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", random_model(0))
    refused([folder], folder / "out.safetensors", "or inside it")
    refused([folder / "model.safetensors"], folder, "is inside the output", overwrite=True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage())
    refused(pair, tmp_path / "new.safetensors", "bytes are needed")


class _Usage:
    free = 10


def test_overwrite_replaces_like_with_like(pair: list[Path], tmp_path: Path) -> None:
    """A careless name must not cost a run's checkpoints."""
    run = tmp_path / "run"
    (run / "checkpoint-1").mkdir(parents=True)
    write_safetensors(run / "model.safetensors", random_model(0))
    write_safetensors(run / "checkpoint-1" / "model.safetensors", random_model(0))
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "diary.txt").write_text("mine")
    file = write_safetensors(tmp_path / "file", random_model(0))
    refused(pair, run, "has folders in it", overwrite=True, format="folder")
    refused(pair, notes, "is no checkpoint", overwrite=True, format="folder")
    refused(
        pair, run, "is a folder, and a safetensors is a file", overwrite=True, format="safetensors"
    )
    refused(pair, file, "is a file, and .* a folder", overwrite=True, format="folder")
    assert (run / "checkpoint-1" / "model.safetensors").is_file()
    with pytest.raises(CheckpointError, match="names a folder, and a safetensors is a file"):
        merge(pair, f"{tmp_path}/new/", format="safetensors")
    with pytest.raises(CheckpointError, match="output has no name"):
        merge(pair, "")
    with pytest.raises(CheckpointError, match="checkpoint has no name"):
        merge([""], tmp_path / "new.safetensors")


def test_a_key_is_for_torch_files(pair: list[Path], tmp_path: Path) -> None:
    message = "^--key names a part of a torch file, and .*step_1.safetensors is of safetensors$"
    refused(pair, tmp_path / "out.safetensors", message, key="model")


def test_nonfinite(pair: list[Path], tmp_path: Path) -> None:
    for dtype in (np.float64, np.float32, np.float16):
        for bad in (np.nan, np.inf, -np.inf):
            model = random_model(3)
            model["layer.weight"][11, 2] = bad
            model = {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in model.items()}
            good = {
                k: v.astype(dtype) if v.dtype == np.float32 else v
                for k, v in random_model(4).items()
            }
            paths = [
                write_safetensors(tmp_path / "bad.safetensors", model),
                write_safetensors(tmp_path / "good.safetensors", good),
            ]
            refused(
                paths, tmp_path / "out.safetensors", r"'layer.weight' in .*bad.safetensors has NaN"
            )


def test_an_average_beyond_the_dtype(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", {"x": np.array([1e6], np.float32)})
    refused([path], tmp_path / "out.safetensors", "beyond the numbers of float16", dtype="float16")


def header(text: object, data: bytes = b"") -> bytes:
    raw = text if isinstance(text, bytes) else json.dumps(text).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(begin: int, end: int, shape: object = None, dtype: object = "F32") -> dict[str, object]:
    sizes = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": sizes, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "length of a header|no format"),
        (header(b"{}")[:9], "header needs"),
        ((2**40).to_bytes(8, "little") + b"{", "length of a header"),
        (header(b"[1]"), "not a JSON object|no format"),
        (header(b"{" * 5000), "not JSON"),
        (header(b'{"a": 1, "a": 2}'), "a key twice"),
        (header({"a": 1}), "lacks dtype"),
        (header({"a": entry(0, 4, dtype="F3")}, b"1234"), "unknown dtype"),
        (header({"a": entry(0, 4, dtype=3)}, b"1234"), "unknown dtype"),
        (header({"a": entry(0, 4, [-1])}, b"1234"), "the shape"),
        (header({"a": entry(0, 4, [True])}, b"1234"), "the shape"),
        (header({"a": entry(0, 4, [2])}, b"1234"), "has 4 bytes"),
        (header({"a": entry(0, 4, [10**30])}, b"1234"), "has 4 bytes"),
        (header({"a": entry(4, 0, [1])}, b"1234"), "data_offsets"),
        (header({"a": entry(0, 4), "b": entry(0, 4)}, b"1234"), "overlaps"),
        (header({"a": entry(0, 4), "b": entry(8, 12)}, b"1" * 12), "follows a hole"),
        (header({"a": entry(0, 8)}, b"1234"), "header tells of"),
        (header({"a": entry(0, 4)}, b"12345"), "header tells of"),
        (header({"__metadata__": {"a": 1}}), "object of strings"),
    ],
)
def test_malformed_safetensors(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    refused([path], tmp_path / "out.safetensors", message)


def test_an_index_that_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_safetensors(folder / "model-00001-of-00001.safetensors", random_model(0))
    index = folder / "model.safetensors.index.json"
    names = dict.fromkeys(random_model(0), "model-00001-of-00001.safetensors")

    def check(places: object, message: str) -> None:
        index.write_text(json.dumps({"weight_map": places}))
        refused([folder], tmp_path / "out", message)

    check({**names, "x": "model-00002-of-00001.safetensors"}, "which is not there")
    check({**names, "x": "model-00001-of-00001.safetensors"}, "has 'x': it has not")
    check({"steps": "model-00001-of-00001.safetensors"}, "does not name")
    check({"steps": "../../etc/passwd"}, "not a file in its folder")
    check({}, "weight_map is empty")
    check([], "no weight_map")
    index.write_text("{")
    refused([folder], tmp_path / "out", "not a valid index")
    index.unlink()
    (folder / "model-00001-of-00001.safetensors").unlink()
    refused([folder], tmp_path / "out", "no checkpoint that is known")


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/swa_fast_was_here",)


def test_pickles_with_code_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "evil.pt"
    torch.save({"a": torch.ones(2), "b": _Evil()}, path)
    refused([path], tmp_path / "out.pt", r"pickle that needs code .*system.*refused")
    torch.save(torch.nn.Linear(2, 2), path)
    refused([path], tmp_path / "out.pt", "pickle that needs code")
    array = np.empty(1, object)
    array[0] = _Evil()
    np.savez(tmp_path / "evil.npz", a=array)
    refused([tmp_path / "evil.npz"], tmp_path / "out.npz", "a pickle that could run code")
    folder = tmp_path / "dcp"
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(_Evil()))
    refused([folder], tmp_path / "out", r"names .*system.* refused")
    assert not os.path.exists("/tmp/swa_fast_was_here")


def test_damaged_files_of_other_formats(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones(1000))
    raw = (tmp_path / "a.npz").read_bytes()
    for name in ("cut.npz", "cut.pt", "cut.keras", "cut.h5", "cut.ckpt"):
        (tmp_path / name).write_bytes(raw[: len(raw) // 2])
        message = "it was cut off|is not a valid HDF5 file"
        for reader in ("torch", "h5py"):
            if importlib.util.find_spec(reader) is None:
                message += f"|needs {reader}: pip install"
        refused([tmp_path / name], tmp_path / "out.npz", message)
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    pytest.importorskip("h5py")
    refused([tmp_path / "x.h5"], tmp_path / "out.h5", "not a valid HDF5")
    with zipfile.ZipFile(tmp_path / "e.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    pytest.importorskip("torch")
    refused([tmp_path / "e.pt"], tmp_path / "out.pt", "not a valid torch file")
    (tmp_path / "t.bin").write_bytes(b"hello")
    refused([tmp_path / "t.bin"], tmp_path / "out.bin", "does not begin like one")


def test_an_output_that_is_a_file_of_an_input(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shard = write_safetensors(folder / "model-00001-of-00001.safetensors", random_model(0))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(random_model(0), shard.name)}))
    refused([index], shard, "is a file of the input", overwrite=True)
    refused([index], index, "is the input", overwrite=True)
    refused([index], folder, "is inside the output", overwrite=True)
    link = tmp_path / "link.safetensors"
    link.symlink_to(shard)
    refused([index], link, "is a file of the input", overwrite=True)


@pytest.mark.parametrize("suffix", ["npz", "pt", "keras"])
def test_a_refusal_midway_prints_nothing_more(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that is given up must not be completed when it is freed."""
    first, second, name = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}", "n"
    for number, path in enumerate((first, second)):
        if suffix == "npz":
            np.savez(path, x=np.ones(3), n=np.array(number))
        elif suffix == "pt":
            torch = pytest.importorskip("torch")
            torch.save({"x": torch.ones(3), "n": torch.tensor(number)}, path)
        else:
            h5py = pytest.importorskip("h5py")
            with h5py.File(tmp_path / "inside", "w") as file:
                file["x"], file["n"] = np.ones(3), number
            with zipfile.ZipFile(path, "w") as archive:
                archive.write(tmp_path / "inside", "model.weights.h5")
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    refused(
        [first, second], tmp_path / f"out.{suffix}", f"{name!r} of .* differs", strict_integers=True
    )
    gc.collect()
    assert ignored == []


def test_the_command_says_one_sentence_and_exits_with_2(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["merge", str(pair[0]), "nothing.pt", "-o", str(tmp_path / "out.safetensors")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "swa-fast merge: error: nothing.pt is not there\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "-0.5,1.5"], "one argument: write --weights=VALUE where the"),
        (["--sort", "age"], r"name'?, '?mtime'?\) \(see"),
        (["--sort", "times"], r"did you mean 'mtime'\?"),
        (["--dtype", "bfloat"], r"did you mean 'bfloat16'\?"),
        (["--treads", "2"], r"did you mean '--threads'\?"),
    ],
)
def test_typing_errors(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["merge", "a.npz", "-o", "b.npz", *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def _saved(kind: str, path: Path, array: np.ndarray) -> Path:
    """Save an array; return the file with its bytes."""
    if kind == "npz":
        np.savez(path, w=array)
        return path
    if kind == "safetensors":
        return write_safetensors(path, {"w": array})
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(array)
    if kind == "dcp":
        import torch.distributed.checkpoint as dcp

        dcp.save({"w": tensor}, checkpoint_id=path, no_dist=True)
        return path / "__0_0.distcp"
    torch.save({"w": tensor.reshape(512, -1).T if kind == "transposed.pt" else tensor}, path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt", "transposed.pt", "dcp"])
@pytest.mark.parametrize("change", ["cut off", "changed", "deleted"])
def test_a_file_that_another_program_writes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, change: str
) -> None:
    """Reading behind the end of a mapped file would end the process with a bus error."""
    monkeypatch.setattr(stream, "_CHUNK", 1 << 15)
    paths = [tmp_path / f"step_{step}.{kind}" for step in (1, 2)]
    array = np.ones(1 << 18, np.float32)
    file = [_saved(kind, path, array) for path in paths][1]

    def spoil(done: int, total: int) -> None:
        if change == "cut off":
            os.truncate(file, 4096)
        elif change == "changed":
            file.touch()
        else:
            file.unlink(missing_ok=True)

    message = f"{re.escape(str(file))} was {change} while it was read"
    refused(paths, tmp_path / "out.safetensors", message, progress=spoil)


def test_a_shard_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from swa_fast.checkpoints.formats.dcp import Shard, Sharded

    path = tmp_path / "shards"
    path.write_bytes(np.arange(24, dtype=np.uint16).tobytes())
    file = InputFile(path)
    columns = [Shard((0, 2 * half), (6, 2), (2, 1), file, 24 * half) for half in (0, 1)]
    source = Sharded((6, 4), 2, tuple(columns))
    halves = np.arange(24, dtype=np.uint16).reshape(2, 6, 2)
    whole = np.concatenate(list(halves), axis=1)
    for begin in range(25):
        for end in range(begin, 25):
            found = np.empty(end - begin, np.uint16)
            source.read_into(2 * begin, found.view(np.uint8))
            assert found.tolist() == whole.reshape(-1)[begin:end].tolist()
    os.truncate(path, 46)
    with pytest.raises(CheckpointError, match="cut off while it was read"):
        source.read_into(0, np.empty(48, np.uint8))


def test_a_scratch_file_for_which_there_is_no_space(tmp_path: Path) -> None:
    """Else the process would die of a bus error when it writes to the mapped file."""
    code = (
        "import resource, signal, sys, pathlib\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "from swa_fast.checkpoints.formats.writer import Scratch\n"
        "try: Scratch(pathlib.Path(sys.argv[1]), 1_000_000)\n"
        "except OSError as error: print(error)\n"
    )
    path = tmp_path / "scratch"
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert not path.exists()


def test_no_space_left_on_the_disk(pair: list[Path], tmp_path: Path) -> None:
    """A limit on file size makes writes fail midway, as a full disk does."""
    big = [
        write_safetensors(tmp_path / f"big_{i}.safetensors", {"x": np.zeros(2_000_000)})
        for i in range(2)
    ]
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))\n"
        "from swa_fast.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "out.safetensors"
    out.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", code, "merge", *map(str, big), "-o", str(out), "--overwrite"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"swa-fast merge: error: File too large: {out} was not written\n"
    assert out.read_text() == "old"
    assert leftovers(tmp_path) == []
