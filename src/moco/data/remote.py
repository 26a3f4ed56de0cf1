"""A packed store that lies elsewhere: `--data s3://bucket/store`, or gs://, az://, https://.

The manifest and the tables are fetched at the start. Chunk files are fetched when their images are wanted, each once,
into a folder of the cache:

    CACHE/remote-KEY/.moco-store.json   who made it, and what it is a copy of; KEY is a digest of URL and manifest
    CACHE/remote-KEY/...                files of the store, with the names that they have there (`chunks.py`)
    CACHE/remote-KEY/fetch.lock         held while a file is fetched or removed: processes share the folder

Where the whole store is allowed in the cache (`store.remote_gb`) it fills as the training goes, and the second epoch is
that of a local store. A larger one is trained on in windows (`store.window`): the chunks of this window and the next
are fetched, and those used longest ago leave. Images outside the windows, as a monitor wants them, are read one by one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moco.data import cache
from moco.data.chunks import MANIFEST, TABLES, Opened, chunk_name, open_tables
from moco.errors import Damaged, UserError, in_a_line
from moco.files import atomic, locked, write_json, write_text

PIECE_BYTES = 2**23  # asked for at a time: what is cut off is asked for again, piece by piece
TRIES, FIRST_PAUSE_S = 6, 0.25  # the pauses double: 8 s in all
PIECES_AT_ONCE = 4
LOCK = "fetch.lock"
CHUNK = re.compile(r"chunk-\d{6}\.bin")
_LEFT = re.compile(r"\.chunk-\d{6}\.bin\.\d+\.tmp")
_MARKING = re.compile(rf"\.{re.escape(cache.MARKER)}\.\d+\.tmp")  # what a process was writing, or is
_URL = re.compile(r"[a-z][a-z0-9+.-]*://.")


def is_remote(spec: str) -> bool:
    """Whether `--data` names a place that isn't a file of this machine."""
    return _URL.match(spec) is not None


class Place:
    """Files below a URL. Credentials and endpoint are the environment's, or the machine's role's."""

    def __init__(self, url: str) -> None:
        """Raises `UserError` where obstore isn't installed, or takes no such URL."""
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise UserError(f"--data {url} needs obstore: pip install 'momentum-contrast[remote]'") from None
        self.url = url.rstrip("/")
        self._get = obstore.get
        self._range = obstore.get_range
        self._errors = (obstore.exceptions.BaseError, OSError, ValueError)
        try:
            self._store = from_url(
                self.url,
                client_options={"connect_timeout": "10s", "timeout": "120s", "allow_http": True},
                retry_config={"max_retries": 0},  # `_again` does
            )
        except self._errors as error:
            raise UserError(f"--data {url}: {in_a_line(error)}") from error

    def whole(self, name: str) -> bytes:
        """All of a small file. Raises `UserError` where it can't be had."""
        return self._again(name, lambda: bytes(self._get(self._store, name).bytes()))

    def part(self, name: str, begin: int, end: int) -> bytes:
        """Bytes `begin` up to `end` of a file. Raises `UserError` where they can't be had."""

        def once() -> bytes:
            found = bytes(self._range(self._store, name, start=begin, end=end))
            if len(found) != end - begin:
                raise OSError(f"{len(found)} bytes came where {end - begin} were asked for")
            return found

        return self._again(name, once)

    def _again(self, name: str, once: Callable[[], bytes]) -> bytes:
        for attempt in range(TRIES):
            try:
                return once()
            except FileNotFoundError as error:
                raise UserError(f"{self.url} is no packed store: it has no {name} (`moco pack` makes one)") from error
            except self._errors as error:
                if attempt == TRIES - 1:
                    said = in_a_line(error)
                    raise UserError(f"can't read {self.url}/{name}: {said[:200]} ({TRIES} tries)") from error
                time.sleep(FIRST_PAUSE_S * 2**attempt)
        raise AssertionError


