"""What test_trainers_distributed.py runs in each process, by torchrun: Lightning with FSDP2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import swa_fast.lightning as ours
from swa_fast import Average
from trainers.lightning_models import Net, loader

AVERAGES = {"ema": Average(decay=0.8), "mean": Average(start=2)}


class Sharded(Net):
    """All parameters are shards, in three groups."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[1] = torch.nn.LayerNorm(5)  # batch statistics would be each process's own

    def configure_model(self) -> None:
        if any(isinstance(parameter, DTensor) for parameter in self.parameters()):
            return
        mesh = self.device_mesh["data_parallel"]
        for part in (self.layers[0], self.layers[3], self.layers):
            fully_shard(part, mesh=mesh)


class Whole(Callback):
    """The whole parameters after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append({name: whole(p).clone() for name, p in pl_module.named_parameters()})


def whole(tensor: Any) -> Any:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fit(folder: Path, distributed: bool, epochs: int, path: Any = None) -> tuple[Any, Any, Any]:
    net, watch = Sharded(), Whole()
    callback = ours.WeightAveraging(use_buffers=False, averages=AVERAGES, eval_with="mean")
    files = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}")
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=ModelParallelStrategy(2, 1, save_distributed_checkpoint=distributed),
        callbacks=[watch, callback, files],
        max_epochs=epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(net, loader(), loader(8), ckpt_path=path)
    return net, callback, watch.seen


def check(folder: Path, distributed: bool) -> None:
    net, callback, seen = fit(folder, distributed, 4)
    averager = callback.averager
    expected = {name: seen[0][name].clone() for name in seen[0]}
    for step in seen[1:]:
        for name, value in step.items():
            expected[name] += (value - expected[name]) * (1 - 0.8)
    averages = dict(zip(averager.names, averager.averages("ema"), strict=True))
    for name, value in expected.items():
        torch.testing.assert_close(whole(averages[name]), value, rtol=1e-6, atol=1e-7)
    shards = [tensor for tensor in averages.values() if isinstance(tensor, DTensor)]
    assert len(shards) == len(averages) == 6
    assert all(shard.to_local().numel() < shard.numel() for shard in shards if len(shard) > 1)
    shown = dict(zip(averager.names, averager.averages("mean"), strict=True))
    for name, value in net.named_parameters():
        assert torch.equal(whole(value), whole(shown[name])), name
    again, resumed, rest = fit(folder / "again", distributed, 4, folder / "epoch=1.ckpt")
    for step, other in zip(rest, seen[-len(rest) :], strict=True):
        assert all(torch.equal(step[name], other[name]) for name in other)
    assert resumed.averager.counts == averager.counts
    for name in AVERAGES:
        for one, other in zip(
            resumed.averager.averages(name), averager.averages(name), strict=True
        ):
            assert torch.equal(whole(one), whole(other))
    assert again.losses == net.losses[-len(again.losses) :]
    if not distributed and dist.get_rank() == 0:
        saved = torch.load(folder / "epoch=3.ckpt", weights_only=True)["state_dict"]
        for name, value in net.named_parameters():
            assert tuple(saved[name].shape) == tuple(value.shape)
    print(f"lightning {'shards' if distributed else 'whole'} ok", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in (True, False):
        check(Path(sys.argv[1]) / str(kind), kind)
    dist.destroy_process_group()
