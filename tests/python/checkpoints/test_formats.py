"""Each format is read and written in kind, and the tools that it belongs to read the result."""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_tools import (
    leftovers,
    random_model,
    read_safetensors,
    same_bytes,
    weighted_sum,
    write_safetensors,
)
from swa_fast.checkpoints import CheckpointError, coefficients, merge, reconstruct

THIRDS = [1 / 3] * 3


def mean_of(tensors: list[Any]) -> np.ndarray:
    return weighted_sum([np.asarray(tensor) for tensor in tensors], THIRDS)


class TestTorch:
    @pytest.fixture
    def torch(self) -> Any:
        return pytest.importorskip("torch")

    def files(self, torch: Any, folder: Path, wrap: Any) -> tuple[list[Path], list[Any]]:
        paths, objects = [], []
        for seed in range(3):
            torch.manual_seed(seed)
            path = folder / f"step_{seed}.pt"
            objects.append(wrap(seed))
            torch.save(objects[-1], path)
            paths.append(path)
        return paths, objects

    def test_shared_storages_views_and_layouts(self, torch: Any, tmp_path: Path) -> None:
        def wrap(seed: int) -> Any:
            tied, flat = torch.randn(4, 5), torch.randn(20)
            return {
                "tied": tied,
                "also": tied,
                "turned": tied.t(),
                "head": flat[:8],
                "tail": flat[8:].view(3, 4),
                "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
                "slice": torch.randn(100)[10:20],
                "empty": torch.zeros(0, 3),
                "scalar": torch.tensor(float(seed)),
                "parameter": torch.nn.Parameter(torch.randn(3)),
                "float8": torch.randn(9).to(torch.float8_e5m2),
                "complex": torch.randn(3, dtype=torch.complex64),
                "count": torch.tensor(seed),
            }

        paths, objects = self.files(torch, tmp_path, wrap)
        merge(paths, tmp_path / "out.pt")
        with zipfile.ZipFile(tmp_path / "out.pt") as archive:
            assert archive.testzip() is None
        for mmap in (False, True):
            found = torch.load(tmp_path / "out.pt", weights_only=True, mmap=mmap)
            assert list(found) == list(objects[0])
            assert found["tied"] is found["also"]
            assert found["turned"].data_ptr() == found["tied"].data_ptr()
            assert found["head"].untyped_storage().data_ptr() == (
                found["tail"].untyped_storage().data_ptr()
            )
            assert found["last"].is_contiguous(memory_format=torch.channels_last)
            assert isinstance(found["parameter"], torch.nn.Parameter)
            assert found["count"] == 2
            assert found["slice"].untyped_storage().nbytes() == 40
            for name in ("tied", "turned", "head", "tail", "last", "slice", "scalar", "parameter"):
                arrays = [item[name].detach().numpy() for item in objects]
                assert same_bytes(found[name].detach().numpy(), mean_of(arrays)), name

    def test_tensors_that_are_shared_only_in_the_last_file_are_untied(
        self, torch: Any, tmp_path: Path
    ) -> None:
        one = {"a": torch.ones(2), "b": torch.zeros(2)}
        tied = torch.full((2,), 3.0)
        torch.save(one, tmp_path / "1.pt")
        torch.save({"a": tied, "b": tied}, tmp_path / "2.pt")
        merge([tmp_path / "1.pt", tmp_path / "2.pt"], tmp_path / "out.pt")
        found = torch.load(tmp_path / "out.pt", weights_only=True)
        assert found["a"].tolist() == [2, 2]
        assert found["b"].tolist() == [1.5, 1.5]

    def test_nested_checkpoints(self, torch: Any, tmp_path: Path) -> None:
        def wrap(seed: int) -> Any:
            return {
                "state_dict": {"w": torch.full((2,), float(seed))},
                "state_dict_ema": {"w": torch.full((2,), 10.0 * seed)},
                "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
                "optimizer_states": [1],
                "epoch": seed,
                "rng": torch.arange(seed + 3, dtype=torch.uint8),
                "list": [torch.tensor([float(seed)]), "text"],
            }

        paths, _ = self.files(torch, tmp_path, wrap)
        report = merge(paths, tmp_path / "out.pt")
        assert report.averaged == 2
        assert report.skipped == ["optimizer", "optimizer_states"]
        found = torch.load(tmp_path / "out.pt", weights_only=True)
        assert found["state_dict"]["w"].tolist() == [1, 1]
        assert found["state_dict_ema"]["w"].tolist() == [10, 10]
        assert found["epoch"] == 2
        assert found["rng"].tolist() == [0, 1, 2, 3, 4]
        assert found["list"][0].tolist() == [2]
        assert "optimizer" not in found
        merge(paths, tmp_path / "ema.pt", key="state_dict_ema", keep_optimizer=True)
        found = torch.load(tmp_path / "ema.pt", weights_only=True)
        assert found["state_dict"]["w"].tolist() == [2, 2]
        assert found["state_dict_ema"]["w"].tolist() == [10, 10]
        assert found["optimizer"]["state"][0]["exp_avg"].tolist() == [1, 1]
        with pytest.raises(CheckpointError, match="has no part 'module'; at the top it has state_"):
            merge(paths, tmp_path / "no.pt", key="module")

    def test_to_safetensors(self, torch: Any, tmp_path: Path) -> None:
        """What is not of the model stays behind: its places are in a dict, which is not written."""

        def wrap(seed: int) -> Any:
            moments = {"state": {0: {"exp_avg": torch.ones(2)}}}
            return {"model": {"w": torch.randn(3)}, "rng": torch.arange(3), "optimizer": moments}

        paths, objects = self.files(torch, tmp_path, wrap)
        report = merge(paths, tmp_path / "out.safetensors")
        assert report.copied == []
        assert report.skipped == ["optimizer", "rng"]
        with pytest.raises(CheckpointError, match="keep-optimizer needs an output of the last"):
            merge(paths, tmp_path / "kept.safetensors", keep_optimizer=True)
        found, _ = read_safetensors(tmp_path / "out.safetensors")
        assert list(found) == ["w"]
        arrays = [item["model"]["w"].numpy() for item in objects]
        assert same_bytes(found["w"], mean_of(arrays))

    def test_arguments_of_a_training_script(self, torch: Any, tmp_path: Path) -> None:
        """timm and fairseq save theirs, an `argparse.Namespace`; it can run nothing."""

        def wrap(seed: int) -> Any:
            settings = argparse.Namespace(lr=0.1, seed=seed)
            return {"state_dict": {"w": torch.full((2,), float(seed))}, "args": settings}

        paths, _ = self.files(torch, tmp_path, wrap)
        merge(paths, tmp_path / "out.pth.tar")
        found = torch.load(tmp_path / "out.pth.tar", weights_only=False)
        assert found["state_dict"]["w"].tolist() == [1, 1]
        assert found["args"] == argparse.Namespace(lr=0.1, seed=2)
        with pytest.raises(pickle.UnpicklingError, match="Namespace"):
            torch.load(paths[0], weights_only=True)  # the merge has left torch as it was

    def test_lightning(self, torch: Any, tmp_path: Path) -> None:
        lightning = pytest.importorskip("lightning")
        sys.path.insert(0, str(tmp_path))

        class Model(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(2, 1)

            def configure_optimizers(self) -> Any:
                return torch.optim.Adam(self.parameters())

            def training_step(self, batch: Any, index: int) -> Any:
                return self.layer(batch[0]).sum()

        paths = []
        for seed in range(3):
            torch.manual_seed(seed)
            trainer = lightning.Trainer(
                max_steps=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                accelerator="cpu",
            )
            data = torch.utils.data.TensorDataset(torch.ones(2, 2))
            trainer.fit(Model(), torch.utils.data.DataLoader(data))
            paths.append(tmp_path / f"epoch=0-step={seed}.ckpt")
            trainer.save_checkpoint(paths[-1])
        merge([str(tmp_path / "*.ckpt")], tmp_path / "mean.ckpt")
        found = Model.load_from_checkpoint(tmp_path / "mean.ckpt", weights_only=True)
        states = [torch.load(path, weights_only=True)["state_dict"] for path in paths]
        for name, tensor in found.state_dict().items():
            assert same_bytes(tensor.numpy(), mean_of([state[name].numpy() for state in states]))


class TestFolders:
    def write(self, folder: Path, seed: int) -> dict[str, np.ndarray]:
        folder.mkdir(parents=True)
        model = random_model(seed)
        parts = [{"layer.weight": model["layer.weight"]}, {k: model[k] for k in list(model)[1:]}]
        names = {}
        for number, part in enumerate(parts, 1):
            name = f"model-{number:05}-of-00002.safetensors"
            write_safetensors(folder / name, part, {"format": "pt"})
            names.update(dict.fromkeys(part, name))
        index = {"metadata": {"total_size": 1, "note": "kept"}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "config.json").write_text(json.dumps({"seed": seed, "torch_dtype": "float32"}))
        (folder / "tokenizer.model").write_bytes(b"tokens")
        (folder / "trainer_state.json").write_text("{}")
        (folder / "optimizer.pt").write_bytes(b"moments")
        return model

    def test_a_run_of_sharded_folders(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        models = [self.write(run / f"checkpoint-{step}", step) for step in (8, 9, 10)]
        report = merge([run], tmp_path / "out", dtype="bfloat16")
        assert [Path(item.path).name for item in report.inputs] == [
            "checkpoint-8",
            "checkpoint-9",
            "checkpoint-10",
        ]
        assert report.skipped == ["optimizer.pt"]
        out = tmp_path / "out"
        assert sorted(path.name for path in out.iterdir()) == [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.model",
        ]
        assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["metadata"]["note"] == "kept"
        assert index["metadata"]["total_size"] == 2 * 17 * 5 + 2 * 5 + 16
        made = index["metadata"]["swa_fast.merge"]
        assert [item["coefficient"] for item in made["inputs"]] == THIRDS
        found: dict[str, np.ndarray] = {}
        for name, file in index["weight_map"].items():
            found[name] = read_safetensors(out / file)[0][name]
        for name in ("layer.weight", "layer.bias"):
            expected = weighted_sum([model[name] for model in models], THIRDS, "bfloat16")
            assert same_bytes(found[name], expected)
        assert leftovers(tmp_path) == []

    @pytest.mark.parametrize("output", [None, "bfloat16"])
    def test_torch_shards(self, tmp_path: Path, output: str | None) -> None:
        """The layout of transformers before safetensors; tied tensors are in one shard."""
        torch = pytest.importorskip("torch")
        states = []
        for step in (8, 9, 10):
            folder = tmp_path / "run" / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            torch.manual_seed(step)
            tied = torch.randn(6, 4)
            parts = [
                {"embed": tied, "head": tied, "n": torch.tensor(step)},
                {"norm": torch.randn(4), "deep.bias": torch.randn(3)},
            ]
            names = {}
            for number, part in enumerate(parts, 1):
                name = f"pytorch_model-{number:05}-of-00002.bin"
                torch.save(part, folder / name)
                names.update(dict.fromkeys(part, name))
            index = {"metadata": {"total_size": 1}, "weight_map": names}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
            (folder / "config.json").write_text("{}")
            torch.save({"state": {}}, folder / "optimizer.pt")
            torch.save({"anything": step}, folder / "training_args.bin")
            states.append({**parts[0], **parts[1]})
        out = tmp_path / "out"
        report = merge([tmp_path / "run"], out, dtype=output or "same")
        assert report.averaged == 4
        assert report.copied == ["n"]
        assert report.bytes_written == sum(path.stat().st_size for path in out.iterdir())
        assert sorted(path.name for path in out.iterdir()) == [
            "config.json",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model-00002-of-00002.bin",
            "pytorch_model.bin.index.json",
        ]
        index = json.loads((out / "pytorch_model.bin.index.json").read_text())
        found = {}
        for name, file in index["weight_map"].items():
            found[name] = torch.load(out / file, weights_only=True)[name]
        shard = torch.load(out / "pytorch_model-00001-of-00002.bin", weights_only=True)
        assert shard["embed"] is shard["head"]
        for name in ("embed", "norm", "deep.bias"):
            arrays = [state[name].numpy() for state in states]
            expected = weighted_sum(arrays, THIRDS, output)
            actual = found[name].view(torch.int16).numpy() if output else found[name].numpy()
            assert same_bytes(actual, expected.view(np.int16) if output else expected)
        assert index["metadata"]["total_size"] == (2 if output else 4) * (24 + 24 + 4 + 3) + 8

    def test_a_shard_without_tensors_is_left_out(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a", 1)
        report = merge([tmp_path / "a"], tmp_path / "out", exclude="weight")
        assert report.skipped == ["layer.weight", "optimizer.pt"][::-1]
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == {"model-00001-of-00001.safetensors"}
        for name, file in index["weight_map"].items():
            assert name in read_safetensors(tmp_path / "out" / file)[0]

    def test_overwriting_a_folder(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a", 1)
        merge([tmp_path / "a"], tmp_path / "out")
        (tmp_path / "out" / "old.txt").write_text("old")
        merge([tmp_path / "a"], tmp_path / "out", overwrite=True)
        assert not (tmp_path / "out" / "old.txt").exists()
        assert leftovers(tmp_path) == []

    def test_transformers_loads_what_it_saved(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        config = transformers.GPT2Config(
            vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2
        )
        states = []
        for step in range(3):
            torch.manual_seed(step)
            model = transformers.GPT2LMHeadModel(config)
            states.append(model.state_dict())
            model.save_pretrained(tmp_path / "run" / f"checkpoint-{step}", max_shard_size="20KB")
        merge([tmp_path / "run"], tmp_path / "out")
        found = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out")
        assert found.lm_head.weight is found.transformer.wte.weight
        for name, tensor in found.state_dict().items():
            arrays = [state[name].numpy() for state in states]
            assert same_bytes(tensor.numpy(), mean_of(arrays)), name


class TestKeras:
    def test_keras_loads_what_it_saved(self, tmp_path: Path) -> None:
        pytest.importorskip("h5py")
        pytest.importorskip("keras")
        pytest.importorskip("torch")
        code = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
from swa_fast.checkpoints import merge
folder = sys.argv[1]
for seed in range(3):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8),
        keras.layers.BatchNormalization(), keras.layers.Dense(2, dtype="bfloat16")])
    model.compile("adam", "mse")
    model.fit(np.random.randn(8, 4), np.random.randn(8, 2), verbose=0)
    model.save(f"{folder}/step_{seed}.keras")
    model.save_weights(f"{folder}/step_{seed}.weights.h5")
for suffix in ("keras", "weights.h5"):
    report = merge([f"{folder}/step_*.{suffix}"], f"{folder}/out.{suffix}")
    assert any("optimizer" in name for name in report.skipped)
def mean(arrays):
    total = 1 / 3 * arrays[0].astype(float)
    for array in arrays[1:]:
        total = total + 1 / 3 * array.astype(float)
    return total
loaded = [keras.models.load_model(f"{folder}/step_{seed}.keras").get_weights() for seed in range(3)]
found = keras.models.load_model(f"{folder}/out.keras")
again = keras.models.load_model(f"{folder}/step_0.keras")
again.load_weights(f"{folder}/out.weights.h5")
for index, array in enumerate(found.get_weights()):
    arrays = [weights[index] for weights in loaded]
    if array.dtype == np.float32:
        assert np.array_equal(array, mean(arrays).astype(np.float32))
    else:
        assert np.abs(array.astype(float) - mean(arrays)).max() < 0.01
    assert np.array_equal(array, again.get_weights()[index])
"""
        subprocess.run([sys.executable, "-W", "ignore", "-c", code, tmp_path], check=True)

    def test_compressed_h5(self, tmp_path: Path) -> None:
        h5py = pytest.importorskip("h5py")
        arrays = [np.random.default_rng(seed).standard_normal((50, 7, 3)) for seed in range(3)]
        for seed, array in enumerate(arrays):
            with h5py.File(tmp_path / f"step_{seed}.h5", "w") as file:
                file.create_dataset("a/b", data=array, chunks=(10, 7, 2), compression="gzip")
                file["a"].attrs["kept"] = seed
                file["c"] = np.float32(seed)
        merge([str(tmp_path / "step_*.h5")], tmp_path / "out.h5")
        with h5py.File(tmp_path / "out.h5") as file:
            assert same_bytes(file["a/b"][()], mean_of(arrays))
            assert file["a"].attrs["kept"] == 2
            assert file["c"][()] == 1
            made = json.loads(file.attrs["swa_fast.merge"])
            assert len(made["inputs"]) == 3


class TestNpz:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_numpy_loads_what_it_saved(self, tmp_path: Path, save: Any) -> None:
        models = [random_model(seed) for seed in range(3)]
        for seed, model in enumerate(models):
            extra = (
                {} if save is np.savez_compressed else {"f": np.asfortranarray(np.eye(3) * seed)}
            )
            save(tmp_path / f"step_{seed}.npz", text=np.array("hi"), **model, **extra)
        merge([str(tmp_path / "step_*.npz")], tmp_path / "out.npz")
        found = np.load(tmp_path / "out.npz")
        for name in ("layer.weight", "layer.bias"):
            assert same_bytes(found[name], mean_of([model[name] for model in models]))
        assert found["text"] == "hi"
        assert found["steps"].tolist() == [2, 7]
        if save is np.savez:
            assert found["f"].tolist() == np.eye(3).tolist()
        with zipfile.ZipFile(tmp_path / "out.npz") as archive:
            assert len(json.loads(archive.comment)["inputs"]) == 3


class TestDcp:
    def save(self, torch: Any, path: Path, state: Any) -> None:
        import torch.distributed.checkpoint as dcp

        dcp.save(state, checkpoint_id=path, no_dist=True)

    def test_torch_loads_what_it_saved(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

        states = []
        for step in range(3):
            torch.manual_seed(step)
            states.append({"w": torch.randn(5, 3), "b": torch.randn(7).bfloat16()})
            moments = {"state": {"0": {"exp_avg": torch.ones(3)}}}
            whole = {"model": states[-1], "optim": moments, "epoch": step, "e": torch.ones(0, 2)}
            self.save(torch, tmp_path / "run" / f"step_{step}", whole)
        report = merge([tmp_path / "run"], tmp_path / "out")
        assert report.skipped == ["optim.state.0.exp_avg"]
        dcp_to_torch_save(tmp_path / "out", tmp_path / "out.pt")
        found = torch.load(tmp_path / "out.pt", weights_only=True)
        assert found["epoch"] == 2
        assert "optim" not in found
        assert same_bytes(
            found["model"]["w"].numpy(), mean_of([state["w"].numpy() for state in states])
        )
        mean = sum(state["b"].double() for state in states) / 3
        assert torch.equal(found["model"]["b"], mean.bfloat16())
        assert leftovers(tmp_path) == []

    def test_other_shardings(self, tmp_path: Path) -> None:
        """Two processes, each with a half of the rows or of the columns."""
        torch = pytest.importorskip("torch")
        if not torch.distributed.is_available():
            pytest.skip("torch has no distributed")
        worker = """
import os, sys, torch, torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import distribute_tensor, init_device_mesh, Shard
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
for axis in (0, 1):
    torch.manual_seed(axis)
    whole = torch.randn(7, 5)
    dcp.save({"w": distribute_tensor(whole, mesh, [Shard(axis)])},
             checkpoint_id=f"{folder}/run/step_{axis}")
dist.barrier()
os._exit(0)  # threads of torch's can abort a process that ends while they run
"""
        processes = [
            subprocess.Popen([sys.executable, "-c", worker, str(rank), str(tmp_path)])
            for rank in range(2)
        ]
        assert [process.wait(240) for process in processes] == [0, 0]
        merge([tmp_path / "run"], tmp_path / "out.safetensors")
        found, _ = read_safetensors(tmp_path / "out.safetensors")
        arrays = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            arrays.append(torch.randn(7, 5).numpy())
        assert same_bytes(found["w"], weighted_sum(arrays, [0.5, 0.5]))


def test_snapshots_of_power_averages(tmp_path: Path) -> None:
    models = {}
    for step in (100, 200):
        for width in (0.05, 0.1):
            model = random_model(int(step * width))
            models[step, width] = model
            metadata = {"step": str(step), "sigma_rel": str(width)}
            write_safetensors(tmp_path / f"s{step}-{width}.safetensors", model, metadata)
    out = tmp_path / "made.safetensors"
    report = reconstruct(tmp_path, 0.1, out)
    assert [item.coefficient for item in report.inputs] == pytest.approx([0, 0, 0, 1], abs=1e-6)
    report = reconstruct(tmp_path, 0.08, out, overwrite=True)
    shares = [item.coefficient for item in report.inputs]
    assert report.magnitude == pytest.approx(sum(map(abs, shares)))
    assert report.profile_error == coefficients.power(list(models), 0.08).error
    assert "error 4.93%, absolute coefficients 1.0" in report.table()
    assert len(report.warnings) == 1
    found, metadata = read_safetensors(out)
    arrays = [model["layer.bias"] for model in models.values()]
    assert same_bytes(found["layer.bias"], weighted_sum(arrays, shares))
    assert "sigma_rel" not in metadata
    with pytest.raises(CheckpointError, match="no safetensors file that carries"):
        reconstruct(tmp_path, 0.08, tmp_path / "x.safetensors", step=10)
    with pytest.raises(CheckpointError, match="1 of 1 do not"):
        merge([out], tmp_path / "x.safetensors", schedule="power:0.1")
