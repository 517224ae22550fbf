"""AveragingCallback in Hugging Face's Trainer, on a tiny GPT-2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import GPT2LMHeadModel  # noqa: E402

from swa_fast import Average, decays  # noqa: E402
from swa_fast.transformers import AveragingCallback  # noqa: E402
from trainers.hf_models import AVERAGES, Recorder, ema, gpt2, rows, trainer, weight  # noqa: E402


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
    last = recorder.after_step[-1]
    made.evaluate()
    torch.testing.assert_close(seen[-1], expected[-1], rtol=1e-6, atol=1e-6)
    assert torch.equal(weight(made.model), last)
    made.predict(rows(2, 2))
    torch.testing.assert_close(seen[-1], expected[-1], rtol=1e-6, atol=1e-6)
    assert torch.equal(weight(made.model), last)
    assert callback.averager is not None
    with callback.averager.applied("mean"):
        mean = weight(made.model)
        made.evaluate()
        assert torch.equal(weight(made.model), mean)
    assert torch.equal(seen[-1], mean)
    assert not torch.equal(mean, last)
    made.model(rows(1, 2)[0]["input_ids"][None])  # a forward that is no evaluation
    assert torch.equal(seen[-1], last)


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
    with pytest.raises(ValueError, match=r"power must be > 0"):
        AveragingCallback(decay=decays.warmup(0.5, power=-1))
    with pytest.raises(TypeError, match="each name a str"):
        AveragingCallback({"ema": 0.9})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"this trainer has none. Received: max_steps=0"):
        trainer(tmp_path, [AveragingCallback(decay=0.5)], max_steps=-1, num_train_epochs=0).train()
    model = gpt2()
    next(model.parameters()).ds_id = 0
    with pytest.raises(ValueError, match="DeepSpeed ZeRO-3"):
        trainer(tmp_path, [AveragingCallback(decay=0.5)], model).train()


def test_a_state_of_others_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, [AveragingCallback(AVERAGES)], max_steps=2).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    other = AveragingCallback({"ema": AVERAGES["ema"]})
    with pytest.raises(KeyError, match=r"unknown \['mean'\]"):
        trainer(tmp_path, [other], max_steps=4).train(resume_from_checkpoint=checkpoint)
    shorter = AveragingCallback({"ema": Average(decay=0.5), "mean": AVERAGES["mean"]})
    with pytest.raises(ValueError, match="saved with another schedule: average 'ema'"):
        trainer(tmp_path, [shorter], max_steps=4).train(resume_from_checkpoint=checkpoint)
    assert other.averager is None
    assert shorter.averager is None
    (tmp_path / "checkpoint-2" / "averager.pt").unlink()
    later = AveragingCallback(AVERAGES)
    with pytest.warns(UserWarning, match=r"has no averager.pt: the averages begin at step 2"):
        trainer(tmp_path, [later], max_steps=4).train(resume_from_checkpoint=checkpoint)
    assert later.averager is not None
    assert later.averager.counts == {"ema": 2, "mean": 0}
