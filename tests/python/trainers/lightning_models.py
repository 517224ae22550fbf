"""Modules and trainers of Lightning, small and quiet."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader


class Net(LightningModule):
    """Two layers with batch normalization; keeps the loss of each validation."""

    def __init__(self, fails_at_epoch: int | None = None, fails_in: str = "training") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1))
        self.fails_at_epoch, self.fails_in = fails_at_epoch, fails_in
        self.losses: list[float] = []
        self.trained: list[Any] = []

    def loss(self, batch: Any) -> Any:
        return self.layers(batch).pow(2).mean()

    def fail(self, where: str) -> None:
        if self.fails_in == where and self.current_epoch == self.fails_at_epoch:
            raise RuntimeError("on purpose")

    def training_step(self, batch: Any, _: int) -> Any:
        self.fail("training")
        return self.loss(batch)

    def validation_step(self, batch: Any, _: int) -> None:
        self.fail("validation")
        self.losses.append(self.loss(batch).item())

    def on_train_batch_end(self, *_: Any) -> None:
        self.trained.append(self.layers[0].weight.detach().clone())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader(rows: int = 16) -> Any:
    generator = torch.Generator().manual_seed(1)
    return DataLoader(list(torch.randn(rows, 4, generator=generator)), batch_size=4)


def trainer(folder: Any, callback: Any, **settings: Any) -> Any:
    arguments = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 4,
        "accumulate_grad_batches": 2,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        **settings,
    }
    return Trainer(default_root_dir=folder, callbacks=callback, **arguments)
