"""`moco embed` against its own network: images/s from the files, from a packed store, and of the forward pass alone.

    python benchmarks/embed.py --data IMAGENETTE --run runs/cpu --images 1024 --rounds 5

Each round looks at the same images three times, interleaved: the forward pass on finished views, in the chunks and on
the threads that embed uses; the images decoded from their files; and read from a packed store in $MOCO_CACHE, made
first. Seconds of the wall and of the processor; the second is what holds on a machine that others share.
`--peak FILE` only embeds everything into FILE and prints the peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

import moco
from moco.data.dataset import open_dataset
from moco.data.listing import list_images
from moco.evaluators.frozen import CHUNK, evaluating
from moco.runs.embed import seen
from moco.runs.trained import open_frozen, ragged


def timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(args: argparse.Namespace) -> dict[str, object]:
    opened = open_frozen(args.run)
    frozen, config = opened.frozen, opened.run.config
    open_dataset(args.data, config.store, config.short_side)  # packs it unless it is packed
    stored = list_images(args.data, config.store, config.short_side)
    direct = list_images(args.data, replace(config.store, cache="/nowhere"), config.short_side)
    order = np.random.default_rng(0).permutation(len(direct))[: args.images]
    pieces = [range(first, min(first + CHUNK, len(order))) for first in range(0, len(order), CHUNK)]
    views = []
    for piece in pieces:
        pictures = [direct.load(int(order[n])).picture for n in piece]
        source = ragged([picture.pixels for picture in pictures if picture is not None])
        made = frozen.centre(source, np.arange(len(source)))
        views.append(made.contiguous(memory_format=torch.channels_last))

    def forward(view: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), frozen.runtime.autocast():
            return frozen.backbone(view).float()

    def forward_only() -> None:
        with evaluating(frozen.backbone):
            frozen.runtime.workers.map(forward, views)

    works = {
        "forward only": forward_only,
        "from files": lambda: list(seen(frozen, lambda n: direct.load(int(order[n])), pieces)),
        "from the store": lambda: list(seen(frozen, lambda n: stored.load(int(order[n])), pieces)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    forward_only()
    for _ in range(args.rounds):
        for name, work in works.items():
            times[name].append(timed(work))
    result: dict[str, object] = {"threads": frozen.runtime.threads, "images": len(order), "rounds": args.rounds}
    for which, column in (("wall", 0), ("processor", 1)):
        base = [t[column] for t in times["forward only"]]
        for name, found in times.items():
            rates = [len(order) / t[column] for t in found]
            shares = [b / t[column] for b, t in zip(base, found)]
            result[f"{name}, {which}"] = {
                "images_per_s": round(statistics.median(rates), 1),
                "range": [round(min(rates), 1), round(max(rates), 1)],
                "of_forward_only": round(statistics.median(shares), 3),
                "of_forward_only_range": [round(min(shares), 3), round(max(shares), 3)],
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", metavar="FILE")
    args = parser.parse_args()
    if args.peak is None:
        print(json.dumps(compare(args), indent=1))
        return
    made = moco.embed(args.run, args.data, args.peak)
    print(made.images, "images, peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB")


if __name__ == "__main__":
    main()
