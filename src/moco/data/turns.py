"""Large pictures are decoded one at a time: what a few of them need at once is all the memory there is."""

from __future__ import annotations

import threading
from types import TracebackType

LARGE = 2**26  # pixels, 8192 x 8192: some 0.2 to 2 GB while one is being decoded
PICTURES, SAMPLES = threading.Lock(), threading.Lock()  # who holds the first may wait for the second, not otherwise


class Turn:
    """For one picture, as a context: `take` waits until no other large one is being decoded, if it is large itself.

    `queue` is what it waits in: `PICTURES`, or `SAMPLES` for what is looked at while somebody decodes a picture.
    """

    def __init__(self, queue: threading.Lock) -> None:
        self._queue, self._held = queue, False

    def take(self, size: tuple[int, int]) -> None:
        """To be called with the sides of what is about to be decoded; more than once does no harm."""
        if not self._held and size[0] * size[1] > LARGE:
            self._queue.acquire()
            self._held = True

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            self._queue.release()
            self._held = False
