"""The augmented views as a picture: what the network will see."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from moco.config import Config
from moco.config_check import check
from moco.data.dataset import open_dataset
from moco.errors import UserError
from moco.files import atomic
from moco.randomness import Purpose, permutation
from moco.runs.trained import pixel_source
from moco.views.make import evaluation_view, random_view
from moco.views.pipelines import Scaling, pipeline, scaling
from moco.views.source import Source

PAIRS = 3  # pairs of views beside each image
GAP = 4  # px


def preview(config: Config, out: str | os.PathLike[str] = "preview.png", rows: int = 8) -> Path:
    """Draw, for each of `rows` images, the evaluation view and then pairs of views; returns the PNG's path.

    Raises `UserError` for bad options or data, or a name that doesn't end in `.png`.
    """
    check(config)
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {out}: give a name that ends in .png")
    if rows < 1:
        raise UserError(f"--rows is {rows}, give 1 or more")
    data = open_dataset(config.data, config.store, config.short_side)
    sheet = _sheet(drawn_views(config, pixel_source(data.train, torch.device("cpu")), rows))
    with atomic(path) as file:
        Image.fromarray(sheet).save(file, format="PNG")
    return path


def drawn_views(config: Config, source: Source, rows: int, pairs: int = PAIRS) -> list[NDArray[np.uint8]]:
    """Of each of `rows` images the evaluation view, then `pairs` pairs of views: as many uint8 (rows, S, S, 3)."""
    spec = pipeline(config.views)
    images = np.sort(permutation(len(source), config.seed, Purpose.PREVIEW)[:rows])
    columns = [evaluation_view(source, images, config.views.size, scaling(config.views))]
    for epoch in range(pairs):
        columns += [random_view(source, images, spec, config.seed, epoch, view) for view in (0, 1)]
    return [to_bytes(views, Scaling(spec.mean, spec.std)) for views in columns]


def _sheet(columns: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Columns of uint8 (N, S, S, 3) side by side on white."""
    rows, size = columns[0].shape[:2]
    sheet = np.full((rows * (size + GAP) + GAP, len(columns) * (size + GAP) + GAP, 3), 255, np.uint8)
    for c, views in enumerate(columns):
        for r, pixels in enumerate(views):
            top, left = GAP + r * (size + GAP), GAP + c * (size + GAP)
            sheet[top : top + size, left : left + size] = pixels
    return sheet


def to_bytes(views: Tensor, spec: Scaling) -> NDArray[np.uint8]:
    """Normalised float32 (N, 3, S, S) back to uint8 (N, S, S, 3)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return ((views.cpu() * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
