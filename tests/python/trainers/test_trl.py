"""AveragingCallback in TRL's SFTTrainer, with LoRA and gradient accumulation."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
peft = pytest.importorskip("peft")

import pyarrow  # noqa: E402
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402
from transformers import PreTrainedTokenizerFast, TrainerCallback  # noqa: E402

from swa_fast.transformers import AveragingCallback  # noqa: E402
from trainers.hf_models import AVERAGES, ema, gpt2, rows  # noqa: E402


def tokenizer() -> PreTrainedTokenizerFast:
    words = {str(number): number for number in range(18)}
    made = Tokenizer(models.WordLevel(words, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="1", pad_token="0")


def tokens(count: int, seed: int) -> list[list[int]]:
    return [row["input_ids"].tolist() for row in rows(count, seed)]


def test_the_adapter_is_averaged(tmp_path: Path) -> None:
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            named = dict(kwargs["model"].named_parameters())
            seen.append({n: p.detach().clone() for n, p in named.items() if p.requires_grad})

    callback = AveragingCallback(AVERAGES, eval_with="ema")
    # A fingerprint that is given is not computed from pickles, which pyarrow's types are not all.
    tables = [
        pyarrow.table({"input_ids": tokens(count, seed)}) for count, seed in ((64, 1), (4, 2))
    ]
    data = [Dataset(table, fingerprint=str(index)) for index, table in enumerate(tables)]
    made = trl.SFTTrainer(
        model=gpt2(),
        args=trl.SFTConfig(
            str(tmp_path),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=6,
            learning_rate=0.05,
            eval_strategy="steps",
            eval_steps=3,
            save_steps=3,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            dataset_kwargs={"skip_prepare_dataset": True},  # it has tokens already
        ),
        train_dataset=data[0],
        eval_dataset=data[1],
        processing_class=tokenizer(),
        peft_config=peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True),
        callbacks=[Watch(), callback],
    )
    made.train()
    assert callback.averager is not None
    assert callback.averager.counts == {"ema": 6, "mean": 4}
    averages = dict(zip(callback.averager.names, callback.averager.averages("ema"), strict=True))
    assert set(averages) == set(seen[0])
    assert averages
    assert all("lora_" in name for name in averages)
    for name, average in averages.items():
        torch.testing.assert_close(
            average, ema([step[name] for step in seen]), rtol=1e-6, atol=1e-6
        )
    folder = tmp_path / "checkpoint-6" / "averaged"
    again = peft.PeftModel.from_pretrained(gpt2(), folder)
    saved = {name: p for name, p in again.named_parameters() if "lora_" in name}
    assert all(torch.equal(saved[name], average) for name, average in averages.items())
