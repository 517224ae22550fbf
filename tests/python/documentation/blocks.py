"""Every code block of README.md and docs/: what kind it is, and where it stands.

The info string of a fenced block says what a test does with it:

- `python`: runs, after the blocks before it on its page, in the same namespace. On the pages of
  `ALONE` each runs in a namespace of its own.
- `python raises`: the same, and must end in an exception.
- `python gpu`: runs where torch has a CUDA device; elsewhere it is compiled and skipped by name.
- `python program`: a program of its own, run in a process of its own.
- `python torchrun`: the same, run by torchrun in two processes.
- `bash`: its commands are checked, and run where that is quick and harmless; see `commands.py`.
  `pytest -m commands` runs them all; see `test_commands_run.py`.
- `text`: what the block before it printed, or the exception it raised, word for word.
- `{name}`: a directive of the site, checked by the site's build.

Anything else is an error, an indented block too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Pages of which every block can be pasted alone: each runs in a namespace of its own.
ALONE = frozenset(
    (
        "README.md",
        "docs/averaging.md",
        "docs/checkpoints.md",
        "docs/distributed.md",
        "docs/index.md",
        "docs/install.md",
        "docs/migrating/torch_swa_utils.md",
        "docs/numerics.md",
        "docs/quickstart.md",
        "docs/tensorflow_internals.md",
        "docs/torch.md",
    )
)

KINDS = (
    "python",
    "python raises",
    "python gpu",
    "python program",
    "python torchrun",
    "bash",
    "text",
)
DIRECTIVES = ("{eval-rst}", "{toctree}")


@dataclass(frozen=True)
class Block:
    """One code block.

    Attributes:
        page: path from the repository's root.
        line: of its first line of code, from 1.
        kind: the info string; "indented" for a block without a fence.
        code: its text, ending in a newline.
    """

    page: str
    line: int
    kind: str
    code: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line} {self.kind}"

    @property
    def is_known(self) -> bool:
        return self.kind in KINDS or self.is_directive

    @property
    def is_directive(self) -> bool:
        return self.kind.split(" ")[0] in DIRECTIVES

    @property
    def runs_in_order(self) -> bool:
        return self.kind in ("python", "python raises")


def collect(text: str, page: str) -> list[Block]:
    """Return all code blocks of a Markdown text, nested ones too, in order."""
    found = []
    for token in MarkdownIt().parse(text):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            fenced = token.type == "fence"
            kind = token.info.strip() if fenced else "indented"
            found.append(Block(page, token.map[0] + (2 if fenced else 1), kind, token.content))
    return found


def of_page(path: Path) -> list[Block]:
    """Return all code blocks of a page of this repository."""
    return collect(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())


BLOCKS = {path.relative_to(ROOT).as_posix(): of_page(path) for path in PAGES}


def group_of(page: str) -> str:
    """Return the process that a page shares: importing TensorFlow takes seconds."""
    code = "".join(block.code for block in BLOCKS[page] if block.kind.startswith("python"))
    if "keras" in code or "tensorflow" in code:
        return "tensorflow"
    return "torch" if "torch" in code else "numpy"
