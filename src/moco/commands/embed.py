"""`moco embed`: the features of every image of a place, as a file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from moco.commands.parsing import Parser
from moco.embedding.table import ending
from moco.rundir import RunDir


def parser() -> Parser:
    made = Parser(
        "embed",
        "The features of every image of a place, with path and label: .parquet, .npz or .npy. No labels, no packing "
        "and not the training data are needed. The same command goes on after a kill.",
        "moco embed runs/a --data photos --out features.parquet",
    )
    made.add_argument("run", help="run directory of `moco pretrain`")
    made.add_argument("--data", required=True, metavar="DIR", help="images: a folder, .tar, .zip, or a data set's name")
    made.add_argument("--out", required=True, metavar="FILE", help="a new file: .parquet, .npz or .npy, by its ending")
    made.add_argument("--normalize", action="store_true", help="features of length 1")
    made.add_argument(
        "--encoder", default="query", choices=["query", "key"], help="key is the momentum encoder (default: query)"
    )
    made.add_argument(
        "--checkpoint", type=str, default="last", metavar="WHICH", help="last (default), best, or a kept epoch's number"
    )
    made.add_argument(
        "--batch_size", type=int, default=None, metavar="N", help="at once, by each thread (default: 32, a GPU 256)"
    )
    made.add_argument("--labels", default="auto", choices=["auto", "folders", "none"], help="as --store.labels")
    return made


def run(args: Any) -> None:
    """Write the file and say what is in it. Raises `UserError` for mistakes, `Interrupted` after a stop signal."""
    ending(Path(args.out))
    RunDir.open(args.run)  # a wrong name is answered before torch is loaded
    from moco.runs.embed import embed

    made = embed(
        args.run,
        args.data,
        args.out,
        normalize=args.normalize,
        encoder=args.encoder,
        checkpoint=args.checkpoint,
        batch_size=args.batch_size,
        labels=args.labels,
    )
    print(f"{made.path}: {made.images:,} images, {made.width} features each, {len(made.left_out)} left out")
    print(f"next:  {shlex.join(['moco', 'search', args.run, '--index', args.out, '--query', 'IMAGE'])}")
