"""A tiny GPT-2, its data, and Hugging Face trainers for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from swa_fast import Average

AVERAGES = {"ema": Average(decay=0.8), "mean": Average(start=2)}


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=18, n_positions=8, n_embd=8, n_layer=1, n_head=2, use_cache=False)
    )


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 18, (count, 8), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


class Recorder(TrainerCallback):
    """The weights after each step, and those that each evaluation saw."""

    def __init__(self) -> None:
        self.after_step: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.after_step.append(weight(kwargs["model"]))


def weight(model: Any) -> Any:
    return model.transformer.wte.weight.detach().clone()


def trainer(tmp_path: Path, callbacks: list[Any], model: Any = None, **settings: Any) -> Any:
    arguments = {
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "learning_rate": 0.05,
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "steps",
        **settings,
    }
    evaluated = arguments.pop("eval_dataset", rows(4, 2))
    return Trainer(
        model=gpt2() if model is None else model,
        args=TrainingArguments(str(tmp_path), **arguments),
        train_dataset=rows(64, 1),
        eval_dataset=evaluated,
        callbacks=callbacks,
    )


def ema(weights: list[Any], decay: float = 0.8) -> Any:
    average = weights[0].clone()
    for value in weights[1:]:
        average += (value - average) * (1 - decay)
    return average
