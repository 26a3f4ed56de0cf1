"""The command line: help, mistakes, exit codes, and what it doesn't import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from moco import __version__
from moco.cli import COMMANDS, main
from moco.console import Silent, listening, progress, say
from moco.errors import nearest


def run_without(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `moco WORDS` in a fresh process that fails if it imports `module`."""
    code = (
        "import sys; from moco.cli import main; status = main(sys.argv[1:]);"
        f"sys.exit(99 if {module!r} in sys.modules else status)"
    )
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_needs_no_torch(name: str) -> None:
    done = run_without("torch", name, "--help")
    assert done.returncode == 0
    assert f"example:  moco {name}" in " ".join(done.stdout.split()).replace("example: moco", "example:  moco")
    assert done.stderr == ""


def test_usage_lists_every_command() -> None:
    done = run_without("torch", "--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["pretrian"], "did you mean pretrain?"),
        (["pretrain", "--otimizer.lr", "1"], "--optimizer.lr"),
        (["pretrain", "--recipe", "imagenete"], "imagenette"),
        (["pretrain", "--recipe"], "--recipe needs"),
        (["pretrain", "--recipe", "shapes", "--train.epochs", "many"], "--train.epochs"),
        (["pretrain", "--recipe", "shapes", "--train.epochs", "0"], "train.epochs is 0"),
        (["pretrain", "--recipe", "shapes", "--optimizer.lr", "nan"], "--optimizer.lr is nan, give a number"),
        (["linear", "/nowhere/at/all"], "no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2_before_torch_is_loaded(words: list[str], answer: str) -> None:
    done = run_without("torch", *words)
    assert done.returncode == 2
    assert answer in done.stderr
    assert done.stderr.startswith("moco: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_print_config_can_be_read_back_as_a_recipe(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["pretrain", "--recipe", "cifar10", "--model.dim=64", "--print_config"]) == 0
    first = capsys.readouterr().out
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(first)
    assert main(["pretrain", "--recipe", str(recipe), "--print_config"]) == 0
    assert capsys.readouterr().out == first
    assert "dim: 64" in first
    assert "queue_size: 4096" in first


def test_options_win_over_the_recipe_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--model.dim=64", "--recipe", "cifar10", "--print_config"]) == 0
    assert "dim: 64" in capsys.readouterr().out


def test_a_name_that_two_libraries_have_is_suggested_once() -> None:
    assert nearest("resnet5", ["resnet50", "resnet50", "resnet51"]).count("resnet50") == 1


def test_a_line_that_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("next: moco linear runs/a:cat:b [bold]")
    assert capsys.readouterr().err == "next: moco linear runs/a:cat:b [bold]\n"


def test_a_listener_takes_the_place_of_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []

    class Ear(Silent):
        def say(self, text: str) -> None:
            heard.append(text)

    with listening(Ear()):
        say("one")
        with progress("work", 3, "images/s") as bar:
            bar.update(2, "title")
    say("two")
    assert heard == ["one"]
    assert capsys.readouterr().err == "two\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"moco {__version__}\n"


def test_a_bug_is_exit_1_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("moco.cli.dispatch", lambda argv: 1 / 0)
    assert main(["pretrain"]) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "bug in moco" in said


def _take(words: str) -> None:
    """Allocate what no machine has."""
    if words == "torch":
        torch.empty(1 << 55)
    elif words == "numpy":
        np.empty(1 << 55)
    elif words == "python":
        bytearray(1 << 60)
    else:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 19.00 GiB. GPU 0 has ...")


@pytest.mark.parametrize("who", ["torch", "numpy", "python", "cuda"])
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["pretrain", "--data", "x"], "lower --train.batch_size, --views.size"),
        (["pretrain", "--resume", "runs/a"], "a resumed run keeps its batch"),
        (["linear", "runs/a"], "lower --batch_size"),
        (["evaluate", "runs/a"], "take a machine with more"),
    ],
)
def test_out_of_memory_is_one_line_that_says_what_to_lower(
    who: str, words: list[str], answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("moco.cli.dispatch", lambda argv: _take(who))
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("moco: out of memory")
    assert answer in said
    assert said.count("\n") == 1


def test_a_model_that_no_memory_holds_is_no_bug(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["pretrain", "--recipe=shapes", "--data=shapes", "--model.dim=1000000000000", f"--out={tmp_path / 'run'}"]
    assert main(words) == 2
    assert "out of memory" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_start_doesnt_import_torchmetrics_that_nothing_uses(tmp_path: Path) -> None:
    package = tmp_path / "torchmetrics"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '1.9.0'\nopen('imported', 'w').close()\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    program = "import sys; sys.argv = ['moco', '-V']; from moco.__main__ import main; main(); import moco.runtime"
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, check=True)
    assert not (tmp_path / "imported").exists()


def _refused(argv: list[str]) -> None:
    raise PermissionError(13, "Permission denied", "/closed/a\nb")


def test_what_the_system_refuses_of_a_path_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("moco.cli.dispatch", _refused)
    assert main(["runs", "/closed"]) == 2
    assert capsys.readouterr().err == "moco: /closed/a\\nb: Permission denied\n"


def test_a_name_with_a_line_break_is_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["linear", "ru n\n[b]\x1b[31m"]) == 2
    assert capsys.readouterr().err == "moco: no run at ru n\\n[b]\\x1b[31m: no such folder\n"


@pytest.mark.parametrize("option", ["--schedule", "--init"])
def test_a_choice_that_isnt_there_is_answered_with_those_that_are(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["linear", "runs/a", option, "foo"]) == 2
    said = capsys.readouterr().err
    assert "is foo, " in said and "Union" not in said and said.count("\n") == 1
