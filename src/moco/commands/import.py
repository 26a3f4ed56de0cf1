"""`moco import`: weights that somebody else trained, as a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from moco.commands.parsing import Parser
from moco.errors import UserError
from moco.fresh_run import check_free


def parser() -> Parser:
    made = Parser(
        "import",
        "Weights that somebody else trained, as a run: checkpoints of facebookresearch/moco, lightly and solo-learn, "
        "state dicts of torchvision and timm, safetensors. Nothing in the file is run.",
        "moco import moco_v2_800ep_pretrain.pth.tar --out runs/official",
    )
    made.add_argument("file", help="the checkpoint")
    made.add_argument("--out", metavar="DIR", required=True, help="new run directory")
    made.add_argument(
        "--size", type=int, metavar="PX", help="side of the views (default: what the network is made for)"
    )
    made.add_argument("--backbone", metavar="NAME", help="torchvision or timm name, for others than ResNets")
    made.add_argument("--data", metavar="DIR", help="the images that belong to it")
    return made


def run(args: Any) -> None:
    """Make the run and say what to type next. Raises `UserError` for a file that can't be taken."""
    if not Path(args.file).exists():
        raise UserError(f"no file of weights at {args.file}")
    check_free(args.out)
    from moco.runs.import_weights import import_weights

    import_weights(args.file, args.out, args.size, args.backbone, args.data)
    place, data = shlex.quote(args.out), "" if args.data else " --data DIR"
    print(f"next:  moco linear {place}{data}")
