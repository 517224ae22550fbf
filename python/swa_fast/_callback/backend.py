"""What the callback needs from its Keras and its backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

from .averages import Array
from .guard import Guard


class Backend(Protocol):
    """One Keras on one backend. Models, layers, variables and optimizers are that Keras's own."""

    callback_list: type
    """The container that dispatches to callbacks, one for each `fit`."""

    optimizer_type: tuple[type, ...]
    """Every class of optimizer that a train step may apply."""

    update_methods: ClassVar[dict[str, Callable[..., Any]]]
    """For each method of an optimizer that changes weights: what to call instead, given the
    optimizer and the method's arguments, to change nothing."""

    def layers(self, model: Any) -> list[Any]:
        """Returns `model` and all layers below it, once each, those in custom layers included."""

    def batch_norm_layers(self, model: Any) -> list[Any]:
        """Returns every batch-normalization layer inside `model`, once, however deep."""

    def weights(self, model: Any) -> list[Any]:
        """Returns the floating-point weights of `model`, which are averaged."""

    def state_variables(self, model: Any) -> list[Any]:
        """Returns every variable that a forward pass may change."""

    def label(self, variable: Any) -> str:
        """Returns the name a user knows `variable` by."""

    def dtype(self, variable: Any) -> str:
        """Returns the storage type of `variable`, as "float32"."""

    def read(self, variables: Sequence[Any]) -> list[Any]:
        """Returns the values for one native call: use them at once and drop them."""

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Returns the exact values, which later writes to the variables do not touch."""

    def assign(self, variables: Sequence[Any], values: Sequence[Any]) -> None:
        """Writes values, cast to the variables' types, and may keep the values' memory."""

    def rate(self, optimizer: Any) -> float:
        """Returns the optimizer's present learning rate."""

    def set_rate(self, optimizer: Any, rate: float) -> None:
        """Sets the optimizer's learning rate."""

    def rate_is_driven(self, optimizer: Any) -> bool:
        """Tells whether the rate follows an object (a schedule) that a number cannot replace."""

    def single_step_function(self, model: Any) -> Callable[..., Any]:
        """Returns a new train function that runs one batch; the model keeps its own."""

    def steps_per_execution(self, model: Any) -> int:
        """Returns how many batches one call of the model's train function runs."""

    def runs_in_full(self, names: dict[str, Any]) -> bool:
        """Tells whether the last execution of an epoch runs as many batches as all others.

        Args:
            names: local names of the `fit`; empty if it was not found.
        """

    def one_step_at_a_time(self, model: Any) -> AbstractContextManager[int]:
        """Lets a function from `single_step_function` run; gives the batches of one execution."""

    def stand_in(
        self,
        recorded: Callable[[Callable[..., Any]], Callable[..., Any]],
        original: Callable[..., Any],
    ) -> Callable[..., Any]:
        """Returns what takes the place of a layer's `call`.

        Args:
            recorded: makes of what runs the layer a function that records as well.
            original: the layer's `call`.
        """

    def record_statistics(
        self, recorder: Any, step: Callable[..., Any], arguments: tuple[Any, ...], steps: int
    ) -> Any:
        """Runs up to `steps` single steps with `recorder` collecting after each.

        Returns:
            What the model's own train function would return.

        Raises:
            StopIteration or OutOfRangeError: the data gave no batch at all.
        """

    def measured(self, variable: Any) -> Array:
        """Returns a moving statistic in float64, of all replicas together."""

    def watch(self, guard: Guard, model: Any, names: dict[str, Any]) -> None:
        """Has `guard` watch all that a running `fit` calls but its callback list.

        Args:
            guard: of this `fit`.
            model: that is trained.
            names: local names of the `fit`; empty if it was not found.
        """

    def run_epoch(self, model: Any, names: dict[str, Any]) -> bool:
        """Runs the model's train function once over the data of a running `fit`, started anew.

        Returns:
            Whether it ran: False if this version of Keras does not show its data.
        """

    def forward(self, model: Any, inputs: Any) -> None:
        """Runs `model(inputs, training=True)` and drops the outputs."""

    def build(self, model: Any, inputs: Any) -> None:
        """Makes sure that all layers have their weights, changing nothing else."""
