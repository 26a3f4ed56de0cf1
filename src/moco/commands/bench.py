"""`moco bench`: throughput here, against the limit of this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from moco.commands.options import RecipeParser, config_of
from moco.commands.parsing import json_file
from moco.config_check import check

if TYPE_CHECKING:
    from moco.runs.bench import Bench

EXAMPLE = "moco bench --recipe imagenette-cpu --data data/imagenette2-160 --json bench.json"
DEFAULTS = {"rounds": 5, "steps": 5, "load": 0}


def parser() -> RecipeParser:
    """The options of a recipe, how long to measure, and where the figures go."""
    p = RecipeParser(
        "bench",
        "Throughput of the training step on real data, of the same step on fixed inputs, of the views alone and of "
        "packing; medians of interleaved rounds, and where a step's time goes.",
        EXAMPLE,
    )
    for name, told in (
        ("rounds", "counted rounds"), ("steps", "steps a round"), ("load", "beside so many busy processes"),
    ):  # fmt: skip
        p.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS, help=f"{told} (default: {DEFAULTS[name]})")
    p.add_argument("--json", type=str, default=argparse.SUPPRESS, metavar="FILE", help="write the figures there too")
    return p


def run(args: Any) -> None:
    """Measure and print. Raises `UserError` for bad options or data."""
    config = config_of(args)
    check(config)

    from moco.runs.bench import PROGRAM, bench

    out = json_file(args.get("json"), PROGRAM)
    found = bench(config, **{name: args.get(name, default) for name, default in DEFAULTS.items()})
    if out is not None:
        found.save(out)
    show(found)


def show(found: Bench) -> None:
    """What was measured, the figures with their spread, and what it was measured on."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="moco bench", title_justify="left")
    for heading in ("", "median", "slowest", "fastest"):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, figure in (
        ("full step, samples/s", found.full),
        ("compute only, samples/s", found.compute_only),
        ("views alone, views/s", found.views),
        ("packing, images/s", found.pack),
    ):
        table.add_row(label, *(f"{value:,.1f}" for value in (figure.median, figure.low, figure.high)))
    table.add_row("full / compute only", f"{found.full_to_compute_only:.3f}", "", "")
    for part, milliseconds in found.breakdown_ms.items():
        table.add_row(f"  {part.replace('_', ' ')}, ms a step", f"{milliseconds:,.1f}", "", "")
    screen = Console(highlight=False, emoji=False)
    screen.print(_setting(found.setting), markup=False, soft_wrap=True)
    screen.print(table)
    m = found.machine
    sets = " ".join(m["instruction_sets"])
    screen.print(f"{m['processor']}, {m['cores']} cores, {sets}; {m['device']}", markup=False, soft_wrap=True)
    screen.print(f"{m['precision']}: {m['precision_reason']}", markup=False, soft_wrap=True)


def _setting(s: dict[str, Any]) -> str:
    """What was measured, in words."""
    loss = "symmetric loss" if s["symmetric"] else "one loss a pair"
    beside = f", beside {s['load']} busy processes" if s["load"] else ""
    return (
        f"{s['backbone']} at {s['size']} px, views {s['pipeline']}, batch {s['batch_size']} in {s['bn_splits']} parts "
        f"on {s['threads']} threads, queue {s['queue_size']:,}, {loss}; data {s['data']}; "
        f"{s['rounds']} rounds of {s['steps_a_round']} steps{beside}"
    )
