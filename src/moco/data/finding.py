"""The store of a place's pictures in the cache: found by what it holds, or packed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moco.console import progress, say
from moco.data import cache
from moco.data.format import Format
from moco.data.images import BadImage
from moco.data.item import DIGEST_BYTES, Item, content_digest
from moco.data.layout import Layout
from moco.data.parallel import in_order
from moco.data.pixels import Pixels
from moco.errors import Damaged, UserError
from moco.files import sync_folder

SAMPLE = 16  # files whose bytes are compared at every start


@dataclass(frozen=True)
class ToPack:
    """What is to be packed.

    Attributes:
        name: what a person calls it.
        where: absolute path, or the built-in name.
        place: the same for the same place packed in the same way, whatever is there now.
        shape: the same for the same names and sizes packed in the same way.
        listing: the same as long as no file is touched.
        items: the files to be packed.
        layout: splits of them.
        pack: writes all of them into a folder.
        raw_bytes: about what their pixels take.
        format: what is written.
        built_in: whether the pictures come from this program and not from files.
    """

    name: str
    where: str
    place: str
    shape: str
    listing: str
    items: list[Item]
    layout: Layout
    pack: Callable[[Path], None]
    raw_bytes: Callable[[], int]
    format: Format
    built_in: bool = False

    def record(self, store: str) -> cache.Record:
        """What is noted of the place once its files are in `store`."""
        return cache.Record(self.name, store, len(self.items), self.listing)


@dataclass
class Finder:
    """Looks for a store of the source's pictures; looks again, with the lock held, before anything is packed.

    Attributes:
        refused: stores of other pictures, and what is to be said of them if it comes to packing.
    """

    cache: Path
    source: ToPack
    refused: dict[str, str] = field(default_factory=dict)

    def find(self, report: bool = False) -> Pixels | None:
        """The store of just these pictures, None if there is none; `report` says which damage was met.

        Raises `UserError` where a store, or the cache, can't be read for want of memory or permission.
        """
        for name in self._candidates():
            try:
                pixels = Pixels.open(self.cache / name / "images")
            except Damaged as error:  # another run may be mending it: not refused yet
                if report:
                    say(f"{error}: packing it again")
                continue
            if self._serves(name, pixels):
                return pixels
        if report:
            for line in filter(None, self.refused.values()):
                say(line)
        return None

    def _candidates(self) -> list[str]:
        try:
            names = [path.name for path in self.cache.iterdir()]
        except (FileNotFoundError, NotADirectoryError):  # packing makes it, or says why not
            return []
        except OSError as error:
            raise UserError(f"can't read the cache {self.cache}: {error.strerror} (give --store.cache DIR)") from error
        found = (name for name in names if name.startswith(f"{self.source.shape}-") and name not in self.refused)
        return sorted(found, key=lambda name: (name != self._untouched(), name))

    def _untouched(self) -> str | None:
        """The store that was packed from this place, if no file was touched since."""
        try:
            record = cache.recall(self.cache, self.source.place)
        except ValueError:  # `change` says so if it comes to packing
            return None
        return record.store if record is not None and record.listing == self.source.listing else None

    def _serves(self, name: str, pixels: Pixels) -> bool:
        source = self.source
        if source.built_in:
            return True
        if len(pixels) != len(source.items):
            self.refused[name] = ""
        elif name != self._untouched():
            if _all_agree(pixels, source.items):
                self._remember(name)
                return True
            self.refused[name] = ""
        elif not _agrees(pixels, source.items, _sample(len(pixels))):
            self.refused[name] = f"{source.name}: files have other contents at the same sizes and times: packing again"
        elif passed := [n for n in pixels.unread if _digest(source.items[n]) is not None]:
            what = f"{len(passed)} files that couldn't be read can be read now"
            self.refused[name] = f"{source.name}: {what}: packing it again"
        else:
            return True
        return False

    def _remember(self, name: str) -> None:
        source = self.source
        count = len(source.items)
        line = f"{source.name} holds the same {count} files that {self.cache / name} was made of, compared byte by byte"
        try:
            cache.recall(self.cache, source.place)
        except ValueError as error:
            line += f" (the record of it is damaged: {error})"
        try:
            cache.remember(self.cache, source.place, source.record(name))
        except UserError as error:
            line += f" (at every start: {error})"
        say(line)


def pack_unless_found(finder: Finder) -> Pixels:
    """The pixels, packed into the cache unless another run does so in this moment."""
    folder, source = finder.cache, finder.source
    with cache.packing(folder, source.shape):
        found = finder.find(report=True)
        if found is not None:
            return found
        said = cache.change(folder, source.place, source.record(""))
        if said:
            say(f"{said}: packing it again")
        cache.clear_abandoned(folder)
        try:
            return _pack_whole(folder, source)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"can't pack into {folder}: {reason} (--store.cache DIR elsewhere?)") from error


def _pack_whole(folder: Path, source: ToPack) -> Pixels:
    """Make the store, or nothing; a damaged one of the same name is replaced."""
    partial = cache.begin(folder, source.shape)
    try:
        source.pack(partial / "images")
        sync_folder(partial)
        contents = Pixels.open(partial / "images").contents
        name = f"{source.shape}-{hashlib.sha256(contents.tobytes()).hexdigest()[:12]}"
        if not _intact(folder / name):
            cache.settle(partial, folder / name)
        sync_folder(folder)
    finally:
        cache.discard(partial)
    cache.remember(folder, source.place, source.record(name))
    return Pixels.open(folder / name / "images")


def _intact(store: Path) -> bool:
    """Whether a store of these pictures is there already: another machine, on a disk whose locks are local."""
    try:
        Pixels.open(store / "images")
    except Damaged:
        return False
    return True


def _sample(count: int) -> NDArray[np.int64]:
    """Numbers of a few files, spread over all of them."""
    return np.unique(np.linspace(0, count - 1, SAMPLE).astype(np.int64))


def _digest(item: Item) -> bytes | None:
    """The digest of the file's bytes as a store has it, None if it can't be read."""
    try:
        return content_digest(item.read())
    except BadImage:
        return content_digest(f"{item.size} bytes".encode())
    except OSError:
        return None


def _agrees(pixels: Pixels, items: list[Item], numbers: NDArray[np.int64]) -> bool:
    """Whether these files have the bytes that were packed; one that can't be read at all tells nothing."""
    for n in numbers.tolist():
        found = _digest(items[n])
        if found is not None and n not in pixels.unread and found != pixels.contents[n].tobytes():
            return False
    return True


def _all_agree(pixels: Pixels, items: list[Item]) -> bool:
    """Whether all files are those that were packed, byte for byte; one that can't be read now is another."""
    with progress("comparing", len(items), "files/s") as bar, contextlib.closing(in_order(_digest, items)) as found:
        for n, (item, digest) in enumerate(zip(items, found)):
            if item.name != pixels.names[n] or (digest or bytes(DIGEST_BYTES)) != pixels.contents[n].tobytes():
                return False
            if n % 100 == 0:
                bar.update(n)
    return True
