"""Every code block of README.md and docs/ does what it shows; see `blocks.py` for the rules."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from documentation import blocks, commands, run_pages
from documentation.blocks import BLOCKS, ROOT, Block

FRAMEWORKS = (
    "torch",
    "tensorflow",
    "keras",
    "tf_keras",
    "jax",
    "matplotlib",
    "lightning",
    "transformers",
    "accelerate",
)
"""What a block may import, and is skipped without."""

ALL = [block for page in BLOCKS.values() for block in page]
RUN_HERE = [block for block in ALL if block.runs_here]
HERE = Path(__file__).parent


def named(found: list[Block]) -> Any:
    return pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in found])


def of_kind(kind: str) -> list[Block]:
    return [block for block in ALL if block.kind == kind]


def environment() -> dict[str, str]:
    """What a child gets: our own packages, the reference backend, no GPU, little noise."""
    search = os.pathsep.join(path for path in [str(HERE.parent), *sys.path] if path)
    settings = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2", "USE_LIBUV": "0"}
    return {**os.environ, **settings, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": search}


@functools.cache
def results(group: str) -> dict[str, Any]:
    """Run all pages of a group in one process and return what each block did."""
    pages = [
        [vars(block) for block in page if block.runs_here]
        for name, page in BLOCKS.items()
        if blocks.group_of(name) == group
    ]
    with tempfile.TemporaryDirectory() as folder:
        job, result = Path(folder, "job.json"), Path(folder, "result.json")
        job.write_text(json.dumps([page for page in pages if page]), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(HERE / "run_pages.py"), str(job), str(result)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        found: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    return {**found, "stderr": "" if done.returncode == 0 else done.stderr[-3000:]}


def result_of(block: Block) -> dict[str, Any]:
    found = results(blocks.group_of(block.page))
    place = f"{block.page}:{block.line}"
    assert place in found, f"{place} was not reached: {found['stderr']}"
    result: dict[str, Any] = found[place]
    return result


def require_framework(block: Block) -> None:
    """Skip a block that imports what is not installed."""
    for name in FRAMEWORKS:
        used = re.search(rf"^\s*(import|from) {name}\b", block.code, re.MULTILINE)
        if used and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("page", BLOCKS)
def test_every_block_is_of_a_known_kind(page: str) -> None:
    unknown = [block.name for block in BLOCKS[page] if not block.is_known]
    assert not unknown, f"give these a kind of blocks.py: {unknown}"


def test_there_is_something_to_test() -> None:
    assert len(RUN_HERE) > 20
    assert len([block for block in BLOCKS["README.md"] if block.kind == "python"]) >= 3
    for kind in blocks.KINDS:
        assert of_kind(kind), kind


@named(RUN_HERE)
def test_python(block: Block) -> None:
    require_framework(block)
    result = result_of(block)
    if block.kind == "python raises":
        assert result["error"] is not None, "nothing was raised"
    else:
        assert result["error"] is None, result["trace"]


@named(of_kind("python gpu"))
def test_python_on_a_gpu(block: Block) -> None:
    compile(block.code, block.name, "exec")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device and a torch that can use it; compiled only")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block.code, block.name, "exec"), names)


@named(of_kind("python program") + of_kind("python torchrun"))
def test_program(block: Block, tmp_path: Path) -> None:
    require_framework(block)
    command = [sys.executable]
    if block.kind == "python torchrun":
        torch = pytest.importorskip("torch")
        if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
            pytest.skip("torch was built without distributed gloo")
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = tmp_path / "train.py"
    program.write_text(block.code, encoding="utf-8")
    done = subprocess.run(
        [*command, str(program)],
        cwd=tmp_path,
        env={**environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    following = after(block)
    if following is not None and following.kind == "text":
        assert without_order(done.stdout, following.code) == without_order(following.code)


def without_order(printed: str, expected: str = "") -> tuple[dict[str, int], int]:
    """How often each expected line was printed, and how much: ranks mix lines and their ends."""
    lines = (expected or printed).splitlines()
    return {line: printed.count(line) for line in lines}, len(printed)


@named(of_kind("bash"))
def test_commands(block: Block) -> None:
    found = commands.commands(block.code)
    assert found
    out = "".join(commands.run_or_check(command, block.page) for command in found)
    following = after(block)
    if following is not None and following.kind == "text":
        assert out == following.code


@named(of_kind("text"))
def test_text_is_what_the_block_before_it_said(block: Block) -> None:
    page = BLOCKS[block.page]
    before = page[page.index(block) - 1]
    assert page.index(block) > 0
    if before.kind in ("bash", "python program", "python torchrun"):
        return  # compared where it is run
    assert before.runs_here, f"a text block follows what printed it, not {before.kind!r}"
    require_framework(before)
    result = result_of(before)
    said = result["out"] + (f"{result['error']}\n" if before.kind == "python raises" else "")
    assert said == block.code


def after(block: Block) -> Block | None:
    page = BLOCKS[block.page]
    place = page.index(block) + 1
    return page[place] if place < len(page) else None


def test_what_ci_runs_from_the_readme_is_one_command_each() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for heading in ("Install and run", "Test"):
        found = re.search(rf"^## {heading}\n.*?```bash\n(.*?)```", text, re.DOTALL | re.MULTILINE)
        assert found is not None
        assert found[1].count("\n") == 1


def test_a_block_has_nothing_from_the_one_before_and_an_error_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    codes = [
        (3, "python", "number = 2\nprint(number)\n"),
        (9, "python raises", "raise KeyError(2)\n"),
        (20, "python", "number = 3\nprint(number)\nnumber / 0\n"),
        (30, "python", "print(number)\n"),
        (40, "python", "import json\nprint(json.dumps(1))\n"),
    ]
    page = [{"page": "p.md", "line": n, "kind": kind, "code": code} for n, kind, code in codes]
    found = run_pages.run_page(page)
    assert list(found) == ["p.md:3", "p.md:9", "p.md:20", "p.md:30", "p.md:40"]
    assert found["p.md:3"] == {"out": "2\n", "error": None, "trace": None}
    assert [result["error"] for result in found.values()] == [
        None,
        "KeyError: 2",
        "ZeroDivisionError: division by zero",
        "NameError: name 'number' is not defined",
        None,
    ]
    assert found["p.md:20"]["out"] == "3\n"
    assert 'p.md", line 22' in found["p.md:20"]["trace"]
    assert found["p.md:40"]["out"] == "1\n"


def test_every_kind_of_block_is_found() -> None:
    text = "\n".join(
        (
            "```python\na = 1\n```\ntext `code`\n",
            "- item\n\n  ```bash\n  pip install .\n  ```\n",
            "> ~~~text\n> quoted\n> ~~~\n",
            "    indented()\n",
            "```\nnothing said\n```",
            "```{toctree}\npage\n```",
            "```ruby\n```",
        )
    )
    found = blocks.collect(text, "page.md")
    kinds = ["python", "bash", "text", "indented", "", "{toctree}", "ruby"]
    assert [block.kind for block in found] == kinds
    assert [block.is_known for block in found] == [True, True, True, False, False, True, False]
    assert found[0] == Block("page.md", 2, "python", "a = 1\n")
    assert text.splitlines()[found[3].line - 1] == "    indented()"


@pytest.mark.parametrize(
    "line",
    [
        "pip install 'swa-fast[nothing]'",
        "pip install torch==1.0.0",
        "pip install --group nothing",
        "swa-fast bench --no-such-option",
        "swa-fast bench --model no_such_model",
        "SWA_FAST_NO_SUCH=1 swa-fast info",
        "python examples/no_such.py",
        "python examples/digits_numpy.py --no-such-option",
        "python -m pytest tests/no_such.py",
        "no-such-program",
        "python -c 'import no_such_module'",
        "tests/gpu/run.sh --no-such-option",
        "tests/gpu/none.sh",
        "pip install --no-such-option .",
    ],
)
def test_wrong_commands_are_found(line: str) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        commands.run_or_check(commands.commands(line)[0], "README.md")


def test_right_commands_are_let_through() -> None:
    lines = "\n".join(
        (
            "python3 -m venv .venv && .venv/bin/pip install '.[test]'  # comment",
            "SWA_FAST_ISA=avx2 swa-fast bench --model resnet50 \\\n  --json result.json",
            "pip install 'swa-fast[torch]' && pip install torch==2.13.0",
            "python examples/digits_numpy.py --seeds 3 && tests/gpu/run.sh",
            "export SWA_FAST_ISA=baseline && pip install -q dist/swa_fast.whl",
        )
    )
    found = commands.commands(lines)
    assert len(found) == 9
    assert [commands.run_or_check(command, "README.md") for command in found] == [""] * 9
    assert commands.run_or_check(["python", "-c", "print(6 * 7)"], "README.md") == "42\n"
    assert "swa-fast" in commands.run_or_check(["swa-fast", "--version"], "README.md")
