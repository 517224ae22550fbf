"""The end of a `fit`, as planned, early or by an exception."""

from __future__ import annotations

import warnings
from typing import Any

from .state import delete_backups
from .update_bn import update_bn


def finish(callback: Any, names: dict[str, Any], interrupted: bool) -> None:
    """Leaves the model with the averages and exact moving statistics, all else as it was.

    Args:
        callback: the callback whose `fit` ends.
        names: local names of the `fit`, where its data is found.
        interrupted: whether an exception is passing; then nothing is raised here but a second
            KeyboardInterrupt.
    """
    try:
        _finish(callback, names)
    except Exception as error:
        if not interrupted:
            raise
        warnings.warn(
            f"fit was interrupted and the averages could not be put in place: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
    finally:
        _clean_up(callback)
    if not interrupted and callback.backup_path is not None:
        delete_backups(callback.backup_path)


def _clean_up(callback: Any) -> None:
    if callback._pass is not None:
        callback._pass.remove()
        callback._pass = None
    callback._rates.release()
    if callback._guard is not None:
        callback._guard.remove()
        callback._guard = None
    history = getattr(callback.model, "history", None)
    if history is not None and callback.lr_record:
        history.history.setdefault("lr", []).extend(callback.lr_record)


def _finish(callback: Any, names: dict[str, Any]) -> None:
    backend, model, averages = callback._backend, callback.model, callback._averages
    was_statistics_epoch = callback._pass is not None
    means, nothing_to_measure = [], False
    if was_statistics_epoch:
        recorder = callback._pass.recorder
        means = recorder.means()
        nothing_to_measure = recorder.batches > 0 and not means
        callback._pass.remove()
        callback._pass = None
    if averages.count:
        callback._check_weights()
        # Also after the statistics epoch: an optimizer with use_ema overwrites weights at its end.
        backend.assign(backend.weights(model), averages.copies())
        if not was_statistics_epoch:
            callback._announce(callback._epochs_done)
    elif callback._epochs_done > callback._arguments.start:
        warnings.warn(
            f"training stopped after epoch {callback._epochs_done} before any snapshot was taken: "
            "the model keeps its last weights",
            UserWarning,
            stacklevel=2,
        )
    if means:
        backend.assign([variable for variable, _ in means], [mean for _, mean in means])
    elif callback.bn_data is not None:
        update_bn(backend, model, callback.bn_data, callback.batch_size or 32, None, False)
    elif nothing_to_measure:
        _warn_of_inference_mode()
    elif averages.count and any(layer.trainable for layer in backend.batch_norm_layers(model)):
        _measure_training_data(callback, names)


def _measure_training_data(callback: Any, names: dict[str, Any]) -> None:
    """Runs one pass over the data of the `fit` that ends before its last epoch."""
    backend, model = callback._backend, callback.model
    statistics_pass = callback._begin_pass()
    ran = bool(names) and backend.run_epoch(model, names)
    means = statistics_pass.recorder.means()
    statistics_pass.remove()
    callback._pass = None
    backend.assign(backend.weights(model), callback._averages.copies())
    backend.assign([variable for variable, _ in means], [mean for _, mean in means])
    if statistics_pass.recorder.batches > 0 and not means:
        _warn_of_inference_mode()
    elif not ran or not means:
        warnings.warn(
            "training stopped before its last epoch and its data could not be started anew, so the "
            "moving statistics are the average of the snapshots': give bn_data, or call update_bn",
            UserWarning,
            stacklevel=2,
        )


def _warn_of_inference_mode() -> None:
    warnings.warn(
        "no batch-normalization layer ran in training mode, so there was nothing to measure and "
        "the moving statistics are the average of the snapshots': set trainable=False on layers "
        "that run in inference mode, and no epoch is spent on them",
        UserWarning,
        stacklevel=2,
    )