class RemoteChunks:
    """The chunks of a store at a `Place` as one array of bytes; those that are here take `limit_bytes` at most.

    All that fetches, opens or removes a file of the folder holds its lock, in this process or another.

    Attributes:
        begins: int64 (chunks + 1,), where each begins, and the end.
        whole: whether all of them are allowed here.
    """

    def __init__(self, place: Place, folder: Path, sizes: list[int], digests: list[str], limit_bytes: int) -> None:
        self._place, self._folder, self._sizes, self._digests = place, folder, sizes, digests
        self._limit = limit_bytes
        self.whole = sum(sizes) <= limit_bytes
        self.begins = np.cumsum([0, *sizes])
        self._one = ThreadPoolExecutor(1, thread_name_prefix="moco-fetch")  # a chunk at a time
        self._pieces = ThreadPoolExecutor(PIECES_AT_ONCE, thread_name_prefix="moco-piece")
        self._lock = threading.Lock()  # of the two below
        self._here: dict[int, Future[NDArray[np.uint8]]] = {}
        self._wanted: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Bytes in all."""
        return int(self.begins[-1])

    def __getitem__(self, where: slice) -> NDArray[np.uint8]:
        """Of one image. Raises `UserError` where it can't be fetched or kept."""
        number = int(np.searchsorted(self.begins, where.start, "right")) - 1
        begin = int(self.begins[number])
        chunk = self._chunk(number)
        if chunk is not None:
            return chunk[where.start - begin : where.stop - begin]
        found = self._place.part(chunk_name(number), where.start - begin, where.stop - begin)
        return np.frombuffer(found, np.uint8)

    def check_window(self, size: int | None) -> None:
        """Raise `UserError` unless a training that goes through windows of `size` chunks has room for two of them."""
        if self.whole:
            return
        largest, limit = max(self._sizes), self._limit
        room = limit // (2 * largest)
        what = f"{self._place.url} has {len(self) / 1e9:.1f} GB, and --store.remote_gb allows {limit / 1e9:g} here"
        if room < 1:
            raise UserError(f"{what}: two of its chunks don't fit, give {4 * largest / 1e9:.2g} or more")
        if size is None:
            raise UserError(f"{what}: give more, or --store.window {room} to go through it in windows of {room} chunks")
        if size > room:
            raise UserError(f"{what}: two windows of {size} chunks don't fit, give --store.window {room} or less")

    def want(self, chunks: Iterable[int]) -> None:
        """These come next, in this order: begin to fetch what isn't here; all others may leave."""
        wanted = tuple(chunks)
        with self._lock:
            if wanted == self._wanted:
                return
            self._wanted = wanted
            for number in [n for n, coming in self._here.items() if n not in wanted and coming.done()]:
                del self._here[number]  # a file that is removed takes room for as long as it is mapped
        self._advance()

    def _advance(self) -> None:
        """Begin to fetch the next chunk that is wanted, unless one is under way.

        One at a time: a process that ends waits for what its threads have to do.
        """
        with self._lock, contextlib.suppress(RuntimeError):  # the process is about to end
            if all(coming.done() for coming in self._here.values()):
                number = next((n for n in self._wanted if n not in self._here), None)
                if number is not None:
                    self._begin(number)

    def _begin(self, number: int) -> Future[NDArray[np.uint8]]:
        """With the lock held."""
        coming = self._here[number] = self._one.submit(self._fetched, number)
        coming.add_done_callback(self._done)
        return coming

    def _done(self, _: object) -> None:
        with contextlib.suppress(RuntimeError):  # the process is about to end
            self._pieces.submit(self._advance)  # another thread's: this one may hold the lock

    def _chunk(self, number: int) -> NDArray[np.uint8] | None:
        """The chunk, mapped; None for one that is neither wanted nor here.

        One that could not be fetched ahead of its time is tried once more.
        """
        with self._lock:
            coming = self._here.get(number)
            if coming is None or (coming.done() and coming.exception() is not None):
                if not (self.whole or number in self._wanted):
                    return None
                coming = self._begin(number)
        return coming.result()

    def _fetched(self, number: int) -> NDArray[np.uint8]:
        """The chunk, mapped; fetched unless this process or another one has it here. Raises `UserError`."""
        path = self._folder / chunk_name(number)
        try:
            with locked(self._folder / LOCK, "", wait=lambda _: None):
                _mark(self._folder, self._place)  # ours when it was opened; `moco cache prune` may have come since
                if not (path.exists() and path.stat().st_size == self._sizes[number]):
                    self._make_room(number)
                    self._fetch(number, path)
                os.utime(path)  # used now
                cache.touch(self._folder)
                return np.memmap(path, np.uint8, "r")
        except OSError as error:
            raise UserError(f"can't keep {path}: {error.strerror or error} (--store.cache DIR elsewhere?)") from error

    def _fetch(self, number: int, path: Path) -> None:
        size, digest = self._sizes[number], hashlib.sha256()

        def piece(begin: int) -> bytes:
            return self._place.part(path.name, begin, min(begin + PIECE_BYTES, size))

        try:
            with atomic(path) as file:
                for content in self._pieces.map(piece, range(0, size, PIECE_BYTES)):
                    digest.update(content)
                    file.write(content)
                if digest.hexdigest() != self._digests[number]:
                    raise Damaged(f"{self._place.url}/{path.name}", "its bytes aren't those that were packed")
        except UserError as error:
            if str(error).startswith("can't write"):
                raise UserError(f"{error}: lower --store.remote_gb, or give --store.cache DIR elsewhere") from error
            raise

    def _make_room(self, number: int) -> None:
        """Remove the chunks that were used longest ago, until this one finds room; none that is wanted now.

        What a killed process was writing goes first: nobody else writes while the lock is held.
        """
        files = []
        for path in self._folder.iterdir():
            if _LEFT.fullmatch(path.name):
                path.unlink()
            elif CHUNK.fullmatch(path.name):
                state = path.stat()
                files.append((state.st_mtime_ns, state.st_size, path))
        room = self._limit - self._sizes[number] - sum(size for _, size, _ in files)
        kept = {chunk_name(n) for n in self._wanted}
        for _, size, path in sorted(files):
            if room >= 0:
                return
            if path.name not in kept:
                path.unlink()
                room += size
                with self._lock:
                    self._here.pop(int(path.stem.partition("-")[2]), None)


