"""The same work on many things, by all cores, handed back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from moco.environment import cores

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 16  # results a core may be ahead of the reader: bounds the memory


def in_order(work: Callable[[T], R], things: Iterable[T]) -> Generator[R, None, None]:
    """`work(thing)` for each thing, in their order, computed by threads a bounded way ahead.

    Close the generator (`contextlib.closing`) to drop what is still waiting when leaving early.
    """
    waiting: deque[Future[R]] = deque()
    count = cores()  # asked once: in a container the answer is read from a dozen files
    with ThreadPoolExecutor(count) as pool:
        try:
            for thing in things:
                waiting.append(pool.submit(work, thing))
                if len(waiting) >= AHEAD * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
