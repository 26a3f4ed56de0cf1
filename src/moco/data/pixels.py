"""Packed pixels: every decoded image of one place in plain numpy files, memory-mapped, and the splits made of them.

    STORE/.moco-store.json    who made it; nothing without it is ever removed
    STORE/images/pixels.npy   uint8 (bytes,)   every image's rows, RGB, one image after the other
    STORE/images/offsets.npy  int64 (M,)       where each begins
    STORE/images/sizes.npy    int32 (M, 2)     height, width; 0, 0 for a file that was left out
    STORE/images/contents.npy uint8 (M, 16)    digest of each file's bytes; zeros for one that couldn't be read
    STORE/images/manifest.json                 format   number of this layout, `FORMAT`
                                               bytes    length of pixels.npy's array
                                               digest   SHA-256 of its values
                                               tables   SHA-256 of the three tables' values, in the order above
                                               names    path of each file inside the source, M of them
                                               skipped  [path, reason] of each file that was left out
                                               unread   numbers of those that couldn't be read: tried again
                                               ranges   of each kind of numbers above 8 bits, what became black and
                                                        white
                                               unended  path of each JPEG that lacked its end marker
    STORE/images/checked.json                  how pixels.npy looked when it was last found to be whole (`intact.py`)

    A store of JPEGs (`compressed.py`) has, instead of pixels.npy,
    STORE/images/jpegs.npy    uint8 (bytes,)   each image as a JPEG, one after the other
    STORE/images/lengths.npy  int64 (M,)       how many bytes each takes, 0 for a file that was left out; the fourth
                                               of the tables
    and in the manifest       encoding         what the JPEGs are, `compressed.ENCODING`

    STORE/splits/KEY.npy      int64 (N, 2)     a split: number of the image, number of its class (-1: unknown)
    STORE/splits/KEY.json                      classes  class names; empty without labels
                                               fingerprint  SHA-256 of the split's pixels (or JPEGs), then of the
                                                            values that offsets, sizes and labels have in a
                                                            store of this split alone

Any program that reads numpy's format reads it: `pixels[o : o + h * w * 3].reshape(h, w, 3)`. Labels and splits are
tables beside one set of pixels, so another `holdout` costs no decoding.
"""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.data import compressed, intact
from moco.data.store import Store, digest_of, fingerprint_of
from moco.errors import Damaged, UserError
from moco.files import atomic, read_json, write_json

FORMAT = 4
CHECKED = "checked.json"
TABLES = ("offsets", "sizes", "contents")
JPEG_TABLES = (*TABLES, "lengths")
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # all other `OSError`s say nothing of the files


