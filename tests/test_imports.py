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
    "threads", "machine", "automatic", "label_curves", "ranks", "launch", "words", "fresh_run",
}  # fmt: skip
MAY_IMPORT = {
    "data": BASE,
    "sinks": BASE,
    "views": BASE,
    "model": BASE,
    "train": BASE | {"data", "views", "model", "sinks"},
    "evaluators": BASE | {"views", "model"},
    "exchange": BASE | {"model"},
    "reporting": BASE,
    "embedding": BASE,
    "timing": BASE | {"model"},
    "runs": BASE
    | {"data", "views", "model", "train", "evaluators", "timing", "exchange", "reporting", "embedding", "sinks"},
}
ABOVE = {
    "commands", "cli", "runs", "train", "evaluators", "timing", "exchange", "reporting", "embedding", "data", "views",
    "model", "sinks",
}  # fmt: skip


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


@pytest.mark.parametrize("layer", sorted(p.name for p in ROOT.iterdir() if p.is_dir() and list(p.glob("*.py"))))
def test_a_layer_imports_only_what_is_below_it(layer: str) -> None:
    """Every folder of the package, so that a new one can't be forgotten."""
    if layer == "commands":
        pytest.skip("the commands sit on top")
    files = list((ROOT / layer).glob("**/*.py"))
    wrong = {f"{f.name}: {name}" for f in files for name in imported(f) - MAY_IMPORT[layer] - {layer, "__version__"}}
    assert not wrong


def test_every_module_of_the_base_is_held_to_it() -> None:
    assert {p.stem for p in ROOT.glob("*.py")} - {"__init__", "__main__", "cli"} == BASE


def test_only_the_command_line_knows_the_commands() -> None:
    users = {str(p.relative_to(ROOT)) for p in ROOT.glob("**/*.py") if "commands" in imported(p)}
    assert users == {str(p.relative_to(ROOT)) for p in ROOT.glob("commands/*.py") if "commands" in imported(p)}
    assert "moco.commands." in (ROOT / "cli.py").read_text()
    outside = (p for folder in ("tests", "benchmarks") for p in (ROOT.parents[1] / folder).glob("**/*.py"))
    mine = ("tests/commands/", "tests/test_cli.py", "tests/test_imports.py")
    others = [str(p.relative_to(ROOT.parents[1])) for p in outside if "commands" in imported(p)]
    assert [name for name in others if not name.startswith(mine)] == []


INHERITED = {"_actions"}  # argparse keeps its options there and offers no other way to them


def private_names(path: Path) -> set[str]:
    """Names with a leading underscore that a file takes from somewhere else in this package."""
    tree, found = ast.parse(path.read_text()), set()
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    own |= {n.target.id for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moco"):
            found |= {a.name for a in node.names if a.name.startswith("_") and not a.name.startswith("__")}
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            base = node.value
            foreign = not (isinstance(base, ast.Name) and base.id in ("torch", "signal", "os", "module"))
            foreign &= not (isinstance(base, ast.Attribute) and ast.unparse(base).startswith(("torch.", "nn.")))
            if foreign and node.attr not in own | INHERITED:
                found.add(node.attr)
    return found


def test_a_private_name_stays_in_its_module() -> None:
    files = [*ROOT.glob("**/*.py"), *(ROOT.parents[1] / "benchmarks").glob("*.py")]
    assert {str(p.relative_to(ROOT.parents[1])): names for p in files if (names := private_names(p))} == {}


@pytest.mark.parametrize("module", sorted(BASE))
def test_the_base_imports_nothing_above_it(module: str) -> None:
    assert not imported(ROOT / f"{module}.py") & ABOVE


@pytest.mark.parametrize("library", ["lightning_fabric", "torch.distributed"])
def test_only_the_runtime_knows_fabric_and_ranks(library: str) -> None:
    users = {str(p.relative_to(ROOT)) for p in ROOT.glob("**/*.py") if library in p.read_text()}
    assert users == {"runtime.py"}


def test_encoders_and_queue_change_only_in_the_step() -> None:
    callers = {
        str(p.relative_to(ROOT))
        for p in ROOT.glob("**/*.py")
        if ".enqueue(" in p.read_text() or ".update_key_encoder()" in p.read_text()
    }
    assert callers == {"train/step.py", "model/moco.py"}  # the second in its docstring
