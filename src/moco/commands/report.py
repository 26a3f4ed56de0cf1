"""`moco report`: the plots of a run, as PNG."""

from __future__ import annotations

from typing import Any

from moco.commands.parsing import Parser


def parser() -> Parser:
    made = Parser(
        "report",
        "The plots of a run: loss and score of the pre-training and of the linear classification.",
        "moco report runs/a",
    )
    made.add_argument("run", help="run directory of `moco pretrain`")
    return made


def run(args: Any) -> None:
    """Write what can be plotted to `plots/` and name it. Raises `UserError` for a run without metrics."""
    from moco.errors import UserError
    from moco.report.plots import write_plots
    from moco.rundir import RunDir

    place = RunDir.open(args.run)
    if not place.metrics_file.is_file():
        raise UserError(f"nothing to plot in {args.run}: no metrics.csv yet, has the first epoch ended?")
    config = place.read_config()
    model = config.model
    about = f"{model.backbone}, {config.views.size} px, queue {model.queue_size:,}, T {model.temperature:g}"
    title = f"{place.root.resolve().name}  ({about})"
    written, missing = write_plots(title, place.metrics_file, place.linear / "metrics.csv", place.plots)
    for path in written:
        print(path)
    for sentence in missing:
        print(sentence)
    if not (place.linear / "metrics.csv").is_file():
        print(f"next:  moco linear {args.run}")
