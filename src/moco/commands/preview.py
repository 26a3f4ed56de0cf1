"""`moco preview`: what the network will see, as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from moco.commands.options import RecipeParser, config_of
from moco.config_check import check
from moco.errors import UserError

EXAMPLE = "moco preview --data photos --recipe imagenette --out views.png"
PAIRS = 3  # pairs of views beside each image
GAP = 4  # px


def parser() -> RecipeParser:
    """The options of a recipe, and where the picture goes."""
    p = RecipeParser("preview", "Draw the augmented views: per row the evaluation view, then pairs of views.", EXAMPLE)
    p.add_argument(
        "--out", type=str, default=argparse.SUPPRESS, metavar="PNG", help="the picture (default: preview.png)"
    )
    p.add_argument("--rows", type=int, default=argparse.SUPPRESS, help="images shown (default: 8)")
    return p


def run(args: Any) -> None:
    """Write the picture. Raises `UserError` for bad options or data."""
    config = config_of(args)
    check(config)
    out, rows = Path(args.get("out", "preview.png")), args.get("rows", 8)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: give a name that ends in .png")
    if rows < 1:
        raise UserError(f"--rows is {rows}, give 1 or more")

    import numpy as np
    import torch
    from PIL import Image

    from moco.commands.session import pixel_source
    from moco.data.dataset import open_dataset
    from moco.files import atomic
    from moco.randomness import Purpose, permutation
    from moco.views.make import evaluation_view, random_view
    from moco.views.pipelines import Pipeline, pipeline

    data = open_dataset(config.data, config.store, config.short_side)
    source, spec = pixel_source(data.train, torch.device("cpu")), pipeline(config.views)
    images = np.sort(permutation(len(source), config.seed, Purpose.PREVIEW)[:rows])
    columns = [evaluation_view(source, images, config.views.size)]
    for epoch in range(PAIRS):
        columns += [random_view(source, images, spec, config.seed, epoch, view) for view in (0, 1)]
    size = config.views.size
    sheet = np.full((len(images) * (size + GAP) + GAP, len(columns) * (size + GAP) + GAP, 3), 255, np.uint8)
    for c, views in enumerate(columns):
        for r, pixels in enumerate(_to_bytes(views, Pipeline(size))):
            top, left = GAP + r * (size + GAP), GAP + c * (size + GAP)
            sheet[top : top + size, left : left + size] = pixels
    with atomic(out) as file:
        Image.fromarray(sheet).save(file, format="PNG")
    print(f"{out}: {len(images)} images; the evaluation view, then {PAIRS} pairs of views")


def _to_bytes(views: Any, spec: Any) -> Any:
    """Normalised float32 (N, 3, S, S) back to uint8 (N, S, S, 3)."""
    import torch

    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return ((views.cpu() * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
