"""Argument checks: keras-swa's messages, in keras-swa's order, and ours where it had none."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from swa_fast._keras.checks import Arguments, check


def _check(start_epoch: Any = 3, **changes: Any) -> Arguments:
    arguments: dict[str, Any] = {
        "lr_schedule": "manual",
        "swa_lr": "auto",
        "swa_lr2": "auto",
        "swa_freq": 1,
        "start_step": None,
        "every_n_steps": None,
        "decay": None,
    }
    return check(start_epoch, **{**arguments, **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_epoch": 1}, '"swa_start" attribute cannot be lower than 2.'),
        ({"start_epoch": -5}, '"swa_start" attribute cannot be lower than 2.'),
        ({"lr_schedule": "linear"}, '"linear" is not a valid learning rate schedule'),
        ({"lr_schedule": "cyclic"}, '"swa_freq" must be higher than 1 for cyclic schedule.'),
        (
            {"lr_schedule": "cyclic", "swa_freq": 0},
            '"swa_freq" must be higher than 1 for cyclic schedule.',
        ),
        ({"swa_lr2": 0.1}, '"swa_lr2" cannot be manually set if "swa_lr" is automatic.'),
        ({"swa_lr2": None}, '"swa_lr2" cannot be manually set if "swa_lr" is automatic.'),
        (
            {"lr_schedule": "cyclic", "swa_freq": 2, "swa_lr": 0.2, "swa_lr2": 0.1},
            '"swa_lr" must be lower than "swa_lr2".',
        ),
        ({"start_epoch": 1, "lr_schedule": "linear"}, '"swa_start" attribute'),
        ({"swa_freq": 0}, "swa_freq must be >= 1. Received: 0"),
        ({"swa_lr": "low"}, "swa_lr must be a number or \"auto\". Received: 'low'"),
        ({"swa_lr": -0.1}, "swa_lr must be >= 0 and finite. Received: -0.1"),
        ({"swa_lr": float("nan")}, "swa_lr must be >= 0 and finite"),
        ({"every_n_steps": 0}, "every_n_steps must be >= 1. Received: 0"),
        ({"start_step": -1}, "start_step must be >= 0. Received: -1"),
        ({"decay": 1.0}, "decay must be > 0 and < 1. Received: 1"),
        ({"decay": 0}, "decay must be > 0 and < 1. Received: 0"),
    ],
)
def test_values_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        _check(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_epoch": 2.5}, "start_epoch must be an int. Received: 2.5 of type float"),
        ({"start_epoch": True}, "start_epoch must be an int"),
        ({"swa_freq": "2"}, "swa_freq must be an int"),
        ({"swa_lr": None}, "swa_lr must be a number. Received: None of type NoneType"),
        ({"swa_lr": True}, "swa_lr must be a number"),
        ({"decay": "0.9"}, "decay must be a number"),
        ({"every_n_steps": 1.0}, "every_n_steps must be an int"),
    ],
)
def test_types_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as error:
        _check(**arguments)
    assert str(error.value).startswith(message)


def test_what_is_accepted() -> None:
    assert _check(np.int64(2)).start == 1
    assert _check(swa_lr=np.float32(0.5), swa_lr2=None).swa_lr == 0.5
    assert _check(start_step=5).every_n_steps == 1
    equal = _check(lr_schedule="cyclic", swa_freq=2, swa_lr=0.1, swa_lr2=0.1)
    assert equal.swa_lr2 == 0.1
    assert _check(swa_freq=3).first_snapshot == 2
    assert _check(swa_freq=3, lr_schedule="cyclic").first_snapshot == 4
