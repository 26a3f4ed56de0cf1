"""Large pictures are decoded one at a time: what a few of them need at once is all the memory there is."""

from __future__ import annotations

import threading
from types import TracebackType

LARGE = 2**26  # pixels, 8192 x 8192: some 0.2 to 2 GB while one is being decoded
_large = threading.Lock()


class Turn:
    """For one picture, as a context: `take` waits until no other large one is being decoded, if it is large itself."""

    def __init__(self) -> None:
        self._held = False

    def take(self, size: tuple[int, int]) -> None:
        """To be called with the sides of what is about to be decoded; more than once does no harm."""
        if not self._held and size[0] * size[1] > LARGE:
            _large.acquire()
            self._held = True

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            _large.release()
            self._held = False
