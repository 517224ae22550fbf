"""Runs the Python blocks of some pages in this process: `run_pages.py JOB RESULT`.

JOB is a JSON list of pages, each a list of {line, page, kind, code}; RESULT is written as
{"PAGE:LINE": {"out": what was printed, "error": null or "Type: message", "trace": a traceback}}.
A page's blocks share one namespace, which starts with what `given.py` has for the page; after an
error the rest of the page is not run. On pages of `blocks.ALONE` each block has a namespace of its
own, and all are run.
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
from documentation.blocks import ALONE, ROOT
from documentation.given import GIVEN


def run_page(blocks: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Run one page's blocks in order and return what each did."""
    results: dict[str, dict[str, Any]] = {}
    names: dict[str, Any] = {"__name__": "__main__"}
    page = blocks[0]["page"]
    try:
        exec(compile(GIVEN.get(page, ""), f"given for {page}", "exec"), names)
    except ImportError:
        return results  # the test of each block says what is not installed
    for block in blocks:
        if page in ALONE:
            names = {"__name__": "__main__"}
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
        if error is not None and block["kind"] != "python raises" and page not in ALONE:
            break
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
