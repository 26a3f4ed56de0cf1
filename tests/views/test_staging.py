"""Staged batches hold the same pixels, and where pixels live is decided by what is free."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from moco.views.ragged import Ragged
from moco.views.residency import choose, choose_compressed
from moco.views.staging import Staging

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def images(count: int = 9) -> Ragged:
    rng = np.random.default_rng(0)
    heights, widths = (rng.integers(3, 12, count).astype(np.int32) for _ in range(2))
    sizes = heights.astype(np.int64) * widths * 3
    pixels = torch.from_numpy(rng.integers(0, 256, sizes.sum(), dtype=np.uint8))
    return Ragged(pixels, np.cumsum(sizes) - sizes, heights, widths)


def one(source: Ragged, index: int) -> np.ndarray:
    size = int(source.heights[index]) * int(source.widths[index]) * 3
    return source.pixels.numpy()[source.offsets[index] :][:size]


@pytest.mark.parametrize("read_ahead", [(), (4, 2, 7), (1, 1, 1)])
def test_a_batch_is_the_same_read_ahead_or_not(read_ahead: tuple[int, ...]) -> None:
    host, wanted = images(), np.array([4, 2, 7])
    staging = Staging(host, CPU)
    if read_ahead:
        staging.ahead(np.array(read_ahead))
    batch = staging.take(wanted)
    assert len(batch) == 3
    for place, index in enumerate(wanted):
        np.testing.assert_array_equal(one(batch, place), one(host, index))
        assert (batch.heights[place], batch.widths[place]) == (host.heights[index], host.widths[index])


@dataclass
class Reading:
    """Images that note which of them were read, and that may fail; a first reader waits for `readers` to be at it."""

    images: Ragged
    bad: int = -1
    readers: int = 1
    changed: threading.Condition = field(default_factory=threading.Condition)
    read_ones: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    @property
    def heights(self) -> np.ndarray:
        return self.images.heights

    @property
    def widths(self) -> np.ndarray:
        return self.images.widths

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, target: np.ndarray) -> None:
        with self.changed:
            self.threads.add(threading.current_thread().name)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: len(self.threads) >= self.readers, timeout=60)
        self.read_ones.append(index)
        if index == self.bad:
            raise ValueError("unreadable")
        self.images.read(index, target)


@pytest.mark.parametrize("readers", [1, 3])
def test_each_batch_is_read_once_though_the_next_is_asked_for_first(readers: int) -> None:
    """The loop's order: ahead(second), take(first), ahead(third), take(second), two views of each."""
    host = Reading(images())
    staging = Staging(host, CPU, readers)
    batches = [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]
    for batch, following in zip(batches, [*batches[1:], None]):
        if following is not None:
            staging.ahead(following)
        assert staging.take(batch) is staging.take(batch)
    assert sorted(host.read_ones) == [0, 1, 2, 3, 4, 5]
    assert staging._coming == {}


def test_many_readers_share_a_batch_and_give_the_same_pixels() -> None:
    wanted = np.arange(99, -1, -1)
    alone = Staging(Reading(images(100)), CPU).take(wanted)
    shared = Staging(Reading(images(100), readers=2), CPU, 4).take(wanted)
    assert torch.equal(alone.pixels, shared.pixels)


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("ahead", [True, False])
def test_what_reading_raises_comes_out_of_take(readers: int, ahead: bool) -> None:
    staging = Staging(Reading(images(), bad=4), CPU, readers)
    if ahead:
        staging.ahead(np.array([3, 4]))
    with pytest.raises(ValueError, match="unreadable"):
        staging.take(np.array([3, 4]))
    staging.take(np.array([3, 5]))


@pytest.mark.parametrize(
    ("gigabytes", "device", "gpu_free", "host_free", "where"),
    [
        (1, GPU, 80, 100, "device"),
        (50, GPU, 80, 120, "host"),
        (70, GPU, 80, 100, "disk"),
        (1, CPU, 0, 20, "host"),
        (30, CPU, 0, 20, "disk"),
    ],
)
def test_where_pixels_live(gigabytes: int, device: torch.device, gpu_free: int, host_free: int, where: str) -> None:
    chosen, why = choose(gigabytes * 10**9, device, gpu_free * 10**9, host_free * 10**9)
    assert chosen == where
    assert f"{gigabytes}.0 GB" in why


@pytest.mark.parametrize(
    ("gigabytes", "device", "gpu_free", "where", "words"),
    [
        (30, GPU, 80, "device", "decoded once onto the GPU"),
        (50, GPU, 80, "host", "one batch ahead and copied"),
        (1, CPU, 0, "host", "decoded one batch ahead"),
    ],
)
def test_where_jpegs_are_decoded(gigabytes: int, device: torch.device, gpu_free: int, where: str, words: str) -> None:
    chosen, why = choose_compressed(10**9, gigabytes * 10**9, device, gpu_free * 10**9)
    assert chosen == where
    assert words in why and f"1.0 GB of JPEGs ({gigabytes}.0 GB of pixels)" in why
