"""Runs the Python blocks of some pages in this process: `run_pages.py JOB RESULT`.

JOB is a JSON list of pages, each a list of {line, page, kind, code}; RESULT is written as
{"PAGE:LINE": {"out": what was printed, "error": null or "Type: message", "trace": a traceback}}.
Each block has a namespace of its own. The blocks of a page share one folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import preload  # noqa: F401
from documentation.blocks import ROOT


def run_page(blocks: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Run one page's blocks in order and return what each did."""
    results: dict[str, dict[str, Any]] = {}
    for block in blocks:
        page = block["page"]
        names: dict[str, Any] = {"__name__": "__main__"}
        out = io.StringIO()
        error = trace = None
        # Empty lines before the code: a traceback shows the page's own line.
        code = "\n" * (block["line"] - 1) + block["code"]
        try:
            with contextlib.redirect_stdout(out):
                # The page's own path: who asks for the source of a function (AutoGraph) finds it.
                exec(compile(code, str(ROOT / page), "exec"), names)
        except Exception as caught:
            error, trace = f"{type(caught).__name__}: {caught}", traceback.format_exc()
        results[f"{page}:{block['line']}"] = {
            "out": out.getvalue(),
            "error": error,
            "trace": trace,
        }
    return results


def main() -> None:
    """Read the job, run it, write the result."""
    job, result = (Path(argument) for argument in sys.argv[1:])
    done: dict[str, dict[str, Any]] = {}
    for number, page in enumerate(json.loads(job.read_text(encoding="utf-8"))):
        folder = job.parent / str(number)
        folder.mkdir()
        os.chdir(folder)
        done.update(run_page(page))
        # After every page: if the process dies, it shows where.
        result.write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    main()
