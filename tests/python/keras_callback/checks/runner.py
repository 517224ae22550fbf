"""`TARGET OUT [NAME ...]`: runs the checks of a target, writes each one's traceback or null."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

if __name__ == "__main__":
    target, out, *names = sys.argv[1:]
    if target == "tf_keras":
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    else:
        os.environ["KERAS_BACKEND"] = target
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import checks
    import preload  # noqa: F401
    from checks.environment import Environment

    checks.load()
    environment = Environment(target)
    results: dict[str, str | None] = {}
    for name, (targets, function) in checks.CHECKS.items():
        if target not in targets or (names and name not in names):
            continue
        before = time.perf_counter()
        try:
            with warnings.catch_warnings():
                function(environment)
            results[name] = None
        except BaseException:
            results[name] = traceback.format_exc()
        seconds = time.perf_counter() - before
        print(f"{seconds:6.2f} s {'ok' if results[name] is None else 'FAILED'} {name}", flush=True)
    Path(out).write_text(json.dumps(results))
