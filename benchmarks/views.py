"""Views per second, all of v2's operations: the compiled kernel, the readable torch operations, torchvision on PIL.

    python benchmarks/views.py [--data IMAGES] [--rounds 11] [--processor-time] [--json FILE]

`IMAGES` is a folder or tar of pictures (default `$MOCO_IMAGENETTE`; without, noise of the same sizes). At 64 px
they are stored with a short side of 143, at 224 px with 224. `kernel` draws the parameters and applies them,
`kernel_apply` only applies them. `pil` is a loop in one process over pictures that are decoded already, with
`torch.stack` at its end. Each round times every subject once; medians, with slowest and fastest. On a machine that
is busy with other work, `--processor-time` counts views per second of one core's own time instead.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torchvision import transforms as T

from moco.config import ViewsConfig
from moco.data.folder import scan
from moco.data.images import decode
from moco.environment import describe
from moco.timing.measure import Figure, Subject, interleaved
from moco.views import cpu, reference
from moco.views.parameters import Parameters, draw
from moco.views.pipelines import Pipeline, pipeline
from moco.views.ragged import Ragged

SETTINGS = {64: (143, 128), 224: (224, 32)}  # view: short side that is stored, batch
IMAGES = 1000
Pixels = NDArray[np.uint8]


def pictures(data: str | None, short_side: int) -> list[Pixels]:
    """Some of the pictures in `data`, evenly chosen, as a store would hold them."""
    if data:
        items = scan(data)
        return [decode(item.read(), short_side) for item in items[:: max(len(items) // IMAGES, 1)]]
    rng = np.random.default_rng(0)
    sizes = [(short_side, short_side * 4 // 3), (short_side * 3 // 2, short_side), (short_side, short_side)]
    return [rng.integers(0, 256, (*sizes[i % 3], 3), dtype=np.uint8) for i in range(IMAGES)]


def ragged(images: list[Pixels]) -> Ragged:
    """Pictures end to end, as the store keeps them."""
    offsets = np.cumsum([0, *(image.size for image in images[:-1])])
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    pixels = torch.from_numpy(np.concatenate([image.ravel() for image in images]))
    return Ragged(pixels, offsets, sizes[:, 0].copy(), sizes[:, 1].copy())


def torchvision_transform(p: Pipeline) -> T.Compose:
    """The same view as most repositories write it."""

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*p.blur_sigma)))

    return T.Compose([
        T.RandomResizedCrop(p.size, scale=p.scale, ratio=p.ratio),
        T.RandomApply([T.ColorJitter(*p.jitter)], p.jitter_p),
        T.RandomGrayscale(p.grey_p),
        T.RandomApply([blur], p.blur_p),
        T.RandomHorizontalFlip(p.flip_p),
        T.ToTensor(),
        T.Normalize(p.mean, p.std),
    ])  # fmt: skip


def subjects(size: int, images: list[Pixels]) -> list[Subject]:
    """What is timed at one size; no run takes longer than some tenths of a second."""
    _, batch = SETTINGS[size]
    p = pipeline(ViewsConfig(pipeline="v2", size=size))
    source = ragged(images)
    rng = np.random.default_rng(0)
    chosen = [rng.integers(0, len(images), batch) for _ in range(8)]

    def drawn(rows: NDArray[np.int64]) -> Parameters:
        return draw(p, source.heights[rows], source.widths[rows], rows, 0, 0, 0)

    ready = [(rows, drawn(rows)) for rows in chosen]
    transform = torchvision_transform(p)
    loaded = [Image.fromarray(images[i]) for i in chosen[0][:32]]

    def each(apply: Callable[..., object], count: int, fresh: bool) -> Callable[[], None]:
        def run() -> None:
            for rows, parameters in ready[:count]:
                apply(source, rows, drawn(rows) if fresh else parameters, p)

        return run

    def pil() -> None:
        torch.stack([transform(image) for image in loaded])

    return [
        Subject("kernel", each(cpu.apply, 8, fresh=True), 8 * batch),
        Subject("kernel_apply", each(cpu.apply, 8, fresh=False), 8 * batch),
        Subject("reference", each(reference.apply, 1, fresh=True), batch),
        Subject("pil", pil, len(loaded)),
    ]


def per_processor_second(subjects: list[Subject], rounds: int) -> dict[str, Figure]:
    """Rates of one thread, over the time that it ran and not the time that it waited for a core."""
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = {s.name: [] for s in subjects}
    for round_number in range(rounds + 1):
        for subject in subjects:
            started = time.process_time()
            subject.run()
            if round_number:
                rates[subject.name].append(subject.items / (time.process_time() - started))
    return {name: Figure(statistics.median(r), min(r), max(r), len(r)) for name, r in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("MOCO_IMAGENETTE"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cpu.available()
    found = {}
    for size, (short_side, _) in SETTINGS.items():
        measure = per_processor_second if arguments.processor_time else interleaved
        figures = measure(subjects(size, pictures(arguments.data, short_side)), arguments.rounds)
        found[size] = {name: asdict(figure) for name, figure in figures.items()}
        for name, f in figures.items():
            print(f"{size:>3} px  {name:<12} {f.median:>8,.0f} views/s  ({f.low:,.0f} to {f.high:,.0f}, n={f.rounds})")
    machine = describe()
    print(f"{machine['processor']}, {machine['cores']} cores, {', '.join(machine['instruction_sets'])}")
    if arguments.json:
        setting = {"data": bool(arguments.data), "processor_time": arguments.processor_time}
        arguments.json.write_text(json.dumps({"machine": machine, **setting, "views_per_s": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
