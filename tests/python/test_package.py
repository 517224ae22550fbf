"""The package as installed: types, versions, what it imports, what it carries."""

from __future__ import annotations

import ast
import doctest
import importlib.metadata
import importlib.resources
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import swa_fast
from swa_fast import _checks, _core, _counters, average, decays


def is_editable() -> bool:
    text = importlib.metadata.distribution("swa-fast").read_text("direct_url.json")
    return bool(json.loads(text or "{}").get("dir_info", {}).get("editable"))


def test_stub_and_module_name_the_same_things() -> None:
    stub = importlib.resources.files("swa_fast").joinpath("_core.pyi").read_text()
    parameters: dict[str, list[str]] = {}
    signatures: dict[str, str] = {}
    attributes: set[str] = set()
    for node in ast.parse(stub).body:
        if isinstance(node, ast.FunctionDef):
            keywords = [
                f"{a.arg}={ast.literal_eval(default)}"
                for a, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                if default is not None
            ]
            positional = [a.arg for a in node.args.args]
            signatures[node.name] = ", ".join(
                [*positional, *(["*"] if keywords else []), *keywords]
            )
            parameters[node.name] = positional + [a.arg for a in node.args.kwonlyargs]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            attributes.add(node.target.id)
    special = {n for n in dir(_core) if n.startswith("__")} - {"__version__"}
    # TypedDicts of the stub are not in the module.
    classes = {n.name for n in ast.parse(stub).body if isinstance(n, ast.ClassDef)}
    public = {name for name in classes if not name.startswith("_")}
    attributes = {name for name in attributes if not name.startswith("_")} | {"__version__"}
    assert set(dir(_core)) - special == set(parameters) | attributes | public
    for name, names in parameters.items():
        function = getattr(_core, name)
        assert str(inspect.signature(function)) == f"({signatures[name]})"
        assert inspect.getdoc(function)
        with pytest.raises(TypeError):
            function(**{f"{n}_": None for n in names}, extra=1)
        if names:  # every parameter can be given by name
            with pytest.raises((TypeError, ValueError)) as caught:
                function(**dict.fromkeys(names, "x"))
            assert "incompatible function arguments" not in str(caught.value)


def test_build_info_matches_its_stub() -> None:
    stub = importlib.resources.files("swa_fast").joinpath("_core.pyi").read_text()
    classes = {n.name: n for n in ast.parse(stub).body if isinstance(n, ast.ClassDef)}

    def keys(name: str) -> set[str]:
        return {
            n.target.id
            for n in classes[name].body
            if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        }

    info = swa_fast.build_info()
    assert set(info) == keys("_BuildInfo")
    assert set(info["cuda"]) == keys("_CudaInfo")
    cuda = info["cuda"]
    assert all(set(device) == keys("_CudaDevice") for device in cuda["devices"])
    assert cuda["available"] == (cuda["reason"] == "") == bool(cuda["devices"])
    assert cuda["available"] == (cuda["max_pairs_per_launch"] in (167, 1361))
    assert cuda["built"] == bool(cuda["toolkit"]) == bool(cuda["architectures"])
    assert info["isa"] in info["isas"]
    assert "-ffp-contract=off" in info["flags"]
    assert info["storage_dtypes"] == ["float64", "float32", "float16", "bfloat16"]


def test_one_version() -> None:
    version = importlib.metadata.version("swa-fast")
    assert swa_fast.__version__ == _core.__version__ == swa_fast.build_info()["version"] == version


@pytest.mark.skipif(is_editable(), reason="an editable installation imports what rebuilds it")
def test_import_needs_numpy_alone() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import swa_fast; "
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(out.stdout) == ["swa_fast"]


def test_what_makes_dataclasses_is_imported_when_it_is_asked_for() -> None:
    """Which takes longer than the rest of the package, and needs `inspect`."""
    code = (
        "import sys; import swa_fast; later = 'swa_fast.average' not in sys.modules; "
        "print(later, swa_fast.Average(), swa_fast.decays.__name__, swa_fast.plots.__name__, "
        "'matplotlib' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("Average")[0] == "True "
    assert out.stdout.rstrip().endswith(" swa_fast.decays swa_fast.plots False")
    assert set(swa_fast.__all__) <= set(dir(swa_fast))
    with pytest.raises(AttributeError, match="module 'swa_fast' has no attribute 'Averages'"):
        swa_fast.Averages  # type: ignore[attr-defined]  # noqa: B018


def test_typed_and_licensed() -> None:
    assert importlib.resources.files("swa_fast").joinpath("py.typed").is_file()
    files = importlib.metadata.files("swa-fast") or []
    assert any(f.name == "LICENSE" for f in files)


@pytest.mark.skipif(is_editable(), reason="an editable installation is the source tree")
def test_installed_and_not_the_source_tree() -> None:
    sources = Path(__file__).parents[2] / "python"
    assert not Path(swa_fast.__file__).is_relative_to(sources)


@pytest.mark.parametrize(
    "module",
    [swa_fast, _checks, decays, average, _counters],
    ids=lambda module: module.__name__,
)
def test_examples_of_modules(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", ["running_mean_", "lerp_", "swap_", "copy_"])
def test_examples_of_docstrings(name: str) -> None:
    text = getattr(swa_fast, name).__doc__
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
