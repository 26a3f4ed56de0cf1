"""The doctor with a run's help: near-duplicates that no hash of the whole picture can see."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from moco.console import progress, say
from moco.data.diagnosis import Diagnosis, NearPair
from moco.data.doctor import examine, layout_of
from moco.data.item import Item
from moco.data.pack import Loaded, load
from moco.data.ranges import Ranges
from moco.data.remarks import without_remarks
from moco.embedding.align import align
from moco.embedding.nearest import nearest
from moco.embedding.windows import Proposals, propose
from moco.errors import UserError, in_a_line
from moco.evaluators.features import scratch_folder
from moco.evaluators.frozen import BATCH, CHUNK
from moco.runs.embed import seen
from moco.runs.trained import FrozenRun, open_frozen
from moco.threads import operations_on

DISTANCE = 8  # bits within which hashes propose: the pixels decide
NEAREST = 5  # neighbours that an embedding proposes
LOOKALIKES = 3  # pictures that have a window like it, that a thumbnail proposes
SIMILAR = 0.2  # least similarity of two embeddings, evened out
ALIKE = 0.68  # least correlation of a thumbnail and a window
COPY = 0.85  # correlation of the details from which two pictures are copies, and
EVEN = 0.78  # its mean over the parts of the picture
THUMBNAIL = 64  # px, what is aligned
ROWS = 1024


def doctor(
    data: str | os.PathLike[str],
    run: str | os.PathLike[str] | None = None,
    distance: int = 4,
    labels: str = "auto",
    checkpoint: str = "last",
) -> Diagnosis:
    """What is wrong with the images of `data`: unreadable files, duplicates, leaks between the splits, odd sizes.

    Args:
        data: a folder, archives, or the name of a downloaded data set.
        run: a run whose backbone proposes near-duplicates; with it pairs are named that agree pixel by pixel once they
            are aligned: cropped, mirrored, recoloured, recompressed copies.
        distance: bits of 64 in which nearly the same pictures may differ; with a run hashes only propose.
        labels: `auto`, `folders` or `none`, as `store.labels`.
        checkpoint: of the run: `last`, `best`, or a kept epoch's number.

    Raises:
        UserError: no such data or run.
    """
    spec = os.fspath(data)
    if run is None:
        return examine(layout_of(spec, labels), distance)
    opened = open_frozen(run, checkpoint)
    layout = layout_of(spec, labels)
    ranges = Ranges("auto", layout.pools)
    return examine(layout, max(distance, DISTANCE), partial(_copies, opened, ranges))


def _copies(opened: FrozenRun, ranges: Ranges, items: list[Item], hashed: NDArray[np.int64]) -> list[NearPair]:
    """Hashes, embeddings and thumbnails propose; pixels, once aligned, decide."""
    if len(items) < 2:
        return []
    with _room(len(items)) as thumbnails:
        features = _looked(opened, ranges, items, thumbnails)
        embedded = _mutual(_evened(features))
        with operations_on(opened.frozen.runtime.threads):
            windows = propose(thumbnails, min(LOOKALIKES, len(items)), ALIKE)
        proposals = Proposals.joined([Proposals.of_pairs(hashed), Proposals.of_pairs(embedded), windows]).distinct()
        say(
            f"proposed as copies: {len(hashed):,} pairs by hash, {len(embedded):,} by embedding, {len(windows):,} by "
            "windows; aligning them"
        )
        found = align(thumbnails, proposals, opened.frozen.runtime.workers)
    best: dict[tuple[int, int], NearPair] = {}
    for n in np.flatnonzero((found.detail >= COPY) & (found.even >= EVEN)):
        whole, part = int(proposals.whole[n]), int(proposals.part[n])
        left, top, width, height = (round(float(v), 3) for v in found.window[n])
        key, agreement = (min(whole, part), max(whole, part)), round(float(found.detail[n]), 3)
        if key not in best or best[key].agreement < agreement:
            names, mirrored = (items[whole].name, items[part].name), bool(proposals.mirrored[n])
            best[key] = NearPair(*names, key, mirrored, (left, top, width, height), agreement)
    return [best[key] for key in sorted(best)]


@contextlib.contextmanager
def _room(count: int) -> Iterator[NDArray[np.uint8]]:
    """uint8 (count, THUMBNAIL, THUMBNAIL, 3) in a file that is gone when this process ends."""
    shape = (count, THUMBNAIL, THUMBNAIL, 3)
    try:
        with tempfile.TemporaryFile(dir=scratch_folder()) as file:
            file.truncate(int(np.prod(shape)))
            yield np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise UserError(f"no room for thumbnails in {scratch_folder()} ({in_a_line(error)}): set TMPDIR") from error


def _looked(opened: FrozenRun, ranges: Ranges, items: list[Item], thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features (N, F) of `items`, and their thumbnails; each file is decoded once. One that fails now has zeros."""
    side, short_side = THUMBNAIL, opened.run.config.short_side

    def kept(number: int) -> Loaded:
        loaded = load(items[number], short_side, ranges)
        if loaded.picture is not None:
            small = Image.fromarray(loaded.picture.pixels).resize((side, side), Image.Resampling.BOX)
            thumbnails[number] = np.asarray(small)
        return loaded

    size = CHUNK if opened.frozen.runtime.device.type == "cpu" else BATCH
    pieces = [range(first, min(first + size, len(items))) for first in range(0, len(items), size)]
    features: NDArray[np.float32] | None = None
    with (
        without_remarks(),
        progress("looking", len(items), "images/s") as bar,
        contextlib.closing(seen(opened.frozen, kept, pieces)) as made,
    ):
        for piece in made:
            if len(piece.features):
                if features is None:
                    features = np.zeros((len(items), piece.features.shape[1]), np.float32)
                rows = [n for n, file in zip(piece.numbers, piece.files) if file.picture is not None]
                features[rows] = piece.features
            bar.update(piece.numbers.stop)
    return np.zeros((len(items), 1), np.float32) if features is None else features


def _evened(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """`features` (N, F) without their mean, each principal direction divided by the square root of its deviation.

    What all pictures share says nothing of a pair, and a young backbone's embedding is mostly that.
    """
    centred = torch.from_numpy(features - features.mean(0))
    spread, directions = torch.linalg.eigh(centred.double().T @ centred.double() / len(centred))
    scale = (spread.clamp_min(0) + 1e-3 * spread.mean().clamp_min(1e-12)) ** -0.25
    return (centred @ (directions * scale).float()).numpy()


def _mutual(features: NDArray[np.float32]) -> NDArray[np.int64]:
    """Pairs int (P, 2) that are each among the other's `NEAREST`, at a similarity of `SIMILAR` or more."""
    k = min(NEAREST + 1, len(features))
    near: set[tuple[int, int]] = set()
    for first in range(0, len(features), ROWS):
        scores, rows = nearest(features[first : first + ROWS], [features], k, "torch")
        for number, (likeness, others) in enumerate(zip(scores.tolist(), rows.tolist()), first):
            near |= {(number, other) for other, s in zip(others, likeness) if other != number and s >= SIMILAR}
    return np.array(sorted((a, b) for a, b in near if a < b and (b, a) in near), np.int64).reshape(-1, 2)
