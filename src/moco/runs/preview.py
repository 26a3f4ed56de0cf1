"""The augmented views as a picture or a page, with what was drawn for each: what the network will see."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.config import Config, ViewsConfig
from moco.config_check import check
from moco.data.dataset import open_dataset
from moco.errors import UserError, printable
from moco.files import atomic, expanded, write_text
from moco.randomness import Purpose, permutation
from moco.reporting.ours import check_ours, signed_picture
from moco.reporting.preview import GENERATOR, Tile, page, sheet
from moco.runs.trained import pixel_source
from moco.views.make import apply, evaluation_view
from moco.views.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, Parameters, draw
from moco.views.pipelines import Crops, Scaling, scaling
from moco.views.source import Source

PAIRS = 3  # pairs of views beside each image
ENDINGS = (".png", ".html")
_FACTORS = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation"}


@dataclass(frozen=True)
class View:
    """One view: uint8 (S, S, 3), and what was drawn for it, a phrase each."""

    pixels: NDArray[np.uint8]
    said: list[str]


def preview(config: Config, out: str | os.PathLike[str] = "preview.png", rows: int = 8) -> Path:
    """Draw, for each of `rows` images, the evaluation view and then pairs of views, what was drawn for each below it.

    `out` is a picture (`.png`) or a page (`.html`); its path is returned. Raises `UserError` for bad options or data,
    another ending, or a file there that is somebody else's.
    """
    check(config)
    path = expanded(os.fspath(out), "--out")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"--out {out}: give a name that ends in {' or '.join(ENDINGS)}")
    if rows < 1:
        raise UserError(f"--rows is {rows}, give 1 or more")
    check_ours(path, GENERATOR)
    data = open_dataset(config.data, config.store, config.short_side)
    images = chosen(len(data.train), config.seed, rows)
    drawn = drawn_views(config, pixel_source(data.train, torch.device("cpu")), images, small=True)
    tiles = [[Tile(view.pixels, view.said) for view in row] for row in drawn]
    if ending == ".png":
        with atomic(path) as file:
            drawing = sheet(tiles, headings(config.views.small_crops))
            drawing.save(file, format="PNG", pnginfo=signed_picture(GENERATOR))
    else:
        names = [printable(data.train.names[image]) for image in images.tolist()]
        views = f"{config.views.pipeline}, {sizes(config.views)}:"
        write_text(path, page(tiles, headings(config.views.small_crops), names, printable(str(config.data)), views))
    return path


def sizes(views: ViewsConfig) -> str:
    """The sides of all views, in words."""
    early = "" if views.early_size is None else f", {views.early_size} px in the first {views.early_epochs} epochs"
    small = "" if views.small_size is None else f", {views.small_crops} small crops of {views.small_size} px"
    measured = "" if views.centre_size == views.size else f", evaluated at {views.centre_size} px"
    return f"{views.size} px{early}{small}{measured}"


def headings(small: int = 0, pairs: int = PAIRS) -> list[str]:
    """What stands above each column, with so many small crops."""
    both = [f"epoch {n + 1}, {word}" for n in range(pairs) for word in ("query", "key")]
    return ["evaluation", *both, *(f"epoch 1, small {n + 1}" for n in range(small))]


def chosen(count: int, seed: int, rows: int) -> NDArray[np.int64]:
    """The numbers of the images that are shown, of `count`: always the same."""
    return np.sort(permutation(count, seed, Purpose.PREVIEW)[:rows])


def drawn_views(
    config: Config, source: Source, images: NDArray[np.int64], pairs: int = PAIRS, first: int = 0, small: bool = False
) -> list[list[View]]:
    """Of each of `images` (n,) the evaluation view, then the pairs that training sees in its epochs from `first` on.

    After them come the `small` crops of the first epoch, where they are asked for and there are any.
    """
    crops = Crops.of(config.views)
    heights, widths = source.heights[images], source.widths[images]
    normal = scaling(config.views)
    centre = to_bytes(evaluation_view(source, images, config.views.centre_size, normal), normal)
    columns = [[View(pixels, [f"{w} x {h} px stored"]) for pixels, h, w in zip(centre, heights, widths)]]
    shown = [*product(range(first, first + pairs), (0, 1)), *((0, view) for view in crops.small_views if small)]
    for epoch, view in shown:
        spec = crops.at(epoch, view)
        drawn = draw(spec, heights, widths, images, config.seed, epoch, view)
        made = to_bytes(apply(source, images, drawn, spec), Scaling(spec.mean, spec.std))
        columns.append([View(p, said(drawn, n, heights[n] * widths[n])) for n, p in enumerate(made)])
    return [list(row) for row in zip(*columns)]


def said(drawn: Parameters, n: int, area: float) -> list[str]:
    """What was drawn for view `n`, in the order in which it happens; `area` is the image's, in pixels."""
    top, left, height, width = drawn.box[n]
    phrases = [f"crop {height * width / area:.0%}: {width:.0f} x {height:.0f} at {left:.0f}, {top:.0f}"]
    if drawn.jitter[n]:
        for factor in drawn.order[n].tolist():
            value = float(drawn.factors[n, factor])
            phrases.append(f"hue {360 * value:+.0f}°" if factor == HUE else f"{_FACTORS[factor]} x {value:.2f}")
    if drawn.grey[n]:
        phrases.append("grey")
    if drawn.sigma[n] > 0:
        phrases.append(f"blur {drawn.sigma[n]:.2f} px")
    if drawn.flip[n]:
        phrases.append("mirrored")
    return phrases


def to_bytes(views: Tensor, spec: Scaling) -> NDArray[np.uint8]:
    """Normalised float32 (N, 3, S, S) back to uint8 (N, S, S, 3)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return ((views.cpu() * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
