"""`moco pretrain`: train a backbone on images without labels."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.commands.options import RecipeParser, config_of
from moco.config import Config
from moco.config_check import check
from moco.console import say
from moco.errors import UserError
from moco.rundir import RunDir

if TYPE_CHECKING:
    from moco.data.dataset import Dataset
    from moco.train.loop import Loop

EXAMPLE = "moco pretrain --recipe imagenette --data data/imagenette2 --out runs/a"
# What a resumed run may change: the rest is what the run is.
_MAY_CHANGE = ("data", "train.epochs", "checkpoint.", "monitor.", "runtime.", "store.cache")


class PretrainParser(RecipeParser):
    """A resumed run starts from its own configuration instead of a recipe."""

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        argv = list(args or [])
        resumed = _value_of("--resume", argv)
        if resumed is not None:
            argv = ["--recipe", str(RunDir.open(resumed).config_file), *argv]
        return super().parse_args(argv, *rest, **kwargs)


def parser() -> RecipeParser:
    """The command's options: those of `Config`, and where the run goes."""
    p = PretrainParser("pretrain", "Train a backbone on images without labels.", EXAMPLE)
    p.add_argument(
        "--out", type=str, default=argparse.SUPPRESS, metavar="DIR", help="new run directory (default: runs/<recipe>)"
    )
    p.add_argument("--resume", type=str, default=argparse.SUPPRESS, metavar="RUN", help="continue an interrupted run")
    p.add_argument("--overwrite", action="store_true", default=argparse.SUPPRESS, help="replace the run at --out")
    return p


def run(args: Any) -> None:
    """Start or continue a run. Raises `UserError` before anything is made if something can't be right."""
    config = config_of(args)
    check(config)
    if "resume" in args:
        _resume(config, args)
    else:
        _start(config, args)


def _start(config: Config, args: Any) -> None:
    from moco.commands.training import prepare

    out = args.get("out") or str(Path("runs") / Path(str(args.recipe[-1])).stem)
    RunDir.check_free(out, bool(args.get("overwrite")))
    loop, data = prepare(config)
    loop.run = RunDir.create(out, bool(args.get("overwrite")))
    with loop.run.locked():
        loop.run.write_config(loop.config, {**loop.about, "command": sys.argv})
        _measure_baseline(loop)
        _train(loop, data)


def _resume(config: Config, args: Any) -> None:
    from moco import checkpoint
    from moco.commands.training import prepare, restore

    if "out" in args or "overwrite" in args:
        raise UserError("--resume continues a run where it is: leave out --out and --overwrite")
    run_dir = RunDir.open(args.resume)
    saved = run_dir.read_config()
    differences = _forbidden_changes(saved, config)
    if differences:
        raise UserError(f"--resume {args.resume} with other options than it began with: " + "; ".join(differences))
    with run_dir.locked():
        content = checkpoint.load_last(run_dir.checkpoints)
        loop, data = prepare(config)
        loop.run = run_dir
        if content is None:
            say("no checkpoint yet: starting this run from its beginning")
        else:
            restore(loop, content, data)
        run_dir.write_config(loop.config, {**loop.about, "command": sys.argv})
        _train(loop, data)


def _train(loop: Loop, data: Dataset) -> None:
    loop.train()
    run_dir, state = loop.run.root, loop.state
    say(f"done: {state.step} steps, checkpoints in {loop.run.checkpoints}")
    if data.val is None:
        say(f"next: moco report {run_dir}; the backbone is in {loop.run.checkpoints / 'last.pt'}")
        return
    _print_comparison(loop)
    if state.best is not None:
        best = f"best {loop.monitor} {100 * state.best:.1f} % at epoch {state.best_epoch}"
        say(f"{best} (chosen on validation: optimistic)")
    say(f"next: moco linear {run_dir}   then  moco evaluate {run_dir}  and  moco report {run_dir}")


def _measure_baseline(loop: Loop) -> None:
    from moco.commands.monitors import LabelMonitor
    from moco.files import write_json

    for evaluator in loop.evaluators:
        if isinstance(evaluator, LabelMonitor) and loop.config.monitor.baseline:
            found = evaluator.baseline()
            write_json(loop.run.baseline_file, found)
            pixels, random = (100 * found[k] for k in ("raw_pixels_knn_top1", "random_backbone_knn_top1"))
            say(f"kNN before training: raw pixels {pixels:.1f} %, random weights {random:.1f} %")


def _print_comparison(loop: Loop) -> None:
    """The three kNN figures side by side: what learning added."""
    from moco.files import read_json

    row = loop.state.rows[-1]
    if not loop.run.baseline_file.exists() or row.get("knn_top1") is None:
        return
    before = read_json(loop.run.baseline_file, "baseline")
    say(
        f"kNN top-1 on validation:  raw pixels {100 * before['raw_pixels_knn_top1']:.1f} %   "
        f"random weights {100 * before['random_backbone_knn_top1']:.1f} %   trained {100 * row['knn_top1']:.1f} %"  # type: ignore[operator]
    )


def _forbidden_changes(saved: Config, asked: Config) -> list[str]:
    from moco.config_check import flat

    before, after = flat(saved), flat(asked)
    return [
        f"{name} was {before[name]}, now {after[name]}"
        for name in before
        if before[name] != after[name] and not name.startswith(_MAY_CHANGE)
    ]


def _value_of(option: str, argv: list[str]) -> str | None:
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(option + "="):
            return word.split("=", 1)[1]
    return None
