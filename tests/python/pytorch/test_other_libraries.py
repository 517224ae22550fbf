"""Each row of the table "With other libraries" in docs/torch.md."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
import torch.distributed as dist
from torch import nn

from swa_fast.torch import SWA, WeightAverager
from torch_reference import all_bits, contract_mean

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "torch.md"


def library(name: str) -> Any:
    """Imports a library, or skips; fails where SWA_FAST_REQUIRE_LIBRARIES is set, as in CI.

    pip install --no-deps --group libraries
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("SWA_FAST_REQUIRE_LIBRARIES"):
            raise
        pytest.skip(f"{name} is not installed: {error}")


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("torch was built without distributed gloo")
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def make_net() -> Any:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def sgd(net: Any) -> Any:
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


class Seen:
    """What a training loop saw, and what the average of it must be."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.steps: list[list[Any]] = []

    def take(self) -> None:
        self.steps.append([p.detach().clone().numpy() for p in self.net.parameters()])

    def mean(self) -> list[bytes]:
        count = len(self.steps[0])
        return [contract_mean([step[i] for step in self.steps]).tobytes() for i in range(count)]


def data(index: int) -> Any:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(index))


def loop(net: Any, optimizer: Any, seen: Seen, steps: int = 4) -> None:
    for index in range(steps):
        optimizer.zero_grad()
        net(data(index)).square().mean().backward()
        optimizer.step()
        seen.take()


def test_accelerate_takes_one_snapshot_for_each_step_that_it_makes() -> None:
    accelerate = library("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    net = make_net()
    swa = SWA(sgd(net), 0, 1)
    averager = WeightAverager(net)
    prepared, optimizer = accelerator.prepare(net, swa)
    assert WeightAverager(prepared).names == averager.names
    seen = Seen(net)
    for index in range(8):
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(data(index)).square().mean())
            optimizer.step()
            optimizer.zero_grad()
            if accelerator.sync_gradients:
                seen.take()
    assert len(seen.steps) == swa.averager.count == 4
    assert all_bits(swa.averager.averages()) == seen.mean()
    with pytest.raises(TypeError, match=r"AcceleratedOptimizer\(SWA\(\.\.\.\)"):
        SWA(accelerator.prepare(sgd(make_net())))


def test_accelerate_saves_and_restores_the_averages(tmp_path: Path) -> None:
    accelerate = library("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    net = make_net()
    swa = SWA(sgd(net), 0, 1)
    prepared, optimizer = accelerator.prepare(net, swa)
    seen = Seen(net)
    loop(prepared, optimizer, seen, 3)
    accelerator.save_state(str(tmp_path))
    loop(prepared, optimizer, seen, 2)
    accelerator.load_state(str(tmp_path))
    del seen.steps[3:]
    assert swa.averager.count == 3
    assert all_bits(swa.averager.averages()) == seen.mean()


def test_fabric() -> None:
    fabric_module = library("lightning.fabric")
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    net = make_net()
    swa = SWA(sgd(net), 0, 1)
    names = WeightAverager(net).names
    prepared, optimizer = fabric.setup(net, swa)
    assert WeightAverager(prepared).names == names
    seen = Seen(net)
    for index in range(4):
        optimizer.zero_grad()
        fabric.backward(prepared(data(index)).square().mean())
        optimizer.step()
        seen.take()
    assert all_bits(swa.averager.averages()) == seen.mean()
    state = optimizer.state_dict()
    swa.load_state_dict(state)
    optimizer.load_state_dict(state)
    assert all_bits(optimizer.averager.averages()) == seen.mean()
    plain = make_net()
    with pytest.raises(TypeError, match=r"FabricSGD\(SWA\(\.\.\.\)"):
        SWA(fabric.setup(plain, sgd(plain))[1])


def test_the_lightning_trainer(tmp_path: Path) -> None:
    lightning = library("lightning")

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()
            self.seen = Seen(self.net)

        def training_step(self, batch: Any, _: int) -> Any:
            return self.net(batch[0]).square().mean()

        def on_before_zero_grad(self, *_: Any) -> None:
            self.seen.take()

        def configure_optimizers(self) -> Any:
            self.swa = SWA(sgd(self.net), 0, 1)
            return self.swa

    model = Model()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        accumulate_grad_batches=2,
    )
    dataset = torch.utils.data.TensorDataset(torch.cat([data(index) for index in range(4)]))
    trainer.fit(model, torch.utils.data.DataLoader(dataset, batch_size=4))
    assert model.swa.averager.count == 4
    state = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=False)
    saved = [entries["swa_average"] for entries in state["optimizer_states"][0]["state"].values()]
    assert all_bits(saved) == all_bits(model.swa.averager.averages())


@pytest.mark.usefixtures("one_process")
def test_zero_redundancy_optimizer() -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    net = make_net()
    zero = ZeroRedundancyOptimizer(
        net.parameters(), optimizer_class=torch.optim.SGD, lr=0.1, momentum=0.9
    )
    swa = SWA(zero, 0, 1)
    seen = Seen(net)
    loop(net, swa, seen)
    assert all_bits(swa.averager.averages()) == seen.mean()
    zero.consolidate_state_dict()
    state = swa.state_dict()
    swa.load_state_dict(state)
    assert swa.averager.count == 4
    assert all_bits(swa.averager.averages()) == seen.mean()


@pytest.mark.usefixtures("one_process")
def test_post_local_sgd_optimizer() -> None:
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer

    net = make_net()
    averager = PeriodicModelAverager(period=2, warmup_steps=1)
    with pytest.raises(TypeError, match=r"PostLocalSGDOptimizer\(SWA\(\.\.\.\)"):
        SWA(PostLocalSGDOptimizer(sgd(net), averager))
    swa = SWA(sgd(net), 0, 1, at="next_step")  # it averages the model over the ranks after a step
    seen = Seen(net)
    loop(net, PostLocalSGDOptimizer(swa, averager), seen)
    assert all_bits(swa.averager.averages()) == seen.mean()


def test_timms_lookahead_is_refused_and_can_be_put_around() -> None:
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        library("timm")
    assert spec is not None
    path = Path(next(iter(spec.submodule_search_locations or []))) / "optim" / "lookahead.py"
    file = importlib.util.spec_from_file_location("timm_lookahead", path)
    assert file is not None
    assert file.loader is not None
    module = importlib.util.module_from_spec(file)
    file.loader.exec_module(module)
    net = make_net()
    with pytest.raises(TypeError, match="Lookahead, which does not call it"):
        SWA(module.Lookahead(sgd(net)))
    swa = SWA(sgd(net), 0, 1, at="next_step")  # the slow weights are written after the step
    seen = Seen(net)
    loop(net, module.Lookahead(swa, k=2), seen)
    assert all_bits(swa.averager.averages()) == seen.mean()


def test_a_sam_of_another_library_is_refused() -> None:
    optimizers = library("pytorch_optimizer")
    net = make_net()
    sam = optimizers.SAM(net.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(TypeError, match=r"sam\.base_optimizer = SWA\(sam\.base_optimizer\)"):
        SWA(sam)
    sam.base_optimizer = swa = SWA(sam.base_optimizer, 0, 1)
    seen = Seen(net)
    for index in range(4):
        net(data(index)).square().mean().backward()
        sam.first_step(zero_grad=True)
        net(data(index)).square().mean().backward()
        sam.second_step(zero_grad=True)
        seen.take()
    assert all_bits(swa.averager.averages()) == seen.mean()


@pytest.mark.parametrize(
    "options", [{"fused": True}, {"foreach": True}, {"differentiable": False, "amsgrad": True}]
)
def test_torchs_own_implementations(options: dict[str, Any]) -> None:
    net = make_net()
    swa = SWA(torch.optim.Adam(net.parameters(), lr=0.1, **options), 0, 1)
    seen = Seen(net)
    loop(net, swa, seen)
    assert all_bits(swa.averager.averages()) == seen.mean()


ROWS = {
    ("accelerate", "`accelerator.prepare(model, SWA(optimizer))`"): (
        "test_accelerate_takes_one_snapshot_for_each_step_that_it_makes"
    ),
    ("accelerate", "`save_state`, `load_state`"): "test_accelerate_saves_and_restores_the_averages",
    ("Lightning Fabric", "`fabric.setup(model, SWA(optimizer))`"): "test_fabric",
    ("Lightning Trainer", "`configure_optimizers` returns `SWA(optimizer)`"): (
        "test_the_lightning_trainer"
    ),
    ("`ZeroRedundancyOptimizer`", "`SWA(zero)`"): "test_zero_redundancy_optimizer",
    ("`PostLocalSGDOptimizer`", 'around `SWA(optimizer, at="next_step")`'): (
        "test_post_local_sgd_optimizer"
    ),
    ("timm, `Lookahead`", '`Lookahead(SWA(optimizer, at="next_step"))`'): (
        "test_timms_lookahead_is_refused_and_can_be_put_around"
    ),
    ("pytorch_optimizer, `SAM`", "`sam.base_optimizer = SWA(sam.base_optimizer)`"): (
        "test_a_sam_of_another_library_is_refused"
    ),
    ("torch's `fused=`, `foreach=`", "`SWA(optimizer)`"): "test_torchs_own_implementations",
}
"""The rows of the documentation's table, and the test that runs each."""


def test_the_table_names_what_is_run_here() -> None:
    table = DOCUMENTATION.read_text(encoding="utf-8").split("### With other libraries")[1]
    lines = [line for line in table.split("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    assert [(row[0], row[1]) for row in cells] == list(ROWS)
    assert all(name in globals() for name in ROWS.values())
