"""Threads: results in order, nobody left at work, one-thread operations; sums in order whoever comes first."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time

import pytest
import torch

from moco.threads import AHEAD, OrderedSum, Threads, operations_on


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_are_in_order_and_no_more_than_asked_for_are_at_work(count: int) -> None:
    at_work, most, lock = 0, 0, threading.Lock()

    def work(n: int) -> int:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.01 * (n % 3))
        with lock:
            at_work -= 1
        return n * n

    told: list[int] = []
    assert Threads(count).map(work, range(9), told.append) == [n * n for n in range(9)]
    assert told == list(range(1, 10))
    assert most <= count
    assert Threads(count).map(work, []) == []


def test_operations_of_a_worker_and_of_one_alone_take_one_thread() -> None:
    with operations_on(2):
        assert Threads(1).map(lambda _: torch.get_num_threads(), range(2)) == [1, 1]
        assert Threads(2).map(lambda _: torch.get_num_threads(), range(8)) == [1] * 8
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_exception_is_raised_when_nobody_is_at_work_any_more(count: int) -> None:
    begun: set[int] = set()
    ended: set[int] = set()

    def work(n: int) -> None:
        begun.add(n)
        try:
            if n in (1, 2):
                time.sleep(0.03 if n == 1 else 0)
                raise ValueError(n)
            time.sleep(0.05)
        finally:
            ended.add(n)

    threads = Threads(count)
    with pytest.raises(ValueError, match="1"):
        threads.map(work, range(50))
    assert begun == ended
    assert len(begun) < 50
    assert threads.map(lambda n: n, range(3)) == [0, 1, 2]  # and goes on


def test_a_sum_is_the_same_bits_whoever_comes_first() -> None:
    parts = [[torch.randn(7) * 10.0**n, torch.randn(3, 2), None if n % 2 else torch.randn(1)] for n in range(4)]
    results = []
    for order in itertools.permutations(range(4)):
        total = OrderedSum()
        for number in order:
            total.add(number, [None if t is None else t.clone() for t in parts[number]])
        results.append(total.total)
    first = results[0]
    assert first is not None
    torch.testing.assert_close(first[1], sum(p[1] for p in parts))
    for other in results[1:]:
        assert other is not None
        assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(first, other))


def test_what_none_brings_is_none() -> None:
    total = OrderedSum()
    total.add(1, [None, torch.ones(2)])
    total.add(0, [None, None])
    assert total.total is not None
    assert total.total[0] is None
    assert total.total[1] is not None and total.total[1].tolist() == [1, 1]


@pytest.mark.parametrize("count", [1, 3])
def test_a_stream_keeps_the_order_and_is_a_bounded_way_ahead(count: int) -> None:
    begun: list[int] = []

    def work(thing: int) -> int:
        begun.append(thing)
        return 2 * thing

    with contextlib.closing(Threads(count).stream(work, range(1000))) as stream:
        assert [next(stream) for _ in range(5)] == [0, 2, 4, 6, 8]
        assert len(begun) <= 5 + AHEAD * count
    seen = len(begun)
    time.sleep(0.05)
    assert len(begun) == seen <= 5 + AHEAD * count  # closed: nobody works on
    assert list(Threads(count).stream(work, range(20))) == list(range(0, 40, 2))
