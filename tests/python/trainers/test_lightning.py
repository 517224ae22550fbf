"""WeightAveraging beside Lightning's own class, on the same runs and checkpoints."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from lightning.pytorch import callbacks as theirs  # noqa: E402
from torch.optim import swa_utils  # noqa: E402

import swa_fast.lightning as ours  # noqa: E402
from swa_fast import Average, decays  # noqa: E402
from swa_fast.torch import get_ema_multi_avg_fn  # noqa: E402
from trainers.lightning_models import Net, loader, trainer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def ema(average: Any, value: Any, count: Any) -> Any:
    return 0.7 * average + 0.3 * value


def ema_of_lists(averages: Any, values: Any, count: Any) -> None:
    torch._foreach_lerp_(averages, values, 0.3)


FUNCTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "mean": dict,
    "torch's avg_fn": lambda: {"avg_fn": swa_utils.get_ema_avg_fn(0.7)},
    "torch's multi_avg_fn": lambda: {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.7)},
    "a function": lambda: {"avg_fn": ema},
    "a function of lists": lambda: {"multi_avg_fn": ema_of_lists},
    "the package's": lambda: {"multi_avg_fn": get_ema_multi_avg_fn(0.7)},
}


def run(folder: Path, callback: Any, net: Any = None, **settings: Any) -> Any:
    """Trains; returns the module."""
    net = Net() if net is None else net
    path = settings.pop("ckpt_path", None)
    made = trainer(folder, callback, **settings)
    made.fit(net, loader(), loader(8), ckpt_path=path)
    return net


def alike(one: Any, other: Any) -> None:
    assert list(one) == list(other)
    for name, tensor in other.items():
        if "num_batches" not in name:  # integers, which theirs truncates and ours copies
            torch.testing.assert_close(one[name], tensor, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_same_run(tmp_path: Path, function: str) -> None:
    # Without buffers: theirs averages the counter of the batch normalization, too.
    settings = FUNCTIONS[function]()
    theirs_net = run(tmp_path, theirs.WeightAveraging(use_buffers=False, **settings))
    ours_net = run(tmp_path, ours.WeightAveraging(use_buffers=False, **settings))
    assert all(map(torch.equal, ours_net.trained, theirs_net.trained))
    assert ours_net.losses == pytest.approx(theirs_net.losses, rel=1e-5)
    alike(ours_net.state_dict(), theirs_net.state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        {"decay": 0.8},
        {"decay": 0.8, "update_every_n_steps": 3},
        {"decay": 0.8, "update_starting_at_step": 4},
        {"decay": 0.8, "update_every_n_steps": 0, "update_starting_at_epoch": 1},
    ],
    ids=str,
)
def test_the_same_exponential_average(tmp_path: Path, settings: dict[str, Any]) -> None:
    callback = ours.EMAWeightAveraging(use_buffers=False, **settings)
    theirs_net = run(tmp_path, theirs.EMAWeightAveraging(use_buffers=False, **settings))
    ours_net = run(tmp_path, callback)
    alike(ours_net.state_dict(), theirs_net.state_dict())
    own = theirs.EMAWeightAveraging(**settings)
    for index in range(12):
        assert callback.should_update(step_idx=index) == own.should_update(step_idx=index)
        assert callback.should_update(epoch_idx=index) == own.should_update(epoch_idx=index)


def test_buffers_are_averaged_and_integers_copied(tmp_path: Path) -> None:
    theirs_net = run(tmp_path, theirs.EMAWeightAveraging(decay=0.8))
    ours_net = run(tmp_path, ours.EMAWeightAveraging(decay=0.8))
    alike(ours_net.state_dict(), theirs_net.state_dict())
    assert ours_net.layers[1].num_batches_tracked.item() == len(ours_net.trained)


def test_before_the_first_snapshot_the_weights_are_seen(tmp_path: Path) -> None:
    class Late(ours.WeightAveraging):
        def should_update(self, step_idx: Any = None, epoch_idx: Any = None) -> bool:
            return bool(epoch_idx == 3)

    plain, averaged = run(tmp_path, []), run(tmp_path, Late())
    assert averaged.losses == plain.losses  # the last validation comes before the end of the epoch


def checkpoints(folder: Path) -> Any:
    return theirs.ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}")


CLASSES = {"theirs": theirs.EMAWeightAveraging, "ours": ours.EMAWeightAveraging}


@pytest.mark.parametrize(
    ("saves", "loads"), [("ours", "ours"), ("ours", "theirs"), ("theirs", "ours")]
)
def test_checkpoints_load_in_both_directions(tmp_path: Path, saves: str, loads: str) -> None:
    settings: dict[str, Any] = {"decay": 0.8, "use_buffers": False}
    whole = run(tmp_path, CLASSES["ours"](**settings))
    writer = [CLASSES[saves](**settings), checkpoints(tmp_path)]
    run(tmp_path, writer, max_epochs=2, enable_checkpointing=True)
    file = tmp_path / "epoch=1.ckpt"
    saved = torch.load(file, weights_only=True)
    assert {"state_dict", "current_model_state", "averaging_state"} <= set(saved)
    resumed = run(tmp_path, CLASSES[loads](**settings), ckpt_path=file)
    assert all(map(torch.equal, resumed.trained, whole.trained[8:]))
    if saves == loads == "ours":
        for name, tensor in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], tensor), name
    alike(resumed.state_dict(), whole.state_dict())


def test_a_checkpoint_has_the_average_for_its_model(tmp_path: Path) -> None:
    callback = ours.EMAWeightAveraging(decay=0.8)
    run(tmp_path, [callback, checkpoints(tmp_path)], max_epochs=2, enable_checkpointing=True)
    saved = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    assert callback.averager is not None
    found = dict(zip(callback.averager.names, callback.averager.averages("average"), strict=True))
    assert set(found) == set(saved["state_dict"])
    assert all(torch.equal(saved["state_dict"][name], found[name]) for name in found)
    net = Net.load_from_checkpoint(tmp_path / "epoch=1.ckpt")
    assert torch.equal(net.layers[0].weight, found["layers.0.weight"])


AVERAGES = {
    "ema": Average(decay=0.8),
    "mean": Average(start=2, period=2),
    "power": Average(decay=decays.power(sigma_rel=0.1), dtype="float64"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_averages_resume_bit_for_bit(tmp_path: Path, dtype: Any) -> None:
    def callback() -> Any:
        return ours.WeightAveraging(averages=AVERAGES, eval_with="mean")

    settings: dict[str, Any] = {"precision": "bf16-true"} if dtype == torch.bfloat16 else {}
    whole = callback()
    run(tmp_path, [whole, checkpoints(tmp_path)], enable_checkpointing=True, **settings)
    resumed = callback()
    net = run(tmp_path, resumed, ckpt_path=tmp_path / "epoch=1.ckpt", **settings)
    assert resumed.averager is not None
    assert resumed.averager.counts == whole.averager.counts == {"ema": 8, "mean": 3, "power": 8}
    for name in AVERAGES:
        pairs = zip(resumed.averager.averages(name), whole.averager.averages(name), strict=True)
        assert all(torch.equal(*pair) for pair in pairs), name
    shown = resumed.averager.averages("mean")[resumed.averager.names.index("layers.0.weight")]
    assert torch.equal(net.layers[0].weight, shown.to(dtype))
    assert shown.dtype == torch.float32
    assert torch.equal(resumed.averaged_module().layers[0].weight, net.layers[0].weight)


def test_a_failed_validation_leaves_the_weights(tmp_path: Path) -> None:
    net = Net(fails_at_epoch=2, fails_in="validation")
    with pytest.raises(RuntimeError, match="on purpose"):
        run(tmp_path, ours.EMAWeightAveraging(decay=0.8), net)
    assert torch.equal(net.layers[0].weight, net.trained[-1])


def test_a_checkpoint_within_a_validation_has_both(tmp_path: Path) -> None:
    class Saves(Net):
        def validation_step(self, batch: Any, index: int) -> None:
            super().validation_step(batch, index)
            self.trainer.save_checkpoint(tmp_path / f"{self.current_epoch}.ckpt")

    callback = ours.EMAWeightAveraging(decay=0.8)
    net = run(tmp_path, callback, Saves())
    saved = torch.load(tmp_path / "3.ckpt", weights_only=True)
    assert torch.equal(saved["current_model_state"]["layers.0.weight"], net.trained[-1])
    assert torch.equal(saved["state_dict"]["layers.0.weight"], net.layers[0].weight)


def test_the_module_of_the_average_is_made_when_asked_for(tmp_path: Path) -> None:
    callback = ours.EMAWeightAveraging(decay=0.8)
    with pytest.raises(RuntimeError, match=r"needs a fit\(\) before it"):
        callback.averaged_module()
    run(tmp_path, callback)
    module = callback.averaged_module()
    assert callback.averaged_module() is module
    assert callback.averager is not None
    places = {average.data_ptr() for average in callback.averager.averages("average")}
    assert {tensor.data_ptr() for tensor in module.parameters()} <= places


def refused_arguments() -> list[Any]:
    make: Any = ours.WeightAveraging
    return [
        (lambda: make(averages=AVERAGES, eval_with="x"), ValueError, "eval_with must be one of"),
        (lambda: make(averages={}), TypeError, "averages must be a dict with at least one"),
        (lambda: make(averages={"a": 0.9}), TypeError, "each name a str"),
        (lambda: make(avg_fn=ema, averages=AVERAGES), TypeError, "give one"),
        (lambda: make(avg_fn=ema, multi_avg_fn=ema_of_lists), TypeError, "give one"),
        (lambda: make(decay=0.9), TypeError, "takes no argument 'decay'"),
        (lambda: ours.EMAWeightAveraging(decay=1.5), ValueError, "decay must be between 0 and 1"),
        (
            lambda: make(multi_avg_fn=Average(decay=decays.warmup(0.9, power=-1))),
            ValueError,
            "power",
        ),
    ]


@pytest.mark.parametrize(("make", "kind", "message"), refused_arguments())
def test_refused_arguments(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_refused_models(tmp_path: Path) -> None:
    net = Net()
    next(net.parameters()).ds_id = 0
    with pytest.raises(ValueError, match="DeepSpeed ZeRO-3"):
        run(tmp_path, ours.WeightAveraging(), net)


def test_a_checkpoint_of_others_is_refused(tmp_path: Path) -> None:
    single = [theirs.EMAWeightAveraging(decay=0.8), checkpoints(tmp_path)]
    run(tmp_path, single, max_epochs=1, enable_checkpointing=True)
    several = ours.WeightAveraging(averages=AVERAGES)
    with pytest.raises(ValueError, match="cannot say which of several"):
        run(tmp_path, several, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert several.averager is not None
    assert several.averager.step == 0
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    del saved["averaging_state"]
    torch.save(saved, tmp_path / "plain.ckpt")
    with pytest.warns(UserWarning, match="has no averages"):
        run(tmp_path, ours.WeightAveraging(averages=AVERAGES), ckpt_path=tmp_path / "plain.ckpt")


def test_examples() -> None:
    result = doctest.testmod(importlib.import_module("swa_fast.lightning"))
    assert result.attempted
    assert not result.failed
