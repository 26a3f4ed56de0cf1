"""The features of every image of a place, as a file that other programs read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moco import __version__
from moco.config_check import check
from moco.console import progress, say
from moco.data.images import NO_PIXELS
from moco.data.listing import Listing, list_images
from moco.data.pack import Loaded, listed
from moco.data.parallel import in_order
from moco.data.remarks import without_remarks
from moco.embedding.parts import Part, Parts
from moco.embedding.table import Block, ending, open_table, write_table
from moco.errors import Interrupted, UserError
from moco.evaluators.frozen import BATCH, CHUNK, Frozen, evaluating
from moco.evaluators.proof import fingerprint
from moco.files import sync_folder
from moco.runs.trained import Encoder, FrozenRun, open_frozen, ragged
from moco.train.interrupt import StopSignals

PART = 1024  # images: what a kill costs at most, and the rows of a group in Parquet


@dataclass(frozen=True)
class Embedding:
    """A feature file that was made.

    Attributes:
        path: the file.
        images: rows in it, N.
        width: features of a row, F.
        left_out: (path, reason) of each file that is no readable image.
        seconds: it took.
        resumed: rows that an earlier process had made.
    """

    path: Path
    images: int
    width: int
    left_out: list[tuple[str, str]]
    seconds: float
    resumed: int = 0


def embed(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    normalize: bool = False,
    encoder: Encoder = "query",
    checkpoint: str = "last",
    batch_size: int | None = None,
    labels: str = "auto",
) -> Embedding:
    """Write the features of all images of `data`: path, label, feature, in the order of the paths.

    The features are those that the run's monitors see: the same decoding, view and precision. Images are read directly,
    or from the packed store where they are in one; nothing is packed. What is finished is kept beside `out`, and the
    same call goes on after a kill; the file is then the same to the byte.

    Args:
        run: the run's path, or the run.
        data: whatever `--data` takes; labels are read off the folders where there are any.
        out: a new file, `.parquet`, `.npz` or `.npy` (`embedding/table.py` says what is in each).
        normalize: features of length 1.
        encoder: `query`, or `key`: the momentum encoder.
        checkpoint: `last`, `best`, or the number of an epoch whose checkpoint was kept.
        batch_size: images that go through the network at once, by each thread on the CPU; default 32 there, 256 on a
            GPU. Another one may change the last bits.
        labels: `auto`, `folders` or `none`, as `store.labels`.

    Raises:
        UserError: no such run, checkpoint or data; no image can be read; `out` is there, or begun of something else.
        Interrupted: a stop signal came; the same call goes on.
    """
    started = time.perf_counter()
    path = Path(out).expanduser()
    ending(path)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}, give 1 or more")
    opened = open_frozen(run, checkpoint, encoder)
    config = opened.run.config
    store = replace(config.store, labels=labels)  # type: ignore[arg-type]
    check(replace(config, store=store))
    listing = list_images(os.fspath(data), store, config.short_side, opened.about.get("ranges"))
    say(listing.note)
    batch = batch_size or (CHUNK if opened.frozen.runtime.device.type == "cpu" else BATCH)
    about = {
        "format": 1, "moco": __version__, "run": opened.run.folder.identity(), **model_of(opened),
        "checkpoint": checkpoint, "step": opened.step, "epoch": opened.epoch, "encoder": encoder,
        "normalized": normalize, "source": listing.source,
    }  # fmt: skip
    work = {
        **about, "images": len(listing), "data": listing.state, "labels": labels, "batch_size": batch, "part": PART,
        "precision": opened.frozen.runtime.precision, "device": opened.frozen.runtime.device.type,
        "torch": torch.__version__, "ranges": opened.about.get("ranges", {}),
    }  # fmt: skip
    resumed = len(listing)
    with Parts.opened(path, work) as parts:
        if not parts.merged:
            resumed = _make(parts, opened.frozen, listing, batch)
            _merge(parts, listing, about, normalize)
        parts.discard()
    made = open_table(path)
    left_out = [(name, reason) for name, reason in made.about["left_out"]]
    return _told(Embedding(path, made.count, made.width, left_out, time.perf_counter() - started, resumed))


def model_of(opened: FrozenRun) -> dict[str, Any]:
    """What decides the features of a picture, for a feature file to be compared with."""
    frozen = opened.frozen
    return {
        "backbone_sha256": fingerprint(frozen.backbone),
        "size": frozen.size,
        "short_side": opened.run.config.short_side,
        "scaling": [list(values) for values in frozen.scaling],
    }


@dataclass(frozen=True)
class Piece:
    """What became of some images: `files` without their pixels, features float32 (n, F) of the readable ones."""

    numbers: range
    files: list[Loaded]
    features: NDArray[np.float32]


def _make(parts: Parts, frozen: Frozen, listing: Listing, batch: int) -> int:
    """Make the parts that aren't there yet; returns the images of those that are."""
    stretches = {
        n: range(first, min(first + PART, len(listing))) for n, first in enumerate(range(0, len(listing), PART))
    }
    missing = [number for number in stretches if parts.read(number) is None]
    resumed = done = len(listing) - sum(len(stretches[number]) for number in missing)
    if done:
        say(f"{done:,} of {len(listing):,} images are there from before")
    pieces = {number: _cut(stretches[number], batch) for number in missing}
    with (
        StopSignals() as signals,
        without_remarks(),
        progress("embedding", len(listing), "images/s") as bar,
        contextlib.closing(seen(frozen, listing.load, chain.from_iterable(pieces.values()))) as made,
    ):
        for number in missing:
            found = []
            for piece in islice(made, len(pieces[number])):
                found.append(piece)
                done += len(piece.numbers)
                bar.update(done)
                if signals.stop is not None:
                    break
            if len(found) == len(pieces[number]):
                parts.write(number, _joined(found, listing))
            if signals.stop is not None:
                kept = f"finished parts are kept in {parts.folder}"
                raise Interrupted(f"stopped by {signals.stop}: {kept}, and the same command goes on")
    return resumed


