"""What `moco linear` says at the end."""

from __future__ import annotations

import shlex
from pathlib import Path

from moco.console import percent
from moco.results import LinearResult
from moco.rundir import RunDir


def summary(run: str, result: LinearResult, data: str | None, name: str | None = None) -> str:
    """What is printed: the figures, what they are figures of, the proof, where it all is, and what to type next.

    `data` is what was typed after `--data`, None for the run's own, and `name` what was after `--name`.
    """
    proof = result.proof
    tensors = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in proof["trained_tensors"].items())
    val = f"{percent(result.val_top1)} of {result.val_images:,} validation images"
    train = f"{percent(result.train_top1)} of {result.train_images:,} train images"
    given = [*(["--data", data] if data else []), *(["--name", name] if name else [])]
    following = shlex.join(["moco", "evaluate", run, *given])
    place = RunDir(Path(run)).linear_called(name)
    return "\n".join(
        [
            f"linear classification ({result.protocol}), {result.checkpoint} checkpoint, epoch {result.epoch}",
            f"  top-1  {val}, {train}",
            f"  {_choice(result)}",
            f"  trained: {tensors}; the backbone's {proof['frozen_tensors']} tensors are unchanged (SHA-256)",
            f"  {place} holds classifier.pt, metrics.csv, result.json  ({result.seconds:.0f} s)",
            f"next:  {following}",
        ]
    )


def _choice(result: LinearResult) -> str:
    """How the reported weights were come by."""
    if result.grid is not None:
        return (
            f"lr {result.lr:.3g} and weight decay {result.weight_decay:.3g}, of {len(result.grid)} tried, "
            f"chosen on {result.held_out_images:,} held-out train images ({percent(result.held_out_top1)})"
        )
    return (
        f"after the last epoch, lr {result.lr:.3g}; best on validation: epoch "
        f"{result.best_on_validation_epoch}, {percent(result.best_on_validation_top1)} (chosen by validation)"
    )
