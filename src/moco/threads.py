"""Work on threads, each with one-thread operations: how many there are changes no bit.

torch's own threads share every operation and meet at its end. On a busy machine each of those thousands of meetings
waits for whichever thread the system has put aside, and sums come out in another order for another number of threads.
Here a thread has a piece of work of its own, and meets the others when it is done.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 4  # results a thread may be ahead of the reader of a stream: bounds the memory


class Threads:
    """`count` threads for pieces of work that don't need each other. They begin with the first piece of work."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def map(
        self, function: Callable[[T], R], things: Iterable[T], done: Callable[[int], None] = lambda count: None
    ) -> list[R]:
        """`function(thing)` for each thing, in their order; `count` of them at once.

        `done` is told how many of the first things are ready. Gradient mode and autocast belong to a thread: `function`
        enters its own. Of several exceptions the first thing's is raised, once nothing is at work any more.
        `function` must not call `map`.
        """
        work = list(things)
        if min(self.count, len(work)) < 2:
            return list(self._alone(function, work, done))
        pool = self._begun()
        futures = [pool.submit(function, thing) for thing in work]
        results = []
        try:
            for future in futures:
                results.append(future.result())
                done(len(results))
        except BaseException:  # a stop by Ctrl-C too: nobody works on behind the caller's back
            for future in futures:
                future.cancel()
            wait(futures)
            raise
        return results

    def stream(self, function: Callable[[T], R], things: Iterable[T]) -> Generator[R, None, None]:
        """As `map`, for more things than there is room for results: the threads are a bounded way ahead of the reader.

        Close the generator (`contextlib.closing`) when leaving early: nobody works on once it is closed.
        """
        if self.count < 2:
            with operations_on(1):
                yield from map(function, things)
            return
        pool = self._begun()
        waiting: deque[Future[R]] = deque()
        try:
            for thing in things:
                waiting.append(pool.submit(function, thing))
                if len(waiting) >= AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            wait(waiting)

    def _begun(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.count, "moco", initializer=torch.set_num_threads, initargs=(1,))
        return self._pool

    @staticmethod
    def _alone(function: Callable[[T], R], work: list[T], done: Callable[[int], None]) -> Iterator[R]:
        with operations_on(1):
            for number, thing in enumerate(work):
                yield function(thing)
                done(number + 1)


@contextlib.contextmanager
def operations_on(threads: int) -> Iterator[None]:
    """Within it torch's operations of this thread share `threads` threads."""
    before = torch.get_num_threads()
    if threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class OrderedSum:
    """The sum of what several threads bring, added in the order of their numbers 0, 1, ... whoever comes first.

    It keeps and changes the lists that it is given. None stands for zero.

    Attributes:
        total: the sum so far, entry by entry; None before number 0 has come.
    """

    def __init__(self) -> None:
        self.total: list[Tensor | None] | None = None
        self._next = 0
        self._early: dict[int, list[Tensor | None]] = {}
        self._lock = threading.Lock()

    def add(self, number: int, tensors: list[Tensor | None]) -> None:
        """Add number `number`'s `tensors`, now or as soon as those before it have come."""
        with self._lock:
            self._early[number] = tensors
            while (following := self._early.pop(self._next, None)) is not None:
                self._next += 1
                if self.total is None:
                    self.total = following
                else:
                    self.total = _added(self.total, following)


def _added(into: list[Tensor | None], more: list[Tensor | None]) -> list[Tensor | None]:
    both = [(a, b) for a, b in zip(into, more) if a is not None and b is not None]
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [b if a is None else a for a, b in zip(into, more)]
