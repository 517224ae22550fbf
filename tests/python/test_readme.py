"""What README.md shows is run, and what it quotes is what is said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import swa_fast

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_python_example(number: int) -> None:
    code = EXAMPLES[number]
    for framework in re.findall(r"^import (torch|tensorflow|keras)", code, re.MULTILINE):
        pytest.importorskip(framework)
    names: dict[str, object] = {}
    exec(compile(code, f"README example {number}", "exec"), names)
    averages = names["averages"]
    assert isinstance(averages, list)
    assert all(np.isfinite(np.asarray(a, np.float32)).all() for a in averages)


def test_there_are_examples_for_each_framework() -> None:
    assert len(EXAMPLES) >= 3
    assert any("import torch" in e for e in EXAMPLES)
    assert any("import tensorflow" in e for e in EXAMPLES)


def test_the_quoted_error_is_the_real_one() -> None:
    quoted = re.search(r"^ValueError: (averages.*)$", TEXT, re.MULTILINE)
    assert quoted is not None
    averages = [np.zeros(1) for _ in range(3)] + [np.zeros((2, 3))]
    values = [np.zeros(1) for _ in range(3)] + [np.zeros((3, 2))]
    with pytest.raises(ValueError, match=re.escape(quoted[1])):
        swa_fast.running_mean_(averages, values, 1)


def test_the_two_commands_are_there() -> None:
    for heading in ("Install and run", "Test"):
        block = re.search(rf"## {heading}\n.*?```bash\n(.*?)```", TEXT, re.DOTALL)
        assert block is not None
        assert block[1].count("\n") == 1, "one command each"