def open_remote(url: str, copies: Path, limit_gb: float) -> Opened:
    """Open the packed store at `url`: what is fetched of it is kept in a folder in `copies`, `limit_gb` at most.

    Raises `UserError` where it can't be read or isn't one, and `Damaged` where its parts don't belong together.
    """
    place = Place(url)
    content = place.whole(MANIFEST)
    try:
        manifest = json.loads(content)
        sizes, digests = manifest["chunks"], manifest["digests"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{url} wasn't packed by this version of moco: pack it again ({error!r})") from error
    key = hashlib.sha256(place.url.encode() + b"\0" + content).hexdigest()[:20]
    folder = copies / f"remote-{key}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't make {folder}: {error.strerror or error} (give --store.cache DIR)") from error
    with locked(folder / LOCK, "", wait=lambda _: None):  # who comes first marks it, the others wait
        others = [path.name for path in folder.iterdir() if path.name != LOCK and not _MARKING.fullmatch(path.name)]
        if others and not cache.is_ours(folder):
            wayout = "move it away, or give --store.cache DIR"
            raise UserError(f"{folder} holds {others[0]} and no marker of moco's: {wayout}")
        _mark(folder, place)
        cache.touch(folder)
        for name in (f"{table}.npy" for table in TABLES):
            if not (folder / name).exists():
                table = place.whole(name)
                with atomic(folder / name) as file:
                    file.write(table)
        write_text(folder / MANIFEST, content.decode())
    try:
        return open_tables(folder, manifest, RemoteChunks(place, folder, sizes, digests, int(limit_gb * 1e9)))
    except Damaged:
        for name in TABLES:  # the next start fetches them again
            (folder / f"{name}.npy").unlink(missing_ok=True)
        raise


def _mark(folder: Path, place: Place) -> None:
    """With the lock held: say that what is fetched from `place` into `folder` is this program's."""
    if not cache.is_ours(folder):
        write_json(folder / cache.MARKER, {"program": "moco", "url": place.url})
