"""Every command of the pages in docs/, run as a reader would: `pytest -m commands`.

`pip install swa-fast` gets the wheel in the folder SWA_FAST_DIST, in a new environment; what needs
no installation runs where the tests do. The README's commands are run by .ci/run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from documentation.blocks import BLOCKS, ROOT, Block
from documentation.commands import pins

ALL = [block for page in BLOCKS.values() for block in page if block.kind == "bash"]
SHORTER = {
    r"swa-fast bench(?! --help)": "--model mobilenet_v3_large --seconds 1",
    r"docs/plots/(averaging|batch_norm|warm_up)\.py": "--seeds 2 --epochs 4",
    r"docs/plots/low_precision\.py": "--steps 300",
}
"""What is appended to commands that take minutes."""


def named(found: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in found])


def shortened(code: str) -> str:
    for pattern, options in SHORTER.items():
        command = rf"{pattern}[^\n&]*?(?= *(&&|$))"
        code = re.sub(command, rf"\g<0> {options}", code, flags=re.MULTILINE)
    return code


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository that commands may write to, without the package's source."""
    folder = tmp_path_factory.mktemp("tree")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--", ".", ":!python"]
    names = subprocess.run(listed, capture_output=True, check=True).stdout
    copied = ["xargs", "-0", "cp", "--parents", "-t", str(folder)]
    subprocess.run(copied, input=names, cwd=ROOT, check=True)
    return folder


def new_environment(folder: Path) -> tuple[Path, dict[str, str]]:
    """Make a virtual environment; return its programs' folder, and settings for pip."""
    dist = Path(os.environ["SWA_FAST_DIST"])
    (wheel,) = dist.glob(f"swa_fast-*-cp3{sys.version_info[1]}-*.whl")
    venv.create(folder / "venv", with_pip=True)
    # Not the newest torch: that one may bring gigabytes of CUDA libraries.
    constraints = [f"swa-fast=={wheel.name.split('-')[1]}", *pins("torch")]
    (folder / "constraints.txt").write_text("\n".join(constraints), encoding="utf-8")
    links = f"{os.environ.get('PIP_FIND_LINKS', '')} {dist}".strip()
    return folder / "venv" / "bin", {
        "PIP_FIND_LINKS": links,
        "PIP_CONSTRAINT": str(folder / "constraints.txt"),
    }


def needs_more(block: Block) -> bool:
    """Tells whether a command works on the reader's files, beside packages that are not here, or
    runs tests of this suite, which CI has run.

    Its arguments alone are checked then. The scripts have tests of their own in tests/python/bench.
    """
    here = (
        r"^swa-fast (merge|soup) (?!--help)|^python -m pytest"
        r"|benchmarks/(merge|peers_update|trainer_step)\.py"
    )
    return re.search(here, block.code, re.MULTILINE) is not None


@pytest.mark.commands
@named([b for b in ALL if b.page != "README.md" and not needs_more(b)])
def test_commands_of_a_page(block: Block, tree: Path, tmp_path: Path) -> None:
    programs, settings = Path(sys.executable).parent, dict[str, str]()
    if "pip install" in block.code:
        programs, settings = new_environment(tmp_path)
    folder = tree
    if "train.py" in block.code:  # the block before it
        folder = tmp_path
        page = BLOCKS[block.page]
        program = [b for b in page[: page.index(block)] if b.kind.startswith("python ")][-1]
        (folder / "train.py").write_text(program.code, encoding="utf-8")
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shortened(block.code)],
        cwd=folder,
        env={**os.environ, "PATH": path, "USE_LIBUV": "0", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=580,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0


@named([block for block in ALL if block.page == "README.md"])
def test_the_readmes_commands_are_run_by_ci(block: Block) -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("the sdist leaves .ci out")
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[: block.line]
    heading = [line.removeprefix("## ") for line in lines if line.startswith("## ")][-1]
    under = [line for line in lines[lines.index(f"## {heading}") :] if line == "```bash"]
    assert len(under) == 1, f"{heading}: .ci/run takes the first of its bash blocks"
    assert f'readme_command "{heading}"' in script.read_text(encoding="utf-8")


def test_shortened_appends_to_each_command() -> None:
    code = "a && swa-fast bench --json x && python docs/plots/averaging.py\nswa-fast bench --help\n"
    found = shortened(code)
    assert "--json x --model mobilenet_v3_large --seconds 1 && python" in found
    assert found.splitlines()[0].endswith("averaging.py --seeds 2 --epochs 4")
    assert found.splitlines()[1] == "swa-fast bench --help"
