"""What a backbone tells apart inside an image: its feature map, three principal components as red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from moco.data.store import Store
from moco.errors import UserError
from moco.evaluators.frozen import Frozen, evaluating
from moco.model.backbone import feature_dim
from moco.runs.preview import to_bytes
from moco.runs.trained import pixel_source
from moco.views.make import evaluation_view

ZOOM = 2  # the view's side in those of training: a finer map of the same network, where it takes that
FEWEST_CELLS = 7  # a side: of the deepest map that has as many, else of the finest of all
SHOWN_PX = 128
BOUNDS = (2.0, 98.0)  # percentiles of a component that become black and full colour


def feature_maps(
    frozen: Frozen, store: Store, images: NDArray[np.int64]
) -> tuple[list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], int]:
    """(of each of `images` (n,) the view and its map, both uint8 (S, S, 3); cells a side, 0 where there is no map).

    The components are those of all shown images together: one colour means the same in all of them. Networks whose
    inner states have no places (N, C, h, w) give none.
    """
    source = pixel_source(store, torch.device("cpu"))
    views = evaluation_view(source, images, _side(frozen), frozen.scaling)
    found = deepest_map(frozen, views.to(frozen.runtime.device))
    if found is None:
        return [], 0
    colours = components(found.float().cpu())
    shown = to_bytes(views, frozen.scaling)
    side = (SHOWN_PX, SHOWN_PX)
    drawn = [np.asarray(Image.fromarray(c).resize(side, Image.Resampling.BICUBIC)) for c in colours]
    small = [np.asarray(Image.fromarray(v).resize(side, Image.Resampling.BILINEAR)) for v in shown]
    return list(zip(small, drawn)), found.shape[-1]


def _side(frozen: Frozen) -> int:
    """Of the views that maps are made of: transformers take their own size alone."""
    finer = ZOOM * (frozen.crop_size or frozen.size)
    try:
        feature_dim(frozen.backbone, finer)
    except UserError:
        return frozen.size
    return finer


def deepest_map(frozen: Frozen, views: Tensor) -> Tensor | None:
    """The last (N, C, h, w) inside the network with `FEWEST_CELLS` a side, else the one with most cells; None: none."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, out: object) -> None:
        if isinstance(out, Tensor) and out.ndim == 4 and len(out) == len(views) and min(out.shape[2:]) > 1:
            seen.append(out)

    handles = [module.register_forward_hook(keep) for module in frozen.backbone.modules()]
    try:
        with evaluating(frozen.backbone), frozen.runtime.autocast():
            frozen.backbone(views.contiguous(memory_format=torch.channels_last))
    finally:
        for handle in handles:
            handle.remove()
    fine = [out for out in seen if min(out.shape[2:]) >= FEWEST_CELLS]
    return (fine or sorted(seen, key=lambda out: min(out.shape[2:])) or [None])[-1]  # type: ignore[list-item]


def components(maps: Tensor) -> Sequence[NDArray[np.uint8]]:
    """Three principal components of `maps` float32 (N, C, h, w) as colours, N of uint8 (h, w, 3)."""
    count, _, height, width = maps.shape
    cells = maps.permute(0, 2, 3, 1).flatten(0, 2).double()
    cells = torch.nn.functional.normalize(cells, dim=1)
    cells = cells - cells.mean(0)
    _, vectors = torch.linalg.eigh(cells.T @ cells)
    projected = (cells @ vectors[:, -3:].flip(1)).numpy()
    low, high = np.percentile(projected, BOUNDS, axis=0)
    scaled = (projected - low) / np.maximum(high - low, 1e-12)
    colours = (255 * scaled.clip(0, 1)).round().astype(np.uint8)
    colours = np.pad(colours, ((0, 0), (0, 3 - colours.shape[1])))
    return list(colours.reshape(count, height, width, 3))
