"""The benchmark of a Trainer's step runs, and says what it measured."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import trainer_step


def test_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["trainer_step.py", "--turns", "2", "--steps", "1"])
    trainer_step.main()
    printed = capsys.readouterr().out
    for text in ("step without: ", "ratio of neighbouring turns, median of 2: ", "callback: "):
        assert text in printed
