"""Is pre-training worth it with few labels? The whole network, fine-tuned from a run and trained from scratch.

    python examples/finetune_with_few_labels.py runs/a --labels 10% --draws 3 --out runs/few

Both sides see the same labelled images, draw by draw, for as many epochs, each with the default rates of its own. A
comparison that is stopped goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import moco


def score(place: Path, run: str, source: str, options: moco.FinetuneOptions) -> float:
    """Top-1 on validation after the last epoch; of what is there already, or gone on with."""
    if (place / "finetune.json").exists():
        return moco.resume_finetune(place).last.top1
    return moco.finetune(run, options, source, out=place).last.top1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run directory of `moco pretrain`")
    parser.add_argument("--labels", default="10%", help="a share of every class, or N-per-class (default: 10%%)")
    parser.add_argument("--draws", type=int, default=3, help="times that the labelled images are drawn (default: 3)")
    parser.add_argument("--epochs", type=int, help="default: as many as `moco finetune` takes")
    parser.add_argument("--out", type=Path, default=Path("runs/few"), help="a folder (default: %(default)s)")
    args = parser.parse_args()

    for source in ("run", "scratch"):
        scores = []
        for draw in range(args.draws):
            options = moco.FinetuneOptions(labels=args.labels, draw=draw, epochs=args.epochs)
            asked = f"{args.labels.replace('%', 'pct')}-{args.epochs or 'usual'}-epochs"  # other options, other folders
            scores.append(score(args.out / f"{source}-{asked}-{draw}", args.run, source, options))
        spread = f", standard deviation {100 * statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        each = ", ".join(f"{100 * value:.1f}" for value in scores)
        print(f"from {source}: {100 * statistics.mean(scores):.1f} % of validation right{spread} ({each})")


if __name__ == "__main__":
    main()
