"""How long it takes to average checkpoints, and how much memory, against what people run.

    python benchmarks/merge.py FOLDER [--bytes 1e9] [--counts 2,5,10] [--rounds 3] [--cold]
        [--mergekit PATH/mergekit-yaml] [--json FILE] [--plot FILE.svg]
    python benchmarks/merge.py FOLDER --sparse 30e9

Makes models of the Llama layout in bfloat16 in FOLDER, with an average beside them: at most
(largest count + 2) x bytes. Every way is a process of its own; the ways take turns. Time is that of
the whole process, with its imports. Memory is the most anonymous memory, looked up every 5 ms.
`--cold` drops the models from the page cache before each run. `--sparse` merges ten sparse files of
so many bytes in all, to see the memory alone. Linux; needs torch and safetensors.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

HIDDEN, INNER, VOCABULARY = 2048, 5632, 32000


def tensors_of(nbytes: float) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a Llama of about so many bytes in bfloat16."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    layer = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (HIDDEN, HIDDEN),
        "self_attn.v_proj": (HIDDEN, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }

    def size(named: dict[str, tuple[int, ...]]) -> int:
        return sum(2 * shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in named.values())

    for number in range(max(1, round((nbytes - size(shapes)) / size(layer)))):
        for name, shape in layer.items():
            shapes[f"model.layers.{number}.{name}.weight"] = shape
    return shapes


def make_model(folder: Path, seed: int, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a model folder of random weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    model = {
        name: (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    save_file(model, folder / "model.safetensors", metadata={"format": "pt"})
    layers = 1 + max(int(name.split(".")[2]) for name in shapes if ".layers." in name)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_hidden_layers": layers,
        "vocab_size": VOCABULARY,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))


def torch_loop(models: list[Path], out: Path) -> None:
    """The loop that one writes: sums in float32, rounded at the end."""
    import torch
    from safetensors.torch import load_file, save_file

    sums: dict[str, Any] = {}
    for model in models:
        for name, tensor in load_file(model / "model.safetensors").items():
            if name in sums:
                sums[name] += tensor.to(torch.float32)
            else:
                sums[name] = tensor.to(torch.float32)
    save_file({k: (v / len(models)).to(torch.bfloat16) for k, v in sums.items()}, out)


def timm_way(models: list[Path], out: Path) -> None:
    """As avg_checkpoints of timm: sums in float64, a count for each name, float32 out."""
    import torch
    from safetensors.torch import load_file, save_file

    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for model in models:
        for name, tensor in load_file(model / "model.safetensors").items():
            if name not in sums:
                sums[name], counts[name] = tensor.clone().to(torch.float64), 1
            else:
                sums[name] += tensor.to(torch.float64)
                counts[name] += 1
    limits = torch.finfo(torch.float32)
    averages = {
        name: (total / counts[name]).clamp(limits.min, limits.max).to(torch.float32)
        for name, total in sums.items()
    }
    save_file(averages, out)


def fairseq_way(models: list[Path], out: Path) -> None:
    """As average_checkpoints of fairseq: adds in the models' dtype, float16 as float32."""
    import torch
    from safetensors.torch import load_file, save_file

    sums: dict[str, Any] = {}
    for model in models:
        for name, tensor in load_file(model / "model.safetensors").items():
            values = tensor.float() if tensor.dtype == torch.float16 else tensor
            if name in sums:
                sums[name] += values
            else:
                sums[name] = values.clone()
    for total in sums.values():
        total.div_(len(models))
    save_file(sums, out)


LOOPS = {"torch loop": torch_loop, "timm's way": timm_way, "fairseq's way": fairseq_way}


