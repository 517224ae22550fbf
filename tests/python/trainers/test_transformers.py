"""AveragingCallback in Hugging Face's Trainer, on a tiny GPT-2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from swa_fast import Average, decays  # noqa: E402
from swa_fast.transformers import AveragingCallback  # noqa: E402

AVERAGES = {"ema": Average(decay=0.8), "mean": Average(start=2)}


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=17, n_positions=8, n_embd=8, n_layer=1, n_head=2, use_cache=False)
    )


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 17, (count, 8), generator=generator)
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


def seen_by_evaluations(made: Any) -> list[Any]:
    """Records what the model has at each forward of an evaluation."""
    seen: list[Any] = []

    def look(module: Any, *_: Any) -> None:
        if not module.training:
            seen.append(weight(module))

    made.model.register_forward_hook(look)
    return seen


@pytest.mark.parametrize("accumulated", [1, 2])
def test_averages_after_optimizer_steps(tmp_path: Path, accumulated: int) -> None:
    recorder, callback = Recorder(), AveragingCallback(AVERAGES)
    # The recorder comes first, so that it sees the weights of the training.
    made = trainer(tmp_path, [recorder, callback], gradient_accumulation_steps=accumulated)
    made.train()
    assert callback.averager is not None
    assert callback.averager.counts == {"ema": 6, "mean": 4}
    index = callback.averager.names.index("transformer.wte.weight")
    torch.testing.assert_close(
        callback.averager.averages("ema")[index], ema(recorder.after_step), rtol=1e-6, atol=1e-6
    )
    logged = [row for row in made.state.log_history if "ema_decay" in row]
    assert len(logged) == 3
    assert logged[-1]["ema_decay"] == pytest.approx(0.8)
    assert 0 < logged[-1]["ema_distance"] < 1


@pytest.mark.parametrize("several", [False, True])
def test_evaluations_see_the_average(tmp_path: Path, several: bool) -> None:
    recorder, callback = Recorder(), AveragingCallback(AVERAGES, eval_with="ema")
    sets: Any = {"a": rows(2, 2), "b": rows(2, 3)} if several else rows(4, 2)
    made = trainer(tmp_path, [recorder, callback], eval_dataset=sets)
    seen = seen_by_evaluations(made)
    made.train()
    expected = [ema(recorder.after_step[:step]) for step in (2, 4, 6)]
    assert len(seen) == (6 if several else 3)
    for index, value in enumerate(seen):
        wanted = expected[index // 2 if several else index]
        torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(weight(made.model), recorder.after_step[-1])
    made.evaluate()
    assert torch.equal(seen[-1], recorder.after_step[-1])


def test_the_training_is_the_same_as_without(tmp_path: Path) -> None:
    plain, averaged = Recorder(), Recorder()
    trainer(tmp_path / "a", [plain]).train()
    trainer(tmp_path / "b", [averaged, AveragingCallback(AVERAGES, eval_with="ema")]).train()
    assert all(map(torch.equal, plain.after_step, averaged.after_step))


def test_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = AveragingCallback(AVERAGES, eval_with="ema")
    trainer(tmp_path, [whole]).train()
    resumed = AveragingCallback(AVERAGES, eval_with="ema")
    trainer(tmp_path, [resumed]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert whole.averager is not None
    assert resumed.averager is not None
    assert resumed.averager.counts == whole.averager.counts
    for name in AVERAGES:
        pairs = zip(resumed.averager.averages(name), whole.averager.averages(name), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def test_the_best_model_is_the_average_of_the_best_metric(tmp_path: Path) -> None:
    callback = AveragingCallback(AVERAGES, eval_with="ema")
    made = trainer(
        tmp_path, [callback], load_best_model_at_end=True, metric_for_best_model="eval_loss"
    )
    made.train()
    best = made.state.best_metric
    assert made.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-5)
    folder = Path(made.state.best_model_checkpoint) / "averaged"
    again = GPT2LMHeadModel.from_pretrained(folder)
    assert torch.equal(weight(again), weight(made.model))


def test_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    adapted = peft.get_peft_model(gpt2(), config)
    callback = AveragingCallback(decay=0.5, eval_with="average")
    trainer(tmp_path, [callback], adapted, label_names=["labels"]).train()
    assert callback.averager is not None
    assert callback.averager.names
    assert all("lora_" in name for name in callback.averager.names)
    assert (tmp_path / "checkpoint-6" / "averaged" / "adapter_config.json").is_file()


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"eval_with must be one of the averages \['average'\]"):
        AveragingCallback(decay=0.5, eval_with="ema")
    with pytest.raises(TypeError, match="decay describe a single average"):
        AveragingCallback(AVERAGES, decay=0.5)
    with pytest.raises(ValueError, match="decay must be between 0 and 1"):
        AveragingCallback(decay=1.5)
    with pytest.raises(ValueError, match="minimum must be between"):
        AveragingCallback(decay=decays.warmup(0.5, minimum=0.7))
    model = gpt2()
    next(model.parameters()).ds_id = 0
    with pytest.raises(ValueError, match="DeepSpeed ZeRO-3"):
        trainer(tmp_path, [AveragingCallback(decay=0.5)], model).train()
