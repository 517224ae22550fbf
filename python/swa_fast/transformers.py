"""``AveragingCallback``: averages of the weights in Hugging Face's ``Trainer`` and TRL's trainers.

from swa_fast.transformers import AveragingCallback

callback = AveragingCallback(decay=0.999, eval_with="average")
trainer = Trainer(..., callbacks=[callback])
trainer.train()
callback.averager.copy_to(name="average")  # the model now has the average
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "swa_fast.transformers needs transformers, which is not installed: pip install transformers"
    ) from error

from ._deepspeed import require_whole_module
from .average import Average
from .torch import WeightAverager
from .torch.sharding import is_sharded

__all__ = ["AveragingCallback"]

_FOLDER_OF_MODEL = "averaged"
_EVALUATION_LOOPS = ("evaluation_loop", "prediction_loop")


class AveragingCallback(TrainerCallback):  # type: ignore[misc]
    """Averages the weights that are trained, at each optimizer step.

    Only parameters that need a gradient are averaged: of a PEFT model, the adapter's.

    Evaluations see the average ``eval_with``: those that the training asks for, each of a dict of
    sets, and ``trainer.evaluate()`` and ``predict()`` called by hand, unless an average is swapped
    in already. The model has its own weights back afterwards, and before anything is saved. Of a
    model that the trainer has compiled, only the training's own evaluations do.

    Each checkpoint folder gets ``averager.pt``, from which ``resume_from_checkpoint`` goes on bit
    for bit, and, with ``eval_with``, the averaged model in its folder ``averaged``, as the model's
    own ``save_pretrained`` writes it. With ``load_best_model_at_end`` the model ends with the
    average that had the best metric.

    Args:
        averages: several averages, ``{name: swa_fast.Average(...)}``; or None for one of the name
            "average", which the keyword arguments describe.
        eval_with: name of the average that evaluations see; None for the model's own weights.
        save: whether the checkpoints get the averages.
        device: where the averages are kept; None for with the model, "cpu" for host memory.
        **average: arguments of one ``swa_fast.Average``: ``decay``, ``start``, ``period``, ...

    Attributes:
        averager: the ``swa_fast.torch.WeightAverager``; None until the training begins.

    Raises:
        TypeError: both or neither of ``averages`` and an average's arguments are given.
        ValueError: ``eval_with`` is no average's name, or an argument is out of range.

    Example:
        >>> from swa_fast.transformers import AveragingCallback
        >>> callback = AveragingCallback(decay=0.999, start=100, eval_with="average")
    """

    def __init__(
        self,
        averages: Mapping[str, Average] | None = None,
        eval_with: str | None = None,
        save: bool = True,
        device: Any = None,
        **average: Any,
    ) -> None:
        """Checks the arguments; the averages begin with the training."""
        if averages is not None and average:
            raise TypeError(
                f"{', '.join(average)} describe a single average, and averages describes several: "
                "put them into each swa_fast.Average"
            )
        self._averages = {"average": Average(**average)} if averages is None else dict(averages)
        WeightAverager([torch.zeros(1)], self._averages)  # refuses averages that are none
        if eval_with is not None and eval_with not in self._averages:
            raise ValueError(
                f"eval_with must be one of the averages {list(self._averages)}. "
                f"Received: {eval_with!r}"
            )
        self.eval_with = eval_with
        self.save = save
        self.device = device
        self.averager: WeightAverager | None = None
        self._swapped = False
        self._hook: Any = None
        self._logged: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Makes the averages, or those of the checkpoint that is resumed."""
        model = kwargs["model"]
        if state.max_steps <= 0:
            raise ValueError(
                "AveragingCallback averages after optimizer steps, and this trainer has none. "
                f"Received: max_steps={state.max_steps}"
            )
        require_whole_module(model)
        averager = WeightAverager(
            model, self._averages, device=self.device, requires_grad_only=True
        )
        if state.global_step > 0 and self.save:
            self._resume(averager, args, state)
        self.averager = averager
        if self._hook is not None:
            self._hook.remove()
        if self.eval_with is not None:
            # Before FSDP2's own, which gathers the parameters.
            self._hook = model.register_forward_pre_hook(self._before_forward, prepend=True)

    def _resume(self, averager: WeightAverager, args: Any, state: Any) -> None:
        folders = [Path(args.output_dir) / f"checkpoint-{state.global_step}"]
        if isinstance(args.resume_from_checkpoint, str):
            folders.insert(0, Path(args.resume_from_checkpoint))
        for folder in folders:
            file = folder / _file_name(averager)
            if file.is_file():
                averager.load_state_dict(torch.load(file, "cpu", weights_only=True))
                return
        warnings.warn(
            f"{folders[0]} has no {_file_name(averager)}: the averages begin at step "
            f"{state.global_step}",
            stacklevel=2,
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gives the model its own weights back, if an evaluation failed before it ended."""
        self._swap_back()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes a snapshot; then lets an evaluation see the average."""
        assert self.averager is not None
        self._swap_back()
        self.averager.update()
        if control.should_log:
            self._logged = self._measures()
        if control.should_evaluate:
            self._swap_in()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Lets an evaluation see the average."""
        if control.should_evaluate:
            self._swap_in()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Gives the model its own weights back."""
        self._swap_back()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        """Gives the model its own weights back."""
        self._swap_back()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Adds decay and distance of each average to the trainer's last log entry."""
        if self._logged and state.log_history:
            state.log_history[-1].update(self._logged)
            if logs is not None:
                logs.update(self._logged)
        self._logged = {}

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the averages into the checkpoint's folder."""
        averager = self.averager
        if not self.save or averager is None:
            return
        self._swap_back()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sharded = any(map(is_sharded, averager.averages(next(iter(self._averages)))))
        if sharded or state.is_world_process_zero:
            _write(averager.state_dict(config=True), folder / _file_name(averager))
        if self._ready() and not sharded and state.is_world_process_zero:
            model = kwargs["model"]
            if hasattr(model, "save_pretrained"):
                with averager.applied(self.eval_with):
                    model.save_pretrained(folder / _FOLDER_OF_MODEL)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts the best average into the model, where the trainer has loaded the best model."""
        averager = self.averager
        self._swap_back()
        if averager is None or not args.load_best_model_at_end or self.eval_with is None:
            return
        best = state.best_model_checkpoint
        file = None if best is None else Path(best) / _file_name(averager)
        if file is None or not file.is_file():
            return
        saved = torch.load(file, "cpu", weights_only=True)
        averager.load_state_dict(saved)
        if averager.counts[self.eval_with]:
            averager.copy_to(name=self.eval_with)

    def _ready(self) -> bool:
        assert self.averager is not None
        return self.eval_with is not None and self.averager.counts[self.eval_with] > 0

    def _swap_in(self) -> None:
        if self._ready() and not self._swapped:
            assert self.averager is not None
            if self.averager.swapped_in is not None:
                return  # by someone else, who swaps it back
            self.averager.swap(self.eval_with)
            self._swapped = True

    def _swap_back(self) -> None:
        if self._swapped:
            assert self.averager is not None
            self.averager.swap(self.eval_with)
            self._swapped = False

    def _before_forward(self, module: Any, inputs: Any) -> None:
        """Swaps in for an evaluation that no event announces."""
        if torch.compiler.is_compiling() or module.training or self._swapped:
            return
        if _is_called_by_an_evaluation():
            self._swap_in()

    def _measures(self) -> dict[str, float]:
        assert self.averager is not None
        found = {}
        for name, decay in self.averager.decays.items():
            if self.averager.counts[name]:
                found[f"{name}_decay"] = decay
                distances = self.averager.distance(name)
                found[f"{name}_distance"] = max(distances.values())
        return found


def _is_called_by_an_evaluation() -> bool:
    """Tells whether the trainer's loop over an evaluation's batches is among the callers."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in _EVALUATION_LOOPS:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _file_name(averager: WeightAverager) -> str:
    name = next(iter(averager.counts))
    if any(map(is_sharded, averager.averages(name))):
        return f"averager-{torch.distributed.get_rank()}.pt"
    return "averager.pt"


def _write(state: dict[str, Any], path: Path) -> None:
    beside = path.with_name(path.name + ".partial")
    torch.save(state, beside)
    beside.replace(path)