@dataclass(frozen=True)
class Pixels:
    """Every image of one place, decoded, and what was left out.

    Attributes:
        folder: where they are, `STORE/images`.
        pixels: uint8 (bytes,), memory-mapped read-only; pages are shared between processes. Rows, or JPEGs.
        offsets: int64 (M,), where each image begins in `pixels`.
        lengths: int64 (M,), how many bytes it takes there.
        sizes: int32 (M, 2), height and width in pixels, 0 for a file that was left out.
        contents: uint8 (M, 16), digests of the files' bytes.
        names: paths inside the source, M of them.
        skipped: (path, reason) of each file that was left out.
        unread: numbers of those of them that couldn't be read.
        ranges: of each kind of more than 8 bits, by its name, what became black and white (`levels.Range`).
        jpeg: whether the images are kept as JPEGs.
    """

    folder: Path
    pixels: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int32]
    contents: NDArray[np.uint8]
    names: list[str]
    skipped: list[tuple[str, str]]
    unread: list[int]
    ranges: dict[str, dict[str, Any]] = field(default_factory=dict)
    jpeg: bool = False

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def there(self) -> NDArray[np.bool_]:
        """bool (M,): which files are images."""
        return self.sizes[:, 0] > 0

    @classmethod
    def open(cls, folder: Path) -> Pixels:
        """Map what lies in `folder`; the pixels themselves are read only where their file was touched since.

        Raises `Damaged` unless these are the files, lengths and tables that were written, and `UserError`
        where they can't be read: for want of memory, permission or a sound disk.
        """
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            jpeg = "encoding" in manifest
            name = "jpegs.npy" if jpeg else "pixels.npy"
            pixels = mapped(folder / name)
            tables = [np.array(mapped(folder / f"{name}.npy")) for name in (JPEG_TABLES if jpeg else TABLES)]
            offsets, sizes, contents = tables[:3]
            whole = (
                manifest["format"] == FORMAT
                and manifest.get("encoding", compressed.ENCODING) == compressed.ENCODING
                and (pixels.dtype, pixels.shape) == (np.uint8, (manifest["bytes"],))
                and manifest["tables"] == digest_of(*tables)
                and len(manifest["names"]) == len(offsets)
            )
            if not whole:
                raise ValueError("its parts don't belong together")
            path, skip = folder / name, pixels.offset  # type: ignore[attr-defined]
            intact.check({path: manifest["digest"]}, folder / CHECKED, skip)
            skipped = [(name, reason) for name, reason in manifest["skipped"]]
            names, unread, ranges = manifest["names"], manifest["unread"], manifest["ranges"]
            lengths = tables[3] if jpeg else sizes.astype(np.int64).prod(1) * 3
            return cls(folder, pixels, offsets, lengths, sizes, contents, names, skipped, unread, ranges, jpeg)
        except (*_GONE, ValueError, EOFError, TypeError, LookupError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise Damaged(f"packed store {folder}", reason) from error
        except (OSError, MemoryError) as error:
            raise UserError(f"packed store {folder} can't be read: {resource_reason(error)}") from error

    def split(self, images: NDArray[np.int64], labels: NDArray[np.int64], classes: list[str]) -> Store:
        """The split of `images` (N,), numbers of files of which none was left out, with `labels` (N,).

        Its fingerprint is looked up beside the pixels, or computed and, where that can be written, kept there.
        """
        key = digest_of(images, labels) + "\0".join(classes)
        key = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:20]
        sizes, lengths = self.sizes[images], self.lengths[images]
        table = self.folder.parent / "splits" / f"{key}.json"
        fingerprint = _kept_fingerprint(table)
        store = Store(
            pixels=self.pixels,
            offsets=self.offsets[images],
            lengths=lengths,
            heights=sizes[:, 0].copy(),
            widths=sizes[:, 1].copy(),
            labels=labels,
            names=[self.names[i] for i in images.tolist()],
            classes=classes,
            fingerprint=fingerprint or fingerprint_of(self.pixels, self.offsets[images], lengths, sizes, labels),
            jpeg=self.jpeg,
        )
        if fingerprint is None:
            _keep(table, np.stack([images, labels], 1), store)
        return store


def resource_reason(error: OSError | MemoryError) -> str:
    """A machine's shortage in words, with what to do where that is known."""
    if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
        return "not enough memory (the files are fine; end other programs, or raise the job's limit)"
    advice = {
        errno.EACCES: " (the files may be fine; --store.cache DIR elsewhere?)",
        errno.EPERM: " (the files may be fine; --store.cache DIR elsewhere?)",
        errno.EMFILE: " (raise `ulimit -n`)",
        errno.ENFILE: " (too many files are open on this machine)",
    }
    return f"{error.strerror or error}{advice.get(error.errno or 0, '')}"


def _kept_fingerprint(table: Path) -> str | None:
    """The fingerprint that was kept at `table`; None where there is none, or it is damaged."""
    try:
        kept = read_json(table, "split")
    except UserError:  # not there yet, or not readable: it is computed, which gives the same
        return None
    found = kept.get("fingerprint") if isinstance(kept, dict) and kept.get("format") == FORMAT else None
    return found if isinstance(found, str) and len(found) == 64 else None


def _keep(table: Path, rows: NDArray[np.int64], store: Store) -> None:
    try:
        with atomic(table.with_suffix(".npy")) as file:
            np.save(file, rows)
        write_json(table, {"format": FORMAT, "classes": store.classes, "fingerprint": store.fingerprint})
    except UserError:  # a cache that may only be read: the next start computes it again
        return


def mapped(path: Path) -> NDArray[Any]:
    """The array in `path`, mapped read-only: what is read is charged to nobody, however large the file is."""
    return np.lib.format.open_memmap(path, mode="r")
