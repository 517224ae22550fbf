"""`RunningFit`: all that looks into a `fit` while it runs, or changes what it calls.

Keras tells callbacks nothing when `fit` ends with an exception, does not show its data, and has no
hook around one callback's work. So the objects that live only as long as one `fit` (its callback
list, its epoch iterator) are found on the call stack, and methods are replaced on instances: here,
in the subclasses of the two Kerases, and nowhere else.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from .patches import Patches, method
from .runtime import Runtime
from .statistics import Recorder

_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_epoch_begin", "on_epoch_end")
_SAVING = (
    "save",
    "save_weights",
    "export",
    # What functions that save a model call of it: those of Keras, tf.train.Checkpoint, torch.save.
    "save_own_variables",
    "get_config",
    "_trackable_children",
    "state_dict",
)

Context = Callable[[], AbstractContextManager[None]]


class RunningFit:
    """The `fit` of `model` that is running, or a loop of the user's own over a `CallbackList`.

    Made, and asked, inside of a callback's hooks.

    Attributes:
        container: the class that dispatches to callbacks, one object for each `fit`.
        model_methods: methods of a model that `fit` calls; an exception that leaves one ends it.
        updates: for each method of an optimizer that changes weights: what to call instead, given
            the optimizer and the method's arguments, to change nothing.
        end_of_data: what a train function raises when there is no batch left.
    """

    container: type
    model_methods: tuple[str, ...]
    updates: ClassVar[dict[str, Callable[..., Any]]]
    end_of_data: tuple[type[Exception], ...] = (StopIteration,)

    def __init__(self, runtime: Runtime, model: Any) -> None:
        """Notes whose `fit` it is; replaces nothing yet."""
        self.runtime = runtime
        self.model = model
        self._watched = Patches()
        self._pass = Patches()
        self._recorder: Recorder | None = None
        self._alive: Callable[[], Any] = lambda: None
        self._interrupted: Callable[[], None] = lambda: None

    # Looking ---------------------------------------------------------------------------------

    def names(self) -> dict[str, Any]:
        """Returns the local names of the `fit`; empty in a loop of the user's own."""
        for frame in _frames():
            if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is self.model:
                return dict(frame.f_locals)
        return {}

    def callback_list(self) -> Any:
        """Returns the `CallbackList` that called, None if there is none."""
        for frame in _frames():
            owner = frame.f_locals.get("self")
            if isinstance(owner, self.container):
                return owner
        return None

    def callbacks(self) -> list[Any]:
        """Returns all callbacks of this `fit`, in their order."""
        return list(getattr(self.callback_list(), "callbacks", ()))

    def validates(self) -> bool | None:
        """Tells whether `fit` has validation data; None in a loop of the user's own."""
        names = self.names()
        if not names:
            return None
        return names.get("validation_data") is not None or bool(names.get("validation_split"))

    def steps_per_execution(self) -> int:
        """Returns how many batches one call of the model's train function runs."""
        raise NotImplementedError

    def runs_in_full(self) -> bool:
        """Tells whether the last execution of an epoch runs as many batches as all others."""
        raise NotImplementedError

    # Watching --------------------------------------------------------------------------------

    def watch(self, callbacks: Any, interrupted: Callable[[], None]) -> None:
        """Calls `interrupted` when an exception ends this `fit`, before the exception goes on.

        Args:
            callbacks: from `callback_list`.
            interrupted: called once for each exception; it must not raise.
        """
        self._interrupted, self._alive = interrupted, weakref.ref(callbacks)
        # A loop of the user's own may end unseen: then what it leaves behind goes with its list.
        weakref.finalize(callbacks, self.stop_watching).atexit = False
        for name in _HOOKS:
            self._watch(callbacks, name)

    def watch_calls(self) -> None:
        """Watches what `fit` calls of the model and of its data."""
        for name in self.model_methods:
            self._watch(self.model, name)
        self._watch_data(self.names())

    def evaluate_inside(self, context: Context) -> None:
        """Makes the `fit`'s own calls of `model.evaluate` run inside of `context()`.

        `on_test_begin` and `on_test_end` would not do: other callbacks' come before or after, and
        an exception between them is not told. A call of `evaluate` by the user, or by another
        callback, is left alone.
        """
        original = vars(self.model).get("evaluate") or self.model.evaluate

        def evaluate(*args: Any, **kwargs: Any) -> Any:
            # The keyword by which fit says that the call is its own.
            if not kwargs.get("_use_cached_eval_dataset"):
                return original(*args, **kwargs)
            with context():
                return original(*args, **kwargs)

        self._watched.replace(self.model, "evaluate", evaluate)

    def end_epoch_inside(self, callback: Any, context: Context) -> None:
        """Makes `callback.on_epoch_end` run inside of `context()`."""
        call = method(callback, "on_epoch_end")
        assert call is not None

        def on_epoch_end(*args: Any, **kwargs: Any) -> Any:
            with context():
                return call(*args, **kwargs)

        self._watched.replace(callback, "on_epoch_end", on_epoch_end)

    def stop_watching(self) -> None:
        """Gives every object its own methods back."""
        if self._recorder is not None:
            self.end_pass(self._recorder)
        self._watched.undo()

    def _watch(self, owner: Any, name: str) -> None:
        call = method(owner, name)
        if call is None:
            return

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self._reporting():
                return call(*args, **kwargs)

        self._watched.replace(owner, name, watched)

    def _watch_context(self, owner: Any, name: str) -> None:
        """Watches what runs inside the context manager that the method `name` returns."""
        call = method(owner, name)
        assert call is not None

        @contextlib.contextmanager
        def watched(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with call(*args, **kwargs) as value, self._reporting():
                yield value

        self._watched.replace(owner, name, watched)

    def _watch_iteration(self, owner: Any) -> None:
        """Watches every step of a `for` loop over `owner`, which is its own iterator."""
        kind, reporting = type(owner), self._reporting

        def step(iterator: Any) -> Any:
            with reporting():
                return kind.__next__(iterator)

        self._watched.replace_next(owner, step)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except (StopIteration, GeneratorExit):
            raise
        except BaseException as error:  # KeyboardInterrupt and SystemExit, too
            if type(error).__name__ != "OutOfRangeError" and self._alive() is not None:
                self._interrupted()
            raise

    def _watch_data(self, names: dict[str, Any]) -> None:
        raise NotImplementedError

    # A pass that changes moving statistics and nothing else ------------------------------------

    def begin_pass(self, recorder: Recorder) -> None:
        """Puts a recording train function in the place of the model's own, until `end_pass`.

        It runs the model's own train step, so that whatever the user wrote there runs too, but no
        optimizer changes a weight. A learning rate of zero would not do: decoupled weight decay,
        momentum and an optimizer's own averages move weights all the same.
        """
        model, patches = self.model, self._pass
        self._recorder = recorder
        try:
            recorder.install()
            for optimizer in self._optimizers():
                for name, nothing in self.updates.items():
                    if hasattr(optimizer, name):
                        patches.replace(optimizer, name, _bound(nothing, optimizer))
            train_step = model.train_step

            def recorded_step(*arguments: Any) -> Any:
                recorder.begin_batch()
                return train_step(*arguments)

            patches.replace(model, "train_step", recorded_step)
            single_step = self._single_step_function()

            def run(*arguments: Any) -> Any:
                before = recorder.batches
                with self._reporting(), self._one_step_at_a_time() as steps:
                    result = self._record(recorder, single_step, arguments, steps)
                assert recorder.batches > before
                return result

            patches.replace(model, "train_function", run)
        except BaseException:
            self.end_pass(recorder)
            raise

    def end_pass(self, recorder: Recorder) -> None:
        """Gives model, optimizers and layers back what was replaced."""
        self._recorder = None
        recorder.remove()
        self._pass.undo()

    def run_epoch(self) -> bool:
        """Runs the model's train function once over the data of the `fit`, started anew.

        Returns:
            Whether it ran: False in a loop of the user's own, or if this version of Keras does not
            show its data.
        """
        raise NotImplementedError

    def _optimizers(self) -> list[Any]:
        """Returns the compiled optimizer and all others that are kept for a train step, once each.

        They are looked for in the attributes of the model and of every layer and model below it,
        and in lists, tuples, sets and dicts there, however deep. One that is reached only through a
        closure, a global name or an object that is no layer is not found.
        """
        compiled = getattr(self.model, "optimizer", None)
        found = [] if compiled is None else [compiled]
        seen: set[int] = set()
        for layer in self.runtime.layers(self.model):
            for value in list(vars(layer).values()):
                found += _optimizers_in(value, self.runtime.optimizers, seen)
        return list({id(optimizer): optimizer for optimizer in found}.values())

    def _record(
        self, recorder: Recorder, step: Callable[..., Any], arguments: tuple[Any, ...], steps: int
    ) -> Any:
        """Runs up to `steps` single steps, and has `recorder` collect after each.

        Returns:
            What the model's own train function would return.
        """
        result = None
        for done in range(steps):
            try:
                result = step(*arguments)
            except self.end_of_data:
                if done == 0:
                    raise
                break
            recorder.collect(self.runtime.measured)
        recorder.assign_means(self.runtime)
        return result

    def _single_step_function(self) -> Callable[..., Any]:
        """Returns a new train function that runs one batch; the model keeps its own."""
        raise NotImplementedError

    def _one_step_at_a_time(self) -> AbstractContextManager[int]:
        """Lets a function of single steps run; gives the batches of one execution."""
        raise NotImplementedError


@contextlib.contextmanager
def saving_refused(model: Any) -> Iterator[None]:
    """Makes every way to save `model` raise RuntimeError."""
    patches = Patches()
    for name in _SAVING:
        if hasattr(model, name):
            patches.replace(model, name, _refuse(name))
    try:
        yield
    finally:
        patches.undo()


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            f"model.{name} must not be called while validate_with_average evaluates the averages: "
            "the model would be saved without its own weights. Save it at the end of an epoch"
        )

    return refuse


def _frames() -> Iterator[Any]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def _bound(function: Callable[..., Any], owner: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: function(owner, *args, **kwargs)


def _optimizers_in(value: Any, kinds: tuple[type, ...], seen: set[int]) -> Iterable[Any]:
    if isinstance(value, kinds):
        yield value
    elif isinstance(value, dict | list | tuple | set | frozenset) and id(value) not in seen:
        seen.add(id(value))
        for item in list(value.values() if isinstance(value, dict) else value):
            yield from _optimizers_in(item, kinds, seen)
