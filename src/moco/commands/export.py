"""`moco export`: a run's weights for other tools."""

from __future__ import annotations

from typing import Any

from moco.commands.parsing import Parser
from moco.exchange.formats import FORMATS, check_format
from moco.rundir import RunDir


def parser() -> Parser:
    made = Parser(
        "export",
        "A run's weights for other tools, read back and compared with the run before they are there.",
        "moco export runs/a --format timm",
    )
    made.add_argument("run", help="run directory")
    made.add_argument("--format", metavar="NAME", required=True, help=", ".join(FORMATS))
    made.add_argument("--out", metavar="PATH", help="new file, or folder for hf (default: below RUN/export)")
    made.add_argument(
        "--checkpoint", type=str, default="last", metavar="WHICH", help="last (default), best, or a kept epoch's number"
    )
    made.add_argument("--license", metavar="NAME", help="of the weights, by its SPDX name, for safetensors and hf")
    made.add_argument(
        "--preprocessing",
        action="store_true",
        help="onnx: bake the normalisation in; it then takes uint8 RGB images (N, size, size, 3)",
    )
    return made


def run(args: Any) -> None:
    """Write the file and print the Python that loads it. Raises `UserError` for what the format can't hold."""
    RunDir.open(args.run)
    check_format(args.format)  # a wrong name is answered before torch is loaded
    from moco.runs.export import export

    made = export(args.run, args.format, args.out, args.checkpoint, args.license, args.preprocessing)
    print("\n".join(made.usage))
