"""Tiles with captions in rows: as one picture, or as a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GENERATOR = "moco preview"  # in the page's head
LEAST_PX = 160  # sides below are enlarged by a whole number, so that every pixel is still seen
GAP_PX, TEXT_PX, LINE_PX = 10, 12, 15
INK, PALE = (30, 34, 40), (110, 116, 124)


@dataclass(frozen=True)
class Tile:
    """RGB uint8 (S, S, 3), and the lines below it."""

    pixels: NDArray[np.uint8]
    lines: list[str]


def sheet(rows: Sequence[Sequence[Tile]], headings: Sequence[str]) -> Image.Image:
    """All tiles on white, a heading above each column and the lines below each tile."""
    zoom = _zoom(rows[0][0])
    side = rows[0][0].pixels.shape[0] * zoom
    step, font = side + GAP_PX, ImageFont.load_default(TEXT_PX)
    heights = [side + LINE_PX * max(len(tile.lines) for tile in row) + GAP_PX for row in rows]
    made = Image.new("RGB", (step * len(headings) + GAP_PX, LINE_PX + GAP_PX + sum(heights) + GAP_PX), (255, 255, 255))
    pen = ImageDraw.Draw(made)
    for column, heading in enumerate(headings):
        pen.text((GAP_PX + column * step, GAP_PX // 2), heading, INK, font)
    top = LINE_PX + GAP_PX
    for row, height in zip(rows, heights):
        for column, tile in enumerate(row):
            left = GAP_PX + column * step
            made.paste(_enlarged(tile.pixels, side), (left, top))
            for number, line in enumerate(tile.lines):
                pen.text((left, top + side + number * LINE_PX), line, PALE, font)
        top += height
    return made


def _enlarged(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """To `side` px: pixel by pixel where that is a whole number of times, else smoothly."""
    whole = side % pixels.shape[0] == 0
    smooth = Image.Resampling.BILINEAR
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST if whole else smooth)


def page(rows: Sequence[Sequence[Tile]], headings: Sequence[str], names: Sequence[str], data: str, views: str) -> str:
    """The tiles as one HTML file that needs nothing else; whatever a user named is escaped."""
    import jinja2

    template = resources.files("moco").joinpath("reporting", "template", "preview.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    shown: list[dict[str, Any]] = [
        {
            "name": name,
            "tiles": [{"png": _png(t.pixels), "lines": t.lines, "heading": h} for t, h in zip(row, headings)],
        }
        for row, name in zip(rows, names)
    ]
    side = rows[0][0].pixels.shape[0] * _zoom(rows[0][0])
    text = environment.from_string(template).render(rows=shown, data=data, views=views, side=side, generator=GENERATOR)
    return text.encode("utf-8", "backslashreplace").decode()


def _zoom(tile: Tile) -> int:
    return max(1, -(-LEAST_PX // tile.pixels.shape[0]))


def _png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
