"""The images of a zip, read in place: nothing is ever unpacked to disk, so nothing can land anywhere."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from moco.data.census import Census
from moco.data.images import BadImage
from moco.data.item import MOST_BYTES, Item
from moco.data.tar import clean
from moco.errors import UserError, printable

METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_ENCRYPTED = 0x1  # the flag bit, APPNOTE 4.4.4
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of name and extra field, APPNOTE 4.3.7


@dataclass(frozen=True)
class ZipItem(Item):
    """One file of a zip; `offset` is where its local header begins, `size` its unpacked length.

    Attributes:
        packed_bytes: how many bytes it takes in the zip.
        method: how it is compressed; 0 stored, 8 deflated.
        crc: CRC-32 of the unpacked bytes.
    """

    packed_bytes: int = 0
    method: int = zipfile.ZIP_STORED
    crc: int = 0

    def read(self, most: int | None = None) -> bytes:
        """The file's bytes, checked against length and CRC and never more than the zip's directory says.

        `most` gives its first few bytes, unchecked. Raises `OSError` if the zip can't be read, `BadImage` if this
        member is damaged, larger than `MOST_BYTES`, or compressed in another way than deflate.
        """
        if most is not None:
            return self._unpacked(most)
        if self.size > MOST_BYTES:
            raise BadImage(f"{self.size / 2**30:,.1f} GiB unpacked, more than any picture ({MOST_BYTES / 2**30:g} GiB)")
        content = self._unpacked(self.size + 1)
        if len(content) != self.size or zlib.crc32(content) != self.crc:
            raise BadImage("damaged inside the zip")
        return content

    def _unpacked(self, most: int) -> bytes:
        """At most `most` bytes of it, whatever the compressed data would grow to."""
        if self.method not in METHODS:
            raise BadImage(f"compressed by method {self.method} inside the zip, only deflate is read")
        with self.container.open("rb") as file:
            file.seek(self.offset)
            header = file.read(_LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
                raise BadImage("damaged inside the zip")
            _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
            file.seek(name_bytes + extra_bytes, 1)
            if self.method == zipfile.ZIP_STORED:
                return file.read(min(self.packed_bytes, most))
            packed = file.read(min(self.packed_bytes, MOST_BYTES))
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)
        except zlib.error as error:
            raise BadImage("damaged inside the zip") from error


def scan_zip(path: Path, census: Census) -> list[Item]:
    """The image files in the zip at `path`; of members with the same name the last.

    Symbolic links are left out and counted. Raises `UserError` if `path` is no readable zip or has an encrypted
    image.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {clean(info.filename.replace("\\", "/")): info for info in archive.infolist()}
        status = path.stat()
        if not all(0 <= info.header_offset < status.st_size for info in members.values()):
            raise zipfile.BadZipFile("a file is said to lie outside it")
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, LookupError, struct.error) as error:
        reason = printable(" ".join(str(error).split()))
        raise UserError(f"--data {printable(str(path))}: not a readable zip ({reason})") from error
    touched = (status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
    items: list[Item] = []
    for name, info in members.items():
        if not name or info.is_dir():
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            census.files["link"] += 1
            continue
        packed = (info.compress_size, info.compress_type, info.CRC)
        item = ZipItem(name, path, info.header_offset, info.file_size, *touched, *packed)
        if census.takes(item):
            if info.flag_bits & _ENCRYPTED:
                raise UserError(f"--data {printable(str(path))}: {printable(name)} is encrypted: unpack the zip first")
            items.append(item)
    return items
