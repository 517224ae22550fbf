"""``WeightAveraging`` and ``EMAWeightAveraging`` of Lightning, over ``WeightAverager``.

from swa_fast.lightning import EMAWeightAveraging  # was: lightning.pytorch.callbacks

trainer = Trainer(callbacks=[EMAWeightAveraging(decay=0.999)])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

try:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
except ImportError as error:
    raise ImportError(
        "swa_fast.lightning needs lightning, which is not installed: pip install 'lightning>=2.6'"
    ) from error

from ._deepspeed import require_whole_module
from ._lightning_state import AveragesInCheckpoint, has_averages
from .average import Average
from .torch import WeightAverager
from .torch.averaging_function import FunctionAverage, known_average
from .torch.module_tree import named_tensors
from .torch.shown import ShownModel

__all__ = ["EMAWeightAveraging", "WeightAveraging"]

_UNNAMED = "average"


class WeightAveraging(Callback):  # type: ignore[misc]
    """Averages a LightningModule's weights, as ``WeightAveraging`` of Lightning 2.6.

    Same arguments, hooks to override and checkpoints, which load in both directions: a checkpoint's
    ``state_dict`` has the average, ``current_model_state`` the weights that are trained.
    Validation sees the average, and the model ends with it. What differs, on purpose:

    - No second model: the averages are a list of tensors, beside the parameters as they are after
      the strategy has placed them. With FSDP2 (``ModelParallelStrategy``) each process averages the
      shards that it holds; no parameter is gathered, unless the strategy was told to save whole
      ones.
    - Several averages in one pass: ``averages`` and ``eval_with``.
    - Before the first snapshot, validation and checkpoints see the model's own weights, where
      Lightning's sees those from before the training.
    - Averages of float16 and bfloat16 parameters are kept in float32. Integer buffers are copied.
    - An exception in a validation leaves the model with its own weights.
    - Epochs that were averaged are in the checkpoint too, so a resumed run does not average one
      twice.

    Args:
        device: where the averages are kept; None for with the parameters. "cpu" for parameters on
            a GPU: updated in the background, see ``swa_fast.torch.WeightAverager``.
        use_buffers: whether floating-point buffers are averaged too, instead of copied.
        averages: several averages, ``{name: swa_fast.Average(...)}``; their ``start`` and
            ``period`` count the updates that ``should_update`` lets through.
        eval_with: name of the average that validation sees, that is a checkpoint's ``state_dict``,
            and that the model ends with; by default the first.
        **kwargs: ``avg_fn`` or ``multi_avg_fn``, as of torch's ``AveragedModel``. Those of torch
            and of ``swa_fast.torch`` are recognised and fused; ``multi_avg_fn`` may be a
            ``swa_fast.Average``; any other function is called.

    Attributes:
        averager: the ``swa_fast.torch.WeightAverager``; None until ``fit`` begins.

    Raises:
        TypeError: an argument is unknown or has the wrong type.
        ValueError: ``eval_with`` is no average's name, or an argument is out of range.

    Example:
        >>> from swa_fast import Average
        >>> from swa_fast.lightning import WeightAveraging
        >>> callback = WeightAveraging(
        ...     averages={"ema": Average(decay=0.999), "mean": Average(start=100)}, eval_with="ema"
        ... )
    """

    def __init__(
        self,
        device: Any = None,
        use_buffers: bool = True,
        averages: Mapping[str, Average] | None = None,
        eval_with: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Checks the arguments; the averages begin with ``fit``."""
        unknown = sorted(set(kwargs) - {"avg_fn", "multi_avg_fn"})
        if unknown:
            raise TypeError(f"WeightAveraging takes no argument {unknown[0]!r}")
        given = {name: function for name, function in kwargs.items() if function is not None}
        if len(given) > 1 or (given and averages is not None):
            raise TypeError(
                "averages, avg_fn and multi_avg_fn each describe what is averaged: give one. "
                f"Received: {[*given, *(['averages'] if averages is not None else [])]}"
            )
        self._function: FunctionAverage | None = None
        if averages is None:
            name, function = next(iter(given.items()), ("avg_fn", None))
            average = known_average(function)
            if average is None:
                assert function is not None
                self._function = FunctionAverage(function, name == "multi_avg_fn")
                average = self._function.average
            averages = {_UNNAMED: average}
        self._averages = dict(averages)
        # Refuses averages that are none, without waiting for the model.
        WeightAverager([torch.zeros(1)], self._averages)
        if eval_with is not None and eval_with not in self._averages:
            raise ValueError(
                f"eval_with must be one of the averages {list(self._averages)}. "
                f"Received: {eval_with!r}"
            )
        self.eval_with = next(iter(self._averages)) if eval_with is None else eval_with
        self._device = None if device is None else torch.device(device)
        self._use_buffers = use_buffers
        self.averager: WeightAverager | None = None
        self._checkpoints: AveragesInCheckpoint | None = None
        self._loaded: dict[str, Any] | None = None  # a checkpoint that came before the averages
        self._module: Any = None
        self._fitting = False
        self._shown: ShownModel | None = None
        self._swapped = False
        # trainer.global_step at the last update; the first step after it is seen once.
        self._latest_update_step = 0
        self._latest_update_epoch = -1

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Tells whether to update after a step or an epoch; to be overridden.

        Args:
            step_idx: index of the optimizer step, from 0; None at the end of an epoch.
            epoch_idx: index of the epoch, from 0; None after a step.
        """
        return step_idx is not None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Waits for the parameters, which the strategy places after this."""
        if stage == "fit":
            self._module, self._fitting = pl_module, True
            self.averager = self._checkpoints = self._loaded = self._shown = None
            self._swapped = False

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Makes the averages, or those of the checkpoint that was loaded.

        Raises:
            ValueError: the parameters are sharded in a way that cannot be averaged, or the
                checkpoint does not match.
        """
        self._shown = None
        self._begin(pl_module)
        if self._loaded is not None:
            assert self._checkpoints is not None
            checkpoint, self._loaded = self._loaded, None
            self._checkpoints.load_averages(checkpoint, None)

    def _begin(self, module: Any) -> WeightAverager:
        _require_readable(module)
        own = next((parameter.device for parameter in module.parameters()), None)
        self.averager = WeightAverager(
            module,
            self._averages,
            device=None if self._device == own else self._device,
            use_buffers=True,
        )
        if not self._use_buffers:
            buffers = {one.name for one in named_tensors(module, True) if one.is_buffer}
            self.averager.copy_only(buffers)
        self._checkpoints = AveragesInCheckpoint(self.averager, module, self.eval_with)
        return self.averager

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leaves the averages as they are, for who wants to read them."""
        if stage == "fit":
            self._fitting = False

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes a snapshot after an optimizer step, if ``should_update``."""
        step = trainer.global_step
        if step > self._latest_update_step and self.should_update(step_idx=step - 1):
            self._update(pl_module)
            self._latest_update_step = step

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Takes a snapshot after an epoch, if ``should_update``."""
        epoch = trainer.current_epoch
        if epoch > self._latest_update_epoch and self.should_update(epoch_idx=epoch):
            self._update(pl_module)
            self._latest_update_epoch = epoch

    def _update(self, module: Any) -> None:
        assert self.averager is not None
        if self._function is None:
            self.averager.update()
        else:
            self._function.update(self.averager, module, self.eval_with, self._use_buffers)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Copies the average into the model."""
        self._copy_average_to_current(pl_module)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Lets a validation during ``fit`` see the average."""
        if self._fitting:
            self._swap_models(pl_module)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Gives the model its own weights back."""
        if self._fitting:
            self._swap_models(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Gives the model its own weights back, where a validation failed."""
        if self._swapped:
            self._swap_models(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Returns the last step and the last epoch after which there was an update."""
        return {
            "latest_update_step": self._latest_update_step,
            "latest_update_epoch": self._latest_update_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict`` returned, here or in Lightning's class."""
        self._latest_update_step = state_dict["latest_update_step"]
        self._latest_update_epoch = state_dict.get("latest_update_epoch", -1)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Puts the average into the checkpoint's ``state_dict``, and the weights beside it."""
        if self._checkpoints is None:
            rank_zero_info(
                "WeightAveraging has no averages to save outside of fit. After fit, the weights "
                "that are saved are the average"
            )
            return
        if not self._swapped:
            self._checkpoints.save(checkpoint)
            return
        self._swap_models(pl_module)
        try:
            self._checkpoints.save(checkpoint, copies=True)
        finally:
            self._swap_models(pl_module)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Loads the weights that were trained and the averages; without any, warns.

        Raises:
            KeyError, TypeError, ValueError: the averages do not match; those here are as they were.
        """
        if not self._fitting:
            rank_zero_warn(
                "WeightAveraging loads nothing of a checkpoint outside of fit: the model has the "
                "average, which is the checkpoint's state_dict"
            )
            return
        if not has_averages(checkpoint):
            rank_zero_warn(
                "The checkpoint has no averages: they begin with the first update from here"
            )
        elif self._checkpoints is None:  # the strategy places the parameters after this
            pl_module.load_state_dict(checkpoint["current_model_state"])
            self._loaded = checkpoint
        else:
            self._checkpoints.load_averages(checkpoint, trainer.ckpt_path)
            self._checkpoints.load_weights(checkpoint, trainer.ckpt_path)

    def _swap_models(self, pl_module: Any) -> None:
        """Exchanges average and weights, if there is an average; under Lightning's name."""
        averager = self.averager
        assert averager is not None
        if self._swapped or averager.counts[self.eval_with]:
            averager.swap(self.eval_with)
            self._swapped = not self._swapped

    def _copy_average_to_current(self, pl_module: Any) -> None:
        """Copies the average into the weights, if there is one; under Lightning's name."""
        assert self.averager is not None
        if self.averager.counts[self.eval_with]:
            self.averager.copy_to(name=self.eval_with)

    @property
    def _average_model(self) -> _AverageModel | None:
        """Under Lightning's name, for its subclasses: ``n_averaged`` and ``module``."""
        return None if self._module is None else _AverageModel(self)

    def averaged_module(self) -> Any:
        """Returns a module whose parameters are those of the average ``eval_with``; made once.

        Raises:
            RuntimeError: ``fit`` has not begun.
        """
        if self._shown is None:
            if self._module is None:
                raise RuntimeError("averaged_module() needs a fit() before it. Received: none")
            averager = self._begin(self._module) if self.averager is None else self.averager
            self._shown = ShownModel(averager, self._module, name=self.eval_with)
        return self._shown.refresh()


class _AverageModel:
    """What subclasses of Lightning's class read of its ``AveragedModel``."""

    def __init__(self, callback: WeightAveraging) -> None:
        self._callback = callback

    @property
    def n_averaged(self) -> int:
        averager = self._callback.averager
        return 0 if averager is None else averager.counts[self._callback.eval_with]

    @property
    def module(self) -> Any:
        return self._callback.averaged_module()


class EMAWeightAveraging(WeightAveraging):
    """The exponential average, as ``EMAWeightAveraging`` of Lightning 2.6.

    Args:
        device: as of ``WeightAveraging``.
        use_buffers: as of ``WeightAveraging``.
        decay: share of the old average that the new one keeps, from 0 to 1.
        update_every_n_steps: updates are after steps whose index is a multiple of it; 0 for none.
        update_starting_at_step: index of the first step after which there may be one.
        update_starting_at_epoch: from this epoch on there is also an update after each epoch.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``decay`` is out of range.

    Example:
        >>> from swa_fast.lightning import EMAWeightAveraging
        >>> callback = EMAWeightAveraging(decay=0.999, update_starting_at_step=100)
        >>> callback.should_update(step_idx=99), callback.should_update(step_idx=100)
        (False, True)
    """

    def __init__(
        self,
        device: Any = None,
        use_buffers: bool = True,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
    ) -> None:
        """Checks the arguments; the averages begin with ``fit``."""
        super().__init__(device, use_buffers, averages={_UNNAMED: Average(decay=decay)})
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step
        self.update_starting_at_epoch = update_starting_at_epoch

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Tells whether to update after a step or an epoch, from the arguments."""
        every, first = self.update_every_n_steps, self.update_starting_at_step
        if step_idx is not None and every > 0 and step_idx % every == 0:
            return first is None or step_idx >= first
        first = self.update_starting_at_epoch
        return epoch_idx is not None and first is not None and epoch_idx >= first


def _require_readable(module: Any) -> None:
    require_whole_module(module)
    if any(hasattr(parameter, "_is_flat_param") for parameter in module.parameters()) or any(
        kind.__name__ == "FullyShardedDataParallel"
        for part in module.modules()
        for kind in type(part).__mro__
    ):
        raise ValueError(
            "WeightAveraging cannot tell the parameters in FSDP1's flat shards apart: train with "
            "FSDP2, strategy=ModelParallelStrategy(...)"
        )