def _cut(stretch: range, batch: int) -> list[range]:
    return [stretch[first : first + batch] for first in range(0, len(stretch), batch)]


def seen(frozen: Frozen, load: Callable[[int], Loaded], pieces: Iterable[range]) -> Generator[Piece, None, None]:
    """`load` and look at `pieces` of numbers, in their order.

    On the CPU a thread does both for a piece: the same bits for any number of threads. A GPU looks at a piece while
    the processor's cores decode what comes next.
    """
    with evaluating(frozen.backbone):
        if frozen.runtime.device.type == "cpu":
            with contextlib.closing(
                frozen.runtime.workers.stream(lambda p: _piece(frozen, p, [load(n) for n in p]), pieces)
            ) as made:
                yield from made
            return
        ahead, pieces = tee(pieces)
        with contextlib.closing(in_order(load, chain.from_iterable(ahead))) as loaded:
            for numbers in pieces:
                yield _piece(frozen, numbers, list(islice(loaded, len(numbers))))


def _piece(frozen: Frozen, numbers: range, files: list[Loaded]) -> Piece:
    arrays = [file.picture.pixels for file in files if file.picture is not None]
    features = np.empty((0, 0), np.float32)
    if arrays:
        source = ragged(arrays).on(frozen.runtime.device)
        features = frozen.piece(source, frozen.centre, np.arange(len(arrays))).cpu().numpy()
    return Piece(numbers, [_without_pixels(file) for file in files], features)


def _without_pixels(file: Loaded) -> Loaded:
    return file if file.picture is None else replace(file, picture=replace(file.picture, pixels=NO_PIXELS))


def _joined(pieces: list[Piece], listing: Listing) -> Part:
    """Raises `UserError` for features that are not finite."""
    rows, left_out, ranges = [], [], {}
    contents = hashlib.sha256()
    for number, file in ((n, file) for piece in pieces for n, file in zip(piece.numbers, piece.files)):
        contents.update(file.digest)
        if file.picture is None:
            left_out.append((number, file.reason))
            continue
        rows.append(number)
        if file.picture.deep is not None:
            ranges[str(file.picture.deep)] = listing.ranges(file.picture.deep).as_dict()
    there = [piece.features for piece in pieces if len(piece.features)]
    features = np.concatenate(there) if there else np.empty((0, 0), np.float32)
    if not np.isfinite(features).all():
        raise UserError("the backbone's features are not finite: this checkpoint is no good (another --checkpoint?)")
    return Part(np.array(rows, np.int64), features, left_out, contents.hexdigest(), ranges)


def _merge(parts: Parts, listing: Listing, about: dict[str, Any], normalize: bool) -> None:
    """Put the parts together. Raises `UserError` if no image could be read, or the disk is full."""
    numbers = range(-(-len(listing) // PART))
    count = width = 0
    left_out: list[tuple[str, str]] = []
    ranges: dict[str, Any] = {}
    contents = hashlib.sha256()
    for part in map(parts.read, numbers):
        assert part is not None, "all parts were made"
        count, width = count + len(part.rows), max(width, part.features.shape[1])
        left_out += [(escaped(listing.names[n]), reason) for n, reason in part.left_out]
        ranges |= part.ranges
        contents.update(part.contents.encode())
    if not count:
        raise UserError(f"none of the {len(listing)} images can be read: {listed(left_out)}")
    about = {**about, "data_sha256": contents.hexdigest(), "ranges": ranges, "left_out": left_out}

    def blocks() -> Iterator[Block]:
        for part in map(parts.read, numbers):
            assert part is not None, "all parts were made"
            features = part.features.reshape(-1, width)
            paths = [escaped(listing.names[n]) for n in part.rows]
            labels = [None if (label := listing.label(n)) is None else escaped(label) for n in part.rows]
            yield Block(paths, labels, normalized(features) if normalize else features)

    try:
        with parts.merging() as drafts, contextlib.ExitStack() as stack:
            files = [stack.enter_context(draft.open("wb")) for draft in drafts]
            write_table(files, ending(parts.out), blocks, count, width, about)
            for file in files:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"can't write {parts.out}: {error.strerror or error} (the parts are kept)") from error
    sync_folder(parts.out.parent)


def normalized(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (N, F) of length 1; a row of zeros stays one."""
    return torch.nn.functional.normalize(torch.from_numpy(features), dim=1).numpy()


def escaped(name: str) -> str:
    """A path as every program can read it: bytes that are no text become `\\udcff`."""
    return name.encode(errors="backslashreplace").decode()


def _told(made: Embedding) -> Embedding:
    new = made.images + len(made.left_out) - made.resumed
    rate = f" ({new / made.seconds:,.0f} images/s)" if new > PART else ""
    say(f"embedded {made.images:,} images in {made.seconds:.1f} s{rate}: {made.width} features each")
    if made.left_out:
        say(f"left out {len(made.left_out)} that can't be read (listed in the file): {listed(made.left_out)}")
    return made
