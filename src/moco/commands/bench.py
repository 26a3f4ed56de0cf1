"""`moco bench`: throughput here, against the limit of this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from moco.commands.options import RecipeParser, config_of
from moco.config import Config
from moco.config_check import check
from moco.errors import UserError

EXAMPLE = "moco bench --recipe imagenette-cpu --data data/imagenette2-160 --json bench.json"
PACKED_IMAGES = 512  # packed for the packing figure


def parser() -> RecipeParser:
    """The options of a recipe, how long to measure, and where the figures go."""
    p = RecipeParser(
        "bench",
        "Throughput of the training step on real data, of the same step on fixed inputs, of the views alone and of "
        "packing; medians of interleaved rounds, and where a step's time goes.",
        EXAMPLE,
    )
    p.add_argument("--rounds", type=int, default=argparse.SUPPRESS, help="counted rounds (default: 5)")
    p.add_argument("--steps", type=int, default=argparse.SUPPRESS, help="steps a round (default: 5)")
    p.add_argument(
        "--load", type=int, default=argparse.SUPPRESS, metavar="N", help="beside N busy processes (default: 0)"
    )
    p.add_argument("--json", type=str, default=argparse.SUPPRESS, metavar="FILE", help="write the figures there too")
    return p


def run(args: Any) -> None:
    """Measure and print. Raises `UserError` for bad options or data."""
    config = config_of(args)
    check(config)
    rounds, steps, load = args.get("rounds", 5), args.get("steps", 5), args.get("load", 0)
    if rounds < 1 or steps < 1:
        raise UserError("--rounds and --steps must be 1 or more")
    if load < 0:
        raise UserError(f"--load is {load}, give the number of busy processes to measure beside")
    if config.data is None:
        raise UserError("no data: give --data FOLDER, or --data shapes")

    from moco.bench.load import busy_neighbours
    from moco.files import write_json
    from moco.runs.pretrain import prepare

    prepared = prepare(config)
    with busy_neighbours(load):
        figures, breakdown = _train_figures(prepared, rounds, steps)
        packing = _packing(prepared.config, rounds)
    result = _result(prepared, figures, breakdown, packing, {"rounds": rounds, "steps_a_round": steps, "load": load})
    if "json" in args:
        write_json(Path(args.json), result)
    _print(result)


def _train_figures(prepared: Any, rounds: int, steps: int) -> Any:
    from moco.bench.measure import Subject, interleaved
    from moco.bench.stopwatch import Stopwatch

    training, runtime = prepared.training, prepared.runtime
    order = training.sampler.order(0)
    batch = training.sampler.batch_size
    cursor = iter(range(10**9))
    fixed = training.views(order[0], 0)
    training.model.train()

    def images() -> Any:
        return order[next(cursor) % len(order)]

    def full() -> None:
        for _ in range(steps):
            training.step(images())
        runtime.synchronize()

    def compute_only() -> None:
        for _ in range(steps):
            training.learn(fixed)
        runtime.synchronize()

    def views() -> None:
        for _ in range(steps):
            training.views(images(), 0)
        runtime.synchronize()

    figures = interleaved(
        [
            Subject("full", full, steps * batch),
            Subject("compute_only", compute_only, steps * batch),
            Subject("views", views, steps * batch * 2),
        ],
        rounds,
    )
    watch = Stopwatch(runtime)
    watch.install(training.model, training.optimizer, training.train_step.parts.models)
    for _ in range(max(steps, 5)):
        watch.step(lambda: training.views(images(), 0), training.learn)
    watch.remove()
    return figures, watch.medians()


def _packing(config: Config, rounds: int) -> Any:
    """Images packed per second from files, decoding included."""
    import tempfile

    from PIL import Image

    from moco.bench.measure import Subject, interleaved
    from moco.data import shapes
    from moco.data.folder import scan
    from moco.data.pack import pack_items

    with tempfile.TemporaryDirectory() as scratch:
        source = config.data
        if source == "shapes":  # as the JPEG files that they would be
            source = f"{scratch}/shapes"
            Path(source).mkdir()
            for i in range(PACKED_IMAGES):
                Image.fromarray(shapes.make_image("train", i)).save(f"{source}/{i}.jpg")
        items = scan(str(source))[:PACKED_IMAGES]
        number = iter(range(10**9))

        def pack() -> None:
            folder = Path(scratch) / f"pack{next(number)}"
            pack_items(folder, items, config.short_side, 1.0, quiet=True)

        return interleaved([Subject("pack", pack, len(items))], rounds)["pack"]


def _result(prepared: Any, figures: Any, breakdown: Any, packing: Any, measured: dict[str, int]) -> dict[str, Any]:
    config, about = prepared.config, prepared.about
    full, compute = figures["full"], figures["compute_only"]
    return {
        "full_samples_per_s": full.median,
        "compute_only_samples_per_s": compute.median,
        "full_to_compute_only": full.median / compute.median,
        "views_per_s": figures["views"].median,
        "pack_images_per_s": packing.median,
        "spread": {**{name: [f.low, f.high] for name, f in figures.items()}, "pack": [packing.low, packing.high]},
        "breakdown_ms": breakdown,
        "setting": {
            "backbone": config.model.backbone,
            "size": config.views.size,
            "pipeline": config.views.pipeline,
            "batch_size": config.train.batch_size,
            "queue_size": config.model.queue_size,
            "bn_splits": config.model.bn_splits,
            "symmetric": config.model.symmetric,
            "data": config.data,
            "threads": prepared.runtime.threads,
            **measured,
        },
        "device": str(prepared.runtime.device),
        "precision": prepared.runtime.precision,
        "precision_reason": prepared.runtime.reason,
        **{key: about[key] for key in ("processor", "cores", "instruction_sets", "gpus", "versions")},
    }


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"moco bench: {json.dumps(result['setting'])}", title_justify="left")
    for heading in ("", "median", "slowest", "fastest"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = {
        "full step, samples/s": ("full", "full_samples_per_s"),
        "compute only, samples/s": ("compute_only", "compute_only_samples_per_s"),
        "views alone, views/s": ("views", "views_per_s"),
        "packing, images/s": ("pack", "pack_images_per_s"),
    }
    for label, (name, key) in rows.items():
        table.add_row(label, *(f"{value:,.1f}" for value in (result[key], *result["spread"][name])))
    table.add_row("full / compute only", f"{result['full_to_compute_only']:.3f}", "", "")
    for part, milliseconds in result["breakdown_ms"].items():
        table.add_row(f"  {part.replace('_', ' ')}, ms a step", f"{milliseconds:,.1f}", "", "")
    console = Console()
    console.print(table)
    console.print(
        f"{result['processor']}, {result['cores']} cores, {' '.join(result['instruction_sets'])}; {result['device']}"
    )
    console.print(f"{result['precision']}: {result['precision_reason']}")
