"""What `moco linear` says at the end: the figures of `result.json`, and the lines on the screen."""

from __future__ import annotations

from typing import Any

from moco.console import percent

Row = dict[str, float | int | None]


def final_scores(rows: list[Row], protocol: str) -> dict[str, Any]:
    """The last epoch's figures, and, said as such, the best epoch's on validation."""
    last = rows[-1]
    scores: dict[str, Any] = {name: last[name] for name in ("loss", "train_top1", "val_top1", "val_loss")}
    if protocol == "sgd":
        best = max(rows, key=lambda row: row["val_top1"] or 0.0)
        scores |= {"best_on_validation_top1": best["val_top1"], "best_on_validation_epoch": best["epoch"]}
    return scores


def summary(run: str, result: dict[str, Any]) -> str:
    """What is printed: the figures, what they are figures of, the proof, where it all is, and what to type next."""
    proof = result["proof"]
    tensors = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in proof["trained_tensors"].items())
    val = f"{percent(result['val_top1'])} of {result['val_images']:,} validation images"
    train = f"{percent(result['train_top1'])} of {result['train_images']:,} train images"
    return "\n".join(
        [
            f"linear classification ({result['protocol']}), {result['checkpoint']} checkpoint, epoch {result['epoch']}",
            f"  top-1  {val}, {train}",
            f"  {_choice(result)}",
            f"  trained: {tensors}; the backbone's {proof['frozen_tensors']} tensors are unchanged (SHA-256)",
            f"  {run}/linear holds classifier.pt, metrics.csv, result.json  ({result['seconds']:.0f} s)",
            f"next:  moco evaluate {run}",
        ]
    )


def _choice(result: dict[str, Any]) -> str:
    """How the reported weights were come by."""
    if result["protocol"] == "cached":
        return (
            f"lr {result['lr']:.3g} and weight decay {result['weight_decay']:.3g}, of {len(result['grid'])} tried, "
            f"chosen on {result['held_out_images']:,} held-out train images ({percent(result['held_out_top1'])})"
        )
    return (
        f"after the last epoch, lr {result['lr']:.3g}; best on validation: epoch "
        f"{result['best_on_validation_epoch']}, {percent(result['best_on_validation_top1'])} (chosen by validation)"
    )
