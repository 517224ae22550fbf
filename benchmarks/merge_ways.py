"""What `merge.py` compares with: loops that people run, and models for them to average.

    python benchmarks/merge_ways.py NAME OUT MODEL...

Each loop is that of a script as it describes itself, over the file of a model folder: what differs
is where the sums are kept, in which dtype, and what is written.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

HIDDEN, INNER, VOCABULARY = 2048, 5632, 32000

WEIGHTS = "model.safetensors"


def shapes_of(nbytes: float) -> dict[str, tuple[int, ...]]:
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
    outside, inside = (2 * sum(map(math.prod, named.values())) for named in (shapes, layer))
    for number in range(max(1, round((nbytes - outside) / inside))):
        for name, shape in layer.items():
            shapes[f"model.layers.{number}.{name}.weight"] = shape
    return shapes


def make_model(folder: Path, seed: int, nbytes: float) -> None:
    """Write a model folder of random weights, without a tokenizer."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    shapes = shapes_of(nbytes)
    generator = torch.Generator().manual_seed(seed)
    model = {
        name: (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    save_file(model, folder / WEIGHTS, metadata={"format": "pt"})
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
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def torch_loop(models: list[Path], out: Path) -> None:
    """The loop that one writes: sums in float32, rounded at the end."""
    import torch
    from safetensors.torch import load_file, save_file

    sums: dict[str, Any] = {}
    for model in models:
        for name, tensor in load_file(model / WEIGHTS).items():
            if name in sums:
                sums[name] += tensor.to(torch.float32)
            else:
                sums[name] = tensor.to(torch.float32)
    save_file({k: (v / len(models)).to(torch.bfloat16) for k, v in sums.items()}, out)


def timm_way(models: list[Path], out: Path) -> None:
    """As timm's avg_checkpoints.py: sums in float64, a count for each name, float32 out."""
    import torch
    from safetensors.torch import load_file, save_file

    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for model in models:
        for name, tensor in load_file(model / WEIGHTS).items():
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
    """As fairseq's average_checkpoints.py: adds in the models' dtype, float16 as float32."""
    import torch
    from safetensors.torch import load_file, save_file

    sums: dict[str, Any] = {}
    for model in models:
        for name, tensor in load_file(model / WEIGHTS).items():
            values = tensor.float() if tensor.dtype == torch.float16 else tensor
            if name in sums:
                sums[name] += values
            else:
                sums[name] = values.clone()
    for total in sums.values():
        total.div_(len(models))
    save_file(sums, out)


def read_alone(models: list[Path], out: Path) -> None:
    """What the disk or the page cache gives: reads the files one after another, writes nothing."""
    buffer = bytearray(8 << 20)
    for model in models:
        with (model / WEIGHTS).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_and_write(models: list[Path], out: Path) -> None:
    """What every merge has to do: reads all files, and writes the last one as it passes."""
    buffer = bytearray(8 << 20)
    with out.open("wb", buffering=0) as written:
        for model in models:
            with (model / WEIGHTS).open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    if model is models[-1]:
                        written.write(memoryview(buffer)[:count])


LOOPS = {
    "torch loop": torch_loop,
    "timm's way": timm_way,
    "fairseq's way": fairseq_way,
    "reading alone": read_alone,
    "reading, writing": read_and_write,
}


if __name__ == "__main__":
    LOOPS[sys.argv[1]]([Path(model) for model in sys.argv[3:]], Path(sys.argv[2]))