def measure(command: list[str]) -> tuple[float, int]:
    """Run a command; return its seconds and its most anonymous memory in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            found = [line for line in status.splitlines() if line.startswith("RssAnon")]
            peak = max(peak, int(found[0].split()[1]) * 1024 if found else 0)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    error = process.communicate()[1]
    seconds = time.perf_counter() - started
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{command} failed: {error.decode()[-2000:]}")
    return seconds, peak


def drop(models: list[Path]) -> None:
    """Take the models out of the page cache."""
    for model in models:
        fd = os.open(model / "model.safetensors", os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def commands(models: list[Path], folder: Path, mergekit: str | None) -> dict[str, list[str]]:
    """Return what to run, by name."""
    python = [sys.executable, __file__]
    files = [str(model / "model.safetensors") for model in models]
    out = str(folder / "out.safetensors")
    swa_fast = [sys.executable, "-m", "swa_fast", "merge", *files, "-o", out]
    found = {"swa-fast merge": swa_fast}
    for name in LOOPS:
        found[name] = [*python, "--loop", name, out, *map(str, models)]
    if mergekit:
        listed = "".join(
            f"  - model: {model}\n    parameters: {{weight: 1.0}}\n" for model in models
        )
        config = folder / "mergekit.yaml"
        config.write_text(f"merge_method: linear\nmodels:\n{listed}dtype: bfloat16\n")
        found["mergekit linear"] = [
            mergekit,
            str(config),
            str(folder / "out"),
            "--no-copy-tokenizer",
            "--lazy-unpickle",
        ]
    return found


def clean(folder: Path) -> None:
    """Delete the averages."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out.safetensors").unlink(missing_ok=True)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run all ways in turns and return seconds and memory."""
    folder = options.folder
    counts = [int(count) for count in options.counts.split(",")]
    shapes = tensors_of(options.bytes)
    models = [folder / f"model_{number}" for number in range(max(counts))]
    results: dict[str, Any] = {}
    try:
        for number, model in enumerate(models):
            if not model.exists():
                make_model(model, number, shapes)
        for count in counts:
            ways = commands(models[:count], folder, options.mergekit)
            rows: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
            for _ in range(options.rounds):
                for name, command in ways.items():
                    clean(folder)
                    if options.cold:
                        drop(models[:count])
                    rows[name].append(measure(command))
            results[str(count)] = {
                name: {
                    "seconds": statistics.median(seconds for seconds, _ in row),
                    "all_seconds": [seconds for seconds, _ in row],
                    "peak_memory": max(peak for _, peak in row),
                }
                for name, row in rows.items()
            }
            ours = results[str(count)]["swa-fast merge"]
            for name, row in results[str(count)].items():
                print(
                    f"N={count:<3} {name:<16} {row['seconds']:8.2f} s "
                    f"{row['seconds'] / ours['seconds']:6.1f}x "
                    f"{row['peak_memory'] / 2**20:9.0f} MiB "
                    f"{row['peak_memory'] / ours['peak_memory']:6.1f}x",
                    flush=True,
                )
    finally:
        clean(folder)
        (folder / "mergekit.yaml").unlink(missing_ok=True)
        if not options.keep:
            for model in models:
                shutil.rmtree(model, ignore_errors=True)
    return {"bytes": options.bytes, "cold": options.cold, "results": results}


def sparse(folder: Path, nbytes: float) -> None:
    """Merge ten sparse files of so many bytes in all."""
    count = int(nbytes) // 10 // 2
    header = json.dumps({"x": {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}})
    text = header.encode().ljust(120)
    paths = [folder / f"sparse_{number}.safetensors" for number in range(10)]
    try:
        for path in paths:
            with path.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(8 + len(text) + 2 * count)
        command = commands([], folder, None)["swa-fast merge"]
        command[4:4] = map(str, paths)
        seconds, peak = measure(command)
        print(f"{nbytes / 1e9:.0f} GB in ten files: {seconds:.1f} s, {peak / 2**20:.0f} MiB")
    finally:
        clean(folder)
        for path in paths:
            path.unlink(missing_ok=True)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw seconds and memory of every way."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    counts = list(result["results"])
    names = list(result["results"][counts[0]])
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    units = (("seconds", 1, "seconds"), ("peak_memory", 2**30, "peak anonymous memory, GiB"))
    for axis, (key, unit, label) in zip(axes, units, strict=True):
        for index, name in enumerate(names):
            values = [result["results"][count][name][key] / unit for count in counts]
            places = [place + index * 0.8 / len(names) for place in range(len(counts))]
            axis.bar(places, values, 0.8 / len(names), label=name)
        axis.set_xticks([place + 0.3 for place in range(len(counts))], counts)
        axis.set_xlabel(f"checkpoints of {result['bytes'] / 1e9:g} GB, bfloat16")
        axis.set_title(label, fontsize=10)
    axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Parse the arguments and run."""
    if sys.argv[1:2] == ["--loop"]:
        _, _, name, out, *models = sys.argv
        LOOPS[name]([Path(model) for model in models], Path(out))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bytes", type=float, default=1e9)
    parser.add_argument("--counts", default="2,5,10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the models there")
    parser.add_argument("--mergekit", help="path of mergekit-yaml")
    parser.add_argument("--sparse", type=float)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.sparse:
        sparse(options.folder, options.sparse)
        return
    result = compare(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        plot(result, options.plot)


if __name__ == "__main__":
    main()
