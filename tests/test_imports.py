"""The import directions of the design: data flows one way, and the folders say so."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import moco

ROOT = Path(moco.__file__).parent
BASE = {
    "errors", "config", "config_check", "runtime", "rundir", "files", "console", "environment", "randomness",
    "checkpoint", "cgroups", "presets", "sizing", "tables", "cosine", "folders", "results",
    "threads",
}  # fmt: skip
MAY_IMPORT = {
    "data": BASE,
    "views": BASE,
    "model": BASE,
    "train": BASE | {"data", "views", "model"},
    "evaluate": BASE | {"views", "model"},
    "exchange": BASE | {"model"},
    "report": BASE,
    "bench": BASE | {"model"},
    "runs": BASE | {"data", "views", "model", "train", "evaluate", "exchange", "report", "bench"},
}
ABOVE = {"commands", "cli", "train", "evaluate", "exchange", "report", "data", "views", "model", "runs"}


def imported(path: Path) -> set[str]:
    """First-level names below `moco` that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "moco":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moco."):
            names.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("moco.")}
    return names


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_what_is_below_it(layer: str) -> None:
    files = list((ROOT / layer).glob("**/*.py"))
    wrong = {f"{f.name}: {name}" for f in files for name in imported(f) - MAY_IMPORT[layer] - {layer, "__version__"}}
    assert not wrong


@pytest.mark.parametrize("module", sorted(BASE))
def test_the_base_imports_nothing_above_it(module: str) -> None:
    assert not imported(ROOT / f"{module}.py") & ABOVE


def test_only_the_runtime_knows_fabric() -> None:
    users = {str(p.relative_to(ROOT)) for p in ROOT.glob("**/*.py") if "lightning_fabric" in p.read_text()}
    assert users == {"runtime.py"}


def test_encoders_and_queue_change_only_in_the_step() -> None:
    callers = {
        str(p.relative_to(ROOT))
        for p in ROOT.glob("**/*.py")
        if ".enqueue(" in p.read_text() or ".update_key_encoder()" in p.read_text()
    }
    assert callers == {"train/step.py", "model/moco.py"}  # the second in its docstring
