"""The chunks of a PNG: those whose checksum is wrong, and those that are nobody's business.

Of the second kind are texts, XMP and colour profiles that unpack to more than Pillow takes. Pillow refuses the whole
picture over them, and raising its limits would let a small file fill the memory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST = 2**20  # bytes a chunk may unpack to: Pillow's limit for one
LONGEST_TOGETHER = 2**24  # with one more of `LONGEST`, below Pillow's limit for all of a file's texts
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def damage(content: bytes) -> str:
    """What is wrong with the pixels' chunks of a PNG, as far as their checksums say: Pillow compares none of them.

    "" for a sound file, another format, and a file that ends too early, which the reader notices.
    """
    for kind, at, end in _chunks(content):
        if kind == b"IEND":
            break
        if not kind.isalpha():
            return "damaged: something else lies where a chunk should begin"
        checksum = int.from_bytes(content[end - 4 : end])
        if kind == b"IDAT" and zlib.crc32(memoryview(content)[at + 4 : end - 4]) != checksum:
            return "damaged: the checksum of its pixels is wrong"
    return ""


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of each whole chunk of a PNG; nothing of another format."""
    at = len(SIGNATURE)
    while content.startswith(SIGNATURE) and at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if end > len(content):
            break
        yield kind, at, end
        at = end


def without_long_texts(content: bytes) -> bytes:
    """`content` as it is, or, of a PNG, without the text and profile chunks that unpack to more than `LONGEST` bytes.

    The pixels and every other chunk stay, as does whatever follows a damaged chunk.
    """
    kept, start, total = [], 0, 0
    for kind, at, end in _chunks(content):
        if kind in _TEXTS:
            size = LONGEST if total > LONGEST_TOGETHER else _unpacked_size(kind, content[at + 8 : end - 4])
            total += size
            if size >= LONGEST:
                kept.append(content[start:at])
                start = end
    return b"".join([*kept, content[start:]]) if kept else content


def _unpacked_size(kind: bytes, data: bytes) -> int:
    """Bytes that the chunk unpacks to, counted up to `LONGEST`."""
    _, _, rest = data.partition(b"\0")
    packed: bytes | None = None
    if kind in (b"zTXt", b"iCCP"):
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] not in (b"", b"\0"):
        packed = rest[2:].split(b"\0", 2)[-1]
    if packed is None:
        return len(data)
    try:
        return len(zlib.decompressobj().decompress(packed, LONGEST))
    except zlib.error:  # Pillow passes over it
        return len(data)
