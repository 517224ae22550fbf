"""torch.compile, inference mode, and a real Lightning run."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn
from torch.optim import swa_utils

import swa_fast.torch
from swa_fast.torch import SWA, AveragedModel, WeightAverager
from torch_reference import all_bits, contract_mean, make_net, snapshots


@pytest.mark.parametrize("make", [AveragedModel, WeightAverager])
def test_a_compiled_model(make: Any) -> None:
    net = make_net()
    compiled = torch.compile(net, backend="aot_eager")
    averaged = make(compiled)
    update = (
        averaged.update
        if make is WeightAverager
        else (lambda: averaged.update_parameters(compiled))
    )
    data, seen, outputs = torch.ones(2, 1, 4, 4), [], []
    compiled.eval()
    for _ in snapshots(net, 3):
        update()
        seen.append([p.detach().clone().numpy() for p in net.parameters()])
        net[1].reset_running_stats()  # a random variance may be negative
        outputs.append(compiled(data).detach())
    averages = averaged.averages() if make is WeightAverager else list(averaged.parameters())
    for index, average in enumerate(averages):
        expected = contract_mean([step[index] for step in seen])
        assert all_bits([average]) == [expected.tobytes()]
    if make is WeightAverager:
        plain = make_net(2).eval()
        plain.load_state_dict(net.state_dict())
        averaged.copy_to(plain)
        with averaged.applied():  # compiled code sees the swap, and the swap back
            torch.testing.assert_close(compiled(data), plain(data))
        assert torch.equal(compiled(data), outputs[-1])


def test_an_update_inside_a_compiled_step() -> None:
    net = make_net()
    optimizer = SWA(torch.optim.SGD(net.parameters(), lr=0.1), 0, 1)
    averager = WeightAverager(net)

    @torch.compile(backend="aot_eager")
    def step(data: Any) -> Any:
        loss = net(data).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        averager.update()
        return loss

    seen = []
    for index in range(4):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "zero_grad.*was called")
            step(torch.full((4, 1, 4, 4), float(index)))
        seen.append([p.detach().clone().numpy() for p in net.parameters()])
    expected = [contract_mean([s[i] for s in seen]).tobytes() for i in range(len(seen[0]))]
    assert all_bits(averager.averages()) == expected
    assert all_bits(optimizer.averager.averages()) == expected


def test_inference_mode_reads_and_swaps() -> None:
    net = make_net()
    averager = WeightAverager(net)
    averager.update()
    expected = all_bits(net.parameters())
    for _ in snapshots(net, 1):
        before = all_bits(net.parameters())
        with torch.inference_mode():
            with averager.applied():
                assert all_bits(net.parameters()) == expected
            assert all_bits(net.parameters()) == before
            averager.update()
    assert averager.count == 2
    net(torch.ones(2, 1, 4, 4)).sum().backward()  # the parameters still train
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_tensor_of_another_class_is_averaged_or_refused() -> None:
    class Tagged(torch.Tensor):
        pass

    tagged = torch.ones(3).as_subclass(Tagged)
    averager = WeightAverager([tagged])
    for value in (1.0, 2.0, 6.0):
        tagged.fill_(value)
        averager.update()
    assert averager.averages()[0].tolist() == [3.0] * 3


def test_without_torch_the_error_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import swa_fast\n"
        "try: import swa_fast.torch\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert 'pip install "swa-fast[torch]"' in done.stdout


def test_public_names() -> None:
    for name in swa_utils.__all__:
        assert hasattr(swa_fast.torch, name), f"the one-line change needs {name}"
    assert set(swa_fast.torch.__all__) == {*swa_utils.__all__, "SWA", "WeightAverager"}
    assert all(getattr(swa_fast.torch, name).__doc__ for name in swa_fast.torch.__all__)


def test_lightning(tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning")
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    if not hasattr(callbacks, "WeightAveraging"):
        pytest.skip("this Lightning has no WeightAveraging callback")
    seen: list[Any] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

        def training_step(self, batch: Any, index: int) -> Any:
            return self.net(batch).pow(2).mean()

        def on_train_batch_end(self, *_: Any) -> None:
            seen.append([p.detach().clone().numpy() for p in self.parameters()])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    module = Module()
    callback = callbacks.WeightAveraging(
        multi_avg_fn=swa_fast.torch.get_swa_multi_avg_fn(), use_buffers=True
    )
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[callback],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader(torch.randn(24, 4), batch_size=8)
    trainer.fit(module, loader)
    assert len(seen) == 6
    # Lightning puts the averages into the module at the end of training.
    for index, parameter in enumerate(module.parameters()):
        expected = contract_mean([step[index] for step in seen])
        assert all_bits([parameter]) == [expected.tobytes()]
