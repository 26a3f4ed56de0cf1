"""JPEGs that lack nothing but their end marker: a picture that is whole is told from one that was cut off.

Pillow refuses some of them and reads others, as it reads pictures that were cut off and filled up with zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
_START_OF_SCAN, _END_OF_IMAGE, _RESTART_INTERVAL, _RESTARTS = 0xDA, 0xD9, 0xDD, range(0xD0, 0xD8)
_STUFFED = 0x00
# What stands in for the missing bytes. Pixels that don't depend on it were all there.
_GUESSES = (b"", b"\x55" * 512, b"\xaa" * 512)
_RESTARTED_GUESSES = tuple(bytes((0xFF, restart)) + b"\x55" * 64 for restart in _RESTARTS)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_COEFFICIENTS = 64


def has_end(content: bytes) -> bool:
    """Whether a JPEG has its end marker, whatever follows it."""
    if content.rstrip(b"\0").endswith(END):
        return True
    scanned = False
    for marker, _ in _segments(content):
        scanned |= marker == _START_OF_SCAN
        if scanned and marker == _END_OF_IMAGE:
            return True
    return False


def endings(content: bytes) -> list[bytes]:
    """`content` with its end marker put back, after several guesses of what might be missing before it.

    All of them decode to the same pixels if and only if the picture's own data are complete. Empty where it is
    plain that they aren't: scans are missing.
    """
    body = content.rstrip(b"\0")
    if body.endswith(b"\xff"):  # half an end marker, or a stuffed byte of the data
        body = body + b"\0" if len(body) < len(content) else body[:-1]
    if not _has_every_scan(body):
        return []
    restarts = any(marker == _RESTART_INTERVAL for marker, _ in _segments(body))
    return [body + guess + END for guess in (*_GUESSES, *(_RESTARTED_GUESSES if restarts else ()))]


def _has_every_scan(content: bytes) -> bool:
    """Whether the scans hold each component's every coefficient to its last bit."""
    missing: dict[int, set[int]] = {}
    for marker, segment in _segments(content):
        if marker in _FRAMES and len(segment) >= 6 + 3 * segment[5]:
            missing = {segment[6 + 3 * i]: set(range(_COEFFICIENTS)) for i in range(segment[5])}
        elif marker == _START_OF_SCAN and len(segment) >= 4 + 2 * segment[0]:
            first, last, bits = segment[1 + 2 * segment[0] :][:3]
            for i in range(segment[0]):
                if bits & 0x0F == 0:  # no lower bits are left for later scans
                    missing.get(segment[1 + 2 * i], set()).difference_update(range(first, last + 1))
    return bool(missing) and not any(missing.values())


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Each marker segment, as its marker and its bytes behind the length; entropy-coded data are passed over."""
    at = content.find(b"\xff", 2)
    while 0 <= at < len(content) - 3:
        marker = content[at + 1]
        if marker in (_STUFFED, 0xFF) or marker in _RESTARTS:
            at = content.find(b"\xff", at + (1 if marker == 0xFF else 2))
            continue
        if marker == _END_OF_IMAGE:
            yield marker, b""
            at = content.find(b"\xff", at + 2)
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        yield marker, content[at + 4 : at + 2 + length]
        at = content.find(b"\xff", at + 2 + length)
