"""What test_trainers_distributed.py and test_killed.py run in other processes: Trainer."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import accelerate
import torch
import torch.distributed as dist
from transformers import TrainerCallback

from swa_fast.transformers import AveragingCallback
from trainers.hf_models import AVERAGES, ema, gpt2, trainer


class Killer(TrainerCallback):
    """Kills the process in the middle of a step, after so many."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.steps:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(folder: Path) -> None:
    """Trains until it is killed in step 6, after checkpoint-4."""
    trainer(folder, [AveragingCallback(AVERAGES, eval_with="ema"), Killer(5)]).train()


def whole(tensor: Any) -> Any:
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class Watch(TrainerCallback):
    """The whole weights after each step."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append({name: whole(p).clone() for name, p in kwargs["model"].named_parameters()})


def run(folder: Path, resume: Any = None, **settings: Any) -> tuple[Any, Any]:
    watch, callback = Watch(), AveragingCallback(AVERAGES, eval_with="ema")
    made = trainer(folder, [watch, callback], gpt2(), **settings)
    if made.args.fsdp:
        shard_on_cpu(made)
    made.train(resume_from_checkpoint=resume)
    # By hand, and by the training, with the average of the last step.
    last = [row["eval_loss"] for row in made.state.log_history if "eval_loss" in row][-1]
    assert made.evaluate()["eval_loss"] == last
    assert callback.averager is not None
    with callback.averager.applied("ema"):
        assert made.evaluate()["eval_loss"] == last
    return watch.seen, callback.averager


def shard_on_cpu(made: Any) -> None:
    """Makes accelerate use FSDP2, which by itself it does on GPUs alone."""
    state = made.accelerator.state
    made.is_fsdp_enabled = True
    state.distributed_type = accelerate.DistributedType.FSDP
    state.fsdp_plugin = accelerate.FullyShardedDataParallelPlugin(**made.args.fsdp_plugin_args)


def plain(name: str) -> str:
    return name.removeprefix("module.")


def check(folder: Path, **settings: Any) -> Any:
    seen, averager = run(folder, **settings)
    averages = {plain(k): v for k, v in zip(averager.names, averager.averages("ema"), strict=True)}
    for name in seen[0]:
        expected = ema([step[name] for step in seen])
        torch.testing.assert_close(whole(averages[plain(name)]), expected, rtol=1e-6, atol=1e-6)
    assert averager.counts == {"ema": 6, "mean": 4}
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, [whole(a).sum().item() for a in averages.values()])
    assert all(other == gathered[0] for other in gathered)
    rest, resumed = run(folder, str(folder / "checkpoint-4"), **settings)
    for name in AVERAGES:
        pairs = zip(resumed.averages(name), averager.averages(name), strict=True)
        assert all(torch.equal(whole(one), whole(other)) for one, other in pairs), name
    assert len(rest) == 2
    return averager


def ddp(folder: Path) -> None:
    check(folder)
    print("ddp ok", flush=True)


def fsdp2(folder: Path) -> None:
    config = {
        "version": 2,
        "transformer_layer_cls_to_wrap": ["GPT2Block"],
        "state_dict_type": "SHARDED_STATE_DICT",
    }
    averager = check(folder, fsdp="full_shard auto_wrap", fsdp_config=config)
    shards = [a for a in averager.averages("ema") if hasattr(a, "to_local")]
    assert len(shards) == len(averager.names)
    assert all(shard.to_local().numel() * 2 <= shard.numel() + len(shard) for shard in shards)
    print("fsdp2 ok", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for command in sys.argv[2:]:
        {"killed": killed, "ddp": ddp, "fsdp2": fsdp2}[command](Path(sys.argv[1]) / command)
    if dist.is_initialized():
        dist.destroy_process_group()
