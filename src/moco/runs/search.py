"""The images of a feature file that are most like given ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from moco.config import StoreConfig
from moco.console import say
from moco.data.depth import Kind
from moco.data.images import BadImage, decode
from moco.data.levels import Range, full_range
from moco.data.listing import list_images
from moco.data.remarks import without_remarks
from moco.embedding.nearest import best_library, nearest
from moco.embedding.table import Table, open_table
from moco.errors import UserError, in_a_line, printable
from moco.evaluators.frozen import evaluating
from moco.files import atomic, expanded
from moco.reporting.ours import check_ours, signed_picture
from moco.runs.embed import escaped, model_of
from moco.runs.trained import FrozenRun, open_frozen, ragged

GENERATOR = "moco search"  # in the picture
TILE = 160  # px, of a picture in the sheet
GAP = 6  # px
_MADE = {
    "backbone_sha256": "another backbone", "size": "views of another size", "short_side": "another short side",
    "scaling": "another mean and std",
}  # fmt: skip


@dataclass(frozen=True)
class Match:
    """One image of the index: its path there, its label if it has one, and the cosine similarity, -1 to 1."""

    path: str
    label: str | None
    score: float


@dataclass(frozen=True)
class Found:
    """What is most like one query, best first."""

    query: str
    matches: list[Match]


def search(
    run: str | os.PathLike[str],
    index: str | os.PathLike[str],
    query: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    k: int = 10,
    out: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
) -> list[Found]:
    """The `k` images of `index` that are most like each image of `query`, by the cosine of their features.

    Args:
        run: the run's path, or the run.
        index: what `moco.embed` wrote with this run; checkpoint and encoder are the index's.
        query: an image file, or several.
        k: how many; fewer where the index has fewer.
        out: a PNG to draw: a row a query, its picture first.
        data: where the index's images are now, for the picture; default where they were.

    Raises:
        UserError: the index was made by another run or checkpoint, a file can't be read, or `out` is somebody else's.
    """
    queries = [query] if isinstance(query, str | os.PathLike) else list(query)
    if k < 1 or not queries:
        raise UserError(f"--k is {k}, give 1 or more" if queries else "give an image to --query")
    drawing = None if out is None else expanded(os.fspath(out), "--out")
    if drawing is not None:
        if drawing.suffix.lower() != ".png":
            raise UserError(f"--out {out}: give a name that ends in .png")
        check_ours(drawing, GENERATOR)
    table = open_table(expanded(os.fspath(index), "--index"))
    opened = open_frozen(run, table.about["checkpoint"], table.about["encoder"])
    _check(opened, table)
    pictures = [_read(expanded(os.fspath(q), "--query"), table) for q in queries]
    features = _features(opened, pictures)
    k = min(k, table.count)
    scores, rows = nearest(features, (block.features for block in table.blocks()), k)
    say(f"{table.count:,} images in the index, compared by {best_library()}")
    named = _named(table, np.unique(rows))
    found = [
        Found(os.fspath(q), [Match(*named[int(row)], float(score)) for row, score in zip(*matches)])
        for q, *matches in zip(queries, rows, scores)
    ]
    if drawing is not None:
        _draw(drawing, found, pictures, os.fspath(data or table.about["source"]), table)
    return found


def _check(opened: FrozenRun, table: Table) -> None:
    """Raises `UserError` unless the index's features are what this backbone gives."""
    model = model_of(opened)
    wrong = [words for name, words in _MADE.items() if table.about.get(name) != model[name]]
    if wrong:
        about = table.about
        made = f"the {about['checkpoint']} checkpoint of step {about['step']}"
        now = f"that of this run is of step {opened.step}"
        raise UserError(f"{table.path} was made with {', '.join(wrong)} ({made}; {now}): embed again")


def _ranges(table: Table) -> Any:
    known = table.about["ranges"]

    def of(kind: Kind) -> Range:
        return Range.from_dict(known[str(kind)]) if str(kind) in known else full_range(kind)

    return of


def _read(path: Path, table: Table) -> NDArray[np.uint8]:
    try:
        with without_remarks():
            return decode(path.read_bytes(), table.about["short_side"], _ranges(table))
    except (OSError, BadImage) as error:
        raise UserError(f"--query {printable(str(path))}: {in_a_line(error)}") from error


def _features(opened: FrozenRun, pictures: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    frozen = opened.frozen
    with evaluating(frozen.backbone):
        return torch.cat([_of_one(opened, picture) for picture in pictures]).cpu().numpy()


def _of_one(opened: FrozenRun, picture: NDArray[np.uint8]) -> torch.Tensor:
    source = ragged([picture]).on(opened.frozen.runtime.device)
    return opened.frozen.piece(source, opened.frozen.centre, np.arange(1))


def _named(table: Table, rows: NDArray[np.int64]) -> dict[int, tuple[str, str | None]]:
    """Path and label of `rows`, ascending."""
    found, first = {}, 0
    for block in table.blocks():
        for row in rows[(rows >= first) & (rows < first + len(block))].tolist():
            found[row] = block.paths[row - first], block.labels[row - first]
        first += len(block)
    return found


def _draw(path: Path, found: list[Found], queries: list[NDArray[np.uint8]], data: str, table: Table) -> None:
    """A row a query. Raises `UserError` where the index's images aren't there any more."""
    try:
        listing = list_images(data, StoreConfig(labels="none"), table.about["short_side"], table.about["ranges"])
    except UserError as error:
        raise UserError(
            f"no picture: the index's images can't be read ({error}); if they moved, give --data"
        ) from error
    number = {escaped(name): n for n, name in enumerate(listing.names)}
    columns = max(len(f.matches) for f in found) + 1
    sheet = Image.new("RGB", (columns * (TILE + GAP) + 3 * GAP, len(found) * (TILE + GAP) + GAP), "white")
    for row, (one, query) in enumerate(zip(found, queries)):
        tiles: list[NDArray[np.uint8] | None] = [query]
        for match in one.matches:
            loaded = listing.load(number[match.path]) if match.path in number else None
            tiles.append(loaded.picture.pixels if loaded is not None and loaded.picture is not None else None)
        for column, pixels in enumerate(tiles):
            if pixels is None:
                say(f"not drawn: {one.matches[column - 1].path} is not in {printable(listing.source)} any more")
                continue
            tile = Image.fromarray(pixels)
            tile.thumbnail((TILE, TILE))
            left = GAP + column * (TILE + GAP) + 2 * GAP * (column > 0)
            sheet.paste(tile, (left + (TILE - tile.width) // 2, GAP + row * (TILE + GAP) + (TILE - tile.height) // 2))
    with atomic(path) as file:
        sheet.save(file, format="PNG", pnginfo=signed_picture(GENERATOR))
